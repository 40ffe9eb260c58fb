"""``stripe_sync``: adds to the inbox the events that Stripe has and the inbox does not.

Deliveries get lost: an endpoint that was down for three days, or disabled; a 200 from a proxy; a failover to a standby
that was behind. Stripe's Events API lists what happened in the last 30 days
(docs.stripe.com/webhooks/process-undelivered-events), so the inbox can be compared with it: the platform's own events,
and those of every connected account that the inbox has seen, which Stripe lists only when asked for that account.
The watermark of each is the time of the newest event in its last complete comparison. The next one begins an overlap
before it: an event may show up in the list a little late.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urlencode

import psycopg
from psycopg import Connection
from psycopg_pool import ConnectionPool

from pgonce.core.execute import call, connection, fetch
from pgonce.core.facts import record_check
from pgonce.core.processes import this_process
from pgonce.errors import PgonceError, first_line
from pgonce.jobs.run import Run
from pgonce.webhooks import calls, stripe
from pgonce.webhooks import calls_list as lists
from pgonce.webhooks import calls_receive as receive
from pgonce.webhooks.inbox_writer import order_key
from pgonce.webhooks.registry import WebhookRegistry

NAME = "stripe_sync"
CHECK = "stripe"
"""The row in ``pgonce_checks`` that says when the inbox was last compared, and what was found."""
OVERLAP = timedelta(hours=1)
"""How long before its watermark a comparison begins."""
OVERLAP_AFTER_FAILOVER = timedelta(days=3)
"""The same if the server's timeline has changed since, because rows that were committed before may be lost."""
MONTH = 29 * 86400
"""Seconds in which an event is certainly still listed."""
LISTED_AFTER = 300
"""Seconds after which an event that was delivered is listed, too."""
PAGE = 100
"""Events on a page; Stripe's maximum."""

log = logging.getLogger("pgonce")


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a comparison found."""

    seen: int
    recovered: int
    missing: int
    """Listed events that are still not in the inbox."""
    accounts: list[str] = field(default_factory=list)
    """The connected accounts that were compared, in addition to the platform itself."""
    not_compared: dict[str, str] = field(default_factory=dict)
    """Connected accounts that the inbox has seen and whose events could not be listed, each with the reason."""


class Get(Protocol):
    """Gets a path of Stripe's API, for a connected account or for the platform itself."""

    def __call__(self, path: str, account: str | None = None) -> dict[str, Any]:
        """The JSON object that Stripe answers.

        Raises:
            PgonceError: Stripe refuses, or cannot be reached.
        """
        ...


def client(key: str, base: str | None = None) -> Get:
    """A function that gets a path of Stripe's API with the ``stripe`` package: its retries, its TLS, its errors.

    Args:
        key: an API key that may read events (``rk_live_...``), of connected accounts, too, where there are any.
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

    def get(path: str, account: str | None = None) -> dict[str, Any]:
        connected: dict[str, Any] = {"stripe_account": account} if account else {}
        try:
            page: dict[str, Any] = json.loads(connection.raw_request("get", path, **connected).body)
        except library.APIConnectionError as error:
            raise PgonceError(f"Stripe cannot be reached: {_cause(error)}") from error
        except library.StripeError as error:
            if not isinstance(error.json_body, dict) or "error" not in error.json_body:
                # without the library's text, which quotes the whole answer: it may be a page of events
                raise PgonceError(f"{_NO_LIST} (HTTP {error.http_status})") from None
            said = (error.user_message or type(error).__name__).splitlines()[0]
            raise PgonceError(f"Stripe refused to list events: {said}") from error
        return page

    return get


def _cause(error: BaseException) -> str:
    """What the innermost error says: the outer ones' text is advice, and the names of libraries' classes."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return first_line(error)


def pages(get: Get, since: int, account: str | None = None) -> Iterator[list[dict[str, Any]]]:
    """The events created since ``since`` (unix seconds), page by page.

    ``starting_after`` follows the list in its own order: newest first at Stripe, oldest first at localstripe. What
    happens meanwhile is newer than the start of this comparison; the next one sees it.

    Raises:
        PgonceError: of ``get``; or it is not a list of events, or says that there is more and does not give it. What
            was listed then is not all.
    """
    after, passed = None, set[str]()
    while True:
        query: dict[str, object] = {"limit": PAGE, "created[gte]": since}
        page: Any = get("/v1/events?" + urlencode(query | ({"starting_after": after} if after else {})), account)
        events = page.get("data") if isinstance(page, dict) else None
        if not isinstance(events, list) or not all(map(_is_event, events)):
            raise PgonceError(_NO_LIST)
        if events:
            yield [event for event in events if event["created"] >= since]
        if not page.get("has_more"):
            return
        if not events or events[-1]["id"] in passed:
            raise PgonceError("Stripe's list of events ended early: it says that there is more, and does not give it")
        after = events[-1]["id"]
        passed.add(after)


_NOT_OURS = (
    "Stripe lists none of the last {} events delivered here: the key is of another account or mode, "
    "or they were signed by hand (then compare from after their time: --since)"
)
_NO_LIST = "Stripe's answer is not a list of events: does a proxy answer in its place?"


def _is_event(found: Any) -> bool:
    kinds = {"id": str, "type": str, "created": int}
    return isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())


def reconcile(
    app: WebhookRegistry,
    pool: ConnectionPool[Connection[Any]],
    get: Get,
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

    Raises:
        PgonceError: the platform's own events could not be listed, or the run was taken over.
    """
    comparison = _Comparison(app, pool, get, schema, run)
    try:
        comparison.compare(None, since)
    except PgonceError as error:
        if run is None or not run.lost:
            call(pool, record_check(CHECK, this_process(), {"error": first_line(error)}), schema)
        raise
    accounts, not_compared = list[str](), dict[str, str]()
    for account in call(pool, receive.list_webhook_accounts(), schema):
        try:
            comparison.compare(account, since)
        except PgonceError as error:
            if run is not None and run.lost:
                raise
            not_compared[account] = str(error)
        else:
            accounts.append(account)
    found = Reconciled(comparison.seen, comparison.recovered, comparison.missing, accounts, not_compared)
    call(pool, record_check(CHECK, this_process(), asdict(found)), schema)
    return found


class _Comparison:
    """Of the platform and its connected accounts, one after the other."""

    def __init__(
        self, app: WebhookRegistry, pool: ConnectionPool[Connection[Any]], get: Get, schema: str, run: Run | None
    ) -> None:
        self._app, self._pool, self._get, self._schema, self._run = app, pool, get, schema, run
        self.seen = self.recovered = self.missing = 0

    def compare(self, account: str | None, since: int | None) -> None:
        """Compare the events of one account, or the platform's own, and move its watermark."""
        name = f"{NAME}/{account}" if account else NAME
        with connection(self._pool) as conn:
            started = int(fetch(conn, "select pg_catalog.clock_timestamp()")[0][0].timestamp())
        start = self._start(name) if since is None else since
        delivered = lists.delivered_webhooks(max(start, started - MONTH), started - LISTED_AFTER, account)
        known = call(self._pool, delivered, self._schema)
        is_ours = not known
        newest = 0
        ids: list[str] = []
        bodies: dict[str, tuple[int, bytes]] = {}  # an event that happens meanwhile moves the others to the next page
        for page in pages(self._get, start, account):
            if self._run is not None and self._run.lost:
                raise PgonceError(f"the run {self._run.id} was taken over: its successor compares anew")
            # Stripe names the account in a delivery, and not always in the list that it was asked for
            wanted = {
                event["id"]: event | ({"account": account} if account else {})
                for event in page
                if self._app.matching(event["type"])
            }
            missing = call(self._pool, lists.missing_webhooks(list(wanted)), self._schema)
            for event_id in missing:
                bodies[event_id] = wanted[event_id]["created"], json.dumps(wanted[event_id]).encode()
            ids += wanted
            is_ours = is_ours or any(event["id"] in known for event in page)
            self.seen += len(page)
            newest = max(newest, *(event["created"] for event in page), 0)
            if self._run is not None:
                self._run.processed(len(missing))
                self._run.skipped(len(page) - len(missing))
        if not is_ours:  # otherwise nothing would be missing, or another account's events would be handled
            raise PgonceError(_NOT_OURS.format(len(known)))
        self._queue([*bodies.values()])
        still_missing = self._count_missing(ids)
        self.recovered += len(bodies) - still_missing
        self.missing += still_missing
        if still_missing == 0 and newest:
            # The database's clock may be ahead of Stripe's, and so may the time of an event. What happens until then
            # would not be compared, so the earlier of the two counts.
            position = datetime.fromtimestamp(min(newest, started), UTC)
            call(self._pool, receive.set_watermark(name, position), self._schema)

    def _start(self, name: str) -> int:
        watermark = call(self._pool, receive.get_watermark(name), self._schema)
        if watermark is None:
            return 0
        overlap = OVERLAP if watermark.same_timeline else OVERLAP_AFTER_FAILOVER
        return int((watermark.position - overlap).timestamp())

    def _count_missing(self, ids: Sequence[str]) -> int:
        """Counted with a statement of its own, not with the one that found what was to be queued."""
        distinct = sorted(set(ids))
        parts = [distinct[start : start + 10_000] for start in range(0, len(distinct), 10_000)]
        return len(distinct) - sum(call(self._pool, receive.count_webhooks(part), self._schema) for part in parts)

    def _queue(self, bodies: list[tuple[int, bytes]]) -> None:
        # The oldest first, whatever the pages' order: ordered handlers go by the order of arrival. "created" has ticks
        # of a second, but for what was never delivered there is nothing better.
        bodies.sort(key=lambda each: each[0])
        for start in range(0, len(bodies), PAGE):
            part = [body for _, body in bodies[start : start + PAGE]]
            try:
                self._queue_together(part)
            except (PgonceError, psycopg.Error):  # one of them stops none of the others
                for body in part:
                    self._queue_alone(body)

    def _queue_together(self, bodies: Sequence[bytes]) -> None:
        read = [stripe.read(body) for body in bodies]
        keys = [order_key(self._app, body) for body in read]
        call(self._pool, calls.queue_webhooks(read, keys, deliveries=0), self._schema)

    def _queue_alone(self, body: bytes) -> None:
        try:
            self._queue_together([body])
        except (PgonceError, psycopg.Error) as error:
            log.warning("an event that Stripe lists could not be recorded: %s", type(error).__name__)
