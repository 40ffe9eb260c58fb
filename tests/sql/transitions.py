"""Reads the transition tables at the heads of the SQL files, and helps to run a cell of them.

The meaning of ``to``, in all of them:
  a state      the row is in it afterwards, and the verb returned true or a row
  false, none  the verb returned false, null or no row, and no byte has changed
  a SQLSTATE   the verb raised it, and no byte has changed
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

Row = dict[str, Any] | None
REFUSALS = {"false", "none", "PT404", "PT409", "22023", "23505"}


class Cell(NamedTuple):
    """One line of a table: what a verb does to a row in a state."""

    state: str
    verb: str
    to: str

    def __str__(self) -> str:
        return "-".join(self)


def read(noun: str) -> list[Cell]:
    """The cells at the head of ``sql/api/<noun>.sql``, in order."""
    text = files("pgonce").joinpath(f"sql/api/{noun}.sql").read_text("utf-8")
    heads = re.findall(r"^-- transitions\n((?:--.*\n)+)", text, re.MULTILINE)
    assert len(heads) == 1, f"{noun}.sql must have one table, under the line '-- transitions'"
    lines = [[cell.strip() for cell in line.removeprefix("--").split("|")] for line in heads[0].splitlines()]
    assert lines[0] == ["from", "verb", "to", "because"]
    for line in lines:
        assert len(line) == 4, f"a line of the table in {noun}.sql has not four cells: {line}"
        assert all(line), f"a cell of the table in {noun}.sql is empty: {line}"
    return [Cell(*line[:3]) for line in lines[1:]]


def check_complete(cells: list[Cell], states: set[str], verbs: set[str], special: set[tuple[str, str]]) -> None:
    """Fail unless every state is listed exactly once under every verb, and in addition only ``special``."""
    listed = [(cell.state, cell.verb) for cell in cells]
    assert len(listed) == len(set(listed)), "a cell is listed twice"
    assert set(listed) == {(state, verb) for state in states for verb in verbs} | special
    assert {cell.to for cell in cells} <= states | REFUSALS


def rows(conn: psycopg.Connection[Any], query: str, *arguments: Any) -> list[dict[str, Any]]:
    """The rows of a query by column name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), arguments).fetchall()


def attempt(verb: Callable[[], Any]) -> Any:
    """What the verb returns, or the SQLSTATE that it raises."""
    try:
        return verb()
    except psycopg.Error as error:
        return error.sqlstate
