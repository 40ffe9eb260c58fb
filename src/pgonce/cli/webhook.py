"""``pgonce webhook ls | show | erase | refused``: the events and the refused deliveries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from pgonce.cli.actor import audited
from pgonce.cli.options import Database, as_json, with_database
from pgonce.cli.output import Moment, named_schema, print_json, print_table, suggested, when
from pgonce.cli.times import ago, took
from pgonce.cli.watch import watchable
from pgonce.cli.webhook_replay import check_glob, match
from pgonce.cli.webhook_show import print_event
from pgonce.core.processes import person
from pgonce.errors import NotFound
from pgonce.webhooks import calls_list as lists
from pgonce.webhooks import calls_replays as replays
from pgonce.webhooks.calls_diagnose import diagnose_webhook
from pgonce.webhooks.calls_receive import list_refused_deliveries
from pgonce.webhooks.glob import any_of, is_glob
from pgonce.webhooks.refusals import REASONS

STATES = ["processing", "succeeded", "failed", "dead", "ignored"]


@click.command("ls")
@click.option("--status", type=click.Choice(STATES), help="dead: failed, with no attempt left.")
@click.option(
    "--type", "type_", metavar="TYPE", callback=check_glob, help="An event type, or a glob such as 'customer.*'."
)
@click.option("--object", "object_id", metavar="ID", help="Events of this object, such as sub_1OxABC.")
@click.option("--customer", "customer_id", metavar="ID", help="Events of this customer, such as cus_TQ4mZk.")
@click.option("--account", metavar="ID", help="Events of this connected account, such as acct_1OxABC.")
@click.option("--since", type=Moment(), help="Received since: '2 hours', 2026-11-23.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 2**31 - 1))
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
    db: Database,
) -> None:
    """List events, newest first.

    Example: pgonce webhook ls --status dead --since '2 days'
    """
    is_pattern = type_ is not None and is_glob(type_)
    lines = db.call(lists.list_webhooks(
        status="failed" if status == "dead" else status, dead=status == "dead",
        types=any_of([type_]) if type_ and is_pattern else None, event_type=None if is_pattern else type_,
        object_id=object_id, customer_id=customer_id, account=account, since=since, limit=limit,
    ))  # fmt: skip
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
        click.echo(f"look: {suggested('webhook show', failed.stripe_event_id)}")
        click.echo(f"again: pgonce webhook replay --failed --dry-run{named_schema()}")


SIGNS = {"succeeded": "✔ succeeded", "ignored": "○ ignored", "processing": "● processing", "dead": "✗ dead"}


def _state(event: lists.WebhookLine, now: datetime) -> str:
    """The state as a sign and a word; for a failed event, the time until its next attempt."""
    if event.next_attempt_at is None or event.status != "failed":
        return SIGNS[event.state]
    wait = event.next_attempt_at - now
    return f"● in {took(wait)}" if wait > timedelta() else "● due"


@click.command()
@click.argument("event_id", metavar="ID")
@click.option("--all", "whole", is_flag=True, help="Also print the payload and the whole traceback.")
@as_json
@with_database
def show(event_id: str, whole: bool, json_: bool, db: Database) -> None:
    """Show everything about one event.

    That is its state, its history, the place of its last error, and what to do. ID is the event's id, or its first
    eight or more characters.

    Example: pgonce webhook show evt_1OxABC --all
    """
    found = db.call(lists.get_webhook(event_id))
    if found is None:
        found = db.call(lists.get_webhook(match(db, event_id)))
    if found is None:
        raise NotFound(f"there is no event {event_id}")
    diagnosis = db.call(diagnose_webhook(found["stripe_event_id"]))
    if json_:
        print_json({**found, "diagnosis": diagnosis})
        return
    print_event(found, diagnosis, whole=whole)


@click.command()
@click.option("--customer", "customer_id", required=True, metavar="ID", help="The customer, such as cus_TQ4mZk.")
@click.option("--account", metavar="ID", help="Only events of this connected account.")
@click.option("--yes", is_flag=True, help="Erase. Without it, only print how many events.")
@with_database
def erase(customer_id: str, account: str | None, yes: bool, db: Database) -> None:
    """Erase the payloads and tracebacks of a customer's events.

    Ids, types and times stay.

    Example: pgonce webhook erase --customer cus_TQ4mZk
    """
    wanted = replays.erase_webhooks(customer_id, account, person(), dry_run=not yes)
    if yes:
        erased, kept = audited(
            db, wanted, "erase", "customer", customer_id, lambda found: f"{found[0]} payloads erased"
        )
    else:
        erased, kept = db.call(wanted)
    click.echo(f"{erased} events {'erased' if yes else 'would be erased: pass --yes'}")
    if kept:
        click.echo(f"{kept} are not handled yet, or locked, and keep their payloads: erase them later", err=True)


@click.command()
@click.option("--since", type=Moment(), help="Refused since: '2 hours', 2026-11-23. [default: 1 day]")
@as_json
@with_database
def refused(since: datetime | None, json_: bool, db: Database) -> None:
    """Show how many deliveries were refused, and why. Receivers write the counts per minute, every 30 s.

    Example: pgonce webhook refused --since '2 hours'
    """
    found = db.call(list_refused_deliveries(since or datetime.now(UTC) - timedelta(days=1)))
    if json_:
        print_json(found)
        return
    rows = [
        (each.reason, f"{each.deliveries:,}", when(each.first_minute), when(each.last_minute), _meaning(each.reason))
        for each in found
    ]
    print_table(
        ["reason", "deliveries", "first (UTC)", "last (UTC)", "what it means"],
        rows,
        "no delivery was refused in that time",
        "what it means",
    )


def _meaning(reason: str) -> str:
    return REASONS.get(reason, "counted by another release of pgonce")
