"""How an alert reaches a channel: as JSON over HTTP, or through apprise.

The URLs hold secrets: no message of this module quotes one, nor what a library says about one.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import string
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from typing import TypeAlias
from urllib.parse import quote, unquote, urlsplit

from pgonce.alerts.calls import Alert
from pgonce.core.opener import opener
from pgonce.errors import InvalidArgument, PgonceError

CHATS = ("hooks.slack.com", "discord.com", "discordapp.com", "chat.googleapis.com", "webhook.office.com")
"""Hosts whose webhooks refuse any JSON but their own, which apprise writes."""
TIMEOUT = 10
"""Seconds that a channel may be silent. A claim holds for a minute."""

Send: TypeAlias = Callable[[Alert], None]


class Undelivered(PgonceError):
    """A channel did not accept an alert; the message names no URL."""


def failure_reason(error: Exception) -> str:
    """The reason of a failed delivery that may be logged and stored.

    Our own text, or the name of the exception's class.
    """
    return str(error) if isinstance(error, Undelivered) else type(error).__name__


def sender(url: str, name: str) -> Send:
    """The function that delivers an alert to ``url``; messages call the URL ``name``.

    Raises:
        InvalidArgument: the URL cannot be read.
        PgonceError: it needs apprise, which is not installed.
    """
    if url.startswith(("http://", "https://", "json+http://", "json+https://")):
        endpoint = url.removeprefix("json+")
        request = _request(endpoint, name)  # raises now, rather than at the first alert
        if endpoint == url and f".{request.host.lower()}".endswith(tuple(f".{host}" for host in CHATS)):
            return _apprise_sender(url, name)
        return lambda alert: _open(_request(endpoint, name, alert))
    return _apprise_sender(url, name)


def ping_sender(url: str) -> Callable[[], None]:
    """The function that requests ``url`` with GET.

    Raises:
        InvalidArgument: the URL cannot be read.
    """
    return partial(_open, _request(url, "the ping URL"))


def _apprise_sender(url: str, name: str) -> Send:
    try:
        import apprise
    except ImportError as error:
        raise PgonceError(f"{name} needs apprise, which is not installed: pip install 'pgonce[alerts]'") from error
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)  # its warnings and errors quote URLs
    service = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    if service is None:
        raise InvalidArgument(f"apprise does not accept {name}: see its page on that service for the form")

    channel = apprise.Apprise()
    channel.add(service)

    def send(alert: Alert) -> None:
        title, body = f"pgonce: {alert.kind} {alert.subject}", f"{alert.message}\n{alert.id}"
        # As text: otherwise a channel that reads HTML would hide the "<module>" of a failure's place, or refuse it.
        if not channel.notify(title=title, body=body, body_format="text"):
            raise Undelivered("apprise could not deliver it")

    return send


def _request(url: str, name: str, alert: Alert | None = None) -> urllib.request.Request:
    """A POST of ``alert`` as JSON, or a GET; a user and password in the URL become a header."""
    try:
        parts = urlsplit(url)
        # An empty label of the host's name, or one of over 63 bytes, is an error now, rather than at the first alert.
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        raise InvalidArgument(f"{name} cannot be read: use https://host/path") from None
    if not host or parts.scheme not in {"http", "https"} or not url.isprintable() or " " in url:
        raise InvalidArgument(f"{name} cannot be read: use https://host/path")
    address = f"[{host}]" if ":" in host else host
    if port is not None:
        address += f":{port}"
    # http.client accepts only ASCII, so other characters are percent-encoded, as browsers do.
    target = quote(parts._replace(netloc=address, fragment="").geturl(), safe=string.punctuation)
    request = urllib.request.Request(target)  # noqa: S310 -- the scheme was checked above
    request.add_header("User-Agent", "pgonce")
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    if alert is not None:
        request.data = json.dumps(alert.as_json()).encode()
        request.add_header("Content-Type", "application/json")
    return request


def _open(request: urllib.request.Request) -> None:
    """Send it.

    Raises:
        Undelivered: any answer but 2xx, or none. The libraries' own texts are not repeated: they may quote the URL.
    """
    try:
        opener.open(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        error.close()
        raise Undelivered(f"HTTP {error.code}") from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        number = cause.errno if isinstance(cause, OSError) else None
        reason = os.strerror(number) if number is not None and number > 0 else type(cause).__name__
        raise Undelivered(reason) from None
