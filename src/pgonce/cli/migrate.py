"""``pgonce migrate`` and ``pgonce sql``."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from pgonce.cli.options import Database, with_database, with_schema
from pgonce.core import database, schema_check
from pgonce.core import migrate as installation
from pgonce.errors import InvalidArgument

_VERSION = "%Y%m%d%H%M%S"


@click.command()
@with_database
@click.option(
    "--check", is_flag=True, help="Change nothing; exit 1 if the schema is behind, altered, or open to other roles."
)
def migrate(check: bool, db: Database) -> None:
    """Install or upgrade the tables and functions. Repeatable; two at once are safe."""
    where = database.check(db.url)
    if check:
        _check(db, where)
        return
    done = installation.migrate(
        db.url,
        db.schema,
        warn=lambda line: click.echo(f"warning: {line}", err=True),
        announce=lambda line: click.echo(line, err=True),
    )
    what = f"applied {', '.join(done)}; " if done else "no new migration; "
    click.echo(f"{where}, schema {db.schema}: {what}functions and grants are rebuilt")


def _check(db: Database, where: str) -> None:
    found = schema_check.check(db.url, db.schema)
    for line in found:
        click.echo(line)
    if found:
        click.echo(f"pgonce: {where}, schema {db.schema}: {len(found)} found, each with what to do", err=True)
        sys.exit(1)
    click.echo(f"{where}, schema {db.schema}: current, unaltered, closed to other roles")


@click.command()
@with_schema
@click.option(
    "--supabase",
    is_flag=True,
    help="Write it as the next file of ./supabase/migrations, unless the newest file of pgonce there is the same.",
)
def sql(schema: str, supabase: bool) -> None:
    """Print what migrate does as one SQL script.

    It is for the migrations of Supabase or Alembic.
    """
    script = installation.script(schema)
    if supabase:
        click.echo(_write_migration(Path("supabase"), script + "\n"))
    else:
        click.echo(script)


def _write_migration(project: Path, script: str) -> str:
    if not project.is_dir():
        raise InvalidArgument("there is no folder supabase here: run the command where `supabase init` has made it")
    folder = project / "migrations"
    folder.mkdir(exist_ok=True)
    earlier = sorted(folder.glob("*_pgonce.sql"))
    if earlier and earlier[-1].read_text(encoding="utf-8") == script:
        return f"{earlier[-1]} is up to date"
    path = folder / f"{_next_version(folder)}_pgonce.sql"
    path.write_text(script, encoding="utf-8")
    return f"wrote {path}"


def _next_version(folder: Path) -> str:
    # Supabase refuses a file whose version is not after that of the last one applied: a clock that is behind must not
    # make one.
    now = datetime.now(UTC).strftime(_VERSION)
    last = max((path.name[:14] for path in folder.glob("[0-9]*_*.sql")), default="")
    if now > last or not last.isdigit():
        return now
    return (datetime.strptime(last, _VERSION).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(_VERSION)
