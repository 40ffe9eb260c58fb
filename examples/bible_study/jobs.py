"""The jobs of the application and their schedules. ``pgonce worker --app examples.bible_study.app`` runs them.

Letters are written to an outbox, the table letters, whose key is (reader, kind, period). The row of a letter is also
the mark that it was written, so a crash between writing and marking cannot lose or duplicate a letter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import date, timedelta
from typing import Any

import pgonce
from pgonce import retention
from pgonce import stripe_sync as reconciliation
from pgonce.core import database

BATCHES = 8
"""The number of batches of readers in portrait_regen. Each batch may also be run alone, at the same time as others."""
ESV_DAYS = 30
SEND = "insert into letters (reader_id, kind, period, body) values (%s, %s, %s, %s) on conflict do nothing"


def today(run: pgonce.Run) -> date:
    """The day of the run. A run by hand can set another: ``--scope '{"day": "2026-11-23"}'``."""
    return date.fromisoformat(run.scope["day"]) if "day" in run.scope else date.today()  # noqa: DTZ011


def portrait_regen(run: pgonce.Run) -> None:
    """Summarise the readings of each reader, batch by batch.

    One batch alone: pgonce job run portrait_regen --key batch-3 --scope '{"batch_number": 3}'
    """
    batches = [int(run.scope["batch_number"])] if "batch_number" in run.scope else list(range(BATCHES))
    for done, number in enumerate(batches):
        if run.stop_requested:
            return
        run.progress(done, len(batches))
        with run.transaction() as tx:
            rows = tx.execute(
                "insert into portraits (reader_id, body)"
                " select r.id, format('%%s read %%s chapters on %%s days', r.name, sum(d.chapters), count(*))"
                " from readers r join readings d on d.reader_id = r.id where r.id %% %s = %s group by r.id"
                " on conflict (reader_id) do update set body = excluded.body, computed_at = now()"
                " where portraits.body <> excluded.body",
                [BATCHES, number],
            )
        run.processed(rows.rowcount)


def stripe_sync(run: pgonce.Run) -> None:
    """Fetch events that Stripe could not deliver. Needs STRIPE_API_KEY."""
    from examples.bible_study.app import app

    get = reconciliation.client(os.environ["STRIPE_API_KEY"], os.environ.get("STRIPE_API_BASE"))
    with database.open_pool(database.find(), 2) as pool:
        reconciliation.reconcile(app, pool, get, run=run)


def _write(run: pgonce.Run, kind: str, period: str, letters: list[tuple[int, str]]) -> None:
    """One transaction for each letter: a crash loses none, and a second run skips those that are written."""
    for done, (reader, body) in enumerate(letters):
        if run.stop_requested:
            return
        with run.transaction() as tx:
            written = tx.execute(SEND, [reader, kind, period, body]).rowcount
        run.processed(written)
        run.skipped(1 - written)
        run.progress(done + 1, len(letters))


def _query(run: pgonce.Run, query: str, *arguments: Any) -> list[Any]:
    with run.connection() as conn:
        return conn.execute(query.encode(), arguments).fetchall()


def birthday_letters(run: pgonce.Run) -> None:
    """One letter each year. Readers born on 29 February get it on the 28th in a common year."""
    day = today(run)
    born = [day.strftime("%m-%d")]
    if born == ["02-28"] and (day + timedelta(days=1)).month == 3:
        born.append("02-29")
    readers = _query(run, "select id, name from readers where to_char(birthday, 'MM-DD') = any (%s)", born)
    _write(run, "birthday", str(day.year), [(id_, f"Happy birthday, {name}!") for id_, name in readers])


def weekly_letters(run: pgonce.Run) -> None:
    """A letter about each reader's readings in the last seven days."""
    day = today(run)
    year, week, _ = day.isocalendar()
    readers = _query(
        run,
        "select r.id, r.name, sum(d.chapters) from readers r join readings d on d.reader_id = r.id"
        " where d.day > %s and d.day <= %s group by r.id order by r.id",
        day - timedelta(days=7),
        day,
    )
    letters = [(id_, f"{name}, you read {chapters} chapters this week.") for id_, name, chapters in readers]
    _write(run, "weekly", f"{year}-W{week:02}", letters)


def year_in_review(run: pgonce.Run) -> None:
    """A letter in January about the year that has ended."""
    year = today(run).year - 1
    readers = _query(
        run,
        "select r.id, r.name, sum(d.chapters), count(*) from readers r join readings d on d.reader_id = r.id"
        " where extract(year from d.day) = %s group by r.id order by r.id",
        year,
    )
    letters = [
        (id_, f"{name}, in {year} you read {sum_} chapters on {days} days.") for id_, name, sum_, days in readers
    ]
    _write(run, "year_in_review", str(year), letters)


def esv_cache_expiry(run: pgonce.Run) -> None:
    """Delete old texts: the ESV's terms do not allow caching them without a time limit."""
    with run.transaction() as tx:
        old = tx.execute("delete from esv_cache where fetched_at < now() - make_interval(days => %s)", [ESV_DAYS])
    run.processed(old.rowcount)


def seed_runner(run: pgonce.Run) -> None:
    """Resume every import, in a process of its own, because imports have progress bars and signal handlers."""
    with subprocess.Popen([sys.executable, "-m", "examples.bible_study.seed_all"]) as child:
        while child.poll() is None:
            if run.stop_requested:
                child.terminate()  # finishes its batch
            time.sleep(0.2)
    if child.returncode:
        raise RuntimeError(f"an import failed (exit code {child.returncode}): pgonce seed ls")


def register(app: pgonce.App) -> None:
    """Add the jobs to the application, with schedules in its own time zone."""
    home = "America/New_York"
    app.job("portrait_regen", cron="0 3 * * *", timezone=home, retries=2, timeout="2 hours")(portrait_regen)
    app.job("stripe_sync", cron="*/30 * * * *", jitter="2 minutes", retries=3)(stripe_sync)
    app.job("birthday_letters", cron="0 6 * * *", timezone=home, catch_up="last", retries=3)(birthday_letters)
    app.job("weekly_letters", cron="0 7 * * sun", timezone=home, catch_up="last", catch_up_window="2 days", retries=3)(
        weekly_letters
    )
    app.job("year_in_review", cron="0 8 2 1 *", timezone=home, catch_up="last", catch_up_window="7 days", retries=3)(
        year_in_review
    )
    app.job("esv_cache_expiry", cron="15 * * * *")(esv_cache_expiry)
    app.job("seed_runner")(seed_runner)  # without a schedule: pgonce job run seed_runner
    app.job("webhook_retention", cron="30 4 * * *", timezone=home)(_webhook_retention)
    app.job("weekly_cleanup", cron="0 4 * * sun", timezone=home, catch_up="last")(retention.weekly_cleanup)


def _webhook_retention(run: pgonce.Run) -> None:
    retention.webhook_retention(run)
