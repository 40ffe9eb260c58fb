"""``pgonce webhook replay``: plans a replay and starts it, as the console does, and queues its events at once."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import datetime

import click

from pgonce.cli.actor import session
from pgonce.cli.options import Database, with_database
from pgonce.cli.output import Moment
from pgonce.errors import InvalidArgument, NotFound
from pgonce.webhooks import calls_list as lists
from pgonce.webhooks import calls_replays as replays
from pgonce.webhooks.calls_console import UNSUCCESSFUL, Filter, Position, list_events, list_types
from pgonce.webhooks.glob import any_of, check_sets

MOST = 1_000_000
"""Events in one replay, at most."""
STEP = 1000
PAGE = 500
"""Events that a dry run reads at once; pgonce_console_webhooks returns no more."""


def check_glob(_ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    """Refuse what is neither a type nor a glob of types."""
    try:
        check_sets(given or "")
    except InvalidArgument as error:
        raise click.BadParameter(str(error), param=param) from None
    return given


@click.command()
@click.argument("event_ids", nargs=-1, metavar="[ID]...")
@click.option("--failed", is_flag=True, help="All failed events, including dead ones.")
@click.option("--type", "type_", metavar="TYPE", callback=check_glob, help="With --failed: only this type, or glob.")
@click.option("--since", type=Moment(), help="With --failed: only events received since then.")
@click.option("--limit", type=click.IntRange(1, MOST), help="With --failed: at most this many. Default: all.")
@click.option("--because", "why", metavar="TEXT", help="The reason; stored with each event, and in the audit.")
@click.option("--dry-run", is_flag=True, help="Only print which events.")
@with_database
def replay(
    event_ids: tuple[str, ...],
    failed: bool,
    type_: str | None,
    since: datetime | None,
    limit: int | None,
    why: str | None,
    dry_run: bool,
    db: Database,
) -> None:
    """Queue events again, whatever their state; a worker handles them.

    An event is queued only if it has not changed since it was seen: it was not retried, replayed or handled meanwhile.
    The console shows the replay, with the outcome of each event.

    Example: pgonce webhook replay --failed --since '1 day' --dry-run
    """
    if bool(event_ids) == failed:
        raise click.UsageError("name the events, or pass --failed")
    if event_ids and (type_ or since or limit):
        raise click.UsageError("--type, --since and --limit are for --failed")
    if failed:
        wanted = _failed(db, type_, since)
    else:
        unknown = db.call(lists.missing_webhooks(event_ids))
        wanted = Filter(ids=[match(db, each) if each in unknown else each for each in event_ids])
    if dry_run:
        found = list(wanted.ids or _ids(db, wanted, limit or MOST))
        click.echo("\n".join([*found, f"{len(found)} would be queued again"]))
        return
    _run(db, wanted, why, limit or MOST)


def _failed(db: Database, type_: str | None, since: datetime | None) -> Filter:
    if type_ is None or "[" not in type_:
        return Filter(state=UNSUCCESSFUL, type=type_, since=since)
    # a set of characters: the console's globs have none
    known = db.call(list_types())
    return Filter(state=UNSUCCESSFUL, types=[each for each in known if re.match(any_of([type_]), each)], since=since)


def _run(db: Database, wanted: Filter, why: str | None, limit: int) -> None:
    who = session(db)
    number = db.call(replays.plan_replay_as(who, wanted, why, limit=limit, at_once=None))
    if number is None:
        click.echo("0 of 0 queued again")
        return
    planned = db.call(replays.get_replay(number))
    events = planned.events if planned else 0
    db.call(replays.start_replay_as(who, number, events, why))
    pause = threading.Event()
    while (found := db.call(replays.get_replay(number))) and found.counts.get("planned"):
        if found.status != "running":
            break  # somebody has stopped it
        if not db.call(replays.step_replays(number, STEP)):
            pause.wait(0.05)  # a worker takes this step
    counts = found.counts if found else {}
    left = [each.stripe_event_id for each in _changed(db, number)] if counts.get("changed") else []
    queued = events - counts.get("planned", 0) - len(left)
    click.echo(f"{queued} of {events} queued again")
    if wanted.ids:
        for event_id in left:
            click.echo(
                f"{event_id}: is being handled at this moment, was meanwhile, was erased, or cannot be written",
                err=True,
            )
    elif left:
        reasons = "were retried, replayed or handled by somebody else meanwhile, were erased, or cannot be written"
        click.echo(f"{len(left)} {reasons}: pgonce webhook show says more", err=True)


def _changed(db: Database, number: int) -> Iterator[replays.ReplayItem]:
    after = 0
    while page := db.call(replays.list_replay_items(number, state="changed", after=after, limit=STEP)):
        yield from page
        after = page[-1].position


def match(db: Database, prefix: str) -> str:
    """The one event whose id begins with ``prefix``, of at least eight characters.

    Raises:
        NotFound: there is none, or there are several.
    """
    prefix = prefix.removesuffix("…")
    if len(prefix) < 8:
        raise NotFound(f"there is no event {prefix}: write its id, or at least the first eight characters")
    found = db.call(lists.match_webhooks(prefix))
    if len(found) > 1:
        raise NotFound(f"several events begin with {prefix}: {', '.join(found)}")
    if not found:
        raise NotFound(f"there is no event {prefix}")
    return found[0]


def _ids(db: Database, wanted: Filter, limit: int) -> Iterator[str]:
    """The ids of the newest ``limit`` events that match, newest first."""
    after: Position | None = None
    while limit > 0:
        page = db.call(list_events(wanted, after, min(limit, PAGE)))
        yield from (event.stripe_event_id for event in page.events)
        if page.older is None:
            return
        after, limit = page.older, limit - len(page.events)
