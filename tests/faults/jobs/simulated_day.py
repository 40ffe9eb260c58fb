"""Simulates a day of three hosts in minutes. Every tick must be accounted for, and every alert must have a cause.

    python -m tests.faults.jobs.simulated_day --hours 24 --speed 240

Each host is a process with a scheduler whose clock runs `speed` times as fast. In that day: summer time begins in New
York, two rolling deploys (the second one drops a job and adds one), a job that hangs, an outage of the database for
five minutes, a failover to a synchronous standby, a host that is killed, and a clock that is set back by three minutes.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import psycopg
from psycopg import sql

import pgonce
from pgonce.jobs import scheduler as scheduling
from pgonce.jobs.cron import Cron
from tests.faults.replicas import replicas
from tests.forked import Forked

PATIENCE = 600
"""Seconds to wait for the end of a process. It takes a few, and more than 60 on a machine with much else to do."""
START = datetime(2026, 3, 8, 0, 0, 30, tzinfo=UTC)  # summer time begins in New York at 07:00 UTC
GRACE = timedelta(minutes=10)
CRONS = ("*/5 * * * *", "*/15 * * * *", "7 * * * *", "30 2 * * *", "0 */2 * * *")


SET_BACK = timedelta(minutes=3)
"""So much is the clock set back, after `STEP` of the day."""
STEP = 0.85


class FastClock:
    """The simulation's time of day, the same in every process of this machine."""

    def __init__(self, began: float, speed: float, step_after: float) -> None:
        self._began, self._speed, self._step_after = began, speed, step_after

    def now(self) -> datetime:
        seconds = (time.time() - self._began) * self._speed
        return START + timedelta(seconds=seconds) - (SET_BACK if seconds > self._step_after else timedelta())

    def wait(self, until: datetime, stop: threading.Event) -> None:
        stop.wait(max((until - self.now()).total_seconds() / self._speed, 0))

    def set(self, database_time: datetime) -> None:
        pass  # the database lives in real time


WINDOW = timedelta(seconds=10)
"""In real time, as the database's clock: so a killed host's runs are closed within the simulation."""


def app(release: int) -> pgonce.App:
    """The 50 jobs of a release; in the third release the last one is replaced by another."""
    found = pgonce.App()
    found.name = "shop:app"
    for number in range(50):
        name = f"job_{number:02}" if number < 49 or release < 3 else "job_added"
        cron = CRONS[number % len(CRONS)]
        function = hang if number == 0 else work
        found.job(name, cron=cron, timezone="America/New_York", grace=GRACE, window=WINDOW)(function)
    return found


def work(run: pgonce.Run) -> None:
    run.processed()


def hang(run: pgonce.Run) -> None:
    """Hang from the first to the second hour, until the run is asked to stop."""
    tick = run.scheduled_for
    while tick and timedelta(hours=1) <= tick - START < timedelta(hours=1, minutes=6) and not run.stop_requested:
        time.sleep(0.05)


def host(url: str, release: int, clock: FastClock) -> None:
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # what it says of the outage and of the failover
    scheduling.UPKEEP_EVERY = timedelta(seconds=60)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    scheduler = scheduling.Scheduler(app(release), url, concurrency=8, clock=clock)
    scheduler.start()
    while not stop.wait(0.5):  # a signal that another thread receives does not wake this one
        pass
    scheduler.stop(20)


@dataclass
class Day:
    url: str
    hours: float
    speed: float
    fail_over: Callable[[], None] | None = None
    """Ends the primary and promotes the standby; None: there is no standby."""
    began: float = field(default_factory=time.time)
    since: datetime = START
    """When all hosts were up."""
    hosts: list[Forked] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clock(self) -> FastClock:
        return FastClock(self.began, self.speed, self.hours * 3600 * STEP)

    def at(self, share: float) -> None:
        """Wait for this share of the day."""
        self.clock.wait(START + timedelta(hours=self.hours * share), threading.Event())

    def note(self, text: str) -> None:
        self.notes.append(f"{self.clock.now():%H:%M} {text}")

    def start_host(self, release: int) -> Forked:
        times = [str(self.began), str(self.speed), str(self.hours * 3600 * STEP)]
        command = [sys.executable, "-m", __spec__.name, "--host", str(release), *times]
        return Forked(command, env={**os.environ, "DATABASE_URL": self.url, "PGONCE_RELEASE": str(release)})

    def deploy(self, release: int) -> None:
        """Replace the processes one after the other; the new one starts before the old one stops."""
        for number in range(3):
            new = self.start_host(release)
            self.wait_for(new)
            old, self.hosts[number] = self.hosts[number], new
            old.send_signal(signal.SIGTERM)
            old.wait(PATIENCE)
        self.note(f"release {release} is everywhere")

    def wait_for(self, process: Forked) -> None:
        """Wait until a host has registered itself, and the schedules are registered: ticks from then on have a row."""
        up = "select from pgonce_processes where pid = %s and exists (select from pgonce_job_schedules)"
        with psycopg.connect(self.url, autocommit=True) as conn:
            while not conn.execute(up, [process.pid]).rowcount:
                if process.poll() is not None:
                    raise RuntimeError("a host did not start")
                time.sleep(0.02)

    def outage(self) -> None:
        """Five minutes of the day without a database."""
        name = psycopg.conninfo.conninfo_to_dict(self.url)["dbname"]
        with psycopg.connect(self.url, dbname="template1", autocommit=True) as conn:
            allow = sql.SQL("alter database {} allow_connections {}")
            self.note("the database is away")
            conn.execute(allow.format(sql.Identifier(str(name)), sql.SQL("false")))
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            time.sleep(300 / self.speed)
            conn.execute(allow.format(sql.Identifier(str(name)), sql.SQL("true")))
            self.note("the database is back")

    def run(self) -> None:
        self.hosts = [self.start_host(1) for _ in range(3)]
        for each in self.hosts:
            self.wait_for(each)
        self.since = self.clock.now()
        self.at(0.25)
        self.deploy(2)
        self.at(0.45)
        self.outage()
        self.at(0.53)
        if self.fail_over:
            self.fail_over()
            self.note("the primary is killed, and its standby promoted")
        self.at(0.6)
        self.hosts[0].kill()
        self.hosts[0].wait()
        self.note("a host is killed, and started again")
        self.hosts[0] = self.start_host(2)
        self.wait_for(self.hosts[0])
        self.at(0.7)
        self.deploy(3)
        self.at(STEP)
        self.note("the clock is set back by three minutes")
        self.at(1)
        for process in self.hosts:
            process.send_signal(signal.SIGTERM)
        for process in self.hosts:
            process.wait(PATIENCE)


def ledger(day: Day, until: datetime) -> tuple[Counter[str], list[str]]:
    """The outcome of each tick, and the ticks and alerts that cannot be accounted for."""
    with psycopg.connect(day.url, autocommit=True) as conn:
        rows = conn.execute(
            "select job_name, scheduled_for, status, blocked_by is not null, error_message from cron_job_runs"
            " where scheduled_for is not null"
        ).fetchall()
        alerts = conn.execute(
            "select kind, subject, message from pgonce_find_alerts(now() - interval '1 day', '{}')"
        ).fetchall()
        overlaps = conn.execute("select count(*) from pgonce_job_overlaps where not fenced").fetchone()
        # a run that a killed host had begun: survivors close it when its window is over
        alive = "select max(heartbeat_at + run_window) > clock_timestamp() from cron_job_runs where status = 'running'"
        while conn.execute(alive).fetchone() == (True,):
            time.sleep(0.2)
        conn.execute("select pgonce_abandon_job_runs()")
        left = conn.execute("select count(*) from cron_job_runs where status = 'running'").fetchone()
        scheduled = {name for (name,) in conn.execute("select job_name from pgonce_job_schedules").fetchall()}
    found = {(name, tick.astimezone(UTC)): each for name, tick, *each in sorted(rows, key=itemgetter(1))}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    given_up: set[str] = set()
    ends: dict[str, list[tuple[datetime, bool]]] = {}
    """The ticks of each job that have rows, in order, and whether the row says that the tick was given up."""
    for (name, tick), (status, blocked, message) in found.items():
        ends.setdefault(name, []).append((tick, status == "skipped" and not blocked))
        given_up |= {name} if status == "skipped" and not blocked else set()
        counts["ran" if status != "skipped" else "skipped: its last run was at work" if blocked else "missed"] += 1
        if status == "failed" and message != scheduling.STOPPED and "abandoned" not in (message or ""):
            wrong.append(f"{name} {tick}: {message}")
    for number in range(49):
        cron = Cron(CRONS[number % len(CRONS)], "America/New_York")
        for tick in cron.between(day.since, until):
            name = f"job_{number:02}"
            # all ticks that are given up at the same time have one row, that of the last of them
            later = next((gone for each, gone in ends.get(name, []) if each > tick), False)
            if (name, tick) not in found:
                counts["missed with a later one"] += later
                wrong += [] if later else [f"{name} {tick}: nothing is known of it"]
    told = {subject for kind, subject, _ in alerts if kind == "did_not_run"}
    wrong += [f"an alert of a deploy: {message}" for _, _, message in alerts if scheduling.STOPPED in message]
    wrong += [f"{name} was missed and not told" for name in given_up - told]
    wrong += [f"{name} was told and not missed" for name in told - given_up - {"job_49"}]
    wrong += [] if overlaps == (0,) else [f"{overlaps} overlaps"]
    wrong += [] if left == (0,) else [f"{left} runs are left running"]
    wrong += [f"{name} is still scheduled" for name in scheduled & {"job_49"}]
    return counts, wrong


def simulate(
    url: str, hours: float, speed: float, fail_over: Callable[[], None] | None = None
) -> tuple[list[str], list[str]]:
    """The ledger in lines, and what is wrong."""
    day = Day(url, hours, speed, fail_over)
    try:
        day.run()
    finally:
        for process in day.hosts:
            process.kill()
            process.wait()
    counts, wrong = ledger(day, START + timedelta(hours=hours) - timedelta(minutes=20))
    lines = [f"{hours:g} hours of 50 jobs on 3 hosts, {speed:g} times as fast", *day.notes]
    return [*lines, *(f"{count:6}  {what}" for what, count in sorted(counts.items())), *wrong], wrong


def main() -> None:
    if sys.argv[1:2] == ["--host"]:
        began, speed, step_after = map(float, sys.argv[3:])
        host(os.environ["DATABASE_URL"], int(sys.argv[2]), FastClock(began, speed, step_after))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=24)
    parser.add_argument("--speed", type=float, default=240)
    options: Any = parser.parse_args()
    with replicas(synchronous=True) as pair:
        lines, wrong = simulate(pair.url, options.hours, options.speed, pair.fail_over)
    print("\n".join(lines))  # noqa: T201
    print("every tick is accounted for" if not wrong else f"{len(wrong)} faults")  # noqa: T201
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
