"""``pgonce webhook``: list and show events, queue them again, erase their payloads, and send one for development."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from pgonce.cli.actor import audited
from pgonce.cli.options import as_json, with_database
from pgonce.cli.output import Moment, print_json, print_table, when
from pgonce.cli.times import ago, took
from pgonce.cli.watch import watchable
from pgonce.cli.webhook_replay import match, replay
from pgonce.cli.webhook_show import print_event
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.core.processes import host
from pgonce.errors import InvalidArgument, InvalidPayload, NotFound, PgonceError
from pgonce.testing.events import event as sample
from pgonce.webhooks import calls_list as lists
from pgonce.webhooks import calls_replay as replays
from pgonce.webhooks import stripe
from pgonce.webhooks.calls_diagnose import diagnose_webhook
from pgonce.webhooks.calls_receive import list_refused_deliveries
from pgonce.webhooks.event_types import TYPES
from pgonce.webhooks.glob import any_of, is_glob

REASONS = {
    "header": "no Stripe-Signature header, or not one of Stripe's: not from Stripe",
    "signature": "the signature does not fit: is the endpoint's secret the current one?",
    "time": "the signature is too old or in the future: is the clock right?",
    "body": "signed, but not an event",
    "size": "the body is over the limit (--max-body)",
    "slow": "the body was not received in time",
    "test": "a test event at a live endpoint (--live-only)",
}
STATES = ["processing", "succeeded", "failed", "dead", "ignored"]


@click.group()
def webhook() -> None:
    """Stripe's events: list, show, replay, send."""


@webhook.command("ls")
@click.option("--status", type=click.Choice(STATES), help="dead: failed, with no attempt left.")
@click.option("--type", "type_", metavar="TYPE", help="An event type, or a glob such as 'customer.*'.")
@click.option("--object", "object_id", metavar="ID", help="Events of this object, such as sub_1OxABC.")
@click.option("--customer", "customer_id", metavar="ID", help="Events of this customer, such as cus_TQ4mZk.")
@click.option("--account", metavar="ID", help="Events of this connected account, such as acct_1OxABC.")
@click.option("--since", type=Moment(), help="Received since: '2 hours', 2026-11-23.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1))
@as_json
@watchable
@with_database
def list_(
    status: str | None,
    type_: str | None,
    object_id: str | None,
    customer_id: str | None,
    account: str | None,
    since: datetime | None,
    limit: int,
    json_: bool,
    url: str,
    schema: str,
) -> None:
    """List events, newest first.

    Example: pgonce webhook ls --status dead --since '2 days'
    """
    more = {"object_id": object_id, "customer_id": customer_id, "account": account, "limit": limit}
    lines = _list(url, schema, status, type_, since, **more)
    if json_:
        print_json(lines)
        return
    now = datetime.now(UTC)
    print_table(
        ["event", "type", "state", "tries", "received", "reason"],
        [
            (e.stripe_event_id, e.event_type, _state(e, now), e.attempts or "", ago(e.received_at, now), e.reason)
            for e in lines
        ],
        "no such events",
        "reason",
    )  # fmt: skip
    if failed := next((e for e in lines if e.status == "failed"), None):
        click.echo(f"look: pgonce webhook show {failed.stripe_event_id}")
        click.echo("again: pgonce webhook replay --failed --dry-run")


SIGNS = {"succeeded": "✔ succeeded", "ignored": "○ ignored", "processing": "● processing", "dead": "✗ dead"}


def _state(event: lists.WebhookLine, now: datetime) -> str:
    """The state as a sign and a word; for a failed event, the time until its next attempt."""
    if event.next_attempt_at is None or event.status != "failed":
        return SIGNS[event.state]
    wait = event.next_attempt_at - now
    return f"● in {took(wait)}" if wait > timedelta() else "● due"


def _list(
    url: str, schema: str, status: str | None, type_: str | None, since: datetime | None, **more: Any
) -> list[lists.WebhookLine]:
    wanted = lists.list_webhooks(
        status="failed" if status == "dead" else status,
        types=any_of([type_]) if type_ and is_glob(type_) else None,
        event_type=None if type_ and is_glob(type_) else type_,
        since=since,
        dead=status == "dead",
        **more,
    )
    with database.open_pool(url, 1) as pool:
        return call(pool, wanted, schema)


@webhook.command()
@click.argument("event_id", metavar="ID")
@click.option("--all", "whole", is_flag=True, help="Also print the payload and the whole traceback.")
@as_json
@with_database
def show(event_id: str, whole: bool, json_: bool, url: str, schema: str) -> None:
    """Show one event: its state, its history, the place of its last error, and what to do.

    Example: pgonce webhook show evt_1OxABC --all
    """
    with database.open_pool(url, 1) as pool:
        found = call(pool, lists.get_webhook(event_id), schema)
        if found is None:
            found = call(pool, lists.get_webhook(match(pool, event_id, schema)), schema)
        if found is None:
            raise NotFound(f"there is no event {event_id}")
        diagnosis = call(pool, diagnose_webhook(found["stripe_event_id"]), schema)
    if json_:
        print_json({**found, "diagnosis": diagnosis})
        return
    print_event(found, diagnosis, whole=whole)


@webhook.command()
@click.option("--customer", "customer_id", required=True, metavar="ID", help="The customer, such as cus_TQ4mZk.")
@click.option("--account", metavar="ID", help="Only events of this connected account.")
@click.option("--yes", is_flag=True, help="Erase. Without it, only print how many events.")
@with_database
def erase(customer_id: str, account: str | None, yes: bool, url: str, schema: str) -> None:
    """Erase the payloads and tracebacks of a customer's events; ids, types and times stay.

    Example: pgonce webhook erase --customer cus_TQ4mZk
    """
    with database.open_pool(url, 1) as pool:
        wanted = replays.erase_webhooks(customer_id, account, _who(), dry_run=not yes)
        if yes:
            erased, kept = audited(
                pool, schema, wanted, "erase", "customer", customer_id, lambda found: f"{found[0]} payloads erased"
            )
        else:
            erased, kept = call(pool, wanted, schema)
    click.echo(f"{erased} events {'erased' if yes else 'would be erased: pass --yes'}")
    if kept:
        click.echo(f"{kept} are not handled yet and keep their payloads: erase them later", err=True)


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{host()}"
    except (OSError, KeyError):  # the uid has no user name
        return host()


webhook.add_command(replay)


@webhook.command()
@click.option("--since", type=Moment(), help="Refused since: '2 hours', 2026-11-23. [default: 1 day]")
@as_json
@with_database
def refused(since: datetime | None, json_: bool, url: str, schema: str) -> None:
    """Show how many deliveries were refused, and why. Receivers write the counts per minute, every 30 s.

    Example: pgonce webhook refused --since '2 hours'
    """
    with database.open_pool(url, 1) as pool:
        found = call(pool, list_refused_deliveries(since or datetime.now(UTC) - timedelta(days=1)), schema)
    if json_:
        print_json(found)
        return
    rows = [
        (each.reason, f"{each.deliveries:,}", when(each.first_minute), when(each.last_minute), REASONS[each.reason])
        for each in found
    ]
    print_table(["reason", "deliveries", "first (UTC)", "last (UTC)", "what it means"], rows, "none", "what it means")


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
    if given is None or Path(given).is_file():
        return None if given is None else Path(given)
    if given in TYPES:
        raise click.UsageError(f"{given} is an event type, not a file: pass --type {given}")
    raise click.BadParameter(f"there is no file {given}", param=param)


@webhook.command()
@click.argument("file", required=False, callback=_file_argument)
@click.option("--type", "type_", metavar="TYPE", help="The event's type. Without FILE, it gets a realistic object.")
@click.option("--to", "target", default="http://127.0.0.1:8000/webhooks/stripe", show_default=True, metavar="URL")
@click.option("--keep-id", is_flag=True, help="Keep the id in FILE. If it was sent before, this is a duplicate.")
def send(file: Path | None, type_: str | None, target: str, keep_id: bool) -> None:
    """Sign an event with PGONCE_WEBHOOK_SECRET and post it to a local receiver, as Stripe would.

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
        event["id"] = f"evt_{secrets.token_hex(12)}"
    body = json.dumps(event).encode()
    headers = {"Stripe-Signature": stripe.sign(body, secret), "Content-Type": "application/json"}
    if not target.startswith(("http://", "https://")):
        raise InvalidArgument(f"{target} is not an http address")
    try:
        with urlopen(Request(target, body, headers), timeout=30) as response:  # noqa: S310 -- checked above
            click.echo(f"{response.status} {response.read().decode()}")
    except HTTPError as error:
        click.echo(f"{error.code} {error.read().decode()}", err=True)
        sys.exit(1)
    except URLError as error:
        raise PgonceError(f"no receiver at {target} ({error.reason}): start `pgonce serve`") from error
