"""Schedulers with a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.jobs.scheduler import Scheduler
from tests.conftest import wait_until

Connection = psycopg.Connection[Any]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Simulation:
    """The clock of several schedulers. When all are idle, it moves to the earliest time that one of them waits for."""

    def __init__(self, start: str) -> None:
        self.now = utc(start)
        self._changed = threading.Condition()
        self._waiting: dict[int, datetime] = {}
        self._open = ExitStack()
        self.schedulers: list[Scheduler] = []

    def start(self, app: pgonce.App, url: str, count: int = 1, *, concurrency: int = 4) -> None:
        for _ in range(count):
            scheduler = Scheduler(app, url, concurrency=concurrency, clock=_Clock(self))
            self.schedulers.append(self._open.enter_context(scheduler))

    def stop(self) -> None:
        self._open.close()
        self.schedulers.clear()
        self._waiting.clear()

    def rest(self, *, busy: bool = False) -> None:
        """Wait until everything that is due has been done, or with ``busy`` waits for a thread."""

        def resting() -> bool:
            with self._changed:
                waiting = [until for until in self._waiting.values() if until > self.now]
                done = busy or not any(each.unfinished for each in self.schedulers)
                return len(waiting) == 2 * len(self.schedulers) and done  # for ticks, and for the upkeep

        wait_until(resting, "the schedulers come to rest", 60)

    def run_until(self, end: str) -> None:
        while True:
            self.rest()
            if self.now >= utc(end):
                return
            with self._changed:
                self.now = min([utc(end), *self._waiting.values()])
                self._changed.notify_all()

    def jump_to(self, moment: str) -> None:
        """Jump to another time, as on a machine that was suspended or whose clock was set back or ahead."""
        with self._changed:
            self.now = utc(moment)
            self._waiting.clear()
            self._changed.notify_all()

    def wait(self, until: datetime, stop: threading.Event) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._waiting[thread] = until
            while self.now < until and thread in self._waiting and not stop.is_set():
                self._changed.wait(0.05)
            self._waiting.pop(thread, None)


class _Clock:
    """What one scheduler sees of the simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def now(self) -> datetime:
        return self._simulation.now

    def wait(self, until: datetime, stop: threading.Event) -> None:
        self._simulation.wait(until, stop)

    def set(self, database_time: datetime) -> None:
        pass  # the database's clock is not the simulation's


@pytest.fixture
def simulate() -> Iterator[Callable[[str], Simulation]]:
    opened: list[Simulation] = []

    def begin(start: str) -> Simulation:
        opened.append(Simulation(start))
        return opened[-1]

    yield begin
    for each in opened:
        each.stop()


def nothing(run: pgonce.Run) -> None:
    pass


def ticks(conn: Connection, where: str = "true") -> list[tuple[str, str, datetime]]:
    query = (
        f"select job_name, status, scheduled_for from cron_job_runs where {where} order by scheduled_for, started_at"
    )
    return [(name, status, at.astimezone(UTC)) for name, status, at in conn.execute(query.encode()).fetchall()]
