"""The table of types in docs/seeds.md: how each Python value is stored in each type of column.

Every cell of the docs is read and executed: the stored value is compared with the cell, and where psycopg stores the
value by itself, in an INSERT, also with what psycopg stores. What has no form is a reject, with its reason.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import re
from array import array
from collections import ChainMap, OrderedDict, namedtuple
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgonce.core import database as pools
from pgonce.seeds.copy_format import copy_values
from pgonce.seeds.readers import read
from pgonce.seeds.rejected_row import RejectedRow, is_rejected
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from pgonce.seeds.table import check_table
from pgonce.seeds.value_text import JsonNumber, ValueWriter

Conn = psycopg.Connection[Any]
DOC = Path(__file__).parents[3] / "docs" / "seeds.md"


class Mood(enum.Enum):
    glad = 1


class Permission(enum.Flag):
    read = 1


class Level(enum.IntEnum):
    high = 3


class Words(str):
    """A subclass of str."""

    __slots__ = ()


NAMES = {
    "Permission": Permission,
    "Decimal": Decimal, "UUID": UUID, "Jsonb": Jsonb, "Mood": Mood, "Level": Level, "date": dt.date, "time": dt.time,
    "datetime": dt.datetime, "timedelta": dt.timedelta, "UTC": dt.UTC, "timezone": dt.timezone, "Range": Range,
    "ZoneInfo": ZoneInfo,
    "nan": float("nan"), "inf": float("inf"), "Words": Words, "OrderedDict": OrderedDict, "JsonNumber": JsonNumber,
    "ChainMap": ChainMap,
}  # fmt: skip


def cells() -> Iterator[Any]:
    """(value, type, what is stored or None) of every line of the table."""
    text = DOC.read_text("utf-8").partition("<!-- types -->")[2].partition("<!-- /types -->")[0]
    for line in text.splitlines():
        if match := re.fullmatch(r"\| `(.+)` \| `(.+)` \| (?:`(.*)`|reject.*) \|", line):
            yield pytest.param(*match.groups(), id=f"{match[1]} in {match[2]}")


CELLS = list(cells())


@pytest.fixture(scope="module")
def module(server: str, template: str) -> Iterator[tuple[Seeds, Conn]]:
    from tests.conftest import _new_database

    with _new_database(server, template) as url, psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        conn.execute("create type mood as enum ('sad', 'glad')")
        conn.execute("create type pair as (a int, b text)")
        conn.execute("create type nest as (p pair, q int[])")
        conn.execute("create type moments as range (subtype = timestamp)")
        conn.execute("create domain positive as int check (value > 0)")
        conn.execute("create domain positives as positive[]")
        with pools.open_pool(url, 4) as pool:
            yield Seeds(pool), conn


def stored(module: tuple[Seeds, Conn], value: Any, kind: str, **attributes: Any) -> tuple[str | None, list[str]]:
    """The text of the stored value, and the reasons of rejects."""

    def source(_: Any) -> Iterator[tuple[Any, int]]:
        yield {"id": 1, "v": value}, 1
        yield {"id": 2, "v": None}, 2

    for name, attribute in attributes.items():
        setattr(source, name, attribute)
    return stored_from(module, source, kind)


def stored_from(module: tuple[Seeds, Conn], source: Any, kind: str) -> tuple[str | None, list[str]]:
    """The same of a source with two rows: ``v`` is the value in row 1 and NULL in row 2."""
    seeds, conn = module
    conn.execute("drop table if exists facts")
    conn.execute(sql.SQL("create table facts (id int primary key, v {})").format(sql.SQL(kind)))
    seeds.reset("types")
    seed = Seed("types", source, into="facts", key=("id",), max_rejects=1)
    assert seeds.run(seed).outcome == "complete"
    assert conn.execute("select v from facts where id = 2").fetchone() == (None,)
    found = seeds.verify(seed)
    assert found["ok"], found
    rows = conn.execute("select v::text from facts where id = 1").fetchall()
    return (rows[0][0] if rows else None), [reject.error for reject in seeds.rejects("types")]


@pytest.mark.parametrize(("value", "kind", "text"), CELLS)
def test_a_cell_of_the_docs_is_true(module: tuple[Seeds, Conn], value: str, kind: str, text: str | None) -> None:
    json_strings = value.startswith("JSON ")
    python = eval(value.removeprefix("JSON "), NAMES)
    attributes = {"json_strings": True} if json_strings else {}
    found, reasons = stored(module, python, kind, **attributes)
    assert found == text
    assert len(reasons) == (text is None)


def parquet_file(folder: Path, kind: Any, value: Any) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    arrow = pytest.importorskip("pyarrow")
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dt.time) and first.tzinfo:
        pytest.skip("pyarrow drops its offset")
    try:
        parquet.write_table(arrow.table({"id": [1, 2], "v": arrow.array([value, None], kind)}), folder / "f.parquet")
    except (arrow.ArrowException, TypeError, UnicodeError, OverflowError):
        pytest.skip("Parquet has no such value")
    return read(folder / "f.parquet")


PLAIN = {str, bool, int, float, Decimal, bytes, dt.date, dt.datetime, dt.time, dt.timedelta, UUID, list}


@pytest.mark.parametrize(("value", "kind", "text"), CELLS)
def test_a_cell_of_the_docs_is_true_of_a_value_from_a_parquet_file(
    module: tuple[Seeds, Conn], tmp_path: Path, value: str, kind: str, text: str | None
) -> None:
    python = None if value.startswith("JSON ") else eval(value, NAMES)
    if type(python) not in PLAIN or (isinstance(python, list) and not {*map(type, python)} <= PLAIN):
        pytest.skip("Parquet has no such value")
    assert stored_from(module, parquet_file(tmp_path, None, python), kind)[0] == text


VALUES = [
    ("float32", 0.1), ("float32", 1e20), ("float64", 1e15), ("float64", -0.0), ("float64", 1e-7), ("float16", 0.1),
    ("date64", dt.date(2026, 1, 20)), ("time32 s", dt.time(1, 20)), ("time64 us", dt.time(1, 2, 3, 400)),
    *(("timestamp " + unit, dt.datetime(2026, 1, 20, 10)) for unit in ("s", "ms", "us", "ns")),  # noqa: DTZ001
    *(("timestamp us " + zone, dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)) for zone in ("UTC", "+05:30", "Asia/Tokyo")),
    ("decimal128 20 10", Decimal("0.0000000010")), ("decimal128 20 10", Decimal("12.00")), ("bool_", True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_the_text_of_a_parquet_column_is_read_as_the_value_that_it_is_in_python(
    module: tuple[Seeds, Conn], tmp_path: Path, name: str, value: Any
) -> None:
    """Where blocks are written by pyarrow, the column's type reads them as it reads what the writer of rows writes."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    type_, *rest = name.split(" ", 2)
    kind_in_file = getattr(arrow, type_)(*(int(each) if each.isdigit() else each for each in rest))
    file = parquet_file(tmp_path, kind_in_file, value)
    [(_, python), _] = file.reread()
    [(block, _, _)] = file.copy_blocks(None)
    line = block.split(b"\n")[0] + b"\n"
    assert is_rejected({"id": 1, "v": python}, (), RejectedRow(None, line), json_strings=False)
    text = copy_values(line)[1]
    module[1].execute("drop table if exists facts")
    kinds = ("real", "float8", "numeric", "text", "jsonb", "timestamp", "timestamptz", "date", "time", "int", "bytea")
    columns = ", ".join(f"v{number} {kind}" for number, kind in enumerate(kinds))
    module[1].execute(f"create table facts (id int primary key, {columns})".encode())
    with psycopg.connect(module[1].info.dsn) as conn:
        found = check_table(conn, Seed("s", iter, into="facts", key=("id",))).columns
    for number, kind in enumerate(kinds):
        column = found[f"v{number}"]
        if not file.needs_rows({"id": found["id"], "v": column}):
            assert read_as(module[1], text, kind) == read_as(module[1], ValueWriter().text(python, column), kind), kind


def read_as(conn: Conn, text: str | None, kind: str) -> Any:
    try:
        return conn.execute(sql.SQL("select %s::{}::text").format(sql.SQL(kind)), [text]).fetchone()
    except psycopg.DataError as error:
        return error.sqlstate


def test_the_table_of_the_docs_has_every_kind_of_value_and_column() -> None:
    assert len(CELLS) > 90
    kinds = {cell.values[1] for cell in CELLS}
    assert kinds >= {"text", "int", "numeric", "float8", "boolean", "jsonb", "json", "bytea", "uuid", "date",
                     "timestamp", "timestamptz", "time", "interval", "text[]", "int[]", "jsonb[]", "mood", "pair",
                     "pair[]",
                     "int4range", "inet", "positive", "positives"}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "kind"),
    [(1, "int"), (1.5, "float8"), (Decimal("1.50"), "numeric"), ("x", "text"), (True, "boolean"), (b"\0\xff", "bytea"),
     (UUID(int=7), "uuid"), (dt.date(1, 2, 3), "date"), (dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "timestamptz"),
     (dt.datetime(9999, 12, 31), "timestamp"), (dt.timedelta(days=-3, microseconds=1), "interval"),  # noqa: DTZ001
     (Jsonb({"a": [1, 1.5, None, "é"]}), "jsonb"), ([["a", 'b"'], ["c", None]], "text[]"), ([1, 2], "bigint[]"),
     (Range(1, 5), "int4range"), ([dt.date(2026, 1, 1)], "date[]"), ([b"\x01"], "bytea[]"), (Decimal("NaN"), "numeric"),
     ([UUID(int=7)], "uuid[]"), (dt.time(1, 2, 3, 4), "time"), ([True, None], "boolean[]"), ([], "int[]")],
)  # fmt: skip
@pytest.mark.parametrize("style", ["postgres", "sql_standard"])
def test_psycopg_stores_the_same(module: tuple[Seeds, Conn], value: Any, kind: str, style: str) -> None:
    name = module[1].info.dbname
    module[1].execute(f'alter database "{name}" set intervalstyle = {style}'.encode())
    found, _ = stored(module, value, kind)
    query = sql.SQL("insert into facts values (3, %s) returning v::text")
    assert module[1].execute(query, [value]).fetchone() == (found,)


def test_what_an_application_has_registered_for_known_types_changes_nothing(module: tuple[Seeds, Conn]) -> None:
    class Loud(psycopg.adapt.Dumper):
        def dump(self, obj: Any) -> bytes:  # noqa: ARG002
            return b"LOUD"

    kinds = [str, int, float, dict, list, dt.date, UUID, bytes, dt.timedelta, Decimal]
    before = {
        kind: psycopg.adapters.get_dumper(kind, psycopg.adapt.PyFormat.TEXT) for kind in kinds if kind is not dict
    }
    try:
        for kind in kinds:
            psycopg.adapters.register_dumper(kind, Loud)
        assert stored(module, "x", "text")[0] == "x"
        assert stored(module, [1], "int[]")[0] == "{1}"
        assert stored(module, {"a": 1}, "jsonb")[0] == '{"a": 1}'
        assert stored(module, dt.timedelta(1), "interval")[0] == "1 day"
    finally:
        for kind, dumper in before.items():
            psycopg.adapters.register_dumper(kind, dumper)


def test_a_class_that_only_the_application_knows_is_written_by_its_own_dumper(database: str, conn: Conn) -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    class MoneyDumper(psycopg.adapt.Dumper):
        def dump(self, obj: Any) -> bytes:
            return b"%.2f" % (obj.cents / 100)

    conn.execute("create table facts (id int primary key, v numeric)")
    psycopg.adapters.register_dumper(Money, MoneyDumper)
    with pools.open_pool(database, 4) as pool:
        what = Seed("s", lambda _: iter([({"id": 1, "v": Money(1234)}, 1)]), into="facts", key=("id",))
        assert Seeds(pool).run(what).outcome == "complete"
    assert conn.execute("select v from facts").fetchall() == [(Decimal("12.34"),)]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text at all")

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class Unspellable(Decimal):
    def __str__(self) -> str:
        raise AttributeError("no text")


class NoTime(dt.datetime):
    """As pandas' NaT."""

    def __eq__(self, _: object) -> bool:
        return False

    def __ne__(self, _: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Numpys:
    """As numpy's timedelta64: in nanoseconds and in months ``tolist`` gives an integer."""

    shape = ()

    def __init__(self, number: int, unit: str = "ns") -> None:
        self.number, self.unit = number, unit
        self.dtype = self

    kind = "m"

    @property
    def str(self) -> Any:
        return f"<m8[{self.unit}]"

    def __str__(self) -> Any:
        return f"timedelta64[{self.unit}]"

    def astype(self, kind: Any) -> Numpys:
        assert (self.unit, kind in {"m8[us]", "timedelta64[us]"}) == ("ns", True)
        return Numpys(self.number // 1000, "us")

    def tolist(self) -> dt.timedelta | int:
        return dt.timedelta(microseconds=self.number) if self.unit == "us" else self.number


class Rough(float):
    """A float with a text of its own."""

    def __repr__(self) -> str:
        return "about 1"


Pair = namedtuple("Pair", "a b")  # noqa: PYI024


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ([Mood.glad, "sad", None], "mood[]", "{glad,sad,NULL}"), ("101", "bit(3)", "101"), (12.5, "money", "$12.50"),
        (["((1,1),(0,0))", None], "box[]", "{(1,1),(0,0);NULL}"), ("(1,2)", "point", "(1,2)"), ("n", "name", "n"),
        ([dt.datetime(2026, 1, 1, tzinfo=dt.UTC)], "timestamp[]", '{"2026-01-01 00:00:00"}'),
        (Multirange([Range(1, 5)]), "int4multirange", "{[1,5)}"),
        ([Range(1, 5), None], "int4range[]", '{"[1,5)",NULL}'),
        (ipaddress.ip_network("10.0.0.0/8"), "cidr", "10.0.0.0/8"), (Pair(1, "x"), "pair", "(1,x)"),
        (((1, "x"), [1, 2]), "nest", '("(1,x)","{1,2}")'), ([{"a": 1, "b": 'q"\\'}], "pair[]", None),
        ([Jsonb({"a": 1})], "jsonb", '[{"a": 1}]'), (array("i", [1, 2]), "jsonb", "[1, 2]"),
        (array("i", [1]), "int[]", "{1}"),
        (["NULL", "", None, "{}", "\\"], "text[]", '{"NULL","",NULL,"{}","\\\\"}'),
        ([[1], [2]], "jsonb[]", "{[1],[2]}"),
        (Mood.glad, "jsonb", '"glad"'), ([Mood.glad, Level.high], "json", '["glad", 3]'), (Mood.glad, "mood", "glad"),
        ({"ä": "é😀"}, "text", '{"ä": "é😀"}'), ({"a": "\0number:5"}, "json", '{"a": "\\u0000number:5"}'),
        ([NoTime(1, 1, 1)], "jsonb", "[null]"), ([NoTime(1, 1, 1)], "date[]", "{NULL}"),
        (Numpys(7008), "interval", "00:00:00.000007"), ([Numpys(7008)], "interval[]", "{00:00:00.000007}"),
        (Rough(1.5), "text", "1.5"), (Rough(1.5), "float8", "1.5"),
        (10**400, "numeric", str(10**400)), (dt.date.max, "date", "9999-12-31"), (dt.date.min, "date", "0001-01-01"),
    ],
)  # fmt: skip
def test_other_types_are_stored_and_verified(
    module: tuple[Seeds, Conn], value: Any, kind: str, text: str | None
) -> None:
    found, reasons = stored(module, value, kind)
    assert (text is None or found == text, reasons) == (True, [])


@pytest.mark.parametrize(
    "kind", ["tsrange", "daterange", "moments", "moments[]", "tsrange[]", "tsmultirange", "datemultirange"]
)
def test_an_offset_is_lost_in_no_range(module: tuple[Seeds, Conn], kind: str) -> None:
    def value(zone: dt.tzinfo) -> Any:
        found = Range(None, dt.datetime(2026, 1, 2, tzinfo=zone))
        return [found] if kind.endswith("]") else Multirange([found]) if "multi" in kind else found

    text, reasons = stored(module, value(dt.timezone(dt.timedelta(hours=2))), kind)
    assert (text, len(reasons)) == (None, 1)
    text, reasons = stored(module, value(dt.UTC), kind)
    assert "2026-01-02" in str(text)
    assert not reasons


@pytest.mark.parametrize("partitions", [None, ["a"]])
def test_the_strings_of_a_source_are_those_of_json_in_each_partition_too(
    module: tuple[Seeds, Conn], partitions: list[str] | None
) -> None:
    def source(_: Any, partition: str = "") -> Iterator[tuple[Any, int]]:
        yield (1, "123"), 1

    source.json_strings, source.columns = True, ("id", "v")  # type: ignore[attr-defined]
    seeds, conn = module
    conn.execute("drop table if exists facts; create table facts (id int primary key, v jsonb)")
    seeds.reset("types")
    seed = Seed("types", source, into="facts", key=("id",), partitions=partitions)
    assert (seeds.run_partition(seed, "a") if partitions else seeds.run(seed)).outcome == "complete"
    assert conn.execute("select v::text from facts").fetchall() == [('"123"',)]
    assert seeds.verify(seed)["ok"]


class NAType:
    """As pandas' NA."""

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, _: object) -> Any:
        return self

    __ne__ = __eq__
    __hash__ = object.__hash__


class Masked:
    """As numpy's NaT and its masked value."""

    def tolist(self) -> None:
        pass


@pytest.mark.parametrize("value", [NoTime(1, 1, 1), NAType(), Masked()], ids=["NaT", "NA", "masked"])
@pytest.mark.parametrize("kind", ["timestamptz", "text", "jsonb", "int", "text[]"])
def test_what_pandas_has_for_none_is_null(module: tuple[Seeds, Conn], kind: str, value: Any) -> None:
    if kind == "int" and isinstance(value, dt.datetime):
        kind = "date"
    assert stored(module, value, kind) == (None, [])
    assert stored(module, [value], "text[]") == ("{NULL}", [])
    assert stored(module, [value], "jsonb") == ("[null]", [])
    assert is_rejected({"id": "x", "v": value}, (), RejectedRow({"id": "x", "v": None}, None), json_strings=False)


class Finer(dt.datetime):
    """As pandas' Timestamp, with its nanoseconds."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return super().isoformat(sep, timespec) + "999"

    def __str__(self) -> str:
        return self.isoformat(" ")


@pytest.mark.parametrize(
    ("kind", "text"),
    [("timestamp", "2026-01-02 00:00:00.000001"), ("text", "2026-01-02 00:00:00.000001"),
     ("jsonb", '"2026-01-02T00:00:00.000001"'), ("timestamp[]", '{"2026-01-02 00:00:00.000001"}')],
)  # fmt: skip
def test_nanoseconds_are_cut(module: tuple[Seeds, Conn], kind: str, text: str) -> None:
    value = Finer(2026, 1, 2, microsecond=1)
    assert stored(module, [value] if kind.endswith("[]") else value, kind) == (text, [])
    assert len(stored(module, value, "int")[1]) == 1, "and the row that is rejected is known again"


class Later(dt.datetime):
    """As pandas' Timestamp of the year 20000."""

    year = 20000


UNWRITABLE = [
    Later(1972, 1, 1),
    10**4400,
    Numpys(5, "M"),
    {1, 2},
    range(3),
    complex(1),
    Unprintable(),
    Unspellable(1),
    float("nan"),
    (i for i in "x"),
]


@pytest.mark.parametrize("value", UNWRITABLE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("kind", ["jsonb", "int[]", "interval"])
def test_a_value_that_nobody_can_write_or_even_print_is_a_reject(
    module: tuple[Seeds, Conn], value: Any, kind: str
) -> None:
    found, reasons = stored(module, value, kind)
    assert (found, len(reasons)) == (None, 1)
    if isinstance(value, Later):
        assert "has no such year" in stored(module, value, "timestamp")[1][0]
