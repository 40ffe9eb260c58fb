"""A receiver that is mounted in an application: at any prefix, with its lifespan, in the application's event loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import pytest
from psycopg import Connection

import pgonce
from pgonce.errors import InvalidArgument
from pgonce.webhooks import secret_lookup, stripe
from tests.conftest import wait_until
from tests.edge.serving import Served, serve_asgi
from tests.faults.proxy import Hold, proxy

pytest.importorskip("fastapi", reason="fastapi is not installed: make test does")

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

SECRET = "whsec_test"


@contextmanager
def served(app: Any, **options: Any) -> Iterator[Served]:
    running = serve_asgi(app, **options)
    try:
        yield next(running)
    finally:
        assert next(running, None) is None


def post(client: httpx.Client, path: str, event_id: str = "evt_1") -> int:
    body = json.dumps({"id": event_id, "type": "pay"}).encode()
    return client.post(path, content=body, headers={"Stripe-Signature": stripe.sign(body, SECRET)}).status_code


@pytest.fixture
def receiver(database: str) -> Any:
    return pgonce.receiver(pgonce.App(), secrets=[SECRET], url=database, worker=False)


def stripped(app: Any, prefix: str, root_path: str | None = None) -> Any:
    """Remove the prefix from the path, as a proxy or an older framework does."""

    async def without_prefix(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "root_path": prefix if root_path is None else root_path}
        await app(scope, receive, send)

    return without_prefix


def unnamed(app: Any, prefix: str) -> Any:
    """Remove the prefix, and the first slash with it, and tell nobody, as Litestar does."""

    async def without_prefix(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": scope["path"].removeprefix(prefix).strip("/") + "/", "root_path": ""}
        await app(scope, receive, send)

    return without_prefix


def in_fastapi(receiver: Any, mount: str = "/webhooks", **options: Any) -> FastAPI:
    api = FastAPI(**options)
    api.mount(mount, receiver)
    return api


def outer(inner: Any, prefix: str = "/v1") -> FastAPI:
    api = FastAPI()
    api.mount(prefix, inner)
    return api


def deeply(receiver: Any) -> FastAPI:
    return outer(outer(in_fastapi(receiver), "/api"))


PLACES: dict[str, tuple[Any, str]] = {
    "alone": (lambda receiver: receiver, "/webhooks/stripe"),
    "alone with a slash": (lambda receiver: receiver, "/webhooks/stripe/"),
    "FastAPI": (in_fastapi, "/webhooks/stripe"),
    "FastAPI in FastAPI": (lambda receiver: outer(in_fastapi(receiver), "/v1"), "/v1/webhooks/stripe"),
    "three levels": (deeply, "/v1/api/webhooks/stripe"),
    "mounted at /v1": (outer, "/v1/webhooks/stripe"),
    "mounted at /v1, with a slash": (outer, "/v1/webhooks/stripe/"),
    "Starlette at the root": (lambda receiver: Starlette(routes=[Mount("/", receiver)]), "/webhooks/stripe"),
    "a proxy that strips, told": (lambda receiver: stripped(in_fastapi(receiver), "/v1"), "/v1/webhooks/stripe"),
    "a proxy that strips, not told": (lambda app: stripped(in_fastapi(app), "/v1", ""), "/v1/webhooks/stripe"),
    "a stripped prefix": (lambda receiver: stripped(receiver, "/webhooks"), "/webhooks/stripe"),
    "Litestar": (lambda receiver: unnamed(receiver, "/webhooks"), "/webhooks/stripe"),
    "Litestar at a prefix": (lambda receiver: unnamed(receiver, "/v1"), "/v1/webhooks/stripe"),
    "Litestar at the root": (lambda receiver: unnamed(receiver, "/"), "/webhooks/stripe"),
    "a stripped outer prefix": (lambda receiver: stripped(receiver, "/v1"), "/v1/webhooks/stripe"),
}


@pytest.mark.parametrize("place", list(PLACES))
def test_the_receiver_answers_under_whatever_prefix_it_is_mounted(receiver: Any, place: str) -> None:
    make, path = PLACES[place]
    with served(make(receiver), on_stop=receiver.stop) as client:
        assert post(client, path) == 200
        for wrong in (path.replace("stripe", "strip"), path.rstrip("/") + "x", "/x" + path, "/"):
            assert post(client, wrong) == 404
        if place in {"alone", "mounted at /v1", "Starlette at the root"}:
            assert client.get(path.replace("webhooks/stripe", "readyz")).status_code == 200


def test_a_websocket_is_closed_and_is_no_error() -> None:
    receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url="postgresql://127.0.0.1:1/none")
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(receiver({"type": "websocket", "path": "/webhooks/stripe", "headers": []}, receive, send))
    assert sent == ["websocket.close"]


@pytest.mark.parametrize(
    ("path", "mount", "asked"),
    [
        ("/api/stripe/webhook", "", "/api/stripe/webhook"),
        ("/api/stripe/webhook/", "", "/api/stripe/webhook"),
        ("/api/stripe/webhook", "/api", "/api/stripe/webhook"),
        ("/hook", "/api", "/api/hook"),
        ("/hook", "/api/v1", "/api/v1/hook/"),
    ],
)
def test_the_path_is_the_user_s_choice(database: str, path: str, mount: str, asked: str) -> None:
    receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=database, worker=False, path=path)
    with served(outer(receiver, mount) if mount else receiver, on_stop=receiver.stop) as client:
        assert post(client, asked) == 200
        assert post(client, "/webhooks/stripe") == 404


@pytest.mark.parametrize(
    ("path", "says"),
    [
        *(
            (path, "must begin with a slash and have no")
            for path in ("hook", "/a?b", "/a#b", "/a%20b", "/a b", "/a\n", "")
        ),
        *((path, "is that of a health check") for path in ("/healthz", "/readyz/")),
    ],
)
def test_a_path_at_which_nothing_could_be_received_is_refused(path: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        pgonce.receiver(pgonce.App(), secrets=[SECRET], path=path)


def test_with_its_lifespan_the_worker_starts_before_the_first_request(database: str, conn: Connection[Any]) -> None:
    app = pgonce.App()

    @app.webhook("pay")
    def pay(event: pgonce.Event, tx: Any) -> None:
        pass

    conn.execute("""select pgonce_queue_webhooks('{evt_1}', '{pay}', '{"{}"}')""")
    receiver = pgonce.receiver(app, secrets=[SECRET], url=database)
    with served(in_fastapi(receiver, lifespan=receiver.lifespan)):
        done = "select status = 'succeeded' from webhook_events"
        wait_until(
            lambda: conn.execute(done.encode()).fetchone() == (True,), "the event of before the deploy is handled"
        )
    assert receiver._worker is None


def test_a_secret_may_come_from_a_function_that_is_asked_for_each_delivery(database: str) -> None:
    valid = ["whsec_old"]

    async def secrets() -> list[str]:
        return valid

    class Vault:
        async def __call__(self) -> list[str]:
            return valid

    for function in (lambda: valid, secrets, lambda: secrets(), Vault(), functools.partial(secrets)):  # noqa: PLW0108 -- it is no coroutine function
        receiver = pgonce.receiver(pgonce.App(), secrets=function, url=database, worker=False)
        with served(receiver) as client:
            valid[:] = ["whsec_old"]
            assert post(client, "/webhooks/stripe") == 400
            valid[:] = ["whsec_old", SECRET]
            assert post(client, "/webhooks/stripe") == 200
    endpoint = pgonce.Endpoint(pgonce.App(), secrets=lambda: valid, url=database, queue=True)
    body = b'{"id": "evt_2", "type": "pay"}'
    assert endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, SECRET)}).status == 200


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_for_the_secrets_that_hangs_costs_a_503_and_no_thread_for_each_delivery(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_async: bool
) -> None:
    monkeypatch.setattr(secret_lookup, "SECONDS", 0.1)
    monkeypatch.setattr(secret_lookup, "AT_ONCE", 1)
    hangs, called = threading.Event(), list[int]()

    def plain() -> str:
        called.append(1)
        assert hangs.wait(60)
        if len(called) == 1:
            raise ValueError("the vault is down")
        return SECRET

    async def asynchronous() -> str:
        return SECRET if hangs.is_set() else await asyncio.sleep(3600, SECRET)

    secrets = asynchronous if is_async else plain
    receiver = pgonce.receiver(pgonce.App(), secrets=secrets, url=database, worker=False)
    with served(receiver) as client:
        assert [post(client, "/webhooks/stripe") for _ in range(3)] == [503] * 3
        assert "the function for the webhook secrets did not return within 0.1 s" in caplog.text
        assert is_async or len(called) == 1, "one hangs, and the others wait for its end"
        hangs.set()
        wait_until(lambda: post(client, "/webhooks/stripe") == 200, "it is received")
    gc.collect()
    assert "the vault is down" not in caplog.text, "nobody waits for it any more"


def test_an_endpoint_names_an_async_function_for_its_secrets(database: str, caplog: pytest.LogCaptureFixture) -> None:
    async def secrets() -> str:
        return SECRET

    endpoint = pgonce.Endpoint(pgonce.App(), secrets=secrets, url=database)  # type: ignore[arg-type]
    body = b'{"id": "evt_1", "type": "pay"}'
    assert endpoint.handle(body, {"Stripe-Signature": stripe.sign(body, SECRET)}).status == 500
    assert "the function for the webhook secrets is async" in caplog.text


@pytest.mark.parametrize(("driver", "count"), [("asyncpg", 1000), ("psycopg", 200)])
def test_async_handlers_share_an_engine_and_a_client_with_the_routes_under_load(
    database: str, conn: Connection[Any], driver: str, count: int
) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio", reason="SQLAlchemy is not installed: make test does")
    pytest.importorskip(driver)
    from sqlalchemy import text

    engine = sqlalchemy.create_async_engine(_url_for(driver, conn), pool_size=5)  # as at module level: before any loop
    web = httpx.AsyncClient(timeout=60)  # a route of a busy machine takes longer than the usual 5 s
    app = pgonce.App()
    conn.execute("create table effects (event text primary key)")

    @app.webhook("pay", transaction="own")
    async def pay(event: pgonce.Event) -> None:
        async with sqlalchemy.AsyncSession(engine) as session, session.begin():
            await session.execute(text("insert into effects values (:id)"), {"id": event.id})
            await event.complete(session)  # type: ignore[misc] # it is awaitable for an async session

    @app.webhook("call")
    async def call(event: pgonce.Event, tx: Any) -> None:
        (await web.get(event.payload["url"])).raise_for_status()

    receiver = pgonce.receiver(app, secrets=[SECRET], url=database, concurrency=2)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        async with receiver.lifespan(api):
            yield
        await engine.dispose()
        await web.aclose()

    api = FastAPI(lifespan=lifespan)
    api.mount("/webhooks", receiver)

    @api.get("/effects")
    async def effects() -> int:
        async with engine.connect() as connection:
            return int((await connection.execute(text("select count(*) from effects"))).scalar_one())

    with served(api) as client:
        codes = asyncio.run(_load(str(client.base_url), count))
        assert codes == {200}
        open_ = "select count(*) from webhook_events where status <> 'succeeded'"
        wait_until(lambda: conn.execute(open_.encode()).fetchone() == (0,), "all are handled", 120)
        assert client.get("/effects").json() == count
    again = "select id, attempts, error_message from webhook_events where attempts > 1"
    assert conn.execute(again).fetchall() == []


def _url_for(driver: str, conn: Connection[Any]) -> str:
    return f"postgresql+{driver}://postgres@/{conn.info.dbname}?host={conn.info.host}&port={conn.info.port}"


async def _load(base: str, count: int) -> set[int]:
    """Send ``count`` deliveries, of which 20 call a route, and requests to that route, eight at a time."""
    turn = asyncio.Semaphore(8)  # httpx's own limit costs 20 s of CPU: each answer walks through all that wait
    async with httpx.AsyncClient(base_url=base, timeout=60) as client:

        async def deliver(event_id: str, **more: str) -> int:
            body = json.dumps({"id": event_id, "type": "pay", **more}).encode()
            for _ in range(20):  # as Stripe does: a machine that is busy enough answers 408 or 503, or nothing
                headers = {"Stripe-Signature": stripe.sign(body, SECRET)}
                with suppress(httpx.TransportError):
                    async with turn:
                        status = (await client.post("/webhooks/stripe", content=body, headers=headers)).status_code
                    if status not in {408, 409, 503}:
                        return status
            return 0

        async def ask() -> int:
            async with turn:
                return (await client.get("/effects")).status_code

        work = [deliver(f"evt_{number}") for number in range(count)]
        work += [deliver(f"evt_call_{number}", type="call", url=f"{base}/effects") for number in range(20)]
        work += [ask() for _ in range(50)]
        return set(await asyncio.gather(*work))


def test_a_receiver_without_a_worker_is_in_the_list_of_processes_until_it_stops(
    receiver: Any, conn: Connection[Any]
) -> None:
    listed = "select does, app, live, outdated from pgonce_list_processes()"
    with served(receiver):
        wait_until(
            lambda: conn.execute(listed.encode()).fetchall() == [(["receives"], "", True, False)], "it is listed"
        )
    assert conn.execute(listed.encode()).fetchall() == []


@pytest.mark.parametrize("reason", ["signature", "path", "body", "test"])
def test_refusals_are_counted_before_the_first_good_delivery_and_without_a_lifespan(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setattr("pgonce.webhooks.asgi.BEAT_EVERY", 0.05)
    monkeypatch.setattr("pgonce.webhooks.refusals.EVERY", 0.0)
    receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=database, live_only=True, worker=False)
    body = b"{}" if reason == "body" else b'{"id": "evt_1", "type": "pay", "livemode": false}'
    signature = stripe.sign(body, "whsec_other" if reason == "signature" else SECRET)
    path = "/elsewhere" if reason == "path" else "/webhooks/stripe"
    counted = "select reason, deliveries from pgonce_refused_deliveries"
    with served(Starlette(routes=[Mount("/", receiver)]), on_stop=receiver.stop) as client:
        client.post(path, content=body, headers={"Stripe-Signature": signature})
        wait_until(lambda: conn.execute(counted).fetchall() == [(reason, 1)], "the refusal to be written")


def test_a_refusal_that_waits_for_the_database_ends_with_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgonce.webhooks.asgi.BEAT_EVERY", 0.01)
    receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url="postgresql://127.0.0.1:1/none?connect_timeout=2")
    scope = {"type": "http", "method": "POST", "path": "/webhooks/stripe", "headers": []}
    answers: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        answers.append(message)

    async def refuse_and_stop() -> None:
        await receiver(scope, receive, send)
        await receiver.stop()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(refuse_and_stop())
    assert answers[0]["status"] == 400


def test_a_receiver_that_is_stopped_while_it_starts_leaves_no_worker(database: str) -> None:
    app = pgonce.App()
    app.webhook("pay")(lambda event, tx: None)  # noqa: ARG005

    async def start_and_stop(receiver: Any, held: Hold) -> None:
        starting = asyncio.create_task(receiver.start())
        await asyncio.to_thread(held.wait)
        stopping = asyncio.create_task(receiver.stop())
        await asyncio.sleep(0)
        held.release()
        await asyncio.gather(starting, stopping)

    with proxy(database) as network:
        receiver = pgonce.receiver(app, secrets=[SECRET], url=network.url)
        asyncio.run(start_and_stop(receiver, network.hold(b"pgonce_register_process")))
    assert list(app.workers) == []
