"""The facts about a table that an import needs: its columns by the kind of their values, and more from the catalog."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from psycopg import sql

from pgonce.errors import InvalidArgument, SchemaError

Kind: TypeAlias = Literal[
    "array", "boolean", "bytea", "composite", "integer", "interval", "json", "notation", "number", "text",
    "uuid", "zoneless", "other",
]  # fmt: skip
KINDS: dict[str, Kind] = {
    "json": "json", "jsonb": "json", "bytea": "bytea", "uuid": "uuid", "interval": "interval", "bool": "boolean",
    "int2": "integer", "int4": "integer", "int8": "integer", "oid": "integer", "numeric": "number", "float4": "number",
    "float8": "number", "timestamp": "zoneless", "date": "zoneless", "time": "zoneless",
    **dict.fromkeys(
        ("timestamptz", "timetz", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit", "money with a comma"),
        "notation",
    ),
}  # fmt: skip
"""By the name in pg_type; other types are arrays, composites or texts by their category, or "other".

``zoneless`` types, and ranges of them, accept a time with an offset and drop the offset silently. Other ranges are
``notation`` if their bounds must not be numbers.
"""
NO_NUMBERS: frozenset[Kind] = frozenset({"notation", "uuid", "zoneless"})
"""Kinds whose types read the digits of a number as something else: 20260102 as a day, 10 as a network, 101 as bits."""
ONE_TEXT = frozenset({
    "bool", "int2", "int4", "int8", "oid", "uuid", "date", "time", "timestamp", "timestamptz", "text", "varchar",
    "bpchar", "name", "bytea",
})  # fmt: skip
"""Types in which equal values have one text, under a deterministic collation. Not numeric: 1.0 is equal to 1.00."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, a field of a composite type, or the element of an array."""

    name: str
    type: str
    """As it stands in a cast: ``character varying(20)``."""
    kind: Kind
    """Of the type under all its domains."""
    element: Column | None = None
    """Of an array."""
    fields: tuple[Column, ...] = ()
    """Of a composite type."""
    delimiter: str = ","
    """Between the elements of an array of this type: ``;`` for box."""
    written_by_server: Literal["", "generated", "identity"] = ""
    """``generated``: a value for it is refused. ``identity``: GENERATED ALWAYS, so it can be inserted, not updated."""
    has_one_text: bool = True
    """Whether equal values are written alike. Those of numeric and citext are not: 1.0 = 1.00, and a = A."""
    is_range: bool = False
    """Or of multiranges."""
    equals: str = "="
    """The operator of equality, with its schema if it is the type's own: that of citext may not be on the path."""
    number: int = 0
    """Of a column of the table: which one it is, whatever its name."""
    identity: str = ""
    """``type`` with the column's name, and oid and modifier of the type."""

    def is_written_like(self, other: Column) -> bool:
        """Whether both are the same column, also after ALTER TYPE from ``int`` to ``bigint``: values have one form."""
        same = replace(self, type=other.type, identity=other.identity, has_one_text=other.has_one_text)
        return replace(same, equals=other.equals) == other


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table, as it was when the import began."""

    oid: int
    table: sql.Identifier
    """With its schema: such a name is never taken for that of a CTE."""
    columns: Mapping[str, Column]
    has_policies: bool = False
    """Row-level security applies to this role: COPY FROM is refused."""
    has_deferred: bool = False
    sequences: Mapping[str, sql.Identifier] = field(default_factory=dict)
    """By column: of serial and identity columns."""
    has_triggers: bool = False
    """A trigger may change a row before it is written, its key too."""
    is_partitioned: bool = False
    order: Sequence[str] = ()
    """The key in the order of an index whose ranges hold its rows; empty: there is none."""
    settings: Sequence[str] = ()
    """Statements that a transaction begins with, in which values are written or compared."""
    key_index: int | None = None
    """The unique index that keeps the rows of the key apart; None: there is no key."""
    refers_to_itself: bool = False
    """By a foreign key: a row may need another one of the same batch."""

    @property
    def rows(self) -> sql.Composable:
        """The table in a FROM: without the tables that inherit from it, whose rows its index does not know."""
        return self.table if self.is_partitioned else sql.SQL("only {}").format(self.table)

    def target(self, names: Iterable[str]) -> dict[str, Any]:
        """What a checkpoint keeps of the table: its name, its oid, and the numbers of these columns."""
        numbers = {name: self.columns[name].number for name in names}
        return {"table": self.table.as_string(), "oid": self.oid, "columns": numbers}

    def is_other(self, before: Mapping[str, Any]) -> bool:
        """Whether the checkpoint is that of another table."""
        is_named_so: bool = before["table"] == self.table.as_string()
        return before["oid"] != self.oid and not is_named_so

    def other_column(self, before: Mapping[str, Any]) -> str | None:
        """One that was dropped and added again, or that has another one's name: the rows that are there lack its value.

        A restored table numbers its columns anew.
        """
        if before["oid"] != self.oid:
            return None
        numbers = {column.name: column.number for column in self.columns.values()}
        earlier = before.get("columns", {}).items()
        return next((name for name, number in earlier if numbers.get(name, number) != number), None)

    def equal(self, column: str, value: sql.Composable) -> sql.Composed:
        """Whether the column of ``t`` is equal to ``value``, as the index on it has it."""
        name = sql.Identifier(column)
        return sql.SQL("t.{} {} {}").format(name, sql.SQL(self.columns[column].equals), value)

    def has_one(self, key: Sequence[str], values: Sequence[Sequence[str]]) -> sql.Composable:
        """Whether the table has a row with one of these values of ``key``; true where there is none to look for."""
        if not values:
            return sql.SQL("true")
        # Literals, and not parameters: psycopg would take a % in a name for a place of one. A look for each row: for an
        # OR of them the planner may read all rows that have the columns in common.
        each = (
            sql.SQL("exists (select from {} t where {})").format(self.rows, sql.SQL(" and ").join(
                self.equal(name, sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(self.columns[name].type)))
                for name, value in zip(key, row, strict=True)
            ))
            for row in values
        )  # fmt: skip
        return sql.SQL(" or ").join(each)

    def find(self, names: Sequence[str], table: str, key: Sequence[str] = ()) -> list[Column]:
        """The columns of these names.

        Raises:
            SchemaError: the table has no such column, or it is generated and takes no values.
            InvalidArgument: a column of ``key`` is not among them: its default would make every row a new one.
        """
        for name in key:
            if name in self.columns and self.columns[name].written_by_server == "generated":
                raise SchemaError(f"column {name} of table {table} is generated: name a key of columns that rows have")
        for name in names:
            if name not in self.columns:
                raise SchemaError(f"table {table} has no column {name}: it has {', '.join(self.columns)}")
            if self.columns[name].written_by_server == "generated":
                raise SchemaError(f"column {name} of table {table} is generated: leave it out of the rows")
        if lacking := [name for name in key if name not in names]:
            raise InvalidArgument(f"the rows have no {lacking[0]}, which is in the key of {table}: add it to each row")
        return [self.columns[name] for name in names]
