"""The SQL files as one script: what `pgonce migrate` runs and `pgonce sql` prints.

Migrations make tables and indexes; they are append-only and each runs once, recorded in ``pgonce_migrations``. The
functions are rebuilt from ``sql/api`` every time. The SQL files name no schema: the script sets the search_path, and
every function pins it (``set search_path from current``).

The script is a single DO statement. It is therefore one transaction in every client: a psql without
--single-transaction commits after each statement, and would leave half of an installation.

"create or replace" refuses some changes: of the type that a function returns, of its arguments' names, of a view's
columns. Then install_replace.sql drops the older function or view, and the statement is executed again.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

from psycopg import sql

from pgonce.errors import InvalidArgument

API = (
    "core_processes", "errors_reason",
    "webhooks_payload", "webhooks_insert", "webhooks_inbox", "webhooks_claim", "webhooks_change",
    "webhooks_claim_singly", "webhooks_batch", "webhooks_replay", "webhooks_receive", "webhooks_refused",
    "webhooks_watermark", "webhooks_traces",
    "jobs_totals", "jobs_heartbeat", "jobs_guard", "jobs_fence", "jobs_batch", "jobs_schedule", "jobs_ticks",
    "jobs_operate", "jobs_run_job", "jobs_stats", "jobs_overview",
    "seeds_checkpoint", "seeds_operate", "seeds_partition",
    "retention_purge", "webhooks_list", "alerts_find", "webhooks_diagnose", "console_webhook", "console_webhooks",
    "webhooks_replays", "alerts_collect", "alerts_deliver",
    "console_audit", "console_access", "console_replays", "console_alerts", "console_now",
    "doctor_examine", "metrics_collect",
    "jobs_diagnose", "console_jobs", "seeds_diagnose", "console_seeds", "console_operate",
    "install_warnings",
)  # fmt: skip
"""The files of ``sql/api`` that create functions and views, in the order in which they need each other.

install_check.sql and install_stale.sql come before them; install_triggers.sql, install_fill.sql and install_grants.sql
after them."""

SPECIFIED = ("webhook_events", "cron_job_runs", "seed_checkpoints")
"""The tables that a team may have made by hand from the specification: migrate adopts them."""

LOCK = "pg_advisory_xact_lock(hashtextextended('pgonce migrate', 0))"
"""One migrate at a time: the second waits here, finds the work done, and succeeds. Released by COMMIT, so it works
behind a transaction pooler."""

_SCRIPT = """\
-- The tables and functions of pgonce, for the schema {name}. Repeatable; one statement: all of it is done, or nothing.
do {quote}
declare
  v_search_path text := current_setting('search_path');
  v_step text;
  v_replace text := {replace};
  v_warning text;
begin
perform {lock};
if not exists (select from pg_namespace where nspname = {schema}) then
  create schema {identifier};
end if;
{settings}
if current_schema() is distinct from {schema} then  -- without the right to use it, it is not searched
  raise insufficient_privilege using message = format('permission denied for schema %s', {schema});
end if;
{steps}
for v_warning in select pgonce_schema_warnings() loop
  raise warning '%', v_warning;
end loop;
perform set_config('search_path', v_search_path, true);
end {quote};
"""
_MIGRATIONS_TABLE = """\
create table if not exists pgonce_migrations (
  version    integer primary key,
  name       text not null,
  applied_at timestamptz not null default clock_timestamp()
);"""
_MIGRATION = """\
if not exists (select from pgonce_migrations where version = {version}) then
  execute {body};
  insert into pgonce_migrations (version, name) values ({version}, {name});
end if;"""

_CREATE = """\
foreach v_step in array array[
{steps}
] loop
  perform set_config('pgonce.replaced', substring(v_step from 'create or replace (\\w+ \\w+)'), true);
  begin
    execute v_step;
  exception when invalid_function_definition or invalid_table_definition or wrong_object_type then
    execute v_replace;
    execute v_step;
  end;
  -- older signatures go at once: with them, the calls in later steps could be ambiguous
  if exists (
      select from pg_proc
      where pronamespace = quote_ident(current_schema())::regnamespace
        and proname = split_part(current_setting('pgonce.replaced'), ' ', 2)
        and obj_description(oid, 'pg_proc') = 'pgonce: stale') then
    execute v_replace;
  end if;
end loop;
perform set_config('pgonce.replaced', '', true);
execute v_replace;"""
"""Each step is a subtransaction: one that is refused leaves nothing behind."""

_COMMENT = re.compile(r"--.*")
_BEFORE_A_DEFINITION = re.compile(r"(?<=[;\n]\n)(?=(?:--.*\n)*create or replace )")
_CREATED = re.compile(
    r"\bcreate (?:or replace )?(?:unique |constraint )?"
    r"(table|view|index|function|procedure|trigger|policy|sequence|type)(?: if not exists)? (?!on\b)(\w+)"
)


def migrations() -> list[tuple[int, str, str]]:
    """The migrations of this release: (version, name, SQL), in order."""
    found = []
    for entry in files("pgonce").joinpath("sql/migrations").iterdir():
        if match := re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name):
            found.append((int(match[1]), match[2], entry.read_text("utf-8")))
    return sorted(found)


def api(name: str) -> str:
    """The SQL of one file of ``sql/api``."""
    return files("pgonce").joinpath("sql/api").joinpath(f"{name}.sql").read_text("utf-8")


@cache
def objects() -> dict[str, list[str]]:
    """The names of everything that the script makes, by kind; a procedure is a function."""
    found: dict[str, set[str]] = {}
    scripts = [*API, "install_triggers", "install_grants"]
    text = "\n".join([_MIGRATIONS_TABLE, *(body for _, _, body in migrations()), *map(api, scripts)])
    for kind, name in _CREATED.findall(_COMMENT.sub("", text)):
        if not name.startswith("pgonce_shape"):  # created and dropped by install_check.sql
            found.setdefault("function" if kind == "procedure" else kind, set()).add(name)
    return {kind: sorted(names) for kind, names in sorted(found.items())}


def definitions() -> list[str]:
    """The files of `API` in steps: each defines at most one function or view."""
    return [step for name in API for step in _BEFORE_A_DEFINITION.split(api(name))]


def statements(table: str) -> list[str]:
    """The statements of the migrations that change an adopted table, in their order: columns, rows, indexes."""
    text = _COMMENT.sub("", "\n".join(body for _, _, body in migrations()))
    pattern = rf"^(?:alter table|update|create (?:unique )?index if not exists \w+ on) {table}\b.*?;"
    return re.findall(pattern, text, re.DOTALL | re.MULTILINE)


@cache
def _specification() -> dict[str, dict[str, object]]:
    # install_check.sql compares a hand-made table with this: the specification's statements, with placeholders
    # for the names, and the columns that pgonce adds.
    text = _COMMENT.sub("", "\n".join(body for _, _, body in migrations()))
    found: dict[str, dict[str, object]] = {}
    for table in SPECIFIED:
        create = re.search(rf"^create table if not exists {table} (\(.*?^\));", text, re.DOTALL | re.MULTILINE)
        if create is None:
            raise ValueError(f"no migration creates {table}")
        own = "".join(statements(table))
        indexes = re.findall(rf"create index if not exists (idx_\w+) on {table} (.*?);", own, re.DOTALL)
        found[table] = {
            "columns": create[1],
            "indexes": dict(indexes),
            "added": re.findall(r"add column if not exists (\w+)", own),
        }
    return found


def settings_for(schema: str) -> dict[str, str]:
    """The settings that the SQL files need, for one transaction."""
    return {
        "search_path": f"{sql.Identifier(schema).as_string()}, pg_temp",
        "quote_all_identifiers": "off",  # definitions are compared as text
        "pgonce.objects": json.dumps(objects()),
        "pgonce.specification": json.dumps(_specification()),
    }


def _quoted(body: str, tag: str) -> str:
    while f"${tag}$" in body:  # a schema may be called anything
        tag += "_"
    return f"${tag}${body}${tag}$"


def script(schema: str = "public") -> str:
    """Everything that ``migrate`` does as one SQL statement, to paste into Supabase's or Alembic's migrations.

    Raises:
        InvalidArgument: no schema can be called so, or ``schema`` is one of PostgreSQL's.
    """
    if not schema or "\0" in schema:
        raise InvalidArgument("the schema name must not be empty")
    if len(schema.encode()) > 63:  # PostgreSQL would cut it, and then not find the schema under the whole name
        raise InvalidArgument(f"the schema name {schema[:20]}... is longer than the 63 bytes that PostgreSQL keeps")
    if schema == "$user":  # in a search_path it is the schema of the current role, also in quotation marks
        raise InvalidArgument("schema $user is not one schema but each role's own: name another one")
    if schema == "information_schema" or schema.startswith("pg_"):
        raise InvalidArgument(f"schema {schema} is PostgreSQL's own: name another one")
    identifier = sql.Identifier(schema).as_string()

    def literal(text: str) -> str:
        return sql.Literal(text).as_string()

    settings = [
        f"perform set_config({literal(name)}, {literal(value)}, true);" for name, value in settings_for(schema).items()
    ]

    def whole(name: str) -> str:
        return f"execute {_quoted(api(name), 'sql')};"

    steps = [whole("install_check"), _MIGRATIONS_TABLE]
    for version, name, body in migrations():
        steps.append(_MIGRATION.format(version=version, body=_quoted(body, "sql"), name=literal(name)))
    create = _CREATE.format(steps=",\n".join(_quoted(step, "sql") for step in definitions()))
    steps += [whole("install_stale"), create]
    steps += map(whole, ("install_triggers", "install_fill", "install_grants"))
    values = {
        "name": " ".join(schema.split()),  # a line break would end the comment
        "lock": LOCK,
        "schema": literal(schema),
        "identifier": identifier,
        "settings": "\n".join(settings),
        "replace": _quoted(api("install_replace"), "sql"),
        "steps": "\n".join(steps),
    }
    quote = "$pgonce$"
    while any(quote in value for value in values.values()):
        quote = quote[:-1] + "_$"
    return _SCRIPT.format(quote=quote, **values)
