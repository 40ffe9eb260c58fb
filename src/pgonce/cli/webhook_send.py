"""``pgonce webhook send``: sends a signed event to a receiver, for development."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request

import click

from pgonce.core.opener import opener
from pgonce.errors import InvalidArgument, InvalidPayload, PgonceError
from pgonce.testing.events import event as sample
from pgonce.webhooks import stripe
from pgonce.webhooks.event_types import TYPES

MOST = 1000
"""Characters of an answer that are printed."""


def _read_file(file: Path) -> dict[str, Any]:
    """Read the JSON object in the file.

    Raises:
        InvalidArgument: the file does not hold exactly one event or one object of Stripe's.
    """
    try:
        content = stripe.parse(file.read_bytes())
    except InvalidPayload as error:
        raise InvalidArgument(f"{file}: {error}") from None
    kind = content.get("object")
    if kind == "list" or isinstance(content.get("data"), list):
        raise InvalidArgument(f"{file} is a list, as Stripe's API answers: send one entry of its data")
    if {"body", "headers"} <= content.keys():
        raise InvalidArgument(f"{file} is a whole request with headers: send what is in its body")
    if "detail-type" in content and "detail" in content:
        raise InvalidArgument(f"{file} is an event of EventBridge: send what is in its detail")
    if kind != "event" and "type" in content and isinstance(content.get("event"), dict):
        raise InvalidArgument(f"{file} is an envelope: send what is in its event")
    return content


def _event(content: dict[str, Any]) -> dict[str, Any]:
    """An event: ``content`` itself, if it is one (snapshot or thin), or a new event that contains it."""
    if content.get("object") == "v2.core.event":
        return dict(content)
    given = content if content.get("object") == "event" or not content else {"data": {"object": content}}
    usual = {"object": "event", "created": int(time.time()), "livemode": False, "data": {"object": {}}}
    return {**usual, **given}


def _file_argument(_: click.Context, param: click.Parameter, given: str | None) -> Path | None:
    if given is None or os.path.isfile(given):  # noqa: PTH113 -- Path's raises for JSON, which is too long for a name
        return None if given is None else Path(given)
    if given in TYPES:
        raise click.UsageError(f"{given} is an event type, not a file: pass --type {given}")
    raise click.BadParameter(f"there is no file {given}", param=param)


@click.command()
@click.argument("file", required=False, callback=_file_argument)
@click.option("--type", "type_", metavar="TYPE", help="The event's type. Without FILE, it gets a realistic object.")
@click.option("--to", "target", default="http://127.0.0.1:8000/webhooks/stripe", show_default=True, metavar="URL")
@click.option("--keep-id", is_flag=True, help="Keep the id in FILE. If it was sent before, this is a duplicate.")
def send(file: Path | None, type_: str | None, target: str, keep_id: bool) -> None:
    """Send an event to a local receiver, signed as Stripe would.

    It is signed with PGONCE_WEBHOOK_SECRET.

    FILE holds an event, snapshot or thin, or an object such as a subscription, for which an event is made.

    Example: pgonce webhook send --type checkout.session.completed
    """
    secret = os.environ.get("PGONCE_WEBHOOK_SECRET", "").split(",")[0].strip()
    if not secret:
        raise InvalidArgument("no webhook secret: set PGONCE_WEBHOOK_SECRET to the one the receiver has")
    event = sample(type_) if type_ and not file else _event(_read_file(file) if file else {})
    event["type"] = type_ or event.get("type")
    if not event["type"]:
        what = "this is an object, not an event" if file else "there is nothing to send"
        raise click.UsageError(f"{what}: say with --type what happened, as --type invoice.paid")
    if not (keep_id and event.get("id")):
        event["id"] = f"evt_pgonce_{secrets.token_hex(12)}"  # by which reconcile knows that Stripe cannot list it
    body = json.dumps(event).encode()
    headers = {"Stripe-Signature": stripe.sign(body, secret), "Content-Type": "application/json"}
    if not target.startswith(("http://", "https://")):
        raise InvalidArgument(f"{target} is not an http address")
    try:
        with opener.open(Request(target, body, headers), timeout=30) as response:  # noqa: S310 -- checked above
            click.echo(f"{response.status} {_text(response)}")
    except HTTPError as error:
        with error:
            if moved := error.headers.get("Location"):
                raise PgonceError(f"{error.code} from {target}, moved to {moved}: Stripe follows no redirect") from None
            click.echo(f"{error.code} {_text(error)}", err=True)
            sys.exit(1)
    except URLError as error:
        raise PgonceError(f"no receiver at {target} ({error.reason}): start `pgonce serve`") from error
    except (ValueError, InvalidURL) as error:
        raise InvalidArgument(f"{target} is not an http address: {error}") from error
    except (OSError, HTTPException) as error:
        raise PgonceError(f"no answer from {target} ({str(error) or type(error).__name__}): look at its log") from error


def _text(response: IO[bytes]) -> str:
    """The beginning of an answer: a framework's page for an error may have 100 kB."""
    text = response.read(MOST + 1).decode("utf-8", "replace")
    return text if len(text) <= MOST else f"{text[:MOST]}…"
