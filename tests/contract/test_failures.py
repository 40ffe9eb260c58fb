"""A handler's exception reaches the log and tools that collect errors, but the text of the exception does not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.core import failures
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks import stripe
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

CARD = "4242424242424242"


@pytest.fixture
def reported() -> Iterator[list[tuple[BaseException, str]]]:
    """What the function that `on_error` registered was called with."""
    found: list[tuple[BaseException, str]] = []

    @pgonce.on_error
    def report(error: BaseException, what: str) -> None:
        found.append((error, what))
        raise RuntimeError("the reporting is broken, too")

    yield found
    failures._hooks.remove(report)


@pytest.fixture
def app() -> pgonce.App:
    app = pgonce.App()

    @app.webhook("pay")
    def charge(event: pgonce.Event, tx: Any) -> None:
        raise LookupError(event.payload["card"])

    return app


def body(event_id: str) -> bytes:
    return json.dumps({"id": event_id, "type": "pay", "card": CARD}).encode()


def check(caplog: pytest.LogCaptureFixture, reported: list[tuple[BaseException, str]], what: str) -> None:
    records = [record for record in caplog.records if record.getMessage().startswith(f"{what} failed: LookupError")]
    assert records
    assert records[0].levelno == logging.ERROR
    assert "charge, test_failures.py:" in records[0].getMessage()
    assert records[0].exc_info is not None
    kind, error, trace = records[0].exc_info
    assert kind is not None
    assert kind.__name__ == "LookupError"
    assert CARD not in str(error)
    frames = []
    while trace:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert frames[-1] == "charge"
    assert CARD not in caplog.text
    assert "Traceback" not in "".join(logging.Formatter().format(record) for record in records)
    assert [(type(error), error.args, named) for error, named in reported] == [(LookupError, (CARD,), what)]


def test_a_failure_of_a_worker_s_handler_is_reported_without_its_text(
    database: str, conn: Connection[Any], app: pgonce.App, caplog: pytest.LogCaptureFixture,
    reported: list[tuple[BaseException, str]],
) -> None:  # fmt: skip
    conn.execute("select pgonce_queue_webhooks('{evt_1}', '{pay}', %s)", [[body("evt_1").decode()]])
    failed = "select status = 'failed' from webhook_events"
    with Worker(app, database):
        wait_until(lambda: conn.execute(failed.encode()).fetchone() == (True,) and reported, "the handler has failed")
    check(caplog, reported, "event evt_1")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_failure_of_a_job_is_reported_without_its_text(
    database: str, conn: Connection[Any], caplog: pytest.LogCaptureFixture,
    reported: list[tuple[BaseException, str]], asynchronous: bool,
) -> None:  # fmt: skip
    app = pgonce.App()

    def charge(run: pgonce.Run) -> None:
        raise LookupError(CARD)

    async def charge_async(run: pgonce.AsyncRun) -> None:
        raise LookupError(CARD)

    charge_async.__code__ = charge_async.__code__.replace(co_name="charge")
    app.job("nightly", cron="* * * * *", catch_up="last")(charge_async if asynchronous else charge)
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
        " values ('nightly', '* * * * *', 'UTC', now() - interval '3 minutes')"
    )
    with Scheduler(app, database):
        wait_until(lambda: reported, "the job has failed", 60)
    check(caplog, reported[:1], "job nightly")


def test_an_error_of_pgonce_s_own_keeps_its_text(caplog: pytest.LogCaptureFixture) -> None:
    failures.log_failure("event evt_1", pgonce.LeaseLost("it was taken over"))
    assert "event evt_1 failed: LeaseLost: it was taken over" in caplog.text


def test_a_failure_of_an_endpoint_s_handler_is_reported_without_its_text(
    database: str, app: pgonce.App, caplog: pytest.LogCaptureFixture, reported: list[tuple[BaseException, str]]
) -> None:
    endpoint = pgonce.Endpoint(app, secrets=["whsec_test"], url=database)
    raw = body("evt_1")
    answer = endpoint.handle(raw, {"stripe-signature": stripe.sign(raw, "whsec_test")})
    assert answer.status == 500
    assert b"a handler raised LookupError" in answer.body
    check(caplog, reported, "a delivery")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("text", "the body must be the raw bytes, not str: pass body.encode()"),
        ({"id": "evt_1"}, "the body must be the raw bytes, not dict"),
        (None, "the body must be the raw bytes, not NoneType"),
    ],
)
def test_a_body_that_is_not_bytes_is_not_blamed_on_a_handler(
    database: str, app: pgonce.App, caplog: pytest.LogCaptureFixture, raw: Any, says: str
) -> None:
    endpoint = pgonce.Endpoint(app, secrets=["whsec_test"], url=database)
    answer = endpoint.handle(raw, {"stripe-signature": "x"})
    assert answer.status == 500
    assert b"the endpoint raised InvalidArgument" in answer.body
    assert says in caplog.text


@pytest.mark.parametrize("make", [list, lambda pairs: {name: [value] for name, value in pairs}, dict, tuple])
def test_headers_may_be_a_mapping_pairs_or_lists_of_values(database: str, app: pgonce.App, make: Any) -> None:
    endpoint = pgonce.Endpoint(app, secrets=["whsec_test"], url=database, queue=True)
    raw = body("evt_1")
    headers = make([("Host", "x"), ("Stripe-Signature", stripe.sign(raw, "whsec_test"))])
    assert endpoint.handle(raw, headers).status == 200


def test_an_endpoint_that_only_records_waits_for_a_lock_for_three_seconds(
    database: str, app: pgonce.App, conn: Connection[Any]
) -> None:
    endpoint = pgonce.Endpoint(app, secrets=["whsec_test"], url=database, queue=True)
    raw = body("evt_1")
    with conn.transaction():
        conn.execute("lock table webhook_events in share mode")
        answer = endpoint.handle(raw, {"stripe-signature": stripe.sign(raw, "whsec_test")})
    assert answer.status == 503


@pytest.mark.parametrize("headers", [None, 3, "Stripe-Signature: x", ["Stripe-Signature"]])
def test_headers_that_are_no_headers_are_named(
    database: str, app: pgonce.App, caplog: pytest.LogCaptureFixture, headers: Any
) -> None:
    endpoint = pgonce.Endpoint(app, secrets=["whsec_test"], url=database)
    assert endpoint.handle(b"{}", headers).status == 500
    assert "the headers as a mapping of names to values" in caplog.text
