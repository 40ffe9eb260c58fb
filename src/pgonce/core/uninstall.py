"""What ``pgonce uninstall`` drops: everything that migrate has made, found by its comment and name, or by its table."""

from __future__ import annotations

from typing import Any, LiteralString

import psycopg

from pgonce.core.adopt import set_limits, with_short_locks
from pgonce.core.schema_sql import SPECIFIED, objects
from pgonce.errors import SchemaError

# The order is such that nothing depends on what is dropped before it. The specification's tables keep the columns that
# pgonce has added, and their comment: raw holds the only exact copy of some payloads, and a later migrate takes the
# tables back.
_STATEMENTS: LiteralString = """
with here as (select oid from pg_namespace where nspname = %(schema)s),
  relations as (
    select c.oid, c.oid::regclass as name, c.relkind, c.relname = any (%(kept)s) as kept
    from pg_class c join here on here.oid = c.relnamespace
    where c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') like 'pgonce: %%'
      and (c.relname like 'pgonce\\_%%' or c.relname = any (%(specified)s)))
select statement from (
  select 1, oid, format('drop view %%s', name) from relations where relkind = 'v'
  union all
  select 2, t.oid, format('drop trigger %%I on %%s', t.tgname, r.name)
  from relations r join pg_trigger t on t.tgrelid = r.oid where t.tgname like 'pgonce\\_%%'
  union all
  select 3, p.oid, format('drop policy %%I on %%s', p.polname, r.name)
  from relations r join pg_policy p on p.polrelid = r.oid where r.kept and p.polname like 'pgonce\\_%%'
  union all
  select 4, i.oid, format('drop index %%s', i.oid::regclass)
  from relations r join pg_index x on x.indrelid = r.oid join pg_class i on i.oid = x.indexrelid
  where r.kept and i.relname like 'pgonce\\_%%' and not exists (select from pg_constraint k where k.conindid = i.oid)
  union all
  select 5, p.oid, format('drop routine %%s', p.oid::regprocedure)
  from pg_proc p join here on here.oid = p.pronamespace
  where obj_description(p.oid, 'pg_proc') like 'pgonce: %%'
    and (p.proname like 'pgonce\\_%%' or p.proname = any (%(functions)s))
  union all
  select 6, oid, format('drop table %%s', name) from relations where relkind = 'r' and not kept
) s(step, oid, statement) order by step, oid desc
"""


def statements(conn: psycopg.Connection[Any], schema: str, with_data: bool) -> list[str]:
    """The statements that remove pgonce from ``schema``, in order; they name the schema.

    ``with_data``: also the three tables of the specification.
    """
    kept = [] if with_data else list(SPECIFIED)
    with conn.transaction():
        set_limits(conn)
        conn.execute("set local search_path = pg_catalog")  # so that every name is printed with its schema
        names = {"specified": list(SPECIFIED), "functions": objects()["function"]}
        rows = conn.execute(_STATEMENTS, {"schema": schema, "kept": kept, **names}).fetchall()
    return [str(row[0]) for row in rows]


def run(conn: psycopg.Connection[Any], schema: str, planned: list[str]) -> None:
    """Execute ``planned`` in one transaction. Other clients wait for it no longer than 0.2 s, as for a migrate.

    Raises:
        SchemaError: an object of the user depends on what would be dropped, or a table was locked for five minutes;
            nothing was dropped.
    """

    def drop() -> None:
        for statement in planned:
            conn.execute(statement.encode())
        conn.execute("notify pgrst, 'reload schema'")

    try:
        with_short_locks(conn, schema, drop)
    except psycopg.errors.DependentObjectsStillExist as error:
        dependent = (error.diag.message_detail or "").split("\n")[0]
        raise SchemaError(
            f"{error.diag.message_primary} ({dependent}): nothing was dropped, drop that first"
        ) from error
