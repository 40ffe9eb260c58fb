"""The recipes of docs/recipes/jobs.md, each with the tool it is for: psql, pg_cron, sh as cron runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors

from pgonce.core import embedded
from pgonce.core import migrate as schema
from tests.conftest import wait_until
from tests.debian_server import debian_server

Connection = psycopg.Connection[Any]
ROOT = Path(__file__).parents[3]
RECIPES = (ROOT / "docs/recipes/jobs.md").read_text(encoding="utf-8")
CRON = Path("/usr/share/postgresql/15/extension/pg_cron.control")


def runs(conn: Connection) -> list[Any]:
    return conn.execute("select job_name, status, error_message from cron_job_runs order by started_at").fetchall()


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", RECIPES, re.DOTALL)
    [found] = [each for each in blocks if containing in each]
    return str(found)


@pytest.mark.parametrize("name", ["public", 'a "quoted" name'])
def test_run_job_keeps_its_row_when_the_command_fails(empty_database: str, name: str) -> None:
    schema.migrate(empty_database, name)
    with psycopg.connect(empty_database, autocommit=True) as conn:
        quoted = '"' + name.replace('"', '""') + '"'
        conn.execute("create table figures (n int)")
        conn.execute(f"call {quoted}.run_job('good', 'insert into figures select generate_series(1, 7)')".encode())
        with pytest.raises(errors.RaiseException, match="division by zero"):
            conn.execute(f"call {quoted}.run_job('bad', 'insert into figures select 1/0')".encode())
        found = conn.execute(f"select job_name, status, rows_processed from {quoted}.cron_job_runs order by 1".encode())
        assert found.fetchall() == [("bad", "failed", 0), ("good", "succeeded", 7)]
        assert conn.execute("select count(*) from figures").fetchone() == (7,)


def test_run_job_is_not_overlapped_however_long_its_command_takes(database: str, conn: Connection) -> None:
    with psycopg.connect(database, autocommit=True) as gate:
        gate.execute("select pg_advisory_lock(1)")
        command = "call run_job('j', 'select pg_advisory_xact_lock(1)', p_window => '1 ms')"
        server = subprocess.Popen([embedded.bin_dir() / "psql", database, "-qc", command])
        waiting = "select count(*) = 1 from pg_stat_activity where wait_event = 'advisory'"
        wait_until(lambda: conn.execute(waiting.encode()).fetchone() == (True,), "the command is at work")
        assert conn.execute("select heartbeat_at + run_window < clock_timestamp() from cron_job_runs").fetchone() == (
            True,
        )
        conn.execute("call run_job('j', 'select 1')")
        assert [status for _, status, _ in runs(conn)] == ["running", "skipped"]
        gate.execute("select pg_advisory_unlock(1)")
        assert server.wait(30) == 0
    assert [status for _, status, _ in runs(conn)] == ["succeeded", "skipped"]


def test_run_job_refuses_to_run_inside_a_transaction_where_its_row_would_not_survive(conn: Connection) -> None:
    with pytest.raises(errors.InvalidTransactionTermination), conn.transaction():
        conn.execute("call run_job('j', 'select 1')")
    assert runs(conn) == []


@pytest.fixture
def with_pg_cron() -> Iterator[Connection]:
    """A session on a cluster of our own that runs pg_cron."""
    if not CRON.exists():
        pytest.skip("pg_cron is not installed: apt-get install postgresql-15 postgresql-15-cron")
    settings = "-c shared_preload_libraries=pg_cron -c cron.use_background_workers=on"
    with debian_server(settings) as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create extension pg_cron")
        yield conn


@pytest.mark.long
def test_pg_cron_runs_it_and_a_failure_is_in_our_rows_and_in_its_own(with_pg_cron: Connection) -> None:
    conn = with_pg_cron
    conn.execute("create table figures (n int)")
    statement = block("sql", "cron.schedule").replace("'0 3 * * *'", "'* * * * *'")
    conn.execute("select cron.schedule('bad', '* * * * *', $$call run_job('bad', 'select 1/0')$$)")
    conn.execute(statement.replace("refresh materialized view figures", "insert into figures values (1)").encode())
    ended = "select count(distinct status) = 2 from cron_job_runs where status in ('succeeded', 'failed')"
    wait_until(lambda: conn.execute(ended.encode()).fetchone() == (True,), "both have run", 90)
    assert ("bad", "failed", "division by zero") in runs(conn)
    its_own = "select count(*) > 0 from cron.job_run_details where status = 'failed'"
    wait_until(lambda: conn.execute(its_own.encode()).fetchone() == (True,), "pg_cron calls it failed, too", 30)
    assert conn.execute("select count(*) from pgonce_job_overlaps").fetchone() == (0,)


def test_the_line_for_a_crontab_runs_as_cron_runs_it(database: str, conn: Connection, tmp_path: Path) -> None:
    line = next(each for each in block("crontab", "pgonce exec").splitlines() if "pgonce exec" in each)
    command = line.split(maxsplit=5)[5].replace("pg_dump --file /backup/shop.sql shop", "echo done")
    # only what cron provides: an almost empty environment, sh, no terminal
    env = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PGONCE_DATABASE_URL": database,
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert [status for _, status, _ in runs(conn)] == ["succeeded"]


def test_the_kubernetes_manifest_lets_pgonce_do_the_guarding(database: str, conn: Connection) -> None:
    manifest = block("yaml", "kind: CronJob")
    [command] = re.findall(r"command: \[(.*)\]", manifest)
    words = [word.strip().strip('"') for word in command.split(",")]
    assert words[:2] == ["pgonce", "exec"]
    assert "concurrencyPolicy: Allow" in manifest, "pgonce skips with a row; Forbid skips in silence"
    words[0] = str(Path(sys.executable).with_name("pgonce"))
    words[words.index("--") + 1 :] = ["true"]
    env = os.environ | {"PGONCE_DATABASE_URL": database}
    assert subprocess.run(words, env=env, check=False).returncode == 0
    assert [status for _, status, _ in runs(conn)] == ["succeeded"]


def test_a_celery_task_is_guarded_by_the_decorator(database: str, conn: Connection, tmp_path: Path) -> None:
    pytest.importorskip("celery", reason="celery is not installed: pip install celery")
    (tmp_path / "tasks.py").write_text(block("python", "from celery import"))
    code = "from tasks import rebuild_index as t; print(t.apply().get()); print(t.apply().get())"
    env = os.environ | {"DATABASE_URL": database}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [status for _, status, _ in runs(conn)] == ["succeeded", "succeeded"]
