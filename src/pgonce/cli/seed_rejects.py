"""``pgonce seed rejects``: the rows that a table refused, by reason, or all of them as CSV."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import print_json, print_table, suggested
from pgonce.errors import NotFound
from pgonce.seeds.calls import Reject
from pgonce.seeds.seeds import Seeds

SHOWN = 50
"""Lines in the table, at most; with --csv all rejects."""
HEADINGS = ("reason", "column", "row", "partition", "cursor")
GROUPED = ("reason", "column", "rows", "first row", "partition")
FIELDS = ("row_number", "partition", "column_name", "reason", "sqlstate", "error", "cursor")
RECORD = "record"
"""The column of the CSV that has a record that could not be cut into values."""


@click.command()
@click.argument("name")
@click.option("--csv", "csv_", is_flag=True, help="Print all of them as CSV, with their values.")
@as_json
@with_database
def rejects(name: str, csv_: bool, json_: bool, db: Database) -> None:
    """List the rejected rows of the seed NAME.

    They are listed by reason, column and row number, without their values. Of more than 50 each reason is one line.

    With --csv each is printed with its values, to be fixed:

    \b
    pgonce seed rejects people:people.csv --csv > rejects.csv
    """  # noqa: D301 -- click reads the backspace
    seeds = Seeds(db.pool, schema=db.schema)
    if seeds.checkpoint(name) is None:
        raise NotFound(f"the seed {name!r} has never run here")
    if csv_:
        _print_csv(seeds, name)
        return
    groups = seeds.reject_groups(name)
    if json_:
        print_json({"groups": groups, "rejects": list(_all(seeds, name))})
        return
    total = sum(group.rows for group in groups)
    if total > SHOWN:
        lines = [(g.reason, g.column_name, f"{g.rows:,}", f"{g.first_row:,}", g.first_partition) for g in groups]
        print_table(GROUPED, lines[:SHOWN], "", "reason")
        if len(groups) > SHOWN:
            click.echo(f"{len(groups) - SHOWN:,} more reasons")
    else:
        order = {(each.reason, each.column_name): place for place, each in enumerate(groups)}
        found = sorted(seeds.rejects(name), key=lambda each: (order.get(_group(each), len(order)), each.id))
        print_table(HEADINGS, map(_line, found), "no row was rejected", "reason")
    if total:
        click.echo(f"values: {suggested('seed rejects', name, ' --csv')}")


def _group(reject: Reject) -> tuple[str, str | None]:
    return reject.reason or reject.error, reject.column_name


def _line(reject: Reject) -> tuple[object, ...]:
    cursor = "" if reject.cursor is None else json.dumps(reject.cursor, ensure_ascii=False)
    return (reject.reason or reject.error, reject.column_name, f"{reject.row_number:,}", reject.partition, cursor)


def _all(seeds: Seeds, name: str) -> Iterator[Reject]:
    last = 0
    while page := seeds.rejects(name, last):
        yield from page
        last = page[-1].id


def _print_csv(seeds: Seeds, name: str) -> None:
    """The names of the values come from all rejects: read twice, because there may be many."""
    columns: dict[str, None] = {}
    for each in _all(seeds, name):
        columns |= dict.fromkeys(each.row or ())
    click.echo(_csv([*FIELDS, *columns, RECORD]))
    for each in _all(seeds, name):
        row = each.row or {}
        about = [getattr(each, field) for field in FIELDS[:-1]]
        record = None if each.line is None else bytes(each.line).decode("utf-8", "replace")
        cursor = json.dumps(each.cursor, ensure_ascii=False)
        click.echo(_csv([*about, cursor, *(row.get(column) for column in columns), record]))


def _csv(values: Sequence[Any]) -> str:
    """A line in which NULL is nothing and an empty text is ``""``, which Python's csv module cannot tell apart."""
    texts = ("" if value is None else str(value) for value in values)
    return ",".join(
        '"' + text.replace('"', '""') + '"' if value == "" or any(sign in text for sign in ',"\r\n') else text
        for value, text in zip(values, texts, strict=True)
    )
