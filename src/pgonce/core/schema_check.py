"""Compares an installation with what this release would install: ``pgonce migrate --check``."""

from __future__ import annotations

import re
from typing import Any, LiteralString
from uuid import uuid4

import psycopg
from psycopg import errors, sql

from pgonce.core import database
from pgonce.core.adopt import is_adopting, set_limits
from pgonce.core.migrate import applied, needs_rights, refuse, run_script
from pgonce.core.schema_sql import SPECIFIED, api, migrations, objects, script
from pgonce.errors import PgonceError, SchemaError, schema_option

# Everything that the script makes in the first schema of the search_path, as (kind, name, definition). The schema's
# name is removed, so that two schemas can be compared. Of the rights only those of service_role are included: the other
# roles have none, or there is a warning.
_DEFINITIONS: LiteralString = """
with here as (
    select oid, array[  -- as psycopg quotes the name in the script, and as pg_dump does
             format('search_path="%%s", pg_temp', replace(nspname, '"', '""')),
             format('search_path=%%I, pg_temp', nspname)] as paths
    from pg_namespace where nspname = current_schema()),
  relations as (
    select c.* from pg_class c join here on here.oid = c.relnamespace
    where c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') like 'pgonce: %%'
      and (c.relname like 'pgonce\\_%%' or c.relname = any (%(specified)s))),
  routines as (
    select p.*, format('%%s(%%s)', p.proname, pg_get_function_identity_arguments(p.oid)) as signature
    from pg_proc p join here on here.oid = p.pronamespace
    where obj_description(p.oid, 'pg_proc') like 'pgonce: %%'
      and (p.proname like 'pgonce\\_%%' or p.proname = any (%(functions)s)))
select 'table', relname::text, relkind::text from relations where relkind = 'r'
union all
select 'view', relname, concat_ws(' ', pg_get_viewdef(oid), reloptions) from relations where relkind = 'v'
union all
select 'column', format('%%s.%%s', r.relname, a.attname),
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                 case when a.attname <> 'id' then pg_get_expr(d.adbin, d.adrelid) end)  -- of id any default is adopted
from relations r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where r.relkind = 'r'
union all
select 'constraint', format('%%s %%s', r.relname, pg_get_constraintdef(k.oid)), ''
from relations r join pg_constraint k on k.conrelid = r.oid where k.contype in ('p', 'u', 'c')
union all
select 'index', i.relname,
       concat_ws(' ', r.relname, x.indisunique, x.indisvalid, substring(pg_get_indexdef(i.oid) from ' USING .*'))
from relations r join pg_index x on x.indrelid = r.oid join pg_class i on i.oid = x.indexrelid
where not exists (select from pg_constraint k where k.conindid = i.oid)
union all
select 'trigger', format('%%s on %%s', t.tgname, r.relname),
       concat_ws(' ', t.tgenabled, pg_get_triggerdef(t.oid, true))
from relations r join pg_trigger t on t.tgrelid = r.oid where not t.tgisinternal
union all
select 'policy', format('%%s on %%s', p.polname, r.relname),
       concat_ws(' ', p.polcmd, p.polpermissive, p.polroles,
                 pg_get_expr(p.polqual, r.oid), pg_get_expr(p.polwithcheck, r.oid))
from relations r join pg_policy p on p.polrelid = r.oid
union all
select case p.prokind when 'p' then 'procedure' else 'function' end, p.signature,
       concat_ws(' ', pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), l.lanname, p.provolatile,
                 p.prosecdef, p.proisstrict, p.proparallel, p.prosrc || coalesce(pg_get_function_sqlbody(p.oid), ''),
                 (select string_agg(case when c = any (here.paths) then 'search_path=here' else c end, ' ' order by c)
                  from unnest(p.proconfig) c))
from routines p join pg_language l on l.oid = p.prolang cross join here
union all
select 'grant to service_role', format('%%s on %%s', a.privilege_type, o.name), ''
from (select relname::text as name, relacl as acl from relations union all select signature, proacl from routines) o,
     aclexplode(o.acl) a
where a.grantee in (select oid from pg_roles where rolname = 'service_role')
  -- what migrate grants: default privileges may give more to a new schema
  and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'EXECUTE')
"""

# The objects of the user's that keep migrate from dropping one of our functions or views. It has to drop what this
# release no longer has, what "create or replace" cannot change, and what of ours depends on these. The parameters are
# the schemas of the installation and of this release.
_BLOCKED: LiteralString = """
with recursive ours as (
    select p.oid, null::oid as type, p.pronamespace as schema, 'function' as kind,
           replace(format('%%s(%%s)', p.proname, oidvectortypes(p.proargtypes)), s.prefix, '') as name,
           array[p.prokind::text, replace(pg_get_function_result(p.oid), s.prefix, '')] || p.proargnames as shape,
           p.pronargdefaults as optional
    from pg_proc p cross join lateral (select p.pronamespace::regnamespace || '.') s (prefix)
    where obj_description(p.oid, 'pg_proc') like 'pgonce: %%'
      and (p.proname like 'pgonce\\_%%' or p.proname = any (%(functions)s))
    union all
    select c.oid, c.reltype, c.relnamespace, 'view', c.relname,
           array(select format('%%s %%s', attname, format_type(atttypid, atttypmod)) from pg_attribute
                 where attrelid = c.oid and attnum > 0 order by attnum), 0
    from pg_class c
    where c.relkind = 'v' and c.relname like 'pgonce\\_%%' and obj_description(c.oid, 'pg_class') like 'pgonce: %%'
    union all
    select t.oid, null, c.relnamespace, 'trigger', t.tgname, null, 0
    from pg_trigger t join pg_class c on c.oid = t.tgrelid
    where not t.tgisinternal and t.tgname like 'pgonce\\_%%' and obj_description(c.oid, 'pg_class') like 'pgonce: %%'),
  dependents as (
    select o.oid as on_oid, case when w.oid is null then d.classid else 'pg_class'::regclass end as class,
           coalesce(w.ev_class, d.objid) as oid, d.objsubid
    from ours o
    join pg_depend d on d.deptype = 'n' and (
      (d.refclassid = any (array['pg_proc', 'pg_class']::regclass[]) and d.refobjid = o.oid)
      or (d.refclassid = 'pg_type'::regclass and d.refobjid = o.type))
    left join pg_rewrite w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid
    where o.schema = %(installed)s::regnamespace),
  gone (oid) as (
    select o.oid from ours o
    left join ours n on n.schema = %(wanted)s::regnamespace and (n.kind, n.name) = (o.kind, o.name)
    where o.schema = %(installed)s::regnamespace and o.kind <> 'trigger'
      and (n.oid is null or n.optional < o.optional
           or o.shape is distinct from case o.kind when 'view' then n.shape[:cardinality(o.shape)] else n.shape end)
    union
    select d.oid from gone g join dependents d on d.on_oid = g.oid)
select distinct pg_describe_object(d.class, d.oid, d.objsubid), o.kind, o.name
from gone g join ours o using (oid) join dependents d on d.on_oid = g.oid
where d.oid not in (select oid from ours)
order by 1
"""

Definitions = dict[tuple[str, str], str]


def check(url: str, schema: str = "public") -> list[str]:
    """Compare an installation with this release. Nothing is written, and no writer has to wait.

    This release is installed into a new schema, in a transaction that is rolled back, and the two are compared object
    by object. So the role must be allowed to create a schema.

    Returns:
        One line for each difference and for each thing that lets other roles change the installation; empty when the
        installation is current, unaltered and closed.

    Raises:
        SchemaError: the database is not UTF8, or was migrated by a newer release.
        PgonceError: the role may not create a schema in this database.
        psycopg.Error: what the database refused otherwise.
    """
    scratch = f"pgonce_check_{uuid4().hex}"
    option = schema_option(schema)
    with database.connect(url) as conn, needs_rights(conn, schema):
        refuse(conn, schema)
        versions = applied(conn, schema)
        if not versions:
            return [f"pgonce is not installed in schema {schema}: run `pgonce migrate{option}`"]
        with conn.transaction(force_rollback=True):
            conn.execute("set local client_min_messages = error")
            conn.execute("set local check_function_bodies = off")  # a sixth of the time; they are only compared
            set_limits(conn)
            try:
                # Nobody sees it before it is rolled back. An event trigger may give the tables to another role.
                conn.execute(f"create schema {scratch}; grant all on schema {scratch} to public".encode())
                run_script(conn, script(scratch))
            except errors.InsufficientPrivilege as error:
                raise PgonceError(
                    f"{error.diag.message_primary}: the check needs the right to create a schema, "
                    "run it as the role that migrates"
                ) from error
            # The scratch schema's name is replaced, as it occurs nowhere else. The real schema's name may be a word
            # that a definition also contains elsewhere.
            name = str(conn.execute("select quote_ident(%s)", [schema]).fetchall()[0][0])
            wanted = {key: text.replace(f"{scratch}.", f"{name}.") for key, text in _definitions(conn, scratch).items()}
            found = [
                f"migration {name} is not applied: run `pgonce migrate{option}`"
                for version, name, _ in migrations()
                if version not in versions
            ]
            found += [
                f"table {table} is not completely adopted: run `pgonce migrate{option}` again"
                for table in SPECIFIED
                if is_adopting(conn, schema, table)
            ]
            found += _strangers(conn, schema)
            found += _differences(wanted, _definitions(conn, schema), option)
            _use(conn, schema)
            names = {**_names(), "installed": sql.Identifier(schema).as_string(), "wanted": scratch}
            found += [
                f"{dependent} depends on {kind} {name}, which migrate has to drop: drop what depends on it, run "
                f"`pgonce migrate{option}`, and create it again"
                for dependent, kind, name in conn.execute(_BLOCKED, names).fetchall()
            ]
            warnings = sql.SQL("select {}(%s)").format(sql.Identifier(scratch, "pgonce_schema_warnings"))
            return _abridge(found + [str(row[0]) for row in conn.execute(warnings, [schema]).fetchall()], option)


def _use(conn: psycopg.Connection[Any], schema: str) -> None:
    path = f"{sql.Identifier(schema).as_string()}, pg_temp"
    conn.execute("select set_config('search_path', %s, true)", [path])


def _names() -> dict[str, Any]:
    """The names by which pgonce's objects are known, besides the prefix and the comment."""
    return {"specified": list(SPECIFIED), "functions": objects()["function"]}


def _definitions(conn: psycopg.Connection[Any], schema: str) -> Definitions:
    _use(conn, schema)
    return {(kind, name): definition for kind, name, definition in conn.execute(_DEFINITIONS, _names()).fetchall()}


def _strangers(conn: psycopg.Connection[Any], schema: str) -> list[str]:
    """Why the next migrate would stop: an object that is not pgonce's has a name that pgonce needs."""
    _use(conn, schema)
    try:
        with conn.transaction(force_rollback=True):
            run_script(conn, api("install_check"))
    except SchemaError as error:
        return [str(error)]
    return []


def _differences(wanted: Definitions, found: Definitions, option: str) -> list[str]:
    lines = []
    gone = {name for kind, name in wanted if kind == "table" and (kind, name) not in found}
    for (kind, name), definition in sorted(wanted.items()):
        if kind != "table" and gone & {name.split(".")[0], name.split()[0], name.split()[-1], definition.split(" ")[0]}:
            continue  # a part of a table that is missing
        if (kind, name) not in found:
            lines.append(f"{kind} {name} is missing: {_remedy(kind, option)}")
        elif found[kind, name] != definition:
            lines.append(f"{kind} {name} is not as this release makes it: {_remedy(kind, option)}")
    # functions of an earlier release, or with a comment of ours; additional columns and indexes are the user's
    older = sorted(
        (kind, name) for kind, name in found if kind in {"function", "procedure"} and (kind, name) not in wanted
    )
    return lines + [f"{kind} {name} is not of this release: {_remedy(kind, option)}" for kind, name in older]


_MANY = 10


def _abridge(lines: list[str], option: str) -> list[str]:
    """Of many lines about rights the first, and how many there are more. A restore without privileges loses all."""
    groups: dict[str, list[str]] = {}
    for line in lines:
        kind = re.match(r"grant to service_role|role (PUBLIC|anon|authenticated) may .*: revoke all on ", line)
        groups.setdefault(line if kind is None else kind[1] or "service_role", []).append(line)
    abridged = []
    for group in groups.values():
        more = [f"{len(group) - 1} more lines like the last one: run `pgonce migrate{option}`"]
        abridged += group if len(group) <= _MANY else group[:1] + more
    return abridged


def _remedy(kind: str, option: str) -> str:
    # a migration runs only once, so migrate would not make these again
    if kind in {"table", "column", "constraint", "index"}:
        return f"make it as `pgonce sql{option}` has it"
    return f"run `pgonce migrate{option}`"
