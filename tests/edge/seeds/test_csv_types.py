r"""A CSV file stores in a column of each type what ``\copy`` stores, or its row is a reject; ``verify`` agrees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce.core import database as pools
from pgonce.seeds.readers import read
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
TEXTS = {
    "citext": ["abc", ""], "hstore": ["a=>1", '"a b"=>NULL', "bad"], "ltree": ["a.b", "a..b"],
    "xml": ["<a/>", "<a"], "bit(3)": ["101", "1"], "varbit": ["1", "102"], "bit varying(2)": ["101"],
    "int4range": ["[1,5]", "empty", "(,)", "[5,1)"], "numrange": ["[1.0,1.00]"],
    "tstzrange": ["[2026-01-01 00:00+02,2026-01-02)"], "int4multirange": ["{[1,3),[2,5)}", "{}"],
    "filled": ["[1,5)", "empty"], "worded": ["yes", "no"], "mood[]": ["{glad,sad,NULL}", "{bad}"],
    "pair": ["(1,x)", "(,)", "(1)"], "pair[]": ['{"(1,x)"}'], "money": ["$1,234.50", "(5)", "x"],
    "timetz": ["01:02:03+02", "24:00:00+00"], "interval": ["-1 days +02:03:00", "P1Y2M", "-1-2 -3 -4:05:06"],
    "interval day": ["1 day 5 hours"], "tsvector": ["a:1A b", "'x y':2"], "tsquery": ["a & !b", "&"],
    "char(4)": ["ab  ", "abcde"], "name": ["n" * 70], '"char"': ["xy"], "oid": ["-1", "x"],
    "regclass": ["pg_class", "no"],
    "pg_lsn": ["0/16"],
    "inet": ["10.0.0.1/8"], "cidr": ["10.0.0.1/8"], "macaddr": ["08002b:010203"], "box": ["1,1,0,0"],
    "jsonb": ['{"b":1,"a":1.10}', "1e400", '"\\u0000"'], "json": ['{"a":1,"a":2}'], "jsonpath": ["$.a"],
    "numeric": ["NaN", "1e5", "x"], "numeric(5,2)": ["1.005", "99999"], "real": ["0.1", "1e-50"],
    "float8": ["-0", "1e-400"], "int": [" 5 ", "5.0"],
    "date": ["infinity", "2026-02-30", "0044-03-15 BC"], "timestamp": ["2026-01-01 00:00+05"], "time": ["24:00"],
    "timestamptz": ["2026-01-01 00:00 Europe/Berlin", "2026-06-01"], "int[]": ["[2:3]={1,2}", "{1,{2}}"],
    "text[]": ['{a,"b\\"c",NULL,"NULL"}'], "bytea": ["\\x00ff", "\\001", "\\x0"], "boolean": ["on", "2"],
    "uuid": ["{00000000-0000-0000-0000-000000000001}"],
}  # fmt: skip
ODD = {
    "intervalstyle": "sql_standard", "datestyle": "SQL, DMY", "timezone": "America/New_York", "lc_monetary": "C",
    "bytea_output": "escape", "extra_float_digits": "0",
}  # fmt: skip


@pytest.fixture(scope="module")
def prepared(server: str, template: str) -> Iterator[tuple[str, Conn]]:
    from tests.conftest import _new_database

    with _new_database(server, template) as url, psycopg.connect(url, autocommit=True, prepare_threshold=None) as conn:
        for extension in ("citext", "hstore", "ltree"):
            if conn.execute("select from pg_available_extensions where name = %s", [extension]).fetchone():
                conn.execute(f"create extension {extension}".encode())
        conn.execute("create type mood as enum ('sad', 'glad')")
        conn.execute("create type pair as (a int, b text)")
        conn.execute("create domain filled as int4range check (not isempty(value))")
        conn.execute("create domain worded as text check (value <> 'no')")
        yield url, conn


def has_xml(conn: Conn) -> bool:
    try:
        return bool(conn.execute("select xml '<a/>'"))
    except psycopg.errors.FeatureNotSupported:
        return False


def copy(conn: Conn, line: str) -> None:
    """What COPY does with the line: it may refuse it."""
    with suppress(psycopg.Error), conn.cursor().copy("copy wanted from stdin with (format csv)") as into:
        into.write(line)


@pytest.mark.parametrize("settings", [{}, ODD], ids=["default", "odd"])
def test_a_type_stores_what_copy_stores(prepared: tuple[str, Conn], tmp_path: Path, settings: dict[str, Any]) -> None:
    url, conn = prepared
    for name, value in settings.items():
        statement = sql.SQL("alter database {} set {} = {}")
        conn.execute(statement.format(sql.Identifier(conn.info.dbname), sql.Identifier(name), sql.Literal(value)))
    with (
        psycopg.connect(url, autocommit=True, prepare_threshold=None) as copying,
        pools.open_pool(url, 3) as pool,
    ):
        compare(copying, Seeds(pool), tmp_path / "f.csv")


def compare(conn: Conn, seeds: Seeds, file: Path) -> None:
    wrong, compared = [], 0
    for kind, texts in TEXTS.items():
        if kind == "xml" and not has_xml(conn):
            continue
        try:
            for table in ("wanted", "things"):
                conn.execute(f"drop table if exists {table}".encode())
                conn.execute(f"create table {table} (id int primary key, v {kind})".encode())
        except psycopg.errors.UndefinedObject:  # an extension that this server does not have
            continue
        quoted = [text.replace('"', '""') for text in texts]
        lines = [f'{number},"{text}"\n' for number, text in enumerate(quoted)]
        for line in lines:
            copy(conn, line)
        file.write_text("".join(["id,v\n", *lines, "-1,\n"]))
        seeds.reset("s")
        what = Seed("s", read(file), into="things", key=("id",), on_conflict="update", max_rejects=len(texts))
        seeds.run(what)
        wanted, found = (
            conn.execute(f"select id, v::text from {table} where id >= 0 order by id".encode()).fetchall()
            for table in ("wanted", "things")
        )
        proof = seeds.verify(what)
        again = seeds.run(replace(what, function=read(file)), restart=True)
        compared += len(texts)
        if found != wanted or not proof["ok"] or again.checkpoint is None or again.checkpoint.rows_updated:
            wrong.append((kind, wanted, found, proof))
    assert wrong == []
    assert compared > 80
