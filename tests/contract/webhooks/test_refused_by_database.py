"""A delivery that the database refuses to store is a 503 whose log says why, and quotes nothing of the event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import Connection
from psycopg.conninfo import make_conninfo

import pgonce
from pgonce.errors import summary
from pgonce.webhooks import stripe
from tests.contract.webhooks.test_worker import app

__all__ = ["app"]

CARD = "4242424242424242"
BODY = json.dumps({"id": "evt_1", "type": "pay", "object": "event", "amount": f"x{CARD}"}).encode()
TRIGGER = """
create function amounts() returns trigger language plpgsql as $$ begin {} return new; end $$;
create trigger amounts before insert on webhook_events for each row execute function amounts()
"""
REFUSALS = {
    "a trigger that raises": (TRIGGER.format("raise 'no amount: %', new.payload;"), "RaiseException (P0001)"),
    "a trigger that raises a state": (
        TRIGGER.format("raise sqlstate '23514' using message = new.payload::text;"),
        "CheckViolation (23514) in PL/pgSQL function amounts()",
    ),
    "a trigger that cannot read a value": (
        TRIGGER.format("perform (new.payload ->> 'amount')::integer;"),
        "InvalidTextRepresentation (22P02) in PL/pgSQL function amounts()",
    ),
    "a trigger that writes elsewhere": (TRIGGER.format("insert into nowhere values (1);"), "nowhere"),
    "a trigger that leaves it out": (TRIGGER.format("return null;"), "look at the trigger amounts"),
    "a column": ("alter table webhook_events add column tenant text not null", 'null value in column "tenant"'),
    "a check": ("alter table webhook_events add constraint few check (event_type = 'a')", 'check constraint "few"'),
    "a rule": ("create rule quiet as on insert to webhook_events do instead nothing", "INSERT"),
}


def by_receiver(app: pgonce.App, url: str, body: bytes) -> httpx.Response:
    receiver = pgonce.receiver(app, secrets="whsec_test", url=url, worker=False)

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=receiver), base_url="http://test") as client:
            headers = {"Stripe-Signature": stripe.sign(body, "whsec_test")}
            answer = await client.post("/webhooks/stripe", content=body, headers=headers)
            await receiver.stop()
            return answer

    return asyncio.run(post())


def by_endpoint(app: pgonce.App, url: str, body: bytes, *, queue: bool = False) -> httpx.Response:
    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=url, queue=queue)
    answer = endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, "whsec_test")})
    if endpoint._opened:
        endpoint._opened.close()
    return httpx.Response(answer.status, content=answer.body)


def by_queue(app: pgonce.App, url: str, body: bytes) -> httpx.Response:
    return by_endpoint(app, url, body, queue=True)


@pytest.mark.parametrize("deliver", [by_receiver, by_endpoint, by_queue])
@pytest.mark.parametrize(("refusal", "said"), REFUSALS.values(), ids=REFUSALS)
def test_what_the_database_refuses_is_a_503_and_the_log_says_why_without_a_value(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    caplog: pytest.LogCaptureFixture,
    deliver: Callable[[pgonce.App, str, bytes], httpx.Response],
    refusal: str,
    said: str,
) -> None:
    app.webhook("pay")(lambda _event, _tx: None)
    conn.execute(refusal.encode())
    answer = deliver(app, database, BODY)
    assert (answer.status_code, "this delivery could not be recorded" in answer.text) == (503, True)
    assert said in caplog.text
    assert CARD not in caplog.text + answer.text
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)


def test_a_database_error_of_a_handler_or_its_commit_is_still_the_handlers(
    app: pgonce.App, database: str, conn: Connection[Any]
) -> None:
    conn.execute("create table paid (id int references paid deferrable initially deferred, primary key (id))")
    conn.execute("create table due (id int references paid deferrable initially deferred)")
    app.webhook("pay")(lambda _event, tx: tx.execute("insert into due values (1)"))
    app.webhook("bad")(lambda _event, tx: tx.execute("select 1 / 0"))
    assert by_endpoint(app, database, BODY).status_code == 500
    assert by_endpoint(app, database, BODY.replace(b'"pay"', b'"bad"').replace(b"evt_1", b"evt_2")).status_code == 500


def test_a_worker_s_log_quotes_no_value_of_what_a_trigger_says(conn: Connection[Any]) -> None:
    for statement in (f"do $$ begin raise '{CARD}'; end $$", f"select '{CARD}x'::integer"):
        with pytest.raises(psycopg.Error) as raised:
            conn.execute(statement.encode())
        assert CARD not in summary(raised.value)
    assert summary(psycopg.OperationalError("")) == "OperationalError"


@pytest.mark.parametrize("deliver", [by_receiver, by_endpoint, by_queue])
def test_a_policy_that_refuses_events_is_not_called_a_missing_grant(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    caplog: pytest.LogCaptureFixture,
    deliver: Callable[[pgonce.App, str, bytes], httpx.Response],
) -> None:
    app.webhook("pay")(lambda _event, _tx: None)
    conn.execute("alter table webhook_events enable row level security")
    conn.execute("create policy shut on webhook_events as restrictive for insert with check (false)")
    as_member = make_conninfo(database, options="-c role=service_role")
    assert deliver(app, as_member, BODY).status_code == 503
    assert 'row-level security policy "shut"' in caplog.text
    assert "`pgonce doctor` says what to do" in caplog.text
    assert "grants" not in caplog.text
