"""`pgonce serve` receives and handles events, runs jobs and sends alerts.

It prints that at its start, and ends cleanly.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg import Connection

import pgonce
from pgonce.cli.startup import describe_alerts, describe_handlers, describe_jobs
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.edge.serving import serving
from tests.faults.child import PGONCE, Child, Start, children

SECRET = "whsec_test"
SHOP = """
import time
import pgonce
app = pgonce.App()
@app.webhook("invoice.paid")
def paid(event, tx):
    tx.execute("insert into effects values (%s)", [event.id])
@app.webhook("invoice.payed")
async def payed(event, tx):
    pass
@app.job("tick", cron="* * * * *", catch_up="last")
def tick(run):
    with run.transaction() as tx:
        tx.execute("insert into effects values ('tick')")
@app.job("fails", cron="* * * * *", catch_up="last")
async def fails(run):
    raise ValueError("no")
@app.job("sleeps")
def sleeps(run):
    time.sleep(3600)
"""


def plan(conn: Connection[Any], job: str) -> None:
    """A tick of the job is due."""
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick) values (%s, '* * * * *', 'UTC', %s)",
        [job, datetime.now(UTC) - timedelta(minutes=3)],
    )


@pytest.fixture
def start(database: str, conn: Connection[Any], tmp_path: Path) -> Iterator[Start]:
    conn.execute("create table effects (name text)")
    (tmp_path / "whole.py").write_text(SHOP)
    plan(conn, "tick")
    plan(conn, "fails")
    with children(database) as starting:
        yield starting


def serve(start: Start, tmp_path: Path, *options: str) -> tuple[Child, str]:
    server = start(
        *PGONCE, "serve", "--port", "0", "--app", "whole", *options,
        PGONCE_WEBHOOK_SECRET=SECRET, PYTHONPATH=str(tmp_path), PGONCE_APP="whole",
    )  # fmt: skip
    return server, server.until(r"running on (http://[\d.:]+)")[1]


def deliver(base: str, event_id: str) -> int:
    body = json.dumps({"id": event_id, "type": "invoice.paid"}).encode()
    headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
    return httpx.post(f"{base}/webhooks/stripe", content=body, headers=headers, timeout=30).status_code


def effects(conn: Connection[Any]) -> set[str]:
    return {row[0] for row in conn.execute("select name from effects").fetchall()}


class _Channel(ThreadingHTTPServer):
    """An alert channel."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.alerts: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.alerts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def channel() -> Iterator[_Channel]:
    with serving(_Channel()) as server:
        yield server


def test_serve_handles_events_runs_jobs_and_alerts_and_says_so(
    start: Start, conn: Connection[Any], tmp_path: Path, channel: _Channel
) -> None:
    server, base = serve(start, tmp_path, "--alert", f"http://127.0.0.1:{channel.server_port}/s3cret")
    assert deliver(base, "evt_1") == 200
    wait_until(lambda: effects(conn) == {"evt_1", "tick"}, "event and job are done")
    wait_until(lambda: any(alert["subject"] == "fails" for alert in channel.alerts), "the alert", 60)
    said = server.said
    assert f"receives  {base}/webhooks/stripe   1 secret, up to 1,000,000 bytes, live and test" in said
    assert "handles   invoice.paid, invoice.payed   4 at a time" in said
    assert 'warning   Stripe sends no type "invoice.payed": did you mean invoice.paid?' in said
    assert "tick next" in said
    assert "alerts    127.0.0.1" in said
    assert "s3cret" not in said
    server.process.send_signal(signal.SIGTERM)
    server.end()


@pytest.mark.parametrize("option", ["--no-worker", "--no-schedule"])
def test_without_a_worker_or_a_schedule_no_job_runs_and_it_says_so(
    start: Start, conn: Connection[Any], tmp_path: Path, option: str
) -> None:
    server, base = serve(start, tmp_path, option, "--no-alerts")
    assert f"jobs      none here: {option}" in server.said
    assert "alerts    none here: --no-alerts" in server.said
    assert deliver(base, "evt_1") == 200
    if option == "--no-worker":
        assert "handles   nothing here: --no-worker" in server.said
    else:
        wait_until(lambda: effects(conn) == {"evt_1"}, "the event is handled")
    server.process.send_signal(signal.SIGTERM)
    server.end()
    assert conn.execute("select count(*) from cron_job_runs").fetchone() == (0,)


@pytest.mark.long
def test_sigterm_ends_it_within_its_grace_whatever_is_open(start: Start, conn: Connection[Any], tmp_path: Path) -> None:
    plan(conn, "sleeps")
    planned = '@app.job("sleeps", cron="* * * * *", catch_up="last")'
    (tmp_path / "whole.py").write_text(SHOP.replace('@app.job("sleeps")', planned))
    server, base = serve(start, tmp_path)
    running = "select count(*) from cron_job_runs where job_name = 'sleeps' and status = 'running'"
    wait_until(lambda: conn.execute(running.encode()).fetchone() == (1,), "the job is running", 90)
    host, port = base.removeprefix("http://").split(":")
    body = b'{"id":"evt_1","type":"a"}'
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: {stripe.sign(body, SECRET)}\r\n"
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))) as half:
        half.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:3])
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(35)


# What is printed ------------------------------------------------------------------------------------------------------


def test_each_job_has_its_next_tick_in_its_own_time_zone() -> None:
    app = pgonce.App()
    assert describe_jobs(app, None) == "jobs      none is scheduled"
    for name, cron, zone in (("soon", "* * * * *", "UTC"), ("late", "0 6 29 2 *", "America/New_York")):
        app.job(name, cron=cron, timezone=zone)(lambda run: run.processed())
    line = describe_jobs(app, None)
    assert "soon next" in line
    assert "-02-29 06:00 America/New_York" in line


def test_of_thousands_of_jobs_some_are_named_and_the_others_are_counted() -> None:
    app = pgonce.App()
    for number in range(2_000):
        app.job(f"tenant_{number}", every="1 day")(lambda run: run.processed())
    line = " ".join(describe_jobs(app, None).split())
    assert line.count(" next ") == 50
    assert line.endswith("1,950 more: `pgonce job schedule`")


def test_patterns_are_listed_once_and_a_long_list_is_wrapped() -> None:
    app = pgonce.App()
    assert describe_handlers(app, 4) == "handles   nothing: the app has no handlers"
    for pattern in ("customer.*", "customer.*", *(f"invoice.{'x' * number}" for number in range(1, 40))):
        app.webhook(pattern)(lambda event, tx: tx.execute(event.id))
    lines = describe_handlers(app, 4).splitlines()
    assert lines[0].startswith("handles   customer.*, invoice.x, ")
    assert all(len(line) <= 100 for line in lines)
    assert sum(line.startswith("warning") for line in lines) == 39


@pytest.mark.parametrize(
    ("channels", "says"),
    [
        (["https://hooks.slack.com/services/T0/B0/s3cret"], "alerts    hooks.slack.com"),
        (["json+https://user:s3cret@host/x", "slack://s3cret/a/b"], "alerts    https, slack"),
        ([], "alerts    none: name a channel with --alert or PGONCE_ALERTS"),
        (None, "alerts    none here: --no-alerts"),
    ],
)
def test_of_a_channel_only_the_host_or_the_service_is_printed(channels: list[str] | None, says: str) -> None:
    assert describe_alerts(channels) == says
