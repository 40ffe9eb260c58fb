"""What a schema contains, read from PostgreSQL's catalog, so that the tests need no lists of their own."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]

_COLUMNS = """
select c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attgenerated, a.attidentity,
       (select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d where d.adrelid = c.oid and d.adnum = a.attnum)
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relnamespace = %(oid)s and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
"""
_CONSTRAINTS = """
select c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid)
from pg_constraint k join pg_class c on c.oid = k.conrelid where c.relnamespace = %(oid)s
"""
_INDEXES = """
select t.relname, i.relname, pg_get_indexdef(i.oid), x.indisunique, x.indisvalid
from pg_index x join pg_class i on i.oid = x.indexrelid join pg_class t on t.oid = x.indrelid
where t.relnamespace = %(oid)s
"""
_TRIGGERS = """
select c.relname, t.tgname, pg_get_triggerdef(t.oid)
from pg_trigger t join pg_class c on c.oid = t.tgrelid where c.relnamespace = %(oid)s and not t.tgisinternal
"""
_RELATIONS = """
select c.relname, c.relkind, c.relacl::text, c.relrowsecurity from pg_class c
where c.relnamespace = %(oid)s and c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')
"""
_ROUTINES = """
select p.proname, pg_get_function_identity_arguments(p.oid), pg_get_functiondef(p.oid), p.proacl::text,
       obj_description(p.oid, 'pg_proc')
from pg_proc p where p.pronamespace = %(oid)s
"""
_ALL = {
    "columns": _COLUMNS, "constraints": _CONSTRAINTS, "indexes": _INDEXES,
    "triggers": _TRIGGERS, "relations": _RELATIONS, "routines": _ROUTINES,
}  # fmt: skip


Objects = dict[str, set[tuple[Any, ...]]]


def read(conn: Connection, schema: str = "public") -> Objects:
    """Everything in ``schema`` by kind, one tuple per object; equal for two schemas with the same contents."""
    oid = conn.execute("select oid from pg_namespace where nspname = %s", [schema]).fetchone()
    if oid is None:
        return {kind: set() for kind in _ALL}
    found = {}
    with conn.transaction():
        conn.execute("select set_config('search_path', 'pg_catalog', true)")
        for kind, query in _ALL.items():
            rows = conn.execute(query, {"oid": oid[0]}).fetchall()
            found[kind] = {
                # the definitions contain the schema's name: it is removed, so that two schemas can be compared
                tuple(v.replace(f"{schema}.", "") if isinstance(v, str) else v for v in row)
                for row in rows
            }
    return found


class Routine(NamedTuple):
    """A function or procedure of pgonce, with a call of it in which every argument is null."""

    name: str
    call: str


def routines(conn: Connection, schema: str = "public") -> list[Routine]:
    """Every function and procedure in ``schema``, whatever its name."""
    rows = conn.execute(
        "select p.proname, p.prokind,"
        " array(select format('null::%%s', format_type(t, null)) from unnest(p.proargtypes) t)"
        " from pg_proc p where p.pronamespace = %s::regnamespace order by 1",
        [sql.Identifier(schema).as_string(conn)],
    ).fetchall()
    return [
        Routine(name, sql.SQL("{} {}({})").format(
            sql.SQL("call" if kind == "p" else "select"), sql.Identifier(schema, name), sql.SQL(", ".join(arguments)),
        ).as_string(conn))
        for name, kind, arguments in rows
    ]  # fmt: skip


class Relation(NamedTuple):
    """A table or view of pgonce: its quoted, qualified name, a column that can be set, and how it can be written."""

    name: str
    column: str
    is_table: bool
    takes: frozenset[str]


def relations(conn: Connection, schema: str = "public") -> list[Relation]:
    """Every table and view in ``schema``, whatever its name."""
    rows = conn.execute(
        "select c.relname, a.attname, c.relkind in ('r', 'p'), pg_relation_is_updatable(c.oid, true)"
        " from pg_class c cross join lateral ("
        "   select attname from pg_attribute"
        "   where attrelid = c.oid and attnum > 0 and attidentity = '' and attgenerated = '' order by attnum limit 1) a"
        " where c.relnamespace = %s::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1",
        [sql.Identifier(schema).as_string(conn)],
    ).fetchall()
    events = {"update": 4, "insert": 8, "delete": 16}
    return [
        Relation(
            sql.Identifier(schema, name).as_string(conn),
            column,
            is_table,
            frozenset(event for event, bit in events.items() if mask & bit),
        )
        for name, column, is_table, mask in rows
    ]
