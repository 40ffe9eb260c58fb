"""Tables of unusual kinds: what is said of an import into them is true, and ``verify`` agrees with it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgonce.core import database as pools
from pgonce.errors import InvalidArgument, PgonceError, RowRejected, SchemaError, TableChanged
from pgonce.seeds.readers import read
from pgonce.seeds.seed import Seed
from pgonce.seeds.seeds import Seeds
from pgonce.seeds.table import check_table
from pgonce.seeds.table_loader import TableLoader
from tests.debian_server import debian_server

Conn = psycopg.Connection[Any]
FOLDING = "create collation folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"


def seed(*rows: tuple[Any, ...], **options: Any) -> Seed:
    def source(cursor: Any) -> Any:
        return ((row, n) for n, row in enumerate(rows) if cursor is None or n > cursor)

    return Seed("s", source, **{"into": "things", "key": ("id",), "columns": ("id", "note"), **options})


def counts(seeds: Seeds) -> tuple[int, int, int, int]:
    at = seeds.checkpoint("s")
    assert at is not None
    return at.rows_inserted, at.rows_updated, at.rows_skipped, at.rows_rejected


KEYS = [
    ("numeric", "1", "1.0"), ("float8", "0", "-0"), ("interval", "1 day", "24:00"),
    ("jsonb", "1", "1.0"), ("numeric[]", "{1}", "{1.0}"), ("numrange", "[1,2)", "[1.0,2)"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "one", "other"), KEYS)
def test_of_equal_keys_with_other_texts_one_row_is_there_as_a_whole(
    seeds: Seeds, conn: Conn, kind: str, one: str, other: str
) -> None:
    check_equal_keys(seeds, conn, kind, (one, other))


@pytest.fixture(scope="module")
def debian() -> Iterator[str]:
    """Debian's PostgreSQL, since the suite's has no ICU, with the locale of Germany."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        german = Path(folder, "de_DE.UTF-8")
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", german], check=False)
        patch.setenv("LOCPATH", folder)
        with debian_server() as url, psycopg.connect(url, autocommit=True) as conn:
            conn.execute(FOLDING)
            if german.exists():
                conn.execute("alter database postgres set lc_monetary = 'de_DE.UTF-8'")
            yield url


def test_a_number_is_not_read_as_a_hundred_times_as_much_money(debian: str) -> None:
    with pools.open_pool(debian, 4) as pool, psycopg.connect(debian, autocommit=True) as conn:
        [[point]] = conn.execute("select 0.5::numeric::money::text").fetchall()
        if "," not in point:
            pytest.skip("there is no locale of Germany: apt-get install locales")
        conn.execute("create table things (id int primary key, note money)")
        what = seed((1, "1,50"), (2, Decimal("1.50")), (3, 1.5), max_rejects=2)
        assert Seeds(pool).run(what).outcome == "complete"
        assert conn.execute("select note::numeric from things").fetchall() == [(Decimal("1.50"),)]
        conn.execute("drop table things; truncate seed_checkpoints")


def test_of_keys_that_a_collation_or_citext_calls_equal_one_row_is_there_as_a_whole(debian: str) -> None:
    with pools.open_pool(debian, 4) as pool, psycopg.connect(debian, autocommit=True) as conn:
        conn.execute("create schema apart; create extension citext schema apart")  # as in Supabase
        kinds = ("text collate folding", "apart.citext")
        for kind in kinds:
            check_equal_keys(Seeds(pool), conn, kind, ("a", "A"))


def check_equal_keys(seeds: Seeds, conn: Conn, kind: str, keys: tuple[str, str]) -> None:
    for on_conflict, size in product(("skip", "update"), (1, 9)):
        there_is, other = keys if on_conflict == "skip" else reversed(keys)
        conn.execute(f"create table things (id {kind} primary key, note text)".encode())
        what = seed((keys[0], "first"), (keys[1], "second"), on_conflict=on_conflict, batch_size=size)
        assert seeds.run(what).outcome == "complete"
        assert counts(seeds) == ((1, 0, 1, 0) if on_conflict == "skip" else (1, 1, 0, 0))
        there = conn.execute("select id::text, note from things").fetchall()
        [wanted] = conn.execute(f"select (%s::{kind})::text".encode(), [there_is]).fetchall()
        assert there == [(*wanted, "first" if on_conflict == "skip" else "second")]
        assert seeds.verify(what)["ok"]
        seeds.run(what, restart=True)
        assert seeds.verify(what)["ok"]
        conn.execute(f"update things set id = %s::{kind}".encode(), [other])
        found = seeds.verify(what)
        assert (found["ok"], found["different"], found["missing"]) == (False, 1, 0)
        conn.execute("drop table things; truncate seed_checkpoints")


@pytest.mark.parametrize(("column", "index"), [("default", "folding"), ("folding", "C"), ("C", "POSIX")])
def test_an_index_that_compares_keys_otherwise_than_their_column_is_no_key(
    debian: str, column: str, index: str
) -> None:
    with pools.open_pool(debian, 4) as pool, psycopg.connect(debian, autocommit=True) as conn:
        conn.execute(f'create table things (id text collate "{column}" not null, note text)'.encode())
        conn.execute(f'create unique index on things (id collate "{index}")'.encode())
        what = seed(("a", "1"), ("A", "2"), ("a", "3"))
        if "folding" in {column, index}:
            with pytest.raises(SchemaError, match=r"no plain unique index .* of its own collation"):
                Seeds(pool).run(what)
        else:
            assert Seeds(pool).run(what).outcome == "complete"
            assert conn.execute("select id, note from things").fetchall() == [("a", "1"), ("A", "2")]
        conn.execute("drop table things; truncate seed_checkpoints")


@pytest.mark.parametrize("kind", ["char(4)", "varchar(4)", "text", '"char"', "name"])
@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_keys_that_differ_in_case_or_in_blanks_are_those_of_the_type(
    seeds: Seeds, conn: Conn, kind: str, on_conflict: Any
) -> None:
    conn.execute(f"create table things (id {kind} primary key, note text)".encode())
    keys = ["a", "A", "a ", "a  "]
    rows = [(key, str(n)) for n, key in enumerate(keys)]
    what = seed(*rows, on_conflict=on_conflict, max_rejects=4)
    assert seeds.run(what).outcome == "complete"
    there = [key for (key,) in conn.execute("select id::text from things").fetchall()]
    inserted, _, _, rejected = counts(seeds)
    assert len(there) == inserted
    assert rejected == 0
    found = seeds.verify(what)
    assert found["ok"]
    assert (found["equal"], found["extra"]) == (inserted, 0)


def test_float_keys_with_nan_and_zeros_are_each_there_once(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id float8 primary key, note text)")
    what = seed((float("nan"), "a"), (float("nan"), "b"), (0.0, "c"), (-0.0, "d"), (float("inf"), "e"))
    seeds.run(what)
    assert counts(seeds) == (3, 0, 2, 0)
    assert seeds.verify(what)["ok"]


@pytest.mark.parametrize("size", [1, 2, 9])
def test_what_becomes_of_a_row_does_not_depend_on_where_a_batch_ends(seeds: Seeds, conn: Conn, size: int) -> None:
    conn.execute("create table things (id int primary key, note text check (note <> 'bad'))")
    rows = [(1, "bad"), (2, "b"), (2, "bad"), (1, "a"), (2, "b"), (3, "bad")]
    conn.execute("insert into things values (1, 'a')")
    assert seeds.run(seed(*rows, batch_size=size, max_rejects=1)).outcome == "complete"
    assert counts(seeds) == (1, 0, 4, 1)
    rows = [(1, "a"), (1, "a"), (1, "b"), (1, "a"), (4, "x"), (4, "x"), (4, "bad"), (2, "c"), (2, "c")]
    what = seed(*rows, batch_size=size, on_conflict="update", max_rejects=1)
    assert seeds.run(what, restart=True).outcome == "complete"
    assert counts(seeds) == (1, 3, 4, 1)
    assert conn.execute("select * from things order by id").fetchall() == [(1, "a"), (2, "c"), (4, "x")]
    assert seeds.verify(what)["ok"]


def test_a_reject_whose_key_is_there_by_now_is_skipped_although_the_table_still_refuses_it(
    seeds: Seeds, conn: Conn
) -> None:
    conn.execute("create table things (id int primary key, note text check (note <> 'bad'))")
    what = seed((1, "bad"), max_rejects=1)
    seeds.run(what)
    conn.execute("insert into things values (1, 'by hand')")
    assert seeds.retry_rejects(what) == (1, 0)
    assert counts(seeds) == (0, 0, 1, 0)
    told = conn.execute("select run_window = '2 minutes', scope ? 'process' from cron_job_runs where scope ? 'retries'")
    assert told.fetchall() == [(True, True)], "one that is killed does not hold the import for longer than a runner"


def test_a_row_that_is_too_big_for_a_page_is_the_one_that_is_a_reject(seeds: Seeds, conn: Conn) -> None:
    names = [f"v{n}" for n in range(1100)]
    conn.execute(f"create table things (id int primary key, {' bigint, '.join(names)} bigint)".encode())
    rows = [(n, *[7 if n == 3 else None] * len(names)) for n in range(1, 41)]
    what = seed(*rows, columns=("id", *names), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert [reject.row_number for reject in seeds.rejects("s")] == [3], "COPY names line 21"
    assert counts(seeds) == (39, 0, 0, 1)


TRIGGER = """
create function turn() returns trigger language plpgsql as $$ begin {} end $$;
create trigger turn before {} on things for each row execute function turn();
"""


@pytest.mark.parametrize("key", [("id",), ()])
def test_a_row_that_a_trigger_drops_is_skipped_and_missing(seeds: Seeds, conn: Conn, key: tuple[str, ...]) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute(TRIGGER.format("if new.id = 2 then return null; end if; return new;", "insert").encode())
    what = seed((1, "a"), (2, "b"), (3, "c"), key=key)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (2, 0, 1, 0)
    assert (seeds.verify(what)["ok"], seeds.verify(what)["missing"]) == (False, 1)


@pytest.mark.parametrize("change", ["new.note = new.note || '!'", "new.id = new.id + 100"])
def test_a_row_that_a_trigger_changes_is_not_verified(seeds: Seeds, conn: Conn, change: str) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute(TRIGGER.format(f"{change}; return new;", "insert").encode())
    what = seed((1, "a"), (2, "b"), batch_size=1)
    assert seeds.run(what).outcome == "complete"
    assert not seeds.verify(what)["ok"]
    assert seeds.run(what).outcome == "complete", "keys that a trigger may change do not identify the table"


def test_an_update_that_a_trigger_refuses_is_skipped_and_different(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute("insert into things values (1, 'old')")
    conn.execute(TRIGGER.format("return null;", "update").encode())
    what = seed((1, "new"), (2, "b"), on_conflict="update")
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (1, 0, 1, 0)
    assert (seeds.verify(what)["ok"], seeds.verify(what)["different"]) == (False, 1)


def test_a_trigger_of_a_partition_that_changes_keys_does_not_make_it_another_table(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text) partition by range (id)")
    conn.execute("create table part partition of things for values from (0) to (1000)")
    trigger = TRIGGER.format("new.id = new.id + 100; return new;", "insert").replace("on things", "on part")
    conn.execute(trigger.encode())
    what = seed((1, "a"), (2, "b"))
    assert seeds.run(what).outcome == "complete"
    assert seeds.run(what).outcome == "complete"


def altered(conn: Conn, change: str, note: Callable[[int], Any] = str, **options: Any) -> Seed:
    """Eight rows with four keys, and a change of the table before the third batch of two is made."""
    changes = iter([change])

    def source(cursor: Any) -> Any:
        for n in range(0 if cursor is None else cursor + 1, 8):
            if n == 4 and (statement := next(changes, "")):
                conn.execute(statement.encode())
            yield (n % 4, note(n)), n

    given = {"into": "things", "key": ("id",), "columns": ("id", "note"), "batch_size": 2, **options}
    return Seed("s", source, **given)


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
@pytest.mark.parametrize("made", ["", " partition by hash (id)"])
def test_an_index_that_is_dropped_during_the_import_ends_it_before_rows_double(
    seeds: Seeds, conn: Conn, on_conflict: str, made: str
) -> None:
    conn.execute(f"create table things (id int primary key, note text){made}".encode())
    if made:
        conn.execute("create table part partition of things for values with (modulus 1, remainder 0)")
    what = altered(conn, "alter table things drop constraint things_pkey", on_conflict=on_conflict)
    with pytest.raises(TableChanged, match=r"the unique index over \(id\) of things was dropped during the import"):
        seeds.run(what)
    conn.execute("alter table things add primary key (id)")
    assert seeds.run(what).outcome == "complete"
    assert conn.execute("select array_agg(id order by id) from things").fetchone() == ([0, 1, 2, 3],)
    assert seeds.verify(what)["ok"]


@pytest.mark.parametrize(
    "change",
    [
        "reindex table concurrently things", "alter table things alter id type bigint", "vacuum full things",
        "alter table things add n int", "alter table things rename constraint things_pkey to other",
    ],
)  # fmt: skip
def test_a_change_that_keeps_the_key_does_not_end_an_import(seeds: Seeds, conn: Conn, change: str) -> None:
    conn.execute("create table things (id int primary key, note text)")
    what = altered(conn, change)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (4, 0, 4, 0)
    assert seeds.verify(what)["ok"]


def test_settings_of_the_import_hold_after_a_column_has_got_another_type(database: str, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text[])")
    conn.execute(f'alter database "{conn.info.dbname}" set array_nulls = off'.encode())
    changed = "alter table things alter id type bigint"
    with pools.open_pool(database, 4) as pool:
        Seeds(pool).run(altered(conn, changed, lambda n: [str(n), None], on_conflict="update"))
    found = conn.execute("select array_agg(note::text order by id) from things").fetchone()
    assert found == (["{4,NULL}", "{5,NULL}", "{6,NULL}", "{7,NULL}"],)


def test_no_time_limit_of_the_database_ends_a_batch_a_dry_run_or_a_comparison(database: str, conn: Conn) -> None:
    conn.execute("create function slow(p_text text) returns bool language sql as 'select pg_sleep(0.5) is not null'")
    conn.execute("create domain slow as text check (slow(value)); create table things (id int primary key, note slow)")
    limits = ["statement_timeout", "idle_in_transaction_session_timeout"]
    if conn.info.server_version >= 170000:
        limits.append("transaction_timeout")
    for limit in limits:
        conn.execute(f'alter database "{conn.info.dbname}" set {limit} = "400ms"'.encode())
    pauses = iter([0.5])

    def source(cursor: Any) -> Any:
        yield (1, None), 1
        conn.execute("select pg_sleep(%s)", [next(pauses, 0)])
        yield (2, "x"), 2

    with pools.open_pool(database, 4) as pool:
        seeds, what = Seeds(pool), Seed("s", source, "things", ("id",), columns=("id", "note"), batch_size=1)
        assert seeds.rehearse(what).inserted == 2
        assert seeds.run(what).outcome == "complete"
        assert seeds.verify(what)["ok"]


@pytest.mark.parametrize("key", [("id",), ()])
@pytest.mark.parametrize(
    "change",
    [
        "alter table things rename note to x; alter table things rename other to note",
        "alter table things rename note to x; alter table things add note text",
        "alter table things alter note type jsonb using to_jsonb(note)",
        "alter table things rename note to x",
        "alter table things drop note",
        "alter table things alter id type text",
        "alter table things rename id to number",
    ],
)
def test_columns_that_become_others_during_the_import_end_it_before_a_value_is_in_the_wrong_one(
    seeds: Seeds, conn: Conn, change: str, key: tuple[str, ...]
) -> None:
    conn.execute("create table things (id int primary key, note text, other text)")
    what = altered(conn, change, key=key)
    with pytest.raises(TableChanged, match="columns of things were dropped, renamed or changed their type during"):
        seeds.run(what)
    assert conn.execute("select count(*) <= 4 from things").fetchone() == (True,)  # those of two batches


@pytest.mark.parametrize("key", [("id",), ()])
def test_a_table_that_is_dropped_and_made_anew_during_the_import_ends_it(
    seeds: Seeds, conn: Conn, key: tuple[str, ...]
) -> None:
    made = "create table things (id int primary key, note text)"
    conn.execute(made.encode())
    with pytest.raises(TableChanged, match="table things was dropped during the import"):
        seeds.run(altered(conn, f"drop table things; {made}", key=key))
    assert conn.execute("select count(*) from things").fetchone() == (0,)


@pytest.mark.parametrize("deferrable", ["", "deferrable initially deferred"])
@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_of_rows_that_refer_to_one_another_only_those_without_a_parent_are_rejects(
    seeds: Seeds, conn: Conn, deferrable: str, on_conflict: Any
) -> None:
    made = f"create table things (id int primary key, note int references things {deferrable})"
    conn.execute(made.encode())
    rows = ((1, 2), (2, 3), (3, None), (4, 5), (5, 99), (6, 7), (7, 1), (8, 8))
    what = seed(*rows, max_rejects=2, on_conflict=on_conflict)
    assert seeds.run(what).outcome == "complete"
    assert [reject.row_number for reject in seeds.rejects("s")] == [4, 5]
    assert counts(seeds) == (6, 0, 0, 2)
    assert seeds.verify(what)["ok"]


def test_the_keys_of_the_last_batch_are_looked_up_one_by_one(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (a text, b int, c int, d int, primary key (a, b, c, d))")
    conn.execute("insert into things select 'a', 1, n / 100, n % 100 from generate_series(1, 5000) n")
    key = ("a", "b", "c", "d")
    asked = check_table(conn, seed(key=key)).has_one(key, [("a", "1", "48", "7"), ("a", "1", "49", "99")])
    plan = conn.execute(sql.SQL("explain select {}").format(asked)).fetchall()
    assert "Filter" not in str(plan), "all rows with the same a and b are read"


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("step", [1, -1])
def test_a_chain_of_rows_whose_first_one_comes_last_is_written_in_a_few_turns(
    seeds: Seeds, conn: Conn, monkeypatch: pytest.MonkeyPatch, step: int, *, lost: bool
) -> None:
    conn.execute("create table things (id int primary key, note int references things check (note < 99))")
    written = list[int]()
    write = TableLoader.write

    def counted(*given: Any) -> Any:
        written.append(given[-1])
        return write(*given)

    monkeypatch.setattr(TableLoader, "write", counted)
    chain = [(n, n - 1 or 41) for n in range(1, 41)][::step]
    rows = (*chain, (50, 100), (51, 52 if lost else None), (41, None))  # the row with 100 has them written in pieces
    assert seeds.run(seed(*rows, max_rejects=2)).outcome == "complete"
    assert [reject.row_number for reject in seeds.rejects("s")] == ([41, 42] if lost else [41])
    assert len(written) < 300


@pytest.mark.parametrize("made", ["serial", "int default 5"])
@pytest.mark.parametrize("blocks", [True, False])
def test_rows_without_their_key_are_refused_before_they_double(
    seeds: Seeds, conn: Conn, tmp_path: Path, made: str, *, blocks: bool
) -> None:
    conn.execute(f"create table things (id {made} primary key, note text)".encode())
    (tmp_path / "a.csv").write_text("note\na\n")
    source = read(tmp_path / "a.csv") if blocks else lambda _: iter([({"note": "a"}, 1)])
    what = Seed("s", source, "things", ("id",))
    with pytest.raises(InvalidArgument, match="the rows have no id, which is in the key of things"):
        seeds.run(what)
    conn.execute("insert into things (note) values ('a')")
    assert not seeds.verify(what)["ok"]


@pytest.mark.parametrize("name", ["50%", "%s", "%(a)s", "{}", "{0}", 'q"q', "a b", "$1", "--", "\\", "a\nb"])
def test_a_key_and_a_table_of_any_name_are_found_again(seeds: Seeds, conn: Conn, name: str) -> None:
    quoted = sql.Identifier(name)
    conn.execute(sql.SQL("create table {0} ({0} serial primary key, note text)").format(quoted))
    rows = tuple((n, "x") for n in range(1, 7))
    what = seed(*rows, into=name, key=(name,), columns=(name, "note"), batch_size=2, set_sequences=True)
    assert seeds.run(what, stop=lambda: True).outcome == "stopped"
    assert seeds.run(what).outcome == "complete"
    assert seeds.run(what, restart=True, on_conflict="update").outcome == "complete"
    assert counts(seeds) == (0, 0, 6, 0)
    assert seeds.verify(what)["ok"]
    added = sql.SQL("insert into {0} (note) values ('y') returning {0}").format(quoted)
    assert conn.execute(added).fetchone() == (7,)


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_a_table_that_is_renamed_during_the_import_is_resumed_under_its_new_name(
    seeds: Seeds, conn: Conn, on_conflict: Any
) -> None:
    conn.execute("create table things (id int primary key, note text)")
    what = altered(conn, "alter table things rename to others", on_conflict=on_conflict)
    with pytest.raises(TableChanged, match="table things was renamed or dropped during the import"):
        seeds.run(what)
    assert seeds.run(what, into="others").outcome == "complete"
    assert seeds.verify(what, into="others")["ok"]


def test_the_error_of_a_trigger_is_told_without_the_row_that_the_server_quotes(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute("create function broken() returns trigger language plpgsql as 'begin perform from nothing; end'")
    conn.execute("create trigger broken before insert on things for each row execute function broken()")
    what = seed((1, "secret"))
    for action in (seeds.rehearse, seeds.run):
        with pytest.raises(
            PgonceError, match=r'^a batch cannot be written to things: relation "nothing" does not exist$'
        ):
            action(what)
    told = "select error_message from seed_checkpoints union all select error_message from cron_job_runs"
    assert len(found := conn.execute(told).fetchall()) == 2
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    "body",
    [
        "if new.id = 2 then raise exception 'not %', new.note using errcode = '45000'; end if;",
        "if new.id = 2 then raise exception 'not %', new.note using errcode = 'check_violation'; end if;",
        "if new.id = 2 then raise exception 'not %', new.note using errcode = '42501'; end if;",
        "if new.id = 2 then perform (select n from (values (1), (2)) v(n)); end if;",
    ],
)
def test_a_row_that_a_trigger_refuses_in_its_own_words_is_a_reject_without_them(
    seeds: Seeds, conn: Conn, body: str
) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute(
        f"create function refuses() returns trigger language plpgsql as $$begin {body} return new; end$$".encode()
    )
    conn.execute("create trigger refuses after insert on things for each row execute function refuses()")
    with pytest.raises(RowRejected) as refused:
        seeds.run(seed((1, "a"), (2, "secret"), (3, "c")))
    assert "secret" not in str(refused.value)
    assert seeds.run(seed((1, "a"), (2, "secret"), (3, "c"), max_rejects=1)).outcome == "complete"
    assert counts(seeds) == (2, 0, 0, 1)


def test_rows_that_a_trigger_gives_the_key_of_another_are_written_one_by_one(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")
    body = "begin new.id = 9; return new; end"
    conn.execute(f"create function nine() returns trigger language plpgsql as '{body}'".encode())
    conn.execute("create trigger nine before insert on things for each row execute function nine()")
    assert seeds.run(seed((1, "a"), (2, "b"), (3, "c"), on_conflict="update")).outcome == "complete"
    assert conn.execute("select * from things").fetchall() == [(9, "c")]


def test_a_row_without_a_partition_is_a_reject(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text) partition by list (id)")
    conn.execute("create table part partition of things for values in (1, 3)")
    what = seed((1, "a"), (2, "b"), (3, "c"), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (2, 0, 0, 1)
    assert (seeds.verify(what)["ok"], seeds.verify(what)["rejected"]) == (True, 1)


@pytest.mark.parametrize("scope", ["things", "part"])
def test_a_constraint_that_is_checked_at_commit_makes_rejects(seeds: Seeds, conn: Conn, scope: str) -> None:
    conn.execute("create table notes (note text primary key)")
    conn.execute("insert into notes values ('a'), ('c')")
    conn.execute("create table things (id int primary key, note text) partition by range (id)")
    conn.execute("create table part partition of things for values from (0) to (1000)")
    refers = f"alter table {scope} add foreign key (note) references notes deferrable initially deferred"
    conn.execute(refers.encode())
    what = seed((1, "a"), (2, "b"), (3, "c"), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (2, 0, 0, 1)
    assert seeds.verify(what)["ok"]


def test_a_constraint_of_another_table_that_is_checked_at_commit_makes_rejects(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text unique)")
    conn.execute("insert into things values (1, 'a'), (2, 'b')")
    conn.execute("create table orders (note text references things (note) deferrable initially deferred)")
    conn.execute("insert into orders values ('a')")
    what = seed((1, "x"), (2, "y"), on_conflict="update", max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (0, 1, 0, 1)
    assert seeds.verify(what)["ok"]


@pytest.mark.parametrize("on_conflict", ["skip", "update"])
def test_a_rule_that_replaces_the_insert_is_refused(seeds: Seeds, conn: Conn, on_conflict: Any) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute("create table elsewhere (like things)")
    conn.execute("create rule away as on insert to things do instead insert into elsewhere values (new.*)")
    with pytest.raises(SchemaError, match="rule"):
        seeds.run(seed((1, "a"), (2, "b"), on_conflict=on_conflict))


@pytest.mark.parametrize("partitioned", [False, True])
def test_a_foreign_table_is_refused(seeds: Seeds, conn: Conn, partitioned: bool) -> None:
    conn.execute("create foreign data wrapper nowhere")
    conn.execute("create server nowhere foreign data wrapper nowhere")
    if partitioned:
        conn.execute("create table things (id int, note text) partition by range (id)")
        conn.execute("create foreign table part partition of things for values from (0) to (9) server nowhere")
    else:
        conn.execute("create foreign table things (id int, note text) server nowhere")
    with pytest.raises(SchemaError, match="foreign table"):
        seeds.run(seed((1, "a"), key=()))


def test_the_advice_about_an_unlogged_partition_names_it_and_helps(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key) partition by range (id)")
    conn.execute('create unlogged table "Part 1" partition of things for values from (0) to (9)')
    what = Seed("s", lambda _: [({"id": 1}, 1)], "things", ("id",))
    with pytest.raises(SchemaError, match=r'partition public\."Part 1" of things is unlogged') as refused:
        seeds.run(what)
    _, advice, _ = str(refused.value).split("'")
    conn.execute(advice.encode())
    assert seeds.run(what).outcome == "complete"


def test_a_key_whose_ranges_may_not_overlap_is_refused(seeds: Seeds, conn: Conn) -> None:
    if conn.info.server_version < 180000:
        pytest.skip("no WITHOUT OVERLAPS")
    conn.execute("create table things (id int4range, note int4range, primary key (id, note without overlaps))")
    with pytest.raises(SchemaError, match=r"no plain unique index over \(id, note\)"):
        seeds.run(seed(("[1,2)", "[1,5)"), key=("id", "note")))


def test_a_composite_type_is_refused_as_one(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create type things as (id int)")
    with pytest.raises(SchemaError, match="things is a composite type: import into a table"):
        seeds.run("s", lambda _: [({"id": 1}, 1)], into="things")


@pytest.mark.parametrize("made", ["view", "materialized view"])
def test_a_view_is_refused(seeds: Seeds, conn: Conn, made: str) -> None:
    conn.execute("create table really (id int primary key, note text)")
    conn.execute(f"create {made} things as select * from really".encode())
    with pytest.raises(SchemaError, match="is a view"):
        seeds.run(seed((1, "a")))


def test_a_value_that_its_type_reads_as_a_name_is_a_reject_in_every_language(debian: str) -> None:
    with psycopg.connect(debian) as conn:
        if conn.execute("show lc_monetary").fetchone() != ("de_DE.UTF-8",):
            pytest.skip("there is no locale of Germany: apt-get install locales")
        conn.execute("create table things (id int primary key, note regclass)")
    with pools.open_pool(f"{debian}&options=-clc_messages%3Dde_DE.UTF-8", 4) as pool, pool.connection() as conn:
        what = seed((1, "pg_class"), (2, "secret"), max_rejects=1)
        assert Seeds(pool).run(what).outcome == "complete"
        assert [(each.row_number, each.column_name) for each in Seeds(pool).rejects("s")] == [(2, "note")]
        conn.execute("drop table things; truncate seed_checkpoints, pgonce_seed_rejects")


@pytest.mark.parametrize("name", ["secret", "secret.a", "secret.public.a", "secret.a.b.c"])
def test_a_value_that_its_type_reads_as_a_name_is_a_reject_without_the_name(
    seeds: Seeds, conn: Conn, name: str
) -> None:
    conn.execute("create table things (id int primary key, note regclass)")
    what = seed((1, "pg_class"), (2, name), max_rejects=1)
    assert seeds.run(what).outcome == "complete"
    assert counts(seeds) == (1, 0, 0, 1)
    [reject] = seeds.rejects("s")
    assert (reject.column_name, "secret" in str(reject.reason)) == ("note", False)
    assert seeds.verify(what)["ok"]
    with pytest.raises(RowRejected) as refused:
        seeds.run(seed((1, "pg_class"), (2, name)), restart=True)
    assert "secret" not in str(refused.value)


def test_rows_that_a_policy_hides_are_missing_for_the_role_that_compares(
    seeds: Seeds, conn: Conn, database: str
) -> None:
    conn.execute("create table things (id int primary key, note text)")
    conn.execute("alter table things enable row level security, force row level security")
    conn.execute("create policy shown on things using (id <> 2) with check (true)")
    conn.execute("do $$ begin create role importer_of_tests; exception when duplicate_object then null; end $$")
    conn.execute("grant all on all tables in schema public to importer_of_tests")
    conn.execute("grant all on all functions in schema public to importer_of_tests")
    conn.execute("grant all on all sequences in schema public to importer_of_tests")
    what = seed((1, "a"), (2, "b"), (3, "c"))
    assert seeds.run(what).outcome == "complete"
    with pools.open_pool(database + "&options=-crole%3Dimporter_of_tests", 3) as pool:
        limited = Seeds(pool)
        found = limited.verify(what)
        assert (found["ok"], found["missing"]) == (False, 1)
        # it may not even skip what it may not see
        with pytest.raises(RowRejected, match=r"row 2, .*: new row violates row-level security policy"):
            limited.run(what, restart=True)
    conn.execute("drop owned by importer_of_tests")


def test_a_source_that_lost_all_its_rows_leaves_all_of_the_table_extra(seeds: Seeds, conn: Conn) -> None:
    conn.execute("create table things (id int primary key, note text)")
    seeds.run(seed((1, "a"), (2, "b")))
    found = seeds.verify(seed())
    assert (found["rows"], found["extra"]) == (0, 2)


@pytest.mark.parametrize(
    ("setting", "kind", "value", "other"),
    [
        ("extra_float_digits = -10", "float8", 0.123456789012, "0.123456789013"),
        ("extra_float_digits = 0", "real", 0.1, "0.10000001"),
        ("extra_float_digits = -15", "float8[]", [1.25], "{1.26}"),
        ("extra_float_digits = -15", "point", "(1.25,0)", "(1.26,0)"),
        ("array_nulls = off", "text[]", ["a", None], '{a,"NULL"}'),
        ("datestyle = 'SQL, DMY'", "timestamptz", "2014-10-25 21:30+00", "2014-10-25 22:30+00"),
    ],
)
def test_values_that_differ_are_told_apart_under_every_setting_of_the_database(
    database: str, conn: Conn, setting: str, kind: str, value: Any, other: str
) -> None:
    conn.execute(f"create table things (id int primary key, note {kind})".encode())
    for each in (setting, "timezone = 'Europe/Moscow'"):  # where an hour was there twice under one name
        conn.execute(f'alter database "{conn.info.dbname}" set {each}'.encode())
    what = seed((1, value), on_conflict="update")
    with pools.open_pool(database, 4) as pool:
        seeds = Seeds(pool)
        assert seeds.run(what).outcome == "complete"
        assert seeds.verify(what)["ok"]
        conn.execute("update things set note = %s", [other])
        assert seeds.verify(what)["different"] == 1
        seeds.run(what, restart=True)
        assert (counts(seeds), seeds.verify(what)["ok"]) == ((0, 1, 0, 0), True)
