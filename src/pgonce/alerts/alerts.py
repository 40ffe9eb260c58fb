"""Alerts: what went wrong is told to people's channels, from a table, by any number of workers, each until it is taken.

URLs hold secrets: no message of this module quotes one, or what a library says about one.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import random
import string
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from typing import Self, TypeAlias
from urllib.parse import quote, unquote, urlsplit

import psycopg

from pgonce.alerts import calls as protocol
from pgonce.alerts.calls import Alert
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.core.service import Service
from pgonce.errors import InvalidArgument, PgonceError

EVERY = 15.0
"""Seconds between two looks."""
TIMEOUT = 10
"""Seconds that a channel may be silent. A claim holds for a minute."""

Send: TypeAlias = Callable[[Alert], None]

log = logging.getLogger("pgonce")


class Undelivered(PgonceError):
    """A channel has not taken an alert; the message names no URL."""


class Alerts(Service):
    """Looks for what is worth telling, in a thread, and tells it, in one for each channel.

    At least once for each alert and channel; a repetition, after a crash between delivery and mark, has the same id.

    Args:
        url: the database.
        channels: URLs: http(s):// and json+http(s):// are sent JSON, any other scheme is apprise's.
        schema: where ``pgonce migrate`` put the tables.
        ping: a URL that is requested after every look that succeeded: an outside dead man's switch.
        every: seconds between two looks.

    Raises:
        InvalidArgument: a URL cannot be read; it is named by its number.
        PgonceError: a channel needs apprise, and that is not installed.
    """

    def __init__(
        self,
        url: str,
        channels: Sequence[str] = (),
        *,
        schema: str = "public",
        ping: str | None = None,
        every: float = EVERY,
    ) -> None:
        self._url = url
        self._schema = schema
        senders = [_sender(channel, f"alert URL {number}") for number, channel in enumerate(channels, 1)]
        self._channels = dict(zip(map(protocol.channel_name, channels), senders, strict=True))
        self._ping = None if ping is None else _request(ping, "the ping URL")
        self._ping_failed = False
        self._every = every
        self._stop = threading.Event()
        self._looking = threading.Thread(target=self._run, name="pgonce alerts", daemon=True)
        self._telling: dict[str, threading.Thread] = {}

    def start(self) -> Self:
        """Begin.

        Raises:
            DatabaseUnavailable: now, rather than in the thread.
        """
        self._pool = database.open_pool(self._url, 2)  # a long look holds up no delivery
        self._looking.start()
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """End behind the deliveries in hand; whether it has ended after ``timeout`` seconds (None: for ever)."""
        self._stop.set()
        until = None if timeout is None else time.monotonic() + timeout
        self._looking.join(timeout)
        threads = [self._looking, *self._telling.values()]
        for thread in threads:
            thread.join(None if until is None else max(until - time.monotonic(), 0))
        ended = not any(thread.is_alive() for thread in threads)
        if ended:
            self._pool.close()
        return ended

    def _run(self) -> None:
        while not self._stop.is_set():
            self._guarded(self._round)
            self._stop.wait(self._every * random.uniform(0.5, 1.0))  # noqa: S311 -- so that workers do not look in step

    def _round(self) -> None:
        # any number of workers cost the database about one look per 15 s
        every = timedelta(seconds=self._every / 2)
        call(self._pool, protocol.collect_alerts(list(self._channels), every), self._schema)
        if self._ping is not None:
            self._beside("ping", partial(self._ping_outside, self._ping))
        for channel, send in self._channels.items():
            self._beside(channel, partial(self._tell, channel, send))

    def _beside(self, name: str, work: Callable[[], None]) -> None:
        """``work`` in a thread of its own, so that it holds up nobody; not while an earlier round's is still at it."""
        if name not in self._telling or not self._telling[name].is_alive():
            thread = threading.Thread(target=self._guarded, args=[work], name=f"pgonce alerts {name}", daemon=True)
            self._telling[name] = thread
            thread.start()

    @staticmethod
    def _guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except (PgonceError, psycopg.Error) as error:
            log.warning("%s", str(error).splitlines()[0])
        except Exception as error:  # noqa: BLE001 -- without its text, which may quote a URL
            log.warning("the alerts stumbled: %s", type(error).__name__)

    def _tell(self, channel: str, send: Send) -> None:
        # no second one to a channel that has just failed: it would cost another timeout
        while not self._stop.is_set() and self._deliver(channel, send):
            pass

    def _deliver(self, channel: str, send: Send) -> bool:
        """The channel's next alert; False when there is none, or it was not taken."""
        for alert in call(self._pool, protocol.claim_alerts(channel), self._schema):
            try:
                send(alert)
            except Exception as error:  # noqa: BLE001 -- a channel is somebody else's code; its text may quote the URL
                reason = _reason(error)
                log.warning("alert channel %s has not taken %s of %s: %s", channel, alert.kind, alert.subject, reason)
                call(self._pool, protocol.alert_failed(alert, reason), self._schema)
                return False
            call(self._pool, protocol.alert_delivered(alert), self._schema)
            return True
        return False

    def _ping_outside(self, ping: urllib.request.Request) -> None:
        try:
            _open(ping)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the alerts are told
            if not self._ping_failed:
                log.warning("the ping fails: %s", _reason(error))
            self._ping_failed = True
        else:
            self._ping_failed = False


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Undelivered) else type(error).__name__


def _sender(url: str, name: str) -> Send:
    if url.startswith(("http://", "https://", "json+http://", "json+https://")):
        endpoint = url.removeprefix("json+")
        _request(endpoint, name)  # now, rather than at the first alert
        return lambda alert: _open(_request(endpoint, name, alert))
    return _apprise_sender(url, name)


def _apprise_sender(url: str, name: str) -> Send:
    try:
        import apprise
    except ImportError as error:
        raise PgonceError(f"{name} needs apprise, which is not installed: pip install 'pgonce[alerts]'") from error
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its warnings and errors quote URLs
    service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        raise InvalidArgument(f"apprise does not accept {name}: see its page on that service for the form")

    def send(alert: Alert) -> None:
        if not service.notify(body=f"{alert.message}\n{alert.id}", title=f"pgonce: {alert.kind} {alert.subject}"):
            raise Undelivered("apprise could not deliver it")

    return send


def _request(url: str, name: str, alert: Alert | None = None) -> urllib.request.Request:
    """A POST of ``alert`` as JSON, or a GET; a user and password in the URL become a header."""
    try:
        parts = urlsplit(url)
        # now, rather than at the first alert: an empty label, or one of over 63 bytes, is an error
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        raise InvalidArgument(f"{name} cannot be read: write https://host/path") from None
    if not host or parts.scheme not in {"http", "https"} or not url.isprintable() or " " in url:
        raise InvalidArgument(f"{name} cannot be read: write https://host/path")
    address = f"[{host}]" if ":" in host else host
    if port is not None:
        address += f":{port}"
    # what is not ASCII is percent-encoded, as browsers do: http.client knows no other letters
    target = quote(parts._replace(netloc=address, fragment="").geturl(), safe=string.punctuation)
    request = urllib.request.Request(target)  # noqa: S310 -- checked above
    request.add_header("User-Agent", "pgonce")
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    if alert is not None:
        request.data = json.dumps(alert.as_json()).encode()
        request.add_header("Content-Type", "application/json")
    return request


# Without a handler for redirects: a redirected POST arrives as a GET without its body, and would count as delivered.
_opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
):
    _opener.add_handler(_handler())


def _open(request: urllib.request.Request) -> None:
    """Send it; anything but a 2xx is Undelivered. What the libraries say is not repeated: it may quote the URL."""
    try:
        _opener.open(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise Undelivered(f"HTTP {error.code}") from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        number = cause.errno if isinstance(cause, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else type(cause).__name__
        raise Undelivered(reason) from None
