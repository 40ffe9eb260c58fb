"""``pgonce seed load``: imports files, or a query on another database, into a table without code."""

from __future__ import annotations

import glob
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias

import click
from psycopg import Connection, sql

from pgonce.cli.options import Database, with_database
from pgonce.cli.output import print_table
from pgonce.cli.progress import Import, same_command, unknown
from pgonce.cli.signals import stopping_after_batch
from pgonce.core import database
from pgonce.core.execute import OwnCursor, fetch, run
from pgonce.errors import InvalidArgument, SchemaError
from pgonce.seeds.batch import BatchSizer
from pgonce.seeds.copy_format import copy_lines
from pgonce.seeds.importer import batches
from pgonce.seeds.readers import FileSource, read, read_files
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.file import text_of
from pgonce.seeds.readers.names import items, name_of, written
from pgonce.seeds.readers.query import Query
from pgonce.seeds.readers.several import Files
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from pgonce.seeds.source import check_columns
from pgonce.seeds.table import check_table
from pgonce.seeds.table_loader import TableLoader

Source: TypeAlias = FileSource | Files | Query
FORMATS = ["csv", "tsv", "jsonl", "parquet", "copy"]
OPEN_FILES = 100_000
PREVIEW = 3
"""Rows that a dry run shows."""


class Names(click.ParamType):  # type: ignore[type-arg] # generic only in newer releases of click
    """Names with commas between them; one with a comma or with blanks at its ends is in double quotes."""

    name = "a,b,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names as a tuple."""
        names = tuple(map(name_of, items(value))) if isinstance(value, str) else tuple(value)
        if not all(names):
            self.fail(f"{value!r} has an empty name", param, ctx)
        return names


class Keys(Names):
    """Such names, or none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names as a tuple."""
        return () if value in {"", ()} else super().convert(value, param, ctx)


class Renames(click.ParamType):  # type: ignore[type-arg]
    """Pairs FILE'S=TABLE'S with commas between them."""

    name = "ID=id,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        """The table's column for each name in the file."""
        if isinstance(value, dict):
            return value
        pairs = [tuple(map(name_of, pair.rpartition("="))) for pair in items(value)]
        if not all(old and new for old, _, new in pairs):
            quoted = "a name with a comma is in quotes: '\"A, B\"=COLUMN'"
            self.fail(f"{value!r} is not NAME=COLUMN,NAME=COLUMN ({quoted})", param, ctx)
        return {old: new for old, _, new in pairs}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--into", "table", required=True, metavar="TABLE", help="The table, with or without its schema.")
@click.option("--key", default="", type=Keys(), help="Columns of a unique index; without them rows are only appended.")
@click.option("--name", help="The seed's name. [default: TABLE:FILE without folders, TABLE:query, TABLE:stdin]")
@click.option("--columns", type=Names(), help="CSV: the file has no header, these are its columns. Else: which ones.")
@click.option(
    "--map", "rename", type=Renames(), metavar="NAME=COLUMN,…", help="The table's columns for names in the file."
)
@click.option("--format", type=click.Choice(FORMATS), help="[default: by the file's name]")
@click.option("--delimiter", help="Of a CSV file; tab for a tab. [default: a comma, a tab for .tsv]")
@click.option("--quote", default='"', help='Of a CSV file; none: quotes are text. [default: "]')
@click.option("--null", "nulls", multiple=True, metavar="TEXT", help="How a CSV file writes NULL. [default: nothing]")
@click.option("--force-null", is_flag=True, help='NULL may be quoted: "" is NULL, for files that quote all values.')
@click.option("--encoding", help="Such as cp1252, Excel's. [default: UTF-8, or that of a byte order mark]")
@click.option("--complete", is_flag=True, help="The file is whole: take a last line without a line end.")
@click.option("--query", help="FILE is a database's URL: import what this SELECT returns there.")
@click.option(
    "--on-conflict",
    type=click.Choice(["skip", "update", "fail"]),
    default="skip",
    show_default=True,
    help="A row whose key is in the table: leave the table's, overwrite it, or take the new one for a bad row.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Rows per transaction, at least. [default: about a second's]"
)
@click.option("--max-rejects", type=click.IntRange(min=0), default=0, show_default=True, help="Bad rows to leave out.")
@click.option("--max-rows-per-second", type=click.FloatRange(min=1), help="Write at most this many rows per second.")
@click.option("--restart", is_flag=True, help="Begin at the start; rows whose key is in the table are skipped.")
@click.option("--accept-change", is_flag=True, help="Resume even though the file has changed since the checkpoint.")
@click.option("--set-sequences", is_flag=True, help="At the end set the table's sequences to the greatest value.")
@click.option("--allow-unlogged", is_flag=True, help="Write to a table that a crash of the server empties.")
@click.option("--dry-run", is_flag=True, help="Show the first rows, write everything in one transaction, roll it back.")
@click.option("--verify", is_flag=True, help="Afterwards compare the table with the file, and store the result.")
@with_database
def load(
    files: tuple[str, ...],
    table: str,
    key: Sequence[str],
    name: str | None,
    query: str | None,
    on_conflict: Literal["skip", "update", "fail"],
    batch_size: int | None,
    max_rejects: int,
    max_rows_per_second: float | None,
    restart: bool,
    accept_change: bool,
    set_sequences: bool,
    allow_unlogged: bool,
    dry_run: bool,
    verify: bool,
    db: Database,
    **reading: Any,
) -> None:
    """Import files into a table. An import that was interrupted resumes after its last batch.

    FILE ends in .csv, .tsv, .jsonl or .ndjson (also with .gz .bz2 .xz .zst .zip) or in .parquet; - is the standard
    input. Several files, or a quoted pattern, are one import. The same command resumes after the last batch,
    also after a crash, and imports rows that were appended to the file.

    \b
    pgonce seed load people.csv --into people --key id --dry-run
    pgonce seed load people.csv --into people --key id --max-rejects 100 --verify
    pgonce seed load 'daily/*.csv.gz' --into visits --key id
    pgonce seed load export.csv --into people --key id --map 'ID=id,Name=full_name' --force-null
    pgonce seed load old.csv --into people --key id --encoding cp1252 --delimiter ';' --null NULL
    zcat big.csv.gz | pgonce seed load - --format csv --into people --key id
    pgonce seed load "$OLD_URL" --query 'select id, name from users' --into people --key id

    Ctrl-C, SIGTERM and SIGHUP end the run after the current batch, a second one at once. No row is lost either way.

    Exit codes: 0 complete, 1 failed, 75 another runner is at work or the seed is paused, 128 + n stopped by signal n.
    """  # noqa: D301 -- click reads the backspace
    reading["quote"] = None if reading["quote"] == "none" else reading["quote"]
    reading["nulls"] = tuple(reading["nulls"]) or ("",)
    reading["delimiter"] = "\t" if reading["delimiter"] in {"tab", "\\t"} else reading["delimiter"]
    source, label = _source(files, query, key, reading, named=name is not None)
    label = text_of(label)
    name = name or f"{table}:{label}"
    shown = Import(name, f"{label} → {table}", same_command, source.total, getattr(source, "progress", unknown))
    options: dict[str, Any] = {"into": table, "key": key, "on_conflict": on_conflict, "max_rejects": max_rejects}
    options["allow_unlogged"] = allow_unlogged
    with database.open_pool(db.url) as pool:
        seeds = Seeds(pool, schema=db.schema)
        with pool.connection() as conn:
            options["key"] = _check(conn, table, key, source)
            if dry_run:
                _preview(conn, Seed(name, source, **options), source)
        if dry_run:
            shown.report_dry_run(seeds.rehearse(name, source, restart=restart, accept_change=accept_change, **options))
            return
        began = time.monotonic()
        with stopping_after_batch() as stopped, shown.shown() as on_progress:
            result = seeds.run(
                name, source, restart=restart, accept_change=accept_change, max_rows_per_second=max_rows_per_second,
                batch_size=batch_size, set_sequences=set_sequences, on_progress=on_progress,
                stop=lambda: bool(stopped), **options,
            )  # fmt: skip
        seconds = time.monotonic() - began
        shown.report(result, seconds, seeds.reject_groups(name), stopped, were_set=set_sequences)
        if verify:
            shown.report_proof(seeds.verify(name, source, **options), has_key=bool(options["key"]))


def _source(
    files: tuple[str, ...], query: str | None, key: Sequence[str], reading: dict[str, Any], *, named: bool
) -> tuple[Source, str]:
    """The source, and its name as a part of the seed's name."""
    if files[0].startswith(("postgres://", "postgresql://")) or query is not None:
        if query is not None and not key:
            raise InvalidArgument("a query needs a --key: its rows are read in this order, and a run resumes after it")
        if query is None or len(files) > 1 or "://" not in files[0]:
            raise InvalidArgument(
                "a database as the source needs its URL and a query: 'postgresql://…' --query 'select …'"
            )
        names = {column: name for name, column in (reading["rename"] or {}).items()}
        database_query = Query(files[0], query, [names.get(column, column) for column in key])
        database_query.rename(reading["rename"] or {})
        return database_query, "query"
    if missing := [each for each in files if not _is_there(each)]:
        raise click.BadParameter(f"there is no file {missing[0]}", param_hint="FILE")
    if len(files) == 1 and not any(sign in files[0] for sign in "*?["):
        return read(files[0], **reading), "stdin" if files[0] == "-" else Path(files[0]).name
    if len(files) == 1:
        label = Path(files[0]).name
        if not os.path.exists(files[0]):  # noqa: PTH110
            _allow_many_open_files()
            return read_files(sorted(glob.glob(files[0], recursive=True)), files[0], **reading), label  # noqa: PTH207
        return read(files[0], **reading), label
    if not named:
        raise InvalidArgument(
            "several files are one import: give it a --name, so that the next run finds it also when there are more "
            "files; or quote the pattern: 'daily/*.csv'"
        )
    _allow_many_open_files()
    return read_files(files, f"{len(files)} files", **reading), f"{len(files)} files"


def _allow_many_open_files() -> None:
    """A file stays open until a batch with its last row is committed: of small files, a batch holds thousands."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _is_there(file: str) -> bool:
    # not Path.exists, which raises for a name that is too long
    return file == "-" or os.path.exists(file) or any(sign in file for sign in "*?[")  # noqa: PTH110


def _check(conn: Connection[Any], table: str, key: Sequence[str], source: Source) -> Sequence[str]:
    """Compare the columns of file and table. Columns of the file that differ only in case get the table's names.

    Returns the key, by these names.

    Raises:
        InvalidArgument: the file has no such key.
        SchemaError: there is no such table, or it lacks a column; with a statement that would make it.
    """
    identifier = sql.Identifier(*table.split("."))
    [[there]] = fetch(
        conn,
        "select array_agg(attname::text order by attnum) from pg_attribute"
        " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [identifier.as_string(conn)],
    )
    columns, known = source.columns, list(there or ())
    first = source.files[0] if isinstance(source, Files) else source
    if isinstance(first, CsvFile) and len(columns) == 1 and columns[0] not in known:
        for sign, name in {";": "';'", "|": "'|'", "\t": "tab"}.items():
            if sign in columns[0]:
                raise InvalidArgument(f"{source.name} has one column, {written(columns)}: pass --delimiter {name}")
    if there is None:
        _refuse_table(conn, table, key, columns)
    renames = {}
    for column in columns:
        alike = [each for each in known if each.lower() == column.lower() and each not in columns]
        if column not in known and len(alike) == 1:
            renames[column] = alike[0]
    if renames and len(set(renames.values())) == len(renames):
        source.rename(renames)
        columns = source.columns
        key = [renames.get(name, name) for name in key]
    check_columns(source, known, table)
    if lacking := [name for name in key if name not in columns]:
        named = ", ".join(written([column]) for column in columns)
        named += " (a CSV file without a header line needs --columns)" * isinstance(first, CsvFile)
        raise InvalidArgument(f"{source.name} has no column {lacking[0]}: it has {named}")
    if unknown := [column for column in columns if column not in known]:
        name = written(unknown[:1])
        raise SchemaError(
            f"table {table} has no column {name}, which {source.name} has; the table has {', '.join(known)}: "
            f"--map {shlex.quote(f'{name}=COLUMN')} says which one it is"
        )
    return key


def _refuse_table(conn: Connection[Any], table: str, key: Sequence[str], columns: Sequence[str]) -> None:
    """Print how to create the missing table, and exit."""
    wanted = table.split(".")
    if not wanted[-1]:
        raise InvalidArgument(f"--into {table!r} names no table: write TABLE or SCHEMA.TABLE")
    if '"' in table:
        raise SchemaError(
            f"there is no table {table}: names are written without double quotes: "
            f"--into {shlex.quote(table.replace(chr(34), ''))}"
        )
    alike = fetch(
        conn,
        "select c.oid::regclass::text, n.nspname || '.' || c.relname from pg_class c join pg_namespace n"
        " on n.oid = relnamespace where relkind in ('r', 'p') and lower(relname) = lower(%s)"
        " and (lower(nspname) = lower(%s) or (%s = '' and pg_table_is_visible(c.oid)))",
        [wanted[-1], *[wanted[0] if len(wanted) > 1 else ""] * 2],
    )
    if alike:
        names = [shlex.quote(full if len(wanted) > 1 else full.rpartition(".")[2]) for _, full in alike]
        raise SchemaError(f"there is no table {table}: did you mean --into {' or --into '.join(names)}?")
    # names of the file that differ from the key's only in case: the import takes the table's
    spelt = {name.lower(): name for name in key}
    names = [column if column in key else spelt.get(column.lower(), column) for column in columns]
    names = names if len(set(names)) == len(names) else list(columns)
    parts = [sql.SQL("{} text").format(sql.Identifier(name)) for name in names]
    if key and set(key) <= set(names):
        parts.append(sql.SQL("primary key ({})").format(sql.SQL(", ").join(map(sql.Identifier, key))))
    create = sql.SQL("create table {} ({});").format(sql.Identifier(*wanted), sql.SQL(", ").join(parts))
    click.echo(f"pgonce: there is no table {table}: create it before the import, for instance with", err=True)
    click.echo(create.as_string(conn), err=True)
    sys.exit(1)


def _preview(conn: Connection[Any], seed: Seed, source: Any) -> None:
    """Print the first rows as the table would store them, column by column, with the types of source and column."""
    loader = TableLoader(seed, check_table(conn, seed), conn.adapters)
    batch = next(iter(batches(loader, source, None, BatchSizer(PREVIEW))), None)
    if batch is None or not batch.parts:
        return
    names = sql.SQL(", ").join(map(sql.Identifier, batch.columns))
    refused = {each.index for each in batch.refused}
    numbers = [number for number in range(batch.rows) if number not in refused]
    shown = list[int]()
    with conn.transaction(force_rollback=True):
        run(conn, "set local client_encoding = 'UTF8'")
        like = sql.SQL("create temp table pgonce_preview on commit drop as select {} from {} limit 0")
        fetch(conn, like.format(names, seed.table))
        copy_in = sql.SQL("copy pg_temp.pgonce_preview from stdin")
        for number, line in zip(numbers, copy_lines(b"".join(batch.parts))[:PREVIEW], strict=False):
            try:
                with conn.transaction(), OwnCursor(conn) as cursor, cursor.copy(copy_in) as copy:
                    copy.write(line)
            except Exception:  # noqa: BLE001, S112 -- the dry run itself says what is wrong with it
                continue
            shown.append(number + 1)
        texts = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in batch.columns)
        found = fetch(conn, sql.SQL("select {} from pg_temp.pgonce_preview").format(texts))
    columns = [loader.facts.columns[column] for column in batch.columns]
    types = getattr(source, "types", {})
    rows = [
        (column.name, types.get(column.name), column.type, *(_short(row[place]) for row in found))
        for place, column in enumerate(columns)
    ]
    headings = ("column", "in the source", "type", *(f"row {number}" for number in shown))
    print_table(headings, rows, "", f"row {min(shown, default=1)}")
    click.echo("")


def _short(value: str | None) -> str:
    if value is None:
        return "NULL"
    shown = value.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t") or "''"
    return shown if len(shown) <= 24 else shown[:23] + "…"
