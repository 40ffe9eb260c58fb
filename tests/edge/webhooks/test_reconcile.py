"""``pgonce reconcile`` with the stripe package, over real HTTP, against a server that lists events as Stripe does."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from psycopg import Connection

from pgonce import App, stripe_sync
from pgonce.core import database as databases
from tests.edge.command import pgonce
from tests.edge.serving import serving

KEY = "rk_test_reconcile"
DAY = 86400


class Stripe(ThreadingHTTPServer):
    """GET /v1/events as docs.stripe.com/api/events/list describes it: newest first, at most 100, 30 days."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.events: list[dict[str, Any]] = []
        self.pages = 0
        self.answers: list[bytes] = []
        """Sent instead of the next pages."""

    def happen(
        self, count: int, event_type: str = "customer.updated", days_ago: float = 0, account: str | None = None
    ) -> list[str]:
        """``count`` events, the last of them ``days_ago``."""
        start = len(self.events)
        created = int(time.time() - days_ago * DAY)
        self.events += [
            {
                "id": f"evt_{start + nr:06}", "object": "event", "type": event_type,
                "created": created - (count - nr) // 50, "livemode": False,
                "data": {"object": {"id": f"cus_{nr % 7}", "object": "customer"}}, "of": account,
            }
            for nr in range(count)
        ]  # fmt: skip
        return [event["id"] for event in self.events[start:]]

    def list_events(
        self, query: dict[str, list[str]], account: str | None, now: float | None = None
    ) -> tuple[int, dict[str, Any]]:
        if account == "acct_gone":
            return 403, {"error": {"type": "invalid_request_error", "message": "No access to that account"}}
        limit = int(query.get("limit", ["10"])[0])
        since = max(int(query.get("created[gte]", ["0"])[0]), (now or time.time()) - 30 * DAY)
        found = sorted(
            (e for e in self.events if e["created"] >= since and e["of"] == account),
            key=lambda e: e["created"],
            reverse=True,
        )
        if after := query.get("starting_after"):
            places = [place for place, event in enumerate(found) if event["id"] == after[0]]
            if not places:
                return 400, {"error": {"type": "invalid_request_error", "message": f"No such event: '{after[0]}'"}}
            found = found[places[0] + 1 :]
        self.pages += 1
        return 200, {
            "object": "list",
            "url": "/v1/events",
            "has_more": len(found) > limit,
            "data": found[: min(limit, 100)],
        }


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        stripe = cast("Stripe", self.server)
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            status, answer = 401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}
        else:
            status, answer = stripe.list_events(parse_qs(urlsplit(self.path).query), self.headers.get("Stripe-Account"))
        body = json.dumps(answer).encode()
        if stripe.answers and not self.headers.get("Stripe-Account"):
            status, body = 200, stripe.answers.pop(0)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with serving(Stripe()) as server:
        yield server


@pytest.fixture
def reconcile(stripe: Stripe, database: str, tmp_path: Path) -> Any:
    (tmp_path / "shop.py").write_text(
        "import pgonce\napp = pgonce.App()\n@app.webhook('customer.*', ordered=True)\ndef customer(event, tx): pass\n"
    )

    def reconcile(*options: str, key: str = KEY) -> tuple[int, str, str]:
        base = f"http://127.0.0.1:{stripe.server_port}"
        arguments = ["reconcile", "--app", "shop", "--api-base", base, *options]
        return pgonce(database, *arguments, cwd=tmp_path, STRIPE_API_KEY=key)

    return reconcile


def inbox(conn: Connection[Any]) -> list[str]:
    rows = conn.execute("select stripe_event_id from webhook_events order by received_at, id").fetchall()
    return [row[0] for row in rows]


def test_what_was_missed_is_recovered_over_many_pages_in_the_order_it_happened(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    happened = stripe.happen(345)
    conn.execute("select pgonce_queue_webhooks(%s, array['customer.updated'], array['{}'])", [[happened[100]]])
    assert reconcile() == (0, "345 seen, 344 recovered, 0 missing\n", "")
    assert stripe.pages == 4
    assert sorted(inbox(conn)) == happened
    created = {event["id"]: event["created"] for event in stripe.events}
    recovered = [event for event in inbox(conn) if event != happened[100]]
    assert [created[event] for event in recovered] == sorted(created[event] for event in recovered)
    keys = conn.execute("select count(*) from webhook_events where order_key is null").fetchone()
    assert keys == (1,)  # only the one that was queued without


def test_a_list_without_any_event_that_was_delivered_is_of_another_account(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    def deliver(event_id: str, livemode: bool) -> None:
        event = {"id": event_id, "object": "event", "created": int(time.time()) - 600, "livemode": livemode}
        conn.execute("select pgonce_queue_webhooks(array[%s], '{a}', array[%s])", [event_id, json.dumps(event)])

    [listed] = stripe.happen(1)
    deliver("evt_live", True)
    deliver(listed, False)
    code, out, err = reconcile()
    assert (code, out) == (1, "")
    assert "the key is of another account or mode" in err
    assert sorted(inbox(conn)) == [listed, "evt_live"]
    assert "signed by hand (then compare from after their time: --since)" in err
    assert reconcile("--since", "2 minutes")[:2] == (0, "1 seen, 0 recovered, 0 missing\n")
    conn.execute("delete from webhook_events")
    deliver("evt_pgonce_sent", True)  # `pgonce webhook send` gives such ids
    assert reconcile()[:2] == (0, "1 seen, 1 recovered, 0 missing\n")


@pytest.mark.parametrize("account", [None, "acct_A"], ids=["the platform", "a connected account"])
def test_a_key_of_another_mode_recovers_nothing_however_busy_connected_accounts_are(
    reconcile: Any, stripe: Stripe, conn: Connection[Any], account: str | None
) -> None:
    def deliver(event_id: str, account: str | None, count: int = 1) -> None:
        event = {"object": "event", "created": int(time.time()) - 600, "livemode": True, "account": account}
        insert = "insert into webhook_events (stripe_event_id, event_type, payload, deliveries)"
        row = "select %s || n, 'customer.updated', jsonb_build_object('id', %s || n) || %s, 1"
        conn.execute(f"{insert} {row} from generate_series(1, %s) as n", [event_id, event_id, json.dumps(event), count])

    stripe.happen(1, account=account)
    deliver("evt_live", account)
    deliver("evt_of_a_busy_one", "acct_gone", 300)
    code, out, err = reconcile()
    assert (code, out) == (1, "" if account is None else "1 seen, 0 recovered, 0 missing\n")
    assert "Stripe lists none of the last 1 events delivered here: the key is of another account or mode" in err
    assert conn.execute("select count(*) from webhook_events").fetchone() == (301,)
    assert conn.execute("select count(*) from pgonce_watermarks").fetchone() == (0,)


def test_a_second_comparison_recovers_nothing(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    stripe.happen(120)
    assert reconcile()[1] == "120 seen, 120 recovered, 0 missing\n"
    assert json.loads(reconcile("--json")[1]) == {
        "seen": 120, "recovered": 0, "missing": 0, "accounts": [], "not_compared": {},
    }  # fmt: skip


def test_the_watermark_moves_on_and_keeps_an_overlap(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    stripe.happen(50, days_ago=2)
    stripe.happen(1)
    assert reconcile()[1] == "51 seen, 51 recovered, 0 missing\n"
    stripe.happen(5, days_ago=0.02)  # half an hour ago: late in the list
    assert reconcile()[1] == "6 seen, 5 recovered, 0 missing\n"
    assert reconcile("--since", "3 days")[1] == "56 seen, 0 recovered, 0 missing\n"


def test_events_older_than_30_days_are_not_asked_for(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    stripe.happen(3, days_ago=31)
    kept = stripe.happen(2, days_ago=29)
    assert reconcile("--since", "60 days")[1] == "2 seen, 2 recovered, 0 missing\n"
    assert sorted(inbox(conn)) == kept


def test_events_without_a_handler_are_seen_but_not_recovered(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    stripe.happen(3, event_type="invoice.paid")
    assert reconcile()[1] == "3 seen, 0 recovered, 0 missing\n"
    assert inbox(conn) == []


def test_a_refused_key_is_one_line_without_the_key(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    code, out, err = reconcile(key="rk_test_wrong_key")
    assert (code, out) == (1, "")
    assert err.startswith("pgonce: Stripe refused")
    assert err.count("\n") == 1
    assert "rk_test_wrong_key" not in err
    run = conn.execute("select status from cron_job_runs where job_name = 'stripe_sync'").fetchone()
    assert run == ("failed",)


def test_a_stripe_that_cannot_be_reached_has_not_refused(reconcile: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        base = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, out, err = reconcile("--api-base", base)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("pgonce: Stripe cannot be reached: ")
    assert "refused to list" not in err
    assert "@" not in err


def test_without_a_key_it_says_which_to_set(reconcile: Any) -> None:
    code, _, err = reconcile(key="")
    assert (code, err.count("\n")) == (1, 1)
    assert "STRIPE_API_KEY" in err


def test_a_comparison_that_runs_already_is_not_run_again(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    conn.execute("select start_job_run('stripe_sync')")
    stripe.happen(1)
    code, _, err = reconcile()
    assert (code, "another run" in err) == (75, True)
    assert inbox(conn) == []


def test_events_of_connected_accounts_are_compared_for_each_account_that_was_seen(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    stripe.happen(10)
    for account, count in (("acct_A", 120), ("acct_B", 7), ("acct_never_seen", 5)):
        ids = stripe.happen(count, account=account)
        if account != "acct_never_seen":
            payload = json.dumps({"account": account})
            conn.execute("select pgonce_queue_webhooks(%s, array['customer.updated'], %s)", [ids[:1], [payload]])
    code, out, err = reconcile()
    assert (code, err) == (0, "")
    assert out == "137 seen, 135 recovered, 0 missing (the platform and 2 connected accounts)\n"
    found = conn.execute("select account, count(*) from webhook_events group by 1 order by 1 nulls first").fetchall()
    assert found == [(None, 10), ("acct_A", 120), ("acct_B", 7)]


def test_an_account_that_cannot_be_listed_is_named_and_its_watermark_stays(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    for account in ("acct_A", "acct_gone"):
        payload = json.dumps({"account": account})
        conn.execute("select pgonce_queue_webhooks(%s, '{x}', %s)", [[f"evt_of_{account}"], [payload]])
    for listed in (None, "acct_A"):
        stripe.happen(1, account=listed)
    code, out, err = reconcile()
    assert (code, out) == (1, "2 seen, 2 recovered, 0 missing (the platform and 1 connected accounts)\n")
    assert err == "not compared: acct_gone: Stripe refused to list events: No access to that account\n"
    names = conn.execute("select name from pgonce_watermarks order by name").fetchall()
    assert names == [("stripe_sync",), ("stripe_sync/acct_A",)]


def test_the_watermark_is_not_an_import(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    stripe.happen(1)
    assert reconcile()[0] == 0
    assert conn.execute("select count(*) from seed_checkpoints").fetchone() == (0,)
    conn.execute("update pgonce_watermarks set updated_at = now() - interval '20 minutes'")
    assert conn.execute("select kind from pgonce_find_alerts(now() - interval '1 day', '{}')").fetchall() == []


def test_after_a_failover_the_overlap_is_wider(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    stripe.happen(50, days_ago=2)
    stripe.happen(1)
    assert reconcile()[1] == "51 seen, 51 recovered, 0 missing\n"
    conn.execute("delete from webhook_events")  # as an asynchronous standby may have lost them
    assert reconcile()[1] == "1 seen, 1 recovered, 0 missing\n"
    conn.execute("update pgonce_watermarks set timeline = '00000000'")
    assert reconcile()[1] == "51 seen, 50 recovered, 0 missing\n"


def test_an_event_that_cannot_be_recorded_is_missing_and_stops_no_other(
    reconcile: Any, stripe: Stripe, conn: Connection[Any]
) -> None:
    stripe.happen(30)
    conn.execute("alter table webhook_events add constraint no_7 check (stripe_event_id <> 'evt_000007') not valid")
    code, out, _ = reconcile()
    assert (code, out) == (1, "30 seen, 29 recovered, 1 missing\n")
    assert conn.execute("select count(*) from pgonce_watermarks").fetchone() == (0,)


EVENT = {"id": "evt_1", "object": "event", "type": "customer.updated", "created": int(time.time()) - 60, "data": {}}
FIRST = json.dumps({"has_more": True, "data": [EVENT]}).encode()
SECOND = json.dumps({"has_more": True, "data": [{**EVENT, "id": "evt_2"}]}).encode()
ODD_PAGES = {
    "more, and nothing": ([FIRST, b'{"has_more": true, "data": []}'], "ended early"),
    "more, and the same again": ([FIRST, FIRST], "ended early"),
    "more, and two pages in turns": ([FIRST, SECOND] * 5, "ended early"),
    "no list": ([FIRST, b'{"has_more": false}'], "not a list of events"),
    "a list of something else": ([b'{"data": [{"id": "evt_2", "type": "x"}]}'], "not a list of events"),
    "a list": ([b"[]"], "not a list of events"),
    "a page of a proxy": ([b"<html>Sign in</html>"], "not a list of events"),
    "half a page": ([FIRST[:-40]], "not a list of events"),
}


@pytest.mark.parametrize(("answers", "said"), ODD_PAGES.values(), ids=ODD_PAGES)
def test_a_list_that_ends_early_is_no_comparison(
    reconcile: Any, stripe: Stripe, conn: Connection[Any], answers: list[bytes], said: str
) -> None:
    stripe.answers = [*answers]
    code, out, err = reconcile()
    assert (code, out, err.count("\n"), said in err, "evt_1" in err) == (1, "", 1, True, False), err
    assert "evt_1" not in str(conn.execute("select to_jsonb(c) from pgonce_checks c").fetchall())
    assert conn.execute("select count(*) from pgonce_watermarks").fetchone() == (0,)


def test_an_event_on_two_pages_is_recovered_once(reconcile: Any, stripe: Stripe, conn: Connection[Any]) -> None:
    other = {**EVENT, "id": "evt_2"}
    pages = {"has_more": True, "data": [EVENT, other]}, {"has_more": False, "data": [EVENT]}
    stripe.answers = [json.dumps(page).encode() for page in pages]
    assert reconcile()[:2] == (0, "3 seen, 2 recovered, 0 missing\n")
    assert sorted(inbox(conn)) == ["evt_1", "evt_2"]


@pytest.mark.parametrize("ahead", ["this machine", "the database", "an event"])
def test_no_clock_that_is_ahead_keeps_events_from_being_compared(
    database: str, monkeypatch: pytest.MonkeyPatch, ahead: str
) -> None:
    stripe, now = Stripe(), time.time()
    if ahead == "this machine":
        monkeypatch.setattr(time, "time", lambda: now + 40 * DAY)
    elif ahead == "the database":
        clock = [(datetime.fromtimestamp(now + 40 * DAY, UTC),)]
        monkeypatch.setattr(stripe_sync, "fetch", lambda _conn, _statement: clock)

    def get(path: str, account: str | None = None) -> dict[str, Any]:
        return stripe.list_events(parse_qs(urlsplit(path).query), account, now)[1]

    app = App()
    app.webhook("customer.*")(lambda _event, _tx: None)
    with serving(stripe), databases.open_pool(database, 1) as pool:
        for created in (now - 600 + (ahead == "an event") * 40 * DAY, now - 300):
            stripe.happen(1)
            stripe.events[-1]["created"] = int(created)
            found = stripe_sync.reconcile(app, pool, get)
            assert (found.recovered, found.missing) == (1, 0)
