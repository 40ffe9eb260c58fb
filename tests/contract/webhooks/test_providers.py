"""Other senders: their own signatures, the same guarantees."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest

import pgonce
from pgonce import providers
from pgonce.errors import InvalidArgument
from pgonce.testing import drain
from pgonce.webhooks.providers import Provider

Connection = psycopg.Connection[Any]
Headers = dict[str, str]
KEY = base64.b64encode(b"a secret of 24 bytes ...").decode()


def standard(body: bytes, prefix: str = "webhook", age: float = 0, key: str = KEY) -> Headers:
    at = str(int(time.time() - age))
    digest = hmac.digest(base64.b64decode(key), f"msg_1.{at}.".encode() + body, "sha256")
    signature = f"v1a,ignored v1,{base64.b64encode(digest).decode()}"
    return {f"{prefix}-id": "msg_1", f"{prefix}-timestamp": at, f"{prefix}-signature": signature}


def from_github(body: bytes, key: str = "s3cret") -> Headers:
    digest = hmac.digest(key.encode(), body, "sha256").hex()
    return {"X-GitHub-Event": "issues", "X-GitHub-Delivery": "72d3162e", "X-Hub-Signature-256": f"sha256={digest}"}


def from_shopify(body: bytes, key: str = "s3cret", topic: str = "orders/create") -> Headers:
    digest = base64.b64encode(hmac.digest(key.encode(), body, "sha256")).decode()
    return {"X-Shopify-Topic": topic, "X-Shopify-Event-Id": "98880550", "X-Shopify-Hmac-Sha256": digest}


SENDERS: dict[str, tuple[Provider, Callable[..., Headers], dict[str, Any], str, str]] = {
    "clerk": (providers.standard_webhooks(f"whsec_{KEY}", name="clerk"), standard, {"type": "user.created"},
              "clerk:msg_1", "clerk.user.created"),
    "github": (providers.github("s3cret"), from_github, {"action": "opened"},
               "github:72d3162e", "github.issues.opened"),
    "shopify": (providers.shopify("s3cret"), from_shopify, {"id": 1}, "shopify:orders.create:98880550",
                "shopify.orders.create"),
}  # fmt: skip


@pytest.fixture
def app(conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> pgonce.App:
    monkeypatch.setenv("PGONCE_DATABASE_URL", database)
    conn.execute("create table effects (what text)")
    app = pgonce.App()

    @app.webhook("*")
    def anything(event: pgonce.Event, tx: Connection) -> None:
        tx.execute("insert into effects values (%s)", [f"{event.id} {event.type} {sorted(event.payload)}"])

    return app


def rows(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select stripe_event_id, event_type, provider, status from webhook_events order by 1"
    ).fetchall()


@pytest.mark.parametrize("name", SENDERS)
@pytest.mark.parametrize("queue", [True, False])
def test_an_event_is_handled_once_however_often_it_is_delivered(
    app: pgonce.App, conn: Connection, name: str, queue: bool
) -> None:
    sender, sign, content, event_id, event_type = SENDERS[name]
    body = json.dumps(content).encode()
    endpoint = pgonce.Endpoint(app, verify=sender, queue=queue)
    for _ in range(3):
        answer = endpoint.handle(body, sign(body))
        assert answer.status == 200, answer.body
        drain(app)
    assert rows(conn) == [(event_id, event_type, name, "succeeded")]
    assert conn.execute("select what from effects").fetchall() == [(f"{event_id} {event_type} {sorted(content)}",)]


@pytest.mark.parametrize("name", SENDERS)
def test_what_the_sender_has_not_signed_is_refused_and_nothing_is_stored(
    app: pgonce.App, conn: Connection, name: str
) -> None:
    sender, sign, content, _, _ = SENDERS[name]
    body = json.dumps(content).encode()
    endpoint = pgonce.Endpoint(app, verify=sender, queue=True)
    other = base64.b64encode(b"another secret").decode()
    for given, headers in (
        (body + b" ", sign(body)), (body, sign(body, key=other)), (body, {}), (b"[]", sign(b"[]")),
        (b"x=1", sign(b"x=1")),
        (body, dict.fromkeys(sign(body), "")), (body, dict.fromkeys(sign(body), "sha256=")),
        (body, dict.fromkeys(sign(body), "ÿ")),
    ):  # fmt: skip
        assert endpoint.handle(given, headers).status == 400, (given, headers)
    assert rows(conn) == []


@pytest.mark.parametrize("name", SENDERS)
@pytest.mark.parametrize("queue", [True, False])
def test_no_answer_tells_another_sender_of_stripe(app: pgonce.App, conn: Connection, name: str, queue: bool) -> None:
    sender, sign, content, event_id, event_type = SENDERS[name]
    body = json.dumps(content).encode()
    endpoint = pgonce.Endpoint(app, verify=sender, queue=queue)
    insert = "insert into webhook_events (stripe_event_id, event_type) values (%s, %s)"
    conn.execute(insert, [event_id, event_type])  # by another client, which is handling it
    answers = [endpoint.handle(body, sign(body)), endpoint.handle(b"[]", sign(b"[]"))]
    conn.execute("delete from webhook_events")
    conn.execute("alter table webhook_events add constraint none check (false)")
    answers.append(endpoint.handle(body, sign(body)))
    assert [answer.status for answer in answers] == [200 if queue else 409, 400, 503]
    assert not any(b"Stripe" in answer.body for answer in answers)


def test_a_standard_webhook_that_is_old_or_of_the_future_is_refused_and_svix_s_names_are_known(
    app: pgonce.App, conn: Connection
) -> None:
    endpoint = pgonce.Endpoint(app, verify=providers.standard_webhooks([KEY]), queue=True)
    body = b'{"type": "a"}'
    assert [endpoint.handle(body, standard(body, age=age)).status for age in (400, -400, 0)] == [400, 400, 200]
    assert endpoint.handle(body, standard(body, "svix")).status == 200
    assert [row[0] for row in rows(conn)] == ["standard:msg_1"]


def test_github_s_form_is_refused_with_the_setting_to_change(app: pgonce.App, conn: Connection) -> None:
    form = b"payload=%7B%22action%22%3A%22opened%22%7D"
    headers = {**from_github(form), "Content-Type": "application/x-www-form-urlencoded"}
    answer = pgonce.Endpoint(app, verify=SENDERS["github"][0], queue=True).handle(form, headers)
    assert (answer.status, b"content type of the webhook to application/json" in answer.body) == (400, True)
    assert rows(conn) == []


def test_one_shopify_event_under_two_topics_is_two_events(app: pgonce.App, conn: Connection) -> None:
    endpoint = pgonce.Endpoint(app, verify=SENDERS["shopify"][0], queue=True)
    for topic in ("orders/create", "orders/paid"):
        assert endpoint.handle(b"{}", from_shopify(b"{}", topic=topic)).status == 200
    assert [row[1] for row in rows(conn)] == ["shopify.orders.create", "shopify.orders.paid"]


def test_the_receiver_takes_other_senders_too(app: pgonce.App, conn: Connection, database: str) -> None:
    receiver = pgonce.receiver(app, verify=SENDERS["github"][0], url=database, path="/webhooks/github", worker=False)
    body = b'{"action": "opened"}'

    async def send(**headers: str) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(receiver), base_url="http://here") as client:
            return (await client.post("/webhooks/github", content=body, headers=headers)).status_code

    async def main() -> list[int]:
        statuses = [await send(**from_github(body)), await send(**from_github(b"other"))]
        await receiver.stop()
        return statuses

    assert asyncio.run(main()) == [200, 400]
    assert rows(conn) == [("github:72d3162e", "github.issues.opened", "github", "processing")]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: providers.github(""), "a secret is missing"),
        (lambda: providers.shopify([]), "a secret is missing"),
        *(
            (lambda make=make, secret=secret: make(secret), "a secret is missing, or is not text")
            for make in (providers.github, providers.shopify, providers.standard_webhooks)
            for secret in (None, [None], ["x", " "], 12, b"secret", lambda: "secret")
        ),
        # with an empty key anybody could sign
        *(
            (lambda secret=secret: providers.standard_webhooks(secret), "whsec_ and Base64")
            for secret in ("whsec_###", "whsec_", "whsec_é", [KEY, "whsec_"])
        ),
        (lambda: providers.standard_webhooks(KEY, name="stripe"), "name of a sender"),
        (lambda: providers.standard_webhooks(KEY, name="My Shop"), "name of a sender"),
    ],
)
def test_a_secret_or_name_that_cannot_be_one_is_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        make()


def test_stripe_stays_the_default_and_needs_its_secrets(app: pgonce.App, conn: Connection) -> None:
    conn.execute("insert into webhook_events (stripe_event_id, event_type) values ('evt_1', 'a')")
    assert rows(conn) == [("evt_1", "a", "stripe", "processing")]
    for make in (pgonce.Endpoint, pgonce.receiver):
        with pytest.raises(InvalidArgument, match="no webhook secret"):
            make(app)
