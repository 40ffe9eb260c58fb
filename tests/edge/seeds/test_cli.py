"""``pgonce seed``, as operators type it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.cli import partitions
from pgonce.cli.partitions import Partitions
from pgonce.errors import PgonceError
from tests.edge import command
from tests.edge.command import counted
from tests.edge.seeds.seed_app import PART, app
from tests.faults.seeds.dask_kills import cluster

NO_DASK = "Dask missing: pip install 'pgonce[cluster]'"
ROOT = Path(__file__).parents[3]
Conn = psycopg.Connection[Any]


class Cli:
    def __init__(self, url: str) -> None:
        self.environment = {**os.environ, "PGONCE_DATABASE_URL": url, "PGONCE_APP": "tests.edge.seeds.seed_app:app"}

    def __call__(self, *words: str, code: int = 0, **environment: str) -> str:
        returned, out, err = command.run(["seed", *words], {**self.environment, **environment}, ROOT)
        assert returned == code, out + err
        return out + err


@pytest.fixture
def cli(database: str, conn: Conn) -> Cli:
    conn.execute("create table things (id int primary key, note text check (note <> 'bad'), twin text)")
    return Cli(database)


def count(conn: Conn) -> int:
    found = conn.execute("select count(*) from things").fetchone()
    assert found
    return int(found[0])


def test_run_show_verify_pause_resume_and_reset(cli: Cli, conn: Conn) -> None:
    assert f"nothing was written; it would be {counted(59, rejected=1)}" in cli("run", "whole", "--dry-run")
    assert count(conn) == 0
    assert "row 8" in cli("run", "whole", "--max-rejects", "0", code=1)
    assert "verified   59 keys" in cli("run", "whole", "--verify")
    assert f"complete   nothing new   {counted(59, rejected=1)}" in cli("run", "whole")
    shown = json.loads(cli("show", "whole", "--json"))
    assert (shown["seed"]["rows_seen"], shown["rejects"][0]["row_number"]) == (60, 8)
    conn.execute("""insert into seed_checkpoints (seed_name, last_checkpoint) values ('other', '{"id": 40}')""")
    assert re.search(r'^other +○ no runner +0 .*\{"id": 40\}', cli("ls"), re.MULTILINE)
    assert re.search(r'^verified: \{.*"ok": true', cli("show", "whole"), re.MULTILINE)
    assert "note_check" in cli("show", "whole")
    conn.execute("alter table things drop constraint things_note_check")
    assert "1 accepted, 0 still rejected" in cli("retry-rejects", "whole")
    assert count(conn) == 60
    cli("pause", "whole")
    assert "paused" in cli("run", "whole", code=75)
    cli("resume", "whole")
    cli("reset", "whole")
    assert "never run" in cli("show", "whole", code=1)
    assert f"complete   {counted(skipped=60)}" in cli("run", "whole")


def test_a_name_that_has_never_run_is_neither_paused_nor_resumed(cli: Cli, conn: Conn) -> None:
    for verb in ("pause", "resume", "reset", "show"):
        assert cli(verb, "typo", code=1) == "pgonce: the seed 'typo' has never run here\n"
    assert conn.execute("select count(*) from seed_checkpoints").fetchone() == (0,)
    conn.execute("select start_job_run('seed_runner', p_key => 'whole')")
    conn.execute("insert into seed_checkpoints (seed_name) values ('whole')")
    assert "● in progress" in cli("ls")
    assert "whole: paused" in cli("pause", "whole"), "its first batch has not ended yet"
    assert "whole: may run again" in cli("resume", "whole")


def test_an_async_seed_runs_alike(cli: Cli, conn: Conn) -> None:
    assert "= 60 inserted" in cli("run", "async", "--dry-run")
    assert "verified   60 keys" in cli("run", "async", "--verify")
    assert count(conn) == 60


def test_a_source_that_exits_with_0_is_never_complete(cli: Cli, conn: Conn) -> None:
    conn.execute("insert into things values (0, 'x', 't0')")
    for options in ([], ["--dry-run"], ["--restart"]):
        told = cli("run", "exits", *options, code=1, EXIT="0")
        assert "pgonce: the source of exits has exited" in told
        assert "complete" not in told
    assert "pgonce: the source of exits has exited" in cli("run", "exits", "--verify", code=1, EXIT="0")
    told = cli("run", "parts", "--workers", "2", code=1, EXIT="0")
    assert "the source of parts has exited" in told
    assert "complete" not in told
    assert count(conn) < 4 * PART


def test_whatever_a_source_exits_with_it_is_not_complete(cli: Cli) -> None:
    for code in ("1", "3", "none", "why"):
        told = cli("run", "exits", code=1, EXIT=code)
        assert "pgonce: the source of exits has exited" in told
        assert "complete" not in told


def test_two_workers_import_all_partitions_and_a_killed_one_is_resumed(cli: Cli, conn: Conn, tmp_path: Path) -> None:
    told = cli("run", "parts", "--workers", "2", code=1, KILL_ONCE=str(tmp_path / "killed"))
    assert "1 of 2 workers ended with an error" in told
    assert "pgonce seed run parts --app tests.edge.seeds.seed_app:app" in told
    assert counted(4 * PART) in cli("run", "parts", "--workers", "2")
    assert count(conn) == 4 * PART
    shown = json.loads(cli("show", "parts", "--json"))
    assert [part["rows_inserted"] for part in shown["partitions"]] == [PART] * 4
    assert counted(4 * PART) in cli("run", "parts")


def test_a_worker_whose_row_is_refused_says_so_in_one_line(cli: Cli, conn: Conn) -> None:
    conn.execute(f"alter table things add constraint few check (id < {PART})")
    told = cli("run", "parts", "--workers", "2", code=1)
    assert "Traceback" not in told
    assert "pgonce: a row does not fit into things" in told
    assert "workers ended with an error" in told.splitlines()[-1]


def test_partitions_are_rehearsed_and_verified_as_one(cli: Cli, conn: Conn) -> None:
    assert f"nothing was written; it would be {counted(4 * PART)}" in cli("run", "parts", "--dry-run")
    assert count(conn) == 0
    assert cli("ls").startswith("no import has run yet")
    assert f"verified   {4 * PART:,} keys" in cli("run", "parts", "--workers", "2", "--verify")
    conn.execute("delete from things where id = 1")
    assert f"NOT verified   {4 * PART:,} keys" in cli("run", "parts", "--verify", code=1)
    conn.execute("truncate things")
    for options in ([], ["--workers", "2"], ["--dry-run"]):
        told = cli("run", "parts", *options, code=1)
        assert f"table public.things is empty, and {PART} rows were inserted: run it from the start" in told.replace(
            '"', ""
        )
    assert f"= {4 * PART:,} inserted" in cli("run", "parts", "--restart")


def test_workers_share_the_rows_per_second(database: str, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[Any]()
    monkeypatch.setattr(Partitions, "run_here", lambda self, *given_: given.extend([given_[1], self.options]))
    common: Any = {"workers": 3, "cluster": None, "restart": False, "on_progress": print, "stop": lambda: True}
    for rate in (30.0, None):
        import_ = Partitions("app", database, "public", "parts", {"max_rows_per_second": rate})
        import_.run(app.get_seed("parts"), **common)
    assert given == [3, {"max_rows_per_second": 10.0}, 3, {"max_rows_per_second": None}]


def test_a_restart_of_partitions_doubles_no_row_and_one_that_is_not_listed_is_named(cli: Cli, conn: Conn) -> None:
    conn.execute("insert into things values (0, 'x', 'a')")
    conn.execute("select pgonce_begin_partitions('append', '{a,b}'), pgonce_complete_partition('append', 'a')")
    told = cli("run", "append", "--restart", code=1)
    assert "append has no key, so a restart would insert every row again: empty table things first" in told
    told = cli("run", "append", code=1)
    assert "append has a partition b that is not complete, and lists it no longer" in told
    assert count(conn) == 1


def test_workers_without_partitions_are_a_usage_error(cli: Cli) -> None:
    assert "has no partitions" in cli("run", "whole", "--workers", "2", code=2)


def test_a_dask_cluster_imports_all_partitions_although_a_worker_is_killed(
    cli: Cli, conn: Conn, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason=NO_DASK)
    with cluster(2, {**cli.environment, "KILL_ONCE": str(tmp_path / "killed")}) as address:
        told = cli("run", "parts", "--cluster", address)
    assert (tmp_path / "killed").exists()
    assert counted(4 * PART) in told
    assert count(conn) == 4 * PART


@pytest.mark.long
def test_a_partition_that_dask_gives_up_is_said_in_one_line_and_resumes(cli: Cli, conn: Conn) -> None:
    pytest.importorskip("distributed", reason=NO_DASK)
    once_more = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # by default three times, for each partition
    killing = {"KILL_ALWAYS": "0"}  # each worker that dies is started again, which takes 2 s of CPU time
    with cluster(1, {**cli.environment, **killing, **once_more}) as address:
        told = cli("run", "parts", "--cluster", address, code=1)
    assert "Traceback" not in told
    again = f"pgonce seed run parts --app tests.edge.seeds.seed_app:app --cluster {address}"
    assert again in told.splitlines()[-1]
    assert counted(4 * PART) in cli("run", "parts")
    assert count(conn) == 4 * PART


def test_a_cluster_without_workers_is_said_instead_of_waited_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason=NO_DASK)
    monkeypatch.setattr(partitions, "WORKERLESS", 1.0)
    with cluster(0, cli.environment) as address:
        url = cli.environment["PGONCE_DATABASE_URL"]
        import_ = Partitions("tests.edge.seeds.seed_app:app", url, "public", "parts", {})
        with pytest.raises(PgonceError, match=f"no worker for 1 s.* pgonce seed run parts .* --cluster {address}"):
            import_.run_on_cluster(address, ["a", "b"], lambda: None, lambda: False)
