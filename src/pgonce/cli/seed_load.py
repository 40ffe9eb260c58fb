"""``pgonce seed load``: a file into a table, without a line of code."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from psycopg import Connection, sql
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pgonce.cli.options import OVERLAP, with_database
from pgonce.cli.seed import PLAIN_EVERY
from pgonce.cli.seed import _prove as prove
from pgonce.cli.seed import _rate as rate
from pgonce.cli.seed import _say as say
from pgonce.cli.stopping import stopping
from pgonce.core import database
from pgonce.errors import InvalidArgument, SchemaError
from pgonce.seeds.readers import read
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.jsonl import JsonLinesFile
from pgonce.seeds.readers.parquet import ParquetFile
from pgonce.seeds.seeds import Progress as Step
from pgonce.seeds.seeds import SeedResult, Seeds

Source = CsvFile | JsonLinesFile | ParquetFile


class Names(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """Names with commas between them."""

    name = "a,b,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names as a tuple."""
        names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else tuple(value)
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", "table", required=True, metavar="TABLE", help="The table, with or without its schema.")
@click.option("--key", required=True, type=Names(), help="Columns of a unique index: rows that are there are skipped.")
@click.option("--name", help="The seed's name. [default: TABLE:FILE without folders]")
@click.option("--columns", type=Names(), help="CSV: the file has no header, these are its columns. Else: which ones.")
@click.option("--delimiter", help="Of a CSV file; tab for a tab. [default: a comma, a tab for .tsv]")
@click.option("--complete", is_flag=True, help="The file is whole: take a last line without a line end.")
@click.option("--on-conflict", type=click.Choice(["skip", "update", "fail"]), default="skip", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Rows per transaction. [default: about a second's]")
@click.option("--max-rejects", type=click.IntRange(min=0), default=0, show_default=True, help="Bad rows to put aside.")
@click.option("--max-rows-per-second", type=click.FloatRange(min=1), help="Not faster than that.")
@click.option("--restart", is_flag=True, help="Begin at the start; rows that are there are skipped.")
@click.option("--accept-change", is_flag=True, help="Go on although the file is not what it was.")
@click.option("--dry-run", is_flag=True, help="Do it all in one transaction, constraints too, and roll it back.")
@click.option("--verify", is_flag=True, help="Afterwards compare the table with the file, and keep the proof.")
@with_database
def load(
    file: Path,
    table: str,
    key: Sequence[str],
    name: str | None,
    columns: Sequence[str] | None,
    delimiter: str | None,
    complete: bool,
    on_conflict: Literal["skip", "update", "fail"],
    max_rejects: int,
    restart: bool,
    dry_run: bool,
    verify: bool,
    url: str,
    schema: str,
    **options: Any,
) -> None:
    """Import FILE (.csv, .tsv, .jsonl, .ndjson, also .gz, or .parquet) into a table, from where it stands.

    The same command again goes on behind the last batch, also after a crash, and takes in what was appended. Ctrl-C
    and SIGTERM finish the batch; a second one ends at once. Nothing is lost either way.
    """
    source = read(
        file, columns=columns, delimiter="\t" if delimiter in {"tab", "\\t"} else delimiter, complete=complete
    )
    name = name or f"{table}:{file.name}"
    with database.open_pool(url) as pool:
        with pool.connection() as conn:
            _check(conn, table, key, source)
        seeds = Seeds(pool, schema=schema)
        where: dict[str, Any] = {"into": table, "key": key, "on_conflict": on_conflict}
        if dry_run:
            counts = seeds.rehearse(name, source, **where, max_rejects=max_rejects, restart=restart)
            click.echo(f"{name}: nothing was written; it would be {say(counts)}")
            return
        options |= where | {"max_rejects": max_rejects, "restart": restart}
        with stopping("this batch") as stopped, _progress(name, source) as on_progress:
            result = seeds.run(name, source, on_progress=on_progress, stop=lambda: bool(stopped), **options)
        if source.unfinished and result.outcome == "complete":
            raise InvalidArgument(source.unfinished)
        _report(name, result, stopped)
        if verify:
            prove(name, seeds.verify(name, source, **where))


def _check(conn: Connection[Any], table: str, key: Sequence[str], source: Source) -> None:
    """Refuse what COPY would refuse later and in its own words.

    Raises:
        InvalidArgument: the file has no such key.
        SchemaError: there is no such table, or it lacks a column; with a statement that would make it.
    """
    columns = source.columns
    if lacking := [name for name in key if name not in columns]:
        raise InvalidArgument(f"{source.name} has no column {lacking[0]}: it has {', '.join(columns)}")
    identifier = sql.Identifier(*table.split("."))
    there = conn.execute(
        "select array_agg(attname::text order by attnum) from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [identifier.as_string(conn)],
    ).fetchone()
    if not there or there[0] is None:
        create = sql.SQL("create table {} ({}, primary key ({}));").format(
            identifier,
            sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(column)) for column in columns),
            sql.SQL(", ").join(map(sql.Identifier, key)),
        )
        click.echo(f"pgonce: there is no table {table}: create it before the import, for instance with", err=True)
        click.echo(create.as_string(conn), err=True)
        sys.exit(1)
    if unknown := [column for column in columns if column not in there[0]]:
        raise SchemaError(
            f"table {table} has no column {unknown[0]}, which {source.name} has; the table has {', '.join(there[0])}"
        )


def _report(name: str, result: SeedResult, stopped: list[int]) -> None:
    counts = say(result.checkpoint) if result.checkpoint else "no rows yet"
    if result.outcome == "complete":
        click.echo(f"{name}: complete, {counts}")
    elif result.outcome == "overlap":
        click.echo(f"{name}: skipped, another runner is at work on it", err=True)
        sys.exit(OVERLAP)
    elif result.outcome == "paused":
        click.echo(f"{name}: paused, {counts}; go on with: pgonce seed resume {name}, and the same command", err=True)
        sys.exit(OVERLAP)
    else:
        click.echo(f"{name}: stopped after a whole batch, {counts}; go on with the same command", err=True)
        sys.exit(128 + stopped[0] if stopped else 1)


@contextmanager
def _progress(name: str, source: Source) -> Iterator[Callable[[Step], None]]:
    """By bytes where the file has offsets; by rows in Parquet; of a .gz nobody knows how much there is to come."""
    total = source.total if isinstance(source, ParquetFile) else source.size
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(name, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, rows=0, rate="")

        def show(step: Step) -> None:
            bar.update(task, completed=_done(step), rows=step.checkpoint.rows_seen, rate=rate(step))

        yield show


def _plain(name: str, total: int | None) -> Callable[[Step], None]:
    shown = time.monotonic()

    def show(step: Step) -> None:
        nonlocal shown
        if time.monotonic() - shown >= PLAIN_EVERY:
            shown = time.monotonic()
            part = f" ({_done(step) / total:.0%})" if total else ""
            click.echo(f"{name}: {step.checkpoint.rows_seen:,} rows{part}, {rate(step)}", err=True)

    return show


def _done(step: Step) -> int:
    cursor = step.checkpoint.cursor or {}
    return int(cursor.get("offset", step.checkpoint.rows_seen))
