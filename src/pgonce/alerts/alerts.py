"""Alerts: what went wrong is stored in a table and delivered to people's channels by any number of workers."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from pgonce.alerts import calls
from pgonce.alerts.delivery import Send, failure_reason, ping_sender, sender
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.core.failures import log_errors
from pgonce.core.service import Service, join_all
from pgonce.jobs.calls import abandon_job_runs

EVERY = 15.0
"""Seconds between two searches for alerts."""

log = logging.getLogger("pgonce")


class Alerts(Service):
    """Looks for new alerts in one thread, and delivers them in one further thread for each channel.

    Every alert is delivered to every channel at least once. A repetition, which follows a crash between delivery and
    mark, has the same id.

    Args:
        url: the database.
        channels: URLs: http(s):// and json+http(s):// are sent JSON; any other scheme is apprise's.
        schema: where ``pgonce migrate`` put the tables.
        ping: a URL that is requested after every look that succeeded, for a dead man's switch outside.
        every: seconds between two searches.
        pool: connections that it shares with other services: two of them are this one's. It stays open.

    Raises:
        InvalidArgument: a URL cannot be read; the message gives its number, not its text.
        PgonceError: a channel needs apprise, which is not installed.
    """

    def __init__(
        self,
        url: str,
        channels: Sequence[str] = (),
        *,
        schema: str = "public",
        ping: str | None = None,
        every: float = EVERY,
        pool: ConnectionPool[psycopg.Connection[Any]] | None = None,
    ) -> None:
        self._url = url
        self._schema = schema
        senders = [sender(channel, f"alert URL {number}") for number, channel in enumerate(channels, 1)]
        self._channels = dict(zip(map(calls.channel_name, channels), senders, strict=True))
        self._ping = None if ping is None else ping_sender(ping)
        self._ping_failed = False
        self._every = every
        self._shared_pool = pool
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._run, name="pgonce alerts", daemon=True)
        self._threads: dict[str, threading.Thread] = {}

    def start(self) -> Self:
        """Start looking.

        Raises:
            DatabaseUnavailable: here, rather than later in the thread.
        """
        self._pool = self._shared_pool or database.open_pool(self._url, 2)  # two: a long look must not delay a delivery
        try:
            self._looking.start()
        except BaseException:  # the system has refused the thread
            self._close_pool()
            raise
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """Stop after the deliveries that have begun.

        Args:
            timeout: seconds to wait for them; None waits until they have ended.

        Returns:
            Whether everything has ended.
        """
        self._stop.set()
        until = None if timeout is None else time.monotonic() + timeout
        self._looking.join(timeout)  # before the others, which it starts
        left = None if until is None else max(until - time.monotonic(), 0)
        ended = join_all([self._looking, *self._threads.values()], left)
        if ended:
            self._close_pool()
        return ended

    def _close_pool(self) -> None:
        if self._shared_pool is None:
            self._pool.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            log_errors(self._look)
            self._stop.wait(self._every * random.uniform(0.5, 1.0))  # noqa: S311 -- not all at the same time

    def _look(self) -> None:
        # However many workers there are, the database answers about one look per 15 s.
        every = timedelta(seconds=self._every / 2)
        call(self._pool, calls.collect_alerts(list(self._channels), every), self._schema)
        if self._ping is not None:
            self._start_thread("ping", partial(self._send_ping, self._ping))
        for channel, send in self._channels.items():
            self._start_thread(channel, partial(self._deliver_all, channel, send))
        # A scheduler does the same. Where none runs, a dead run would be an alert only after the next start of its job.
        log_errors(call, self._pool, abandon_job_runs(), self._schema)

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        """Run ``work`` in a thread of its own, so that it delays nothing else, unless its last thread still runs."""
        if name not in self._threads or not self._threads[name].is_alive():
            thread = threading.Thread(target=log_errors, args=[work], name=f"pgonce alerts {name}", daemon=True)
            thread.start()
            self._threads[name] = thread  # not before: `stop` cannot join what the system refused to start

    def _deliver_all(self, channel: str, send: Send) -> None:
        # The first failure ends the round, because every further attempt at this channel could take another timeout.
        while not self._stop.is_set() and self._deliver_next(channel, send):
            pass

    def _deliver_next(self, channel: str, send: Send) -> bool:
        """Deliver the channel's next alert; False when there is none, or the delivery failed."""
        alert = call(self._pool, calls.claim_alert(channel), self._schema)
        if alert is None:
            return False
        try:
            send(alert)
        except Exception as error:  # noqa: BLE001 -- apprise's plugins raise anything; its text may quote the URL
            reason = failure_reason(error)
            log.warning("alert channel %s did not accept %s of %s: %s", channel, alert.kind, alert.subject, reason)
            call(self._pool, calls.alert_failed(alert, reason), self._schema)
            return False
        call(self._pool, calls.alert_delivered(alert), self._schema)
        return True

    def _send_ping(self, ping: Callable[[], None]) -> None:
        try:
            ping()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the alerts are delivered
            if not self._ping_failed:
                log.warning("the ping fails: %s", failure_reason(error))
            self._ping_failed = True
        else:
            self._ping_failed = False
