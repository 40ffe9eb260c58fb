"""The example's jobs, each really run: each writes its rows once, even if it is run again or killed."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.proxy import proxy
from tests.forked import PGONCE, Forked

Connection = psycopg.Connection[Any]
ROOT = Path(__file__).parents[3]
Start = Callable[..., "subprocess.Popen[str]"]
ALL = {
    "portrait_regen", "stripe_sync", "birthday_letters", "weekly_letters", "year_in_review", "esv_cache_expiry",
    "seed_runner", "stats_cache", "weekly_cleanup", "webhook_retention",
}  # fmt: skip


@pytest.fixture
def study(database: str, conn: Connection) -> Connection:
    """The tables of the example, and 40 readers who have read."""
    conn.execute((ROOT / "examples/bible_study/schema.sql").read_bytes())
    conn.execute(
        "insert into readers (name, birthday) select 'Reader ' || n, case when n % 4 = 0 then date '1980-02-29'"
        " else date '1980-11-23' end from generate_series(1, 40) n"
    )
    conn.execute("insert into readings select id, date '2026-11-20', 3 from readers where id % 2 = 0")
    conn.execute("insert into readings select id, date '2026-01-05', 1 from readers")
    return conn


@pytest.fixture
def start(database: str) -> Iterator[Start]:
    """Starts ``pgonce job run name``; killed after the test."""
    opened: list[subprocess.Popen[str]] = []

    def popen(name: str, *options: str, url: str = database) -> subprocess.Popen[str]:
        command: list[str | Path] = [PGONCE, "job", "run", name, *options, "--app", "examples.bible_study.app"]
        env = os.environ | {"PGONCE_DATABASE_URL": url}
        opened.append(Forked(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return opened[-1]

    yield popen
    for each in opened:
        each.kill()
        each.communicate()


def done(job: subprocess.Popen[str]) -> str:
    out, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    return out.strip()


def on(day: str) -> tuple[str, str]:
    return "--scope", f'{{"day": "{day}"}}'


def test_the_example_has_every_job_of_the_specification() -> None:
    from examples.bible_study.app import app

    assert set(app.jobs) >= ALL
    assert {name for name, job in app.jobs.items() if job.plan is None} & ALL == {"seed_runner"}


@pytest.mark.parametrize(
    ("name", "day", "period", "count"),
    [
        ("birthday_letters", "2026-11-23", "2026", 30),
        ("birthday_letters", "2026-02-28", "2026", 10),
        ("birthday_letters", "2028-02-28", "2028", 0),
        ("birthday_letters", "2028-02-29", "2028", 10),
        ("weekly_letters", "2026-11-22", "2026-W47", 20),
        ("year_in_review", "2027-01-02", "2026", 40),
    ],
)
def test_letters_are_written_once_for_each_person_and_period(
    study: Connection, start: Start, name: str, day: str, period: str, count: int
) -> None:
    assert done(start(name, *on(day))) == f"{name}: succeeded, {count} processed, 0 skipped"
    assert done(start(name, *on(day))) == f"{name}: succeeded, 0 processed, {count} skipped"
    found = study.execute("select count(*), count(distinct reader_id), min(period) from letters").fetchone()
    assert found == (count, count, period if count else None)


def test_a_job_that_is_killed_between_the_letter_and_its_commit_writes_it_once_when_it_runs_again(
    study: Connection, start: Start, database: str
) -> None:
    with proxy(database) as network:
        # killed while the server processes the COMMIT of about the third letter, before the client learns its outcome
        hold = network.hold(b"COMMIT", answer=True)
        victim = start("birthday_letters", *on("2026-11-23"), url=network.url)
        hold.wait()
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        hold.release()
    written = study.execute("select count(*) from letters").fetchone()
    assert written is not None
    assert 0 < written[0] < 30
    study.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '1 hour'")
    assert done(start("birthday_letters", *on("2026-11-23"))).endswith(
        f"{30 - written[0]} processed, {written[0]} skipped"
    )
    assert study.execute("select count(*), count(distinct reader_id) from letters").fetchone() == (30, 30)
    assert study.execute("select count(*) from pgonce_job_overlaps").fetchone() == (0,)


def test_portraits_are_made_in_batches_of_which_two_may_run_side_by_side(study: Connection, start: Start) -> None:
    keys = [start("portrait_regen", "--key", f"batch-{n}", "--scope", f'{{"batch_number": {n}}}') for n in (1, 2)]
    assert [done(each) for each in keys] == ["portrait_regen: succeeded, 5 processed, 0 skipped"] * 2
    assert done(start("portrait_regen")) == "portrait_regen: succeeded, 30 processed, 0 skipped"
    assert study.execute("select body from portraits where reader_id = 2").fetchone() == (
        "Reader 2 read 4 chapters on 2 days",
    )
    done_of = "select progress_done, progress_total, key from cron_job_runs"
    assert len(study.execute(done_of).fetchall()) == 3


def test_old_passages_of_the_esv_go(study: Connection, start: Start) -> None:
    study.execute(
        "insert into esv_cache values ('John 1', '...', now() - interval '31 days'), ('John 2', '...', now())"
    )
    assert done(start("esv_cache_expiry")) == "esv_cache_expiry: succeeded, 1 processed, 0 skipped"
    assert study.execute("select reference from esv_cache").fetchall() == [("John 2",)]


def test_the_weekly_cleanup_deletes_in_batches_what_is_old_and_says_which_dead_letters_go(
    study: Connection, start: Start
) -> None:
    study.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at, lease, queued, error_message)"
        " select 'evt_' || n, 'x', case n when 20 then 'failed' else 'succeeded' end,"
        " now() - n * interval '10 days' + interval '1 hour', null, true, 'why' from generate_series(1, 20) n"
    )
    study.execute(
        "insert into cron_job_runs (job_name, status, started_at)"
        " select 'old', 'succeeded', now() - n * interval '100 days' from generate_series(2, 4) n"
    )
    study.execute("delete from pgonce_audit")
    study.execute(
        "insert into pgonce_audit (at, actor, source, action, noun)"
        " select now() - n * interval '300 days', 'eva', 'cli', 'stop', 'run' from generate_series(1, 2) n"
    )
    job = start("weekly_cleanup")
    out, err = job.communicate(timeout=60)
    assert out == "weekly_cleanup: succeeded, 14 processed, 0 skipped\n"
    assert err == "a dead letter is deleted: evt_20 x: why\n"
    assert study.execute("select count(*) from webhook_events").fetchone() == (9,)
    assert study.execute("select count(*) from pgonce_audit").fetchone() == (1,)
    assert study.execute("select count(*) from cron_job_runs where job_name = 'old'").fetchone() == (1,)
