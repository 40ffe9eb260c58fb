"""Emptying the tables of a test database."""

from __future__ import annotations

from collections.abc import Iterable

import psycopg

from pgonce.core import database

KEPT = (
    "pgonce_migrations",
    "alembic_version",
    "django_migrations",
    "django_content_type",
    "auth_permission",
    "django_site",
)
"""Tables whose rows belong to the schema."""

# DELETE and not TRUNCATE, which makes new files: for a few rows that takes longer. As a replica, so that foreign keys
# and triggers do not count.
_CLEAN = """
do $$
declare
  name text;
begin
  set local session_replication_role = replica;
  set local lock_timeout = '5s';
  for name in
    select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|information_schema$)'
      and c.relname <> all (string_to_array(current_setting('pgonce.kept'), ','))
      -- not those of an extension, such as PostGIS's spatial_ref_sys
      and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid
                      and d.deptype = 'e') loop
    execute 'delete from ' || name;
  end loop;
end $$
"""


def clean(url: str, keep: Iterable[str] = ()) -> None:
    """Delete the rows of every table of a database, pgonce's and your own. For test databases only.

    Args:
        url: of a superuser.
        keep: names of tables that keep their rows, besides those of ``KEPT``.
    """
    with database.connect(url) as conn:
        empty(conn, keep)


def empty(conn: psycopg.Connection[tuple[object, ...]], keep: Iterable[str] = ()) -> None:
    """``clean`` on an open connection in autocommit."""
    conn.execute("select set_config('pgonce.kept', %s, false)", [",".join([*KEPT, *keep])])
    conn.execute(_CLEAN)
