"""The receiver mounted in FastAPI and Starlette, and the plain function called by Django and Flask, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg import Connection

import pgonce
from pgonce.errors import InvalidArgument
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.edge.serving import Served, serve_asgi, serve_wsgi

SECRET = "whsec_framework"


@pytest.fixture
def app(conn: Connection[Any]) -> pgonce.App:
    conn.execute("create table effects (event text not null)")
    app = pgonce.App()

    @app.webhook("pay.*")
    def pay(event: pgonce.Event, tx: Connection[Any]) -> None:
        tx.execute("insert into effects values (%s)", [event.id])
        if event.payload.get("bad"):
            raise ValueError("card 4242 4242 4242 4242")

    return app


def fastapi(app: pgonce.App, url: str) -> Iterator[Served]:
    from fastapi import FastAPI

    api = FastAPI()
    receiver = pgonce.receiver(app, secrets=[SECRET], url=url)
    api.mount("/webhooks", receiver)
    yield from serve_asgi(api, on_stop=receiver.stop)


def starlette(app: pgonce.App, url: str) -> Iterator[Served]:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    receiver = pgonce.receiver(app, secrets=[SECRET], url=url)
    yield from serve_asgi(Starlette(routes=[Mount("/", receiver)]), on_stop=receiver.stop)


def alone(app: pgonce.App, url: str) -> Iterator[Served]:
    yield from serve_asgi(pgonce.receiver(app, secrets=[SECRET], url=url))


def django(app: pgonce.App, url: str) -> Iterator[Served]:
    import django as library
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.edge.webhooks.django_urls", SECRET_KEY="x")
        library.setup()
    from django.core.handlers.wsgi import WSGIHandler

    from tests.edge.webhooks import django_urls

    django_urls.endpoint = pgonce.Endpoint(app, secrets=[SECRET], url=url)
    yield from serve_wsgi(WSGIHandler())


def flask(app: pgonce.App, url: str) -> Iterator[Served]:
    from flask import Flask, request

    endpoint = pgonce.Endpoint(app, secrets=[SECRET], url=url)
    site = Flask("shop")

    @site.post("/webhooks/stripe")
    def stripe_webhook() -> Any:
        response = endpoint.handle(request.get_data(), request.headers)
        return response.body, response.status, response.headers

    yield from serve_wsgi(site)


@pytest.fixture(params=[alone, fastapi, starlette, django, flask], ids=lambda each: each.__name__)
def served(request: pytest.FixtureRequest, app: pgonce.App, database: str) -> Iterator[Served]:
    if request.param is not alone:
        pytest.importorskip(request.param.__name__, reason=f"{request.param.__name__} is not installed: make test does")
    yield from request.param(app, database)


Post = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def post(served: Served) -> Post:
    def post(body: bytes, secret: str = SECRET, **headers: str) -> tuple[int, dict[str, Any]]:
        signed = {"Stripe-Signature": stripe.sign(body, secret), **headers}
        response = served.post("/webhooks/stripe", content=body, headers=signed)
        return response.status_code, response.json()

    return post


def event(event_id: str, **content: Any) -> bytes:
    return json.dumps({"id": event_id, "type": "pay.done", "object": "event", **content}).encode()


def effects(conn: Connection[Any]) -> list[str]:
    return sorted(row[0] for row in conn.execute("select event from effects").fetchall())


def test_a_delivery_and_its_duplicates_have_one_effect(post: Post, conn: Connection[Any]) -> None:
    for _ in range(3):
        status, answer = post(event("evt_1"))
        assert (status, answer["event"]) == (200, "evt_1")
    wait_until(lambda: effects(conn) == ["evt_1"], "the effect")
    post(event("evt_2"))
    wait_until(lambda: effects(conn) == ["evt_1", "evt_2"], "the second effect")


def test_a_wrong_signature_is_refused_and_nothing_is_stored(post: Post, conn: Connection[Any]) -> None:
    status, answer = post(event("evt_1"), secret="whsec_other")
    assert status == 400
    assert "signature" in answer["error"]
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"type": "pay.done"}', b'{"id": "", "type": "x"}', b"\xff"])
def test_what_is_no_event_is_refused_and_nothing_is_stored(post: Post, conn: Connection[Any], body: bytes) -> None:
    status, _ = post(body)
    assert status == 400
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)


def test_a_body_over_the_limit_is_refused(post: Post, conn: Connection[Any]) -> None:
    status, answer = post(event("evt_1", filling="x" * 1_100_000))
    assert status == 413
    assert "1,000,000" in answer["error"]


def test_what_jsonb_cannot_hold_is_handled_and_kept_byte_for_byte(post: Post, conn: Connection[Any]) -> None:
    body = event("evt_1", text="a\0b\ud800c")
    assert post(body)[0] == 200
    wait_until(lambda: effects(conn) == ["evt_1"], "the effect")
    assert conn.execute("select raw from webhook_events").fetchone() == (body,)


def test_a_failing_handler_leaves_no_effect_and_no_payload_outside_the_database(
    post: Post, conn: Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    status, answer = post(event("evt_1", bad=True))
    assert "4242" not in json.dumps(answer)
    assert status in {200, 500}  # queued for a worker, or handled before the answer
    wait_until(
        lambda: conn.execute("select status = 'failed' from webhook_events").fetchone() == (True,), "the failure"
    )
    assert effects(conn) == []
    assert "4242" not in caplog.text
    assert SECRET not in caplog.text


def test_other_methods_are_refused(served: Served) -> None:
    assert served.get("/webhooks/stripe").status_code == 405


def test_a_database_that_is_away_is_answered_with_503(app: pgonce.App) -> None:
    endpoint = pgonce.Endpoint(app, secrets=[SECRET], url="postgresql://127.0.0.1:1/none")
    body = event("evt_1")
    response = endpoint.handle(body, {"HTTP_STRIPE_SIGNATURE": stripe.sign(body, SECRET)})
    assert response.status == 503


@pytest.mark.parametrize("make", [pgonce.Endpoint, pgonce.receiver])
@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ([None], "webhook secret 1 is None: is its variable set"),
        ([SECRET, None], "webhook secret 2 is None"),
        ([], "no webhook secret"),
        ([" "], "no webhook secret"),
        ("", "no webhook secret"),
        ([SECRET, "sk_live_s3cret"], "webhook secret 2 is an API key .*whsec_"),
        ("rk_test_s3cret", "webhook secret 1 is an API key .*whsec_"),
        ([" pk_test_s3cret"], "webhook secret 1 is an API key .*whsec_"),
    ],
)
def test_a_secret_that_can_sign_nothing_is_refused_at_once(
    app: pgonce.App, make: Callable[..., object], secrets: Any, says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        make(app, secrets=secrets, url="postgresql://127.0.0.1:1/none")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("make", [pgonce.Webhooks, pgonce.AsyncWebhooks])
@pytest.mark.parametrize("secrets", [[None], [" "], ["sk_live_s3cret"]])
def test_a_route_of_ones_own_is_told_at_once_too(make: Callable[..., object], secrets: Any) -> None:
    with pytest.raises(InvalidArgument, match="webhook secret"):
        make(None, secrets=secrets)


def test_no_representation_shows_a_secret(app: pgonce.App, database: str) -> None:
    made = [pgonce.Endpoint(app, secrets=[SECRET], url=database), pgonce.receiver(app, secrets=[SECRET], url=database)]
    assert all(SECRET not in repr(each) and urlsplit(database).path not in repr(each) for each in made)
