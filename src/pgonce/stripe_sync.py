"""``stripe_sync``: put into the inbox what Stripe has and we do not.

Deliveries get lost: an endpoint that was down for three days, or disabled; a 200 from a proxy. Stripe's Events API
lists what happened in the last 30 days (docs.stripe.com/webhooks/process-undelivered-events), so the inbox can be
compared with it. The watermark is the start of the last complete comparison, less an overlap: an event may show up
in the list a little late.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce.core.execute import call
from pgonce.errors import PgonceError
from pgonce.jobs.run import Run
from pgonce.seeds import calls as seeds
from pgonce.webhooks import calls as protocol
from pgonce.webhooks import calls_list as lists
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Event
from pgonce.webhooks.registry import WebhookRegistry

NAME = "stripe_sync"
DAYS = 30
"""Stripe lists no older events."""
OVERLAP = 3600
"""Seconds that the watermark stays behind."""
PAGE = 100
"""Events on a page; Stripe's maximum."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a comparison found."""

    seen: int
    recovered: int
    missing: int
    """Still not in the inbox; more than 0 only if somebody deletes there meanwhile."""


def client(key: str, base: str | None = None) -> Callable[[str], dict[str, Any]]:
    """A function that gets a path of Stripe's API with the ``stripe`` package: its retries, its TLS, its errors.

    Args:
        key: an API key that may read events (``rk_live_...``).
        base: another address, for a stand-in such as localstripe.

    Raises:
        PgonceError: the package is not installed.
    """
    try:
        import stripe as library
    except ImportError as error:
        raise PgonceError("the package stripe is not installed: pip install 'pgonce[stripe]'") from error
    options: dict[str, Any] = {"base_addresses": {"api": base}} if base else {}
    connection = library.StripeClient(key, max_network_retries=3, **options)

    def get(path: str) -> dict[str, Any]:
        try:
            page: dict[str, Any] = json.loads(connection.raw_request("get", path).body)
        except library.APIConnectionError as error:
            raise PgonceError(f"Stripe cannot be reached: {_cause(error)}") from error
        except library.StripeError as error:
            said = (error.user_message or type(error).__name__).splitlines()[0]
            raise PgonceError(f"Stripe refused to list events: {said}") from error
        return page

    return get


def _cause(error: BaseException) -> str:
    """What the innermost error says: the outer ones' text is advice, and the names of libraries' classes."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def pages(get: Callable[[str], dict[str, Any]], since: int) -> Iterator[list[dict[str, Any]]]:
    """The events created since ``since`` (unix seconds), page by page.

    By ``starting_after``, which goes through the list in its own order: newest first at Stripe, oldest first at
    localstripe. What happens meanwhile is newer than the start, and the next comparison's.
    """
    after = None
    while True:
        query: dict[str, object] = {"limit": PAGE, "created[gte]": since}
        page = get("/v1/events?" + urlencode(query | ({"starting_after": after} if after else {})))
        events = page.get("data", [])
        if events:
            yield [event for event in events if event.get("created", since) >= since]
        if not page.get("has_more") or not events or events[-1]["id"] == after:
            return
        after = events[-1]["id"]


def reconcile(
    app: WebhookRegistry,
    pool: ConnectionPool[Connection[Any]],
    get: Callable[[str], dict[str, Any]],
    *,
    schema: str = "public",
    since: int | None = None,
    run: Run | None = None,
) -> Reconciled:
    """Compare the last 30 days, or what came since the watermark, and queue what is missing for a worker.

    Args:
        app: only events that it has a handler for are recovered.
        pool: on the database.
        get: gets a path of Stripe's API; see ``client``.
        schema: where ``pgonce migrate`` put the tables.
        since: unix seconds, instead of the watermark.
        run: the job's run this is; it counts along, and must not be lost.
    """
    started = int(time.time())
    oldest = started - DAYS * 86400 + 60
    at = call(pool, seeds.get_checkpoint(NAME), schema)
    if since is None and at is not None and isinstance(at.cursor, dict):
        since = int(at.cursor["created"]) - OVERLAP
    seen = 0
    ids: list[str] = []
    bodies: list[tuple[int, bytes]] = []
    for page in pages(get, max(since or 0, oldest)):
        if run is not None and run.lost:
            raise PgonceError(f"the run {run.id} was taken over: its successor compares anew")
        wanted = {event["id"]: event for event in page if app.matching(event["type"])}
        missing = call(pool, lists.missing_webhooks(list(wanted)), schema)
        bodies += [(wanted[event_id]["created"], json.dumps(wanted[event_id]).encode()) for event_id in missing]
        ids += wanted
        seen += len(page)
        if run is not None:
            run.processed(len(missing))
            run.skipped(len(page) - len(missing))
    _queue(app, pool, schema, bodies)
    recovered = len(bodies)
    missing_still = sum(
        len(call(pool, lists.missing_webhooks(ids[i : i + 10_000]), schema)) for i in range(0, len(ids), 10_000)
    )
    if missing_still == 0:
        call(pool, seeds.update_checkpoint(NAME, {"created": started}, recovered, seen - recovered), schema)
    return Reconciled(seen, recovered, missing_still)


def _queue(
    app: WebhookRegistry, pool: ConnectionPool[Connection[Any]], schema: str, bodies: list[tuple[int, bytes]]
) -> None:
    # The oldest first, whatever the pages' order: ordered handlers go by the order of arrival. "created" has ticks of
    # a second, but for what was never delivered there is nothing better.
    bodies.sort(key=lambda each: each[0])
    for start in range(0, len(bodies), PAGE):
        read = [stripe.read(body) for _, body in bodies[start : start + PAGE]]
        keys = [app.order_key(Event(body.id, body.type, body.payload)) for body in read]
        call(pool, protocol.queue_webhooks(read, keys), schema)
