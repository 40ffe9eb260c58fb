"""``verify`` leaves out a rejected row, and never another row of the source that has its number by now."""

from __future__ import annotations

import datetime as dt
import enum
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgonce.errors import InvalidArgument
from pgonce.seeds import rejects
from pgonce.seeds.readers import read
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]


class Mood(enum.Enum):
    glad = 1


TABLE = """
create table things (
  id int primary key, name text, label varchar(9), exact numeric, real float8, whole bigint, yes boolean, word text,
  day date, at timestamptz, local timestamp, clock time, raw bytea, uid uuid, doc jsonb, tags text[], span interval,
  mood text, good boolean not null check (good))
"""
BAD: dict[str, Any] = {
    "id": 2, "name": "a\t\\", "label": None, "exact": Decimal("1.10"), "real": 0.1, "whole": 2.0, "yes": True,
    "word": False,
    "day": dt.date(2026, 1, 2), "at": dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC), "local": dt.datetime(2026, 1, 2, 3),  # noqa: DTZ001
    "clock": dt.time(1, 2), "raw": b"\0\xff", "uid": UUID(int=7), "doc": "5", "tags": ["a"], "span": dt.timedelta(1),
    "mood": Mood.glad, "good": False,
}  # fmt: skip
OTHER: dict[str, Any] = {
    "id": 3, "name": "a", "label": "", "exact": Decimal("1.2"), "real": 0.2, "whole": 3, "yes": False, "word": True,
    "day": dt.date(2026, 1, 3), "at": dt.datetime(2026, 1, 2, 4, tzinfo=dt.UTC), "local": dt.datetime(2026, 1, 2, 4),  # noqa: DTZ001
    "clock": dt.time(1, 3), "raw": b"\0", "uid": UUID(int=8), "doc": "6", "good": True,
}  # fmt: skip


class Rough(float):
    """A float with a text of its own."""

    def __repr__(self) -> str:
        return "about 1"


@pytest.mark.parametrize("value", [1e300, 1e22, -1e19, Rough(1.5), Decimal("sNaN")])
def test_a_number_that_does_not_fit_into_a_column_of_integers_is_the_rejected_one(
    seeds: Seeds, conn: Conn, value: Any
) -> None:
    conn.execute("create table things (id int primary key, whole bigint)")
    what = Seed(
        "s", lambda _: iter([((1, 1.0), 1), ((2, value), 2)]), "things", ("id",), ("id", "whole"), max_rejects=1
    )
    assert seeds.run(what).outcome == "complete"
    found = seeds.verify(what)
    assert (found["ok"], found["rejected"]) == (True, 1)


def source(row: Any) -> Any:
    return lambda _: iter([({**BAD, "id": 1, "good": True}, 1), (row, 2), ({**BAD, "id": 9, "good": True}, 3)])


@pytest.mark.parametrize(
    "row", [{"id": 2}, {"id": 2, "v": "x", "w": 1}, 7, None, {2, "x"}, (2,), (2, "x", 3), "ab", b"ab"]
)  # fmt: skip
def test_a_row_that_a_run_refuses_is_not_verified(seeds: Seeds, conn: Conn, row: Any) -> None:
    conn.execute("create table odd (id int primary key, v text)")
    whole = Seed("s", lambda _: iter([({"id": 1, "v": "a"}, 1)]), into="odd", key=("id",), columns=("id", "v"))
    assert seeds.run(whole).outcome == "complete"
    what = replace(whole, function=lambda _: iter([({"id": 1, "v": "a"}, 1), (row, 2)]))
    with pytest.raises(InvalidArgument):
        seeds.run(what, restart=True)
    found = seeds.verify(what)
    assert (found["ok"], "error" in found) == (False, True)


def test_each_changed_value_makes_a_typed_row_another_one(seeds: Seeds, conn: Conn) -> None:
    conn.execute(TABLE)
    what = Seed("s", source(BAD), into="things", key=("id",), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    found = seeds.verify(what)
    assert (found["ok"], found["rejected"], found["equal"]) == (True, 1, 2)
    sources = {name: source({**BAD, name: value}) for name, value in OTHER.items()}
    unnoticed = [name for name, other in sources.items() if seeds.verify(replace(what, function=other))["ok"]]
    assert unnoticed == []


@pytest.mark.parametrize("bad", ["\0", {1}, "\ud800", float("nan"), 10**4400], ids=lambda bad: type(bad).__name__)
def test_a_row_that_could_not_be_written_is_told_from_the_one_in_its_place(seeds: Seeds, conn: Conn, bad: Any) -> None:
    conn.execute("create table things (id int primary key, note jsonb, number int)")

    def rows(note: Any, number: int = 7) -> Any:
        return lambda _: iter([((1, "1", 7), 1), ((2, note, number), 2)])

    what = Seed("s", rows(bad), into="things", key=("id",), columns=("id", "note", "number"), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert seeds.verify(what)["ok"]
    for other in (rows("2"), rows(bad, 8), rows(bad, 10**4400)):
        assert not seeds.verify(replace(what, function=other))["ok"]


@pytest.mark.parametrize(
    ("name", "lines", "repaired"),
    [
        ("f.csv", ["id,note", "1,a", '2,"b"b', "3,c"], "2,cc"), ("f.csv", ["id,note", "1,a", "2,b,x", "3,c"], "2,b"),
        ("f.csv", ["id,note", "1,a", "2,\udcff", "3,c"], "2,b"), ("f.csv", ["id,note", "1,a", '2,b"', '3,"c"'], "2,d"),
        ("f.csv", ["id,note", "1,a", "2,b\rc", "3,c"], "2,b"), ("f.csv", ["id,note", "1,a", "2,b\r\r", "3,c"], "2,b"),
        ("f.jsonl", ['{"id":1,"note":"a"}', '{"id":2,"note":"b"', '{"id":3,"note":"c"}'], '{"id":2,"note":"b"}'),
        ("f.jsonl", ['{"id":1,"note":"a"}', '{"id":"x","note":"b"}', '{"id":3,"note":"c"}'], '{"id":2,"note":"b"}'),
    ],
)  # fmt: skip
def test_a_record_that_was_repaired_in_its_place_is_missing(
    seeds: Seeds, conn: Conn, tmp_path: Path, name: str, lines: list[str], repaired: str
) -> None:
    conn.execute("create table things (id int primary key, note text)")
    path = tmp_path / name
    path.write_text("\n".join([*lines, ""]), errors="surrogateescape")
    what = Seed("s", read(path), into="things", key=("id",), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    found = seeds.verify(what)
    assert (found["ok"], found["rejected"]) == (True, 1), found
    path.write_text("\n".join([*lines[:-2], repaired, lines[-1], ""]))
    assert not seeds.verify(replace(what, function=read(path)))["ok"]


def test_a_bad_row_that_is_too_long_to_be_kept_is_a_reject_without_values(
    seeds: Seeds, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejects, "KEPT", 1000)
    conn.execute("create table things (id int primary key, note text)")
    long = "y" * 1000
    (tmp_path / "f.csv").write_text(f'id,note\n1,a\n2,x"{long}\nx,{long}\ny,short\n3,{long}\n')
    options: dict[str, Any] = {"into": "things", "key": ("id",), "max_rejects": 3}
    assert seeds.run("s", read(tmp_path / "f.csv"), **options).outcome == "complete"
    found = seeds.rejects("s")
    assert [each.row_number for each in found] == [2, 3, 4]
    assert [(each.row, each.line) for each in found] == [
        (None, None),
        (None, None),
        ({"id": "y", "note": "short"}, None),
    ]
    assert ["too long: its values are not kept" in each.error for each in found] == [True, True, False]
    assert seeds.verify("s", read(tmp_path / "f.csv"), **options)["ok"]
