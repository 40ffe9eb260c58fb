"""Part 3: an import that is killed twice at random places, and resumes."""

from __future__ import annotations

import importlib
import time
from collections import Counter
from random import Random
from typing import Any

import psycopg

from tools.demo.children import Child, Children, until
from tools.demo.database import connect, value
from tools.demo.job import OVERLAPS
from tools.demo.report import Imports
from tools.demo.screen import Screen

SEED = "web_kjv_chapters"
KILLS = 2
BATCH = 100
"""Rows per transaction, at least: about 600 batches, so that a kill lands in the middle of one."""
WINDOW = 2
"""Seconds without a sign of life until a runner counts as dead; by default it is two minutes."""

_IS_TAKEABLE = """
select not exists (
  select from cron_job_runs
  where job_name = 'seed_runner' and status = 'running' and heartbeat_at + run_window > clock_timestamp())
"""
_VERSES = "select version, book, chapter, verse, body from bible_verses"


def run(children: Children, database_url: str, random: Random, screen: Screen) -> Imports:
    """Import two Bible texts, kill the import (SIGKILL) twice, resume it, and compare the table with the source."""
    begun = screen.seconds
    source: Counter[tuple[Any, ...]] = Counter(
        tuple(verse) for verse in importlib.import_module("examples.bible_study.texts").verses()
    )
    total = source.total()
    screen.heading(f"3. Imports: two Bible texts, {total:,} verses, killed with -9 twice and resumed")
    with connect(database_url) as conn:
        try:
            _import(children, conn, total, random, screen)
        except BaseException:  # also after Ctrl-C: the process that is killed then was drawing a progress bar
            screen.restore()
            raise
        verses = Counter(tuple(row) for row in conn.execute(_VERSES))
        inserted, skipped = conn.execute(
            "select rows_inserted, rows_skipped from seed_checkpoints where seed_name = %s", [SEED]
        ).fetchone() or (0, 0)
        counted = Imports(
            expected=total,
            inserted=verses.total(),
            doubled=(verses - source).total(),
            missing=(source - verses).total(),
            counted_inserted=inserted,
            counted_skipped=skipped,
            overlaps=value(conn, OVERLAPS, "seed_runner"),
            seconds=screen.seconds - begun,
        )
    screen.say("complete: every verse in the table compared with its source")
    return counted


def _import(children: Children, conn: psycopg.Connection[Any], total: int, random: Random, screen: Screen) -> None:
    for kill in range(KILLS):
        # one kill in each half, but not near its ends
        share = (kill + random.uniform(0.2, 0.8)) / KILLS
        _killed(_started(children, conn, screen), conn, int(total * share), random, screen)
    last = _started(children, conn, screen)
    if last.wait() != 0:
        raise last.failed()


def _started(children: Children, conn: psycopg.Connection[Any], screen: Screen) -> Child:
    at = _place(conn)
    child = children.start("seed", "run", SEED, "--batch-size", str(BATCH), "--window", f"{WINDOW}s", loud=True)
    screen.say(f"started `pgonce seed run {SEED}`, pid {child.pid}" + (f": resumes behind {at}" if at else ""))
    return child


def _killed(child: Child, conn: psycopg.Connection[Any], rows: int, random: Random, screen: Screen) -> None:
    until(lambda: child.exit_code is not None or _rows(conn) >= rows, f"{rows:,} verses are imported")
    time.sleep(random.uniform(0, 0.02))  # otherwise each kill would follow immediately after a commit
    if child.exit_code is not None:
        raise child.failed()
    child.kill()
    screen.restore()
    screen.say(f"killed pid {child.pid} with -9: {_rows(conn):,} verses committed, up to {_place(conn)}")
    screen.say(f"waiting until the dead run's window of {WINDOW} s is over")
    until(lambda: value(conn, _IS_TAKEABLE), "the dead run's window is over")


def _rows(conn: psycopg.Connection[Any]) -> int:
    return value(conn, f"select rows_inserted + rows_skipped from seed_checkpoints where seed_name = '{SEED}'") or 0


def _place(conn: psycopg.Connection[Any]) -> str:
    at = value(conn, f"select last_checkpoint from seed_checkpoints where seed_name = '{SEED}'") or {}
    return " ".join(str(at[part]) for part in ("last_version", "last_book", "last_chapter") if part in at)
