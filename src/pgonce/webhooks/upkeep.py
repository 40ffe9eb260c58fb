"""What a worker does beside its events: heartbeats, replays, and the search for events that nobody handles."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg

from pgonce.core.call import Call
from pgonce.core.database import ANSWER_WITHIN
from pgonce.core.execute import Pool, connection, execute
from pgonce.core.hanging import answered_within
from pgonce.core.processes import Registration, count_live_processes
from pgonce.errors import PgonceError, summary
from pgonce.webhooks import calls_queue
from pgonce.webhooks.calls_replays import step_replays

UPKEEP_EVERY = 5.0
"""Seconds between two rounds of upkeep: the heartbeat, and the search for events that no process has a handler for."""
REPLAY_EVERY = 0.5
"""Seconds between two steps of a replay while its events are handled."""
LOOK_BACK_EVERY = 30.0
"""Seconds between two searches for events ignored for lack of a handler, and for expired events of direct clients."""
MANY = 8
"""Processes. If there are so many, each uses one thread while its batches are short, because more transactions at a
time than the server has cores make it slower."""

T = TypeVar("T")

log = logging.getLogger("pgonce")


class Upkeep:
    """The upkeep of one worker.

    Args:
        pool: of the worker.
        registration: the worker's row among the processes, which is kept alive.
        types: the event types that the worker handles, as a regular expression; None if it handles none.
        adopt: also take over what clients without a worker have left behind.
        schema: where ``pgonce migrate`` put the tables.
        busy: how many of the worker's threads are at work.
        wake: called when events were queued here.
    """

    def __init__(
        self,
        pool: Pool,
        registration: Registration,
        *,
        types: str | None,
        adopt: bool,
        schema: str,
        busy: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._pool, self._schema = pool, schema
        self._registration = registration
        self._types, self._adopt = types, adopt
        self._busy, self._wake = busy, wake
        self._looked_back = 0.0
        self.is_one_of_many = False
        """Whether at least `MANY` processes handle events."""

    def run(self, stop: threading.Event) -> None:
        """Do the upkeep until ``stop`` is set."""
        upkeep_at = replaying_until = 0.0
        while True:
            try:
                if time.monotonic() >= upkeep_at:
                    upkeep_at = time.monotonic() + UPKEEP_EVERY * random.uniform(0.75, 1.25)  # noqa: S311
                    self._do_round()
                if self.call(step_replays()):
                    replaying_until = time.monotonic() + LOOK_BACK_EVERY  # its events may take some time
                    self._wake()
            except (PgonceError, psycopg.Error) as error:
                log.warning("%s", summary(error))
            except Exception:
                log.exception("unexpected error in a worker's upkeep; the worker goes on")
            pause = upkeep_at - time.monotonic()
            if time.monotonic() < replaying_until:
                pause = min(pause, REPLAY_EVERY)
            if stop.wait(max(pause, 0.01)):
                return

    def call(self, wanted: Call[T]) -> T:
        """Run a call of the worker's, which is given up if it gets no answer."""
        with connection(self._pool) as conn, answered_within(ANSWER_WITHIN, conn):
            return execute(conn, wanted, self._schema)

    def _do_round(self) -> None:
        self._registration.beat(self._pool, self._busy())
        if self.call(calls_queue.ignore_unhandled_webhooks()):
            log.info("events of types that no process handles were ignored: see `pgonce webhook ls --status ignored`")
        if time.monotonic() - self._looked_back > LOOK_BACK_EVERY:
            self.look_back()

    def look_back(self) -> None:
        """Queue the events that were ignored for lack of a handler; with ``adopt`` also those left by direct clients.

        It is called repeatedly: a worker that did not know of this one yet may ignore an event after the first call.
        """
        self._looked_back = time.monotonic()
        self.is_one_of_many = self.call(count_live_processes("events")) >= MANY
        while self._types and (taken := self.call(calls_queue.take_back_webhooks(self._types))):
            log.info("%s events of the last day have a handler now and are queued again", taken)
            self._wake()
        if self._adopt and (adopted := self.call(calls_queue.adopt_webhooks())):
            log.info("%s events of direct clients had no live lease: queued", adopted)
            self._wake()
