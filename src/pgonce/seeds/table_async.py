"""The checks of a table before the first row of an import, and what the catalog says of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection, sql

from pgonce.core.execute_async import OwnCursor, fetch, run
from pgonce.errors import SchemaError, translate
from pgonce.seeds.columns import KINDS, NO_NUMBERS, ONE_TEXT, Column, TableFacts
from pgonce.seeds.seed import Seed

# A key that ON CONFLICT can use and that identifies a row: unique, not partial, not on expressions, not deferrable,
# not of ranges that may not overlap, over exactly these columns, none of them nullable (two NULLs never conflict: rows
# would double). Where a collation of the index calls a and A equal, that of the column does so, too, and the reverse.
_KEY_INDEX = """(
    select i.indexrelid from pg_catalog.pg_index i
    where i.indrelid = %(table)s and i.indisunique and i.indimmediate and i.indisvalid and not i.indisexclusion
      and i.indpred is null and i.indexprs is null
      and (select array_agg(a.attname::text order by a.attname) from pg_catalog.pg_attribute a
           where a.attrelid = i.indrelid and a.attnum = any (i.indkey[0:i.indnkeyatts - 1]) and a.attnotnull)
          = (select array_agg(k order by k) from unnest(%(key)s::text[]) k)
      and i.indnkeyatts = cardinality(%(key)s::text[])
      and not exists (
        select from unnest(i.indkey[0:i.indnkeyatts - 1]::int2[], i.indcollation::oid[]) e(attnum, coll)
        join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = e.attnum and a.attcollation <> e.coll
        join pg_catalog.pg_collation o on o.oid in (e.coll, a.attcollation) and not o.collisdeterministic)
      limit 1)"""
_TABLE = f"""
with tree as (select relid as oid from pg_partition_tree(%(table)s) union select %(table)s::regclass)
select c.oid, n.nspname::text as schema, c.relname::text as name, c.relpersistence::text, c.relkind::text,
  {_KEY_INDEX} as key_index,
  coalesce(row_security_active(c.oid), false) as has_policies,
  -- those of other tables, too, whose rows refer to this one
  exists (select from pg_constraint join tree on tree.oid in (conrelid, confrelid) where condeferred) as has_deferred,
  exists (select from pg_constraint where contype = 'f' and conrelid = c.oid and confrelid = c.oid) as refers_to_itself,
  -- 2 = update, 3 = insert
  exists (select from pg_rewrite where ev_class = c.oid and ev_type in ('2', '3') and ev_enabled <> 'D') as has_rules,
  -- tgtype: 1 = for each row, 2 = before, 4 = insert; 64 = instead of
  exists (
    select from pg_trigger t join tree on tree.oid = t.tgrelid
    where not t.tgisinternal and t.tgtype & 5 = 5 and t.tgtype & 66 <> 0
  ) as has_triggers,
  exists (select from pg_class each join tree on tree.oid = each.oid where each.relkind = 'f') as has_foreign,
  (select format('%%I.%%I', x.nspname, leaf.relname)
   from pg_partition_tree(c.oid) p join pg_class leaf on leaf.oid = p.relid and p.isleaf
   join pg_namespace x on x.oid = leaf.relnamespace
   where leaf.relpersistence = 'u' and leaf.oid <> c.oid order by 1 limit 1) as unlogged_partition,
  -- the key in an order in which ORDER BY and row comparisons go through its index
  array(select a.attname::text from pg_index i
        cross join unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where i.indexrelid = (
          select x.indexrelid from pg_index x
          where x.indrelid = c.oid and x.indisunique and x.indisvalid and x.indpred is null
            and x.indexprs is null and x.indnkeyatts = cardinality(%(key)s::text[]) and 0 = all (x.indoption::int2[])
            and not exists (select from unnest(x.indclass::oid[]) o(id) join pg_opclass p on p.oid = o.id
                            where not p.opcdefault)
            and not exists (
              select from unnest(x.indkey[0:x.indnkeyatts - 1]::int2[], x.indcollation::oid[]) e(attnum, coll)
              left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = e.attnum
                and a.attcollation = e.coll and a.attname = any (%(key)s::text[])
              where a.attnum is null)
          limit 1)
        order by k.n) as key_order,
  -- settings of the role or the database under which different values have one text, NULL in an array is a word, or a
  -- batch or a comparison is ended that takes its time
  array_remove(array[
    case when current_setting('extra_float_digits')::int < 1 then 'set local extra_float_digits = 1' end,
    case when not current_setting('array_nulls')::boolean then 'set local array_nulls = on' end,
    case when current_setting('datestyle') not like 'ISO%%' then 'set local datestyle = ISO' end,
    case when current_setting('statement_timeout') <> '0' then 'set local statement_timeout = 0' end,
    case when current_setting('transaction_timeout', true) <> '0' then 'set local transaction_timeout = 0' end
  ], null) as settings
from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %(table)s
"""
_OTHER_KINDS = {"S": "a sequence", "c": "a composite type", "i": "an index", "I": "an index"}
_OID = "select pg_catalog.to_regclass(%s)::pg_catalog.oid"
_TYPES = """
with recursive used(oid) as (
  select a.atttypid from pg_attribute a where a.attrelid = %(table)s and a.attnum > 0 and not a.attisdropped
  union
  select next.oid from used join pg_type t on t.oid = used.oid cross join lateral (
    select t.typbasetype where t.typtype = 'd'
    union all select t.typelem where t.typcategory = 'A'
    union all select a.atttypid from pg_attribute a
      where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
  ) next(oid) where next.oid <> 0
)
select t.oid, t.typtype::text as form,
  -- where 0.50 is written 0,50, the point separates thousands: 1.50 is read as 150
  case when t.oid = 'money'::regtype and 0.5::numeric::money::text ~ '0[^.]5' then 'money with a comma'
    else t.typname::text end as name,
  t.typcategory::text as category,
  t.typdelim::text as delimiter, t.typbasetype as base, t.typelem as element, t.typrelid as relation,
  (select s.typname::text from pg_range r join pg_type s on s.oid = r.rngsubtype
   where t.oid in (r.rngtypid, r.rngmultitypid)) as subtype,
  -- that of the type's btree indexes, for types that have their own: those of arrays, enums and ranges are PostgreSQL's
  (select format('operator(%%I.%%s)', n.nspname, o.oprname) from pg_opclass c join pg_am m on m.oid = c.opcmethod
   join pg_amop p on p.amopfamily = c.opcfamily and p.amopstrategy = 3
     and p.amoplefttype = t.oid and p.amoprighttype = t.oid
   join pg_operator o on o.oid = p.amopopr join pg_namespace n on n.oid = o.oprnamespace
   where c.opcintype = t.oid and c.opcdefault and m.amname = 'btree') as equals,
  format_type(t.oid, null) as type
from used join pg_type t using (oid)
"""
# A plain list of a table's columns, compared by the client, takes 0.05 ms; a join with names took 0.3 ms a batch.
IDENTITY: LiteralString = "concat_ws(' ', a.attname, a.attnum, a.atttypid, a.atttypmod)"
_ATTRIBUTES = f"""
select a.attrelid as relation, a.attname::text as name, a.atttypid as oid,
  format_type(a.atttypid, a.atttypmod) as type, a.attnum as number, {IDENTITY} as identity,
  case when a.attgenerated <> '' then 'generated' when a.attidentity = 'a' then 'identity' else '' end as written_by,
  exists (select from pg_collation o where o.oid = a.attcollation and not o.collisdeterministic) as folds
from pg_attribute a where a.attrelid = any (%(relations)s::oid[]) and a.attnum > 0 and not a.attisdropped
order by a.attrelid, a.attnum
"""


_SEQUENCES = """
select a.attname::text as column, n.nspname::text as schema, s.relname::text as name
from pg_depend d
join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = %(table)s
union -- a default from a sequence that the column does not own: of another table, for one that was made "like" it
select a.attname::text, n.nspname::text, s.relname::text
from pg_attrdef e
join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = e.oid and d.refclassid = 'pg_class'::regclass
join pg_class s on s.oid = d.refobjid and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
join pg_attribute a on a.attrelid = e.adrelid and a.attnum = e.adnum
where e.adrelid = %(table)s and pg_get_expr(e.adbin, e.adrelid) ~ '^nextval[(]''[^'']+''::regclass[)]$'
"""


async def find_key_index(conn: AsyncConnection[Any], seed: Seed, oid: int) -> int | None:
    """The unique index that keeps the key's rows apart; None if there is none any more."""
    [[found]] = await fetch(conn, f"select {_KEY_INDEX}", {"table": oid, "key": list(seed.key)})
    return None if found is None else int(found)


async def check_table(conn: AsyncConnection[Any], seed: Seed) -> TableFacts:
    """Refuse a table or key that could double rows or lose them, before the first row.

    Raises:
        SchemaError: there is no such table; or no unique index over exactly the key's columns, all NOT NULL; or it is
            temporary or unlogged.
        DatabaseUnavailable: the connection was lost.
    """
    try:
        async with conn.transaction():
            [[oid]] = await fetch(conn, _OID, [seed.table.as_string(conn)])
            if oid is None:
                raise SchemaError(f"there is no table {seed.into}: create it before the import")
            return await find_facts(conn, seed, oid)
    except psycopg.Error as error:
        raise translate(error) from error


async def find_facts(conn: AsyncConnection[Any], seed: Seed, oid: int) -> TableFacts:
    """What the catalog says of the table now, in an open transaction.

    Raises:
        SchemaError: the table is not fit for an import, or not any more.
    """
    async with conn.transaction(force_rollback=True):
        # what else is on the path may have the names of functions and types that are used here
        await run(conn, "set local search_path = pg_catalog")
        return await _facts(conn, seed, oid)


async def _facts(conn: AsyncConnection[Any], seed: Seed, oid: int) -> TableFacts:
    [table] = await _rows(conn, _TABLE, {"table": oid, "key": list(seed.key)})
    _refuse_unfit(table, seed)
    types = {row["oid"]: row for row in await _rows(conn, _TYPES, {"table": table["oid"]})}
    relations = [table["oid"], *(row["relation"] for row in types.values() if row["form"] == "c")]
    attributes = await _rows(conn, _ATTRIBUTES, {"relations": relations})
    sequences = await _rows(conn, _SEQUENCES, {"table": table["oid"]})
    return TableFacts(
        table["oid"],
        sql.Identifier(table["schema"], table["name"]),
        {column.name: column for column in _columns(table["oid"], types, attributes)},
        table["has_policies"],
        table["has_deferred"],
        {row["column"]: sql.Identifier(row["schema"], row["name"]) for row in sequences},
        table["has_triggers"],
        table["relkind"] == "p",
        tuple(table["key_order"]),
        tuple(table["settings"]),
        table["key_index"],
        table["refers_to_itself"],
    )


def _refuse_unfit(table: Mapping[str, Any], seed: Seed) -> None:
    """Refuse a table that an import cannot write to, or in which it could not find a row again.

    Raises:
        SchemaError: why, and what to do.
    """
    if table["relkind"] in {"v", "m"}:
        raise SchemaError(f"{seed.into} is a view: import into its table")
    if table["relkind"] not in {"r", "p", "f"}:
        raise SchemaError(f"{seed.into} is {_OTHER_KINDS.get(table['relkind'], 'not a table')}: import into a table")
    if table["has_rules"]:
        raise SchemaError(
            f"table {seed.into} has a rule on INSERT or UPDATE, which INSERT follows and COPY does not: "
            "replace it by a trigger, or import into the table that the rule writes to"
        )
    if table["has_foreign"]:
        raise SchemaError(
            f"{seed.into} is a foreign table, or has a partition that is one: its rows and the checkpoint would not be "
            "committed together. Import on the server that holds it"
        )
    if seed.key and table["key_index"] is None:
        raise SchemaError(
            f"table {seed.into} has no plain unique index over ({', '.join(seed.key)}) with every column NOT NULL"
            " and of its own collation: the key must identify the rows that are there already"
        )
    if table["relpersistence"] == "t":
        raise SchemaError(f"table {seed.into} is temporary: another connection cannot see it")
    unlogged = seed.table.as_string() if table["relpersistence"] == "u" else table["unlogged_partition"]
    if unlogged and not seed.allow_unlogged:
        what = f"table {seed.into}" if table["relpersistence"] == "u" else f"partition {unlogged} of {seed.into}"
        raise SchemaError(
            f"{what} is unlogged: a crash of the server empties it, and the checkpoint stays. Use "
            f"'alter table {unlogged} set logged', or pass --allow-unlogged (allow_unlogged=True)"
        )


async def _rows(conn: AsyncConnection[Any], query: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    async with OwnCursor(conn) as cursor:
        await cursor.execute(query.encode(), arguments)
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]


def _columns(
    relation: int, types: Mapping[int, dict[str, Any]], attributes: Sequence[dict[str, Any]]
) -> Iterable[Column]:
    """The columns of a table, or the fields of a composite type."""
    for row in attributes:
        if row["relation"] == relation:
            column = _column(row["name"], row["oid"], row["type"], types, attributes, row["written_by"])
            has_one_text = column.has_one_text and not row["folds"]
            yield replace(column, has_one_text=has_one_text, number=row["number"], identity=row["identity"])


def _column(
    name: str, oid: int, type_: str, types: Mapping[int, dict[str, Any]], attributes: Sequence[dict[str, Any]],
    written_by_server: Any = "",
) -> Column:  # fmt: skip
    base = types[oid]
    while base["form"] == "d":
        base = types[base["base"]]
    element: Column | None = None
    fields: tuple[Column, ...] = ()
    kind = KINDS.get(base["name"], "other")
    if base["category"] == "A" and base["element"]:
        item = types[base["element"]]
        kind, element = "array", _column(name, item["oid"], item["type"], types, attributes)
    elif base["form"] == "c":
        kind, fields = "composite", tuple(_columns(base["relation"], types, attributes))
    elif base["category"] == "S":
        kind = "text"
    elif (bound := KINDS.get(base["subtype"], "other")) in NO_NUMBERS:  # a range
        kind = "zoneless" if bound == "zoneless" else "notation"
    has_one_text = base["name"] in ONE_TEXT or base["form"] == "e"
    return Column(
        name, type_, kind, element, fields, base["delimiter"], written_by_server, has_one_text,
        bool(base["subtype"]), base["equals"] or "=",
    )  # fmt: skip
