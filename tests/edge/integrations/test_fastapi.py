"""FastAPI: the dependency commits before the answer, and several services share a lifespan."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import psycopg
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request

import pgonce
from pgonce.errors import InvalidArgument
from pgonce.integrations.fastapi import Delivery, Inbox, lifespan
from pgonce.jobs.scheduler import Scheduler
from pgonce.testing import deliver, event, signed
from pgonce.webhooks import refusals, request_body
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

Connection = psycopg.Connection[Any]
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(database: str, conn: Connection) -> AsyncIterator[httpx.AsyncClient]:
    conn.execute("create table effects (event text unique deferrable initially deferred)")
    inbox = Inbox(secrets="whsec_test", url=database)
    api = FastAPI(lifespan=inbox.lifespan)

    @api.post("/webhooks/stripe")
    async def stripe_webhook(delivery: Annotated[Delivery, inbox.delivery]) -> dict[str, str]:
        await delivery.tx.execute("insert into effects values (%s)", [delivery.event.object_id])
        match delivery.event.object.get("phone"):
            case "ignore":
                delivery.event.ignore("not wanted")
            case "retry":
                delivery.event.retry(in_="1 minute")
            case "bad":
                raise ValueError("card 4242")
            case "early":
                raise HTTPException(202, "accepted")
        return {"done": delivery.event.id}

    async with inbox.lifespan(api):
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            yield client


def effects(conn: Connection) -> list[str]:
    return [row[0] for row in conn.execute("select event from effects").fetchall()]


def status(conn: Connection) -> str | None:
    row = conn.execute("select status from webhook_events order by received_at desc limit 1").fetchone()
    return row and row[0]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_function_returns_the_secrets_for_each_delivery(kind: str, database: str, conn: Connection) -> None:
    secrets = {"now": "whsec_old"}

    def from_the_environment() -> str:
        return secrets["now"]

    async def from_the_vault() -> str:
        return secrets["now"]

    function: Callable[[], Any] = from_the_environment if kind == "plain" else from_the_vault
    inbox = Inbox(secrets=function, url=database)
    api = FastAPI(lifespan=inbox.lifespan)

    @api.post("/webhooks/stripe")
    async def stripe_webhook(delivery: Annotated[Delivery, inbox.delivery]) -> None:
        pass

    async with (
        inbox.lifespan(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://here") as client,
    ):
        assert (await deliver(client, event("customer.created"), secret="whsec_old")).status_code == 200
        secrets["now"] = "whsec_new"
        assert (await deliver(client, event("customer.created"), secret="whsec_new")).status_code == 200
        assert (await deliver(client, event("customer.created"), secret="whsec_old")).status_code == 400
    assert conn.execute("select count(*) from webhook_events").fetchone() == (2,)


async def test_a_delivery_is_committed_when_the_answer_arrives_and_a_duplicate_does_not_reach_the_route(
    client: httpx.AsyncClient, conn: Connection
) -> None:
    made = event("customer.created", id="cus_1")
    first = await deliver(client, made)
    assert (first.status_code, first.json()) == (200, {"done": made["id"]})
    assert effects(conn) == ["cus_1"]
    second = await deliver(client, made)
    assert (second.status_code, second.json()["detail"]) == (200, {"outcome": "done"})
    assert effects(conn) == ["cus_1"]


@pytest.mark.parametrize(
    ("phone", "code", "left"),
    [("ignore", 200, "ignored"), ("retry", 409, None), ("bad", 500, "failed"), ("early", 500, "failed")],
)
async def test_a_route_that_decides_or_fails_leaves_no_effect(
    client: httpx.AsyncClient, conn: Connection, phone: str, code: int, left: str | None
) -> None:
    answer = await deliver(client, event("customer.created", phone=phone))
    assert answer.status_code == code
    assert "4242" not in answer.text
    assert effects(conn) == []
    assert left in {None, status(conn)}


async def test_a_commit_that_fails_is_not_answered_with_200(client: httpx.AsyncClient, conn: Connection) -> None:
    assert (await deliver(client, event("customer.created", id="cus_1"))).status_code == 200
    assert (await deliver(client, event("customer.created", id="cus_1"))).status_code == 500
    assert (effects(conn), status(conn)) == (["cus_1"], "failed")


async def test_what_is_not_from_stripe_does_not_reach_the_route(client: httpx.AsyncClient, conn: Connection) -> None:
    assert (await deliver(client, signed(event("customer.created"), secret="whsec_other"))).status_code == 400
    assert (await client.post("/webhooks/stripe", content=b"{}")).status_code == 400
    assert status(conn) is None


async def test_two_signature_headers_are_joined(client: httpx.AsyncClient, conn: Connection) -> None:
    made = signed(event("customer.created", id="cus_1"))
    both = [("Stripe-Signature", f"v0={'0' * 64}"), *made.headers.items()]
    assert (await client.post("/webhooks/stripe", content=made.body, headers=both)).status_code == 200
    assert effects(conn) == ["cus_1"]


async def test_a_large_body_is_refused_and_one_without_a_good_header_is_not_read(client: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 100_000
            yield b"x" * 100_000

    headers = signed(event("customer.created")).headers
    assert (await client.post("/webhooks/stripe", content=endless(), headers=headers)).status_code == 413
    assert read <= 1_200_000
    read = 0
    assert (await client.post("/webhooks/stripe", content=endless())).status_code == 400
    assert read <= 100_000


async def test_a_body_that_does_not_end_does_not_hold_the_request(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    monkeypatch.setattr(request_body, "BODY_SECONDS", 0.05)
    headers = signed(event("customer.created")).headers
    assert (await client.post("/webhooks/stripe", content=stuck(), headers=headers)).status_code == 408


async def read_body(request: Request) -> bytes:
    return await request.body()


async def read_stream(request: Request) -> list[bytes]:
    return [chunk async for chunk in request.stream()]


@asynccontextmanager
async def serving(database: str, route: Callable[..., Any]) -> AsyncIterator[httpx.AsyncClient]:
    inbox = Inbox(secrets="whsec_test", url=database)
    api = FastAPI()
    route.__annotations__["delivery"] = Annotated[Delivery, inbox.delivery]
    api.post("/webhooks/stripe")(route)
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with inbox.lifespan(), httpx.AsyncClient(transport=transport, base_url="http://here") as client:
        yield client


async def test_a_body_that_the_route_has_read_already_is_received(database: str, conn: Connection) -> None:
    async def route(delivery: Any, payload: dict[str, Any], raw: Annotated[bytes, Depends(read_body)]) -> None:
        assert payload == delivery.event.payload == json.loads(raw)

    async with serving(database, route) as client:
        made = event("customer.created")
        assert (await deliver(client, made)).status_code == 200
        assert (await deliver(client, made, secret="whsec_other")).status_code == 400
        padded = signed(b'{"id": "evt_1", "type": "a.b", "x": "%s"}' % (b"x" * 1_000_000))
        assert (await client.post("/webhooks/stripe", content=padded.body, headers=padded.headers)).status_code == 413
    assert status(conn) == "succeeded"


async def test_a_body_that_is_gone_is_named_at_once(
    database: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async def route(gone: Annotated[Any, Depends(read_stream)], delivery: Any) -> None:
        pytest.fail("the route was called")

    async with serving(database, route) as client:
        assert (await deliver(client, event("customer.created"))).status_code == 500
    assert "the body was read before inbox.delivery" in caplog.text
    assert status(conn) is None


def plain(delivery: Any) -> None: ...


async def generator(delivery: Any) -> AsyncIterator[int]:
    yield 1


def plain_generator(delivery: Any) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("route", [plain, generator, plain_generator])
async def test_a_route_that_cannot_write_before_the_commit_is_refused(
    database: str, conn: Connection, route: Callable[..., Any]
) -> None:
    async with serving(database, route) as client:
        assert (await deliver(client, event("customer.created"))).status_code == 500
    assert status(conn) is None


async def test_a_wrapped_route_is_as_good_as_what_it_wraps(database: str, conn: Connection) -> None:
    async def route(delivery: Any) -> None:
        await delivery.tx.execute("select 1")

    @functools.wraps(route)
    async def wrapped(*args: Any, **named: Any) -> None:
        await route(*args, **named)

    async with serving(database, wrapped) as client:
        assert (await deliver(client, event("customer.created"))).status_code == 200
    assert status(conn) == "succeeded"


async def test_refused_deliveries_are_counted(
    client: httpx.AsyncClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "EVERY", 0)
    made = event("customer.created", id="cus_1")
    for _ in range(3):
        assert (await deliver(client, made, secret="whsec_other")).status_code == 400
    assert (await client.post("/webhooks/stripe", content=b"{}")).status_code == 400
    conn.execute("alter table webhook_events add constraint none check (false)")
    assert (await deliver(client, made)).status_code == 503
    listed = conn.execute("select reason, deliveries from pgonce_list_refused_deliveries() order by 1").fetchall()
    assert listed == [("database", 1), ("header", 1), ("signature", 3)]


async def test_what_the_database_refuses_is_a_503_without_a_value(
    client: httpx.AsyncClient, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.execute("create function picky() returns trigger language plpgsql as $$ begin raise '%', new.payload; end $$")
    conn.execute("create trigger picky before insert on webhook_events for each row execute function picky()")
    answer = await deliver(client, event("customer.created", id="cus_1"))
    assert answer.status_code == 503
    assert "RaiseException (P0001) in PL/pgSQL function picky()" in caplog.text
    assert "cus_1" not in caplog.text + answer.text


async def test_a_request_that_is_cancelled_before_its_route_begins_leaves_no_transaction_open(
    client: httpx.AsyncClient, conn: Connection
) -> None:
    made = event("customer.created", id="cus_1")
    waiting = "select count(*) from pg_locks where not granted and relation = 'webhook_events'::regclass"
    with conn.transaction():
        conn.execute("lock table webhook_events")
        task = asyncio.create_task(deliver(client, made))
        while conn.execute(waiting).fetchone() == (0,):  # noqa: ASYNC110 -- the database sets no asyncio.Event
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert (await deliver(client, made)).status_code == 200
    assert effects(conn) == ["cus_1"]


async def test_many_deliveries_of_one_event_at_once_have_one_effect(
    client: httpx.AsyncClient, conn: Connection
) -> None:
    made = event("customer.created", id="cus_1")
    answers = await asyncio.gather(*(deliver(client, made) for _ in range(8)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert effects(conn) == ["cus_1"]


async def test_a_lifespan_starts_its_parts_in_order_and_stops_them_in_reverse(database: str, conn: Connection) -> None:
    app, seen = pgonce.App(), []

    @app.job("minutely", cron="* * * * *")
    def minutely(run: pgonce.Run) -> None:
        pass

    def part(name: str) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def own(_app: Any) -> AsyncIterator[dict[str, str]]:
            seen.append(name)
            yield {name: "state"}
            seen.append(f"{name} ends")

        return own

    receiver = pgonce.receiver(app, secrets="whsec_test", url=database)
    together = lifespan(part("first"), receiver, Scheduler(app, database), part("last"))
    api = FastAPI(lifespan=together)

    @api.get("/")
    async def index(request: Request) -> str:
        return str(request.state.last)

    async with together(api) as state:
        assert state == {"first": "state", "last": "state"}
        does = conn.execute("select does from pgonce_processes order by 1").fetchall()
        assert ("jobs",) in does
        assert ("events",) in does
    assert seen == ["first", "last", "last ends", "first ends"]
    assert conn.execute("select count(*) from pgonce_processes").fetchone() == (0,)


async def test_what_is_registered_below_the_services_runs_as_well(database: str, conn: Connection) -> None:
    app = pgonce.App()
    receiver = pgonce.receiver(app, secrets="whsec_test", url=database, worker=False)
    together = lifespan(receiver, Worker(app, database), Scheduler(app, database))  # a module's first lines

    @app.webhook("customer.created")
    def created(event: pgonce.Event, tx: Connection) -> None: ...

    @app.webhook("customer.deleted")
    async def deleted(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None: ...

    @app.job("yearly", cron="0 0 1 1 *")
    def yearly(run: pgonce.Run) -> None: ...

    api = FastAPI(lifespan=together)
    api.mount("/", receiver)
    async with together(api):
        assert conn.execute("select job_name from pgonce_job_schedules").fetchall() == [("yearly",)]
        handlers = conn.execute("select handlers from pgonce_processes where does = 'events'").fetchone()
        assert handlers == (["customer.created", "customer.deleted"],)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://here") as client:
            for type_ in ("customer.created", "customer.deleted"):
                await deliver(client, event(type_))
        done = "select count(*) = 2 from webhook_events where status = 'succeeded'"
        await asyncio.to_thread(wait_until, lambda: conn.execute(done).fetchone() == (True,), "both to be handled")


async def test_a_mounted_receiver_warns_of_a_type_that_stripe_does_not_send(
    database: str, conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    app = pgonce.App()
    receiver = pgonce.receiver(app, secrets="whsec_test", url=database, worker=False)
    app.webhook("invoice.payed")(lambda _event, _tx: None)
    async with receiver.lifespan():
        pass
    assert 'Stripe sends no type "invoice.payed": did you mean invoice.paid?' in caplog.messages


async def test_a_part_that_cannot_start_stops_those_before_it() -> None:
    app, seen = pgonce.App(), []

    @asynccontextmanager
    async def own(_app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append("ended")

    together = lifespan(own, Scheduler(app, "postgresql://127.0.0.1:1/none"))
    with pytest.raises(pgonce.DatabaseUnavailable):
        async with together(None):
            pass
    assert seen == ["ended"]


@pytest.mark.parametrize("part", ["x", 3, pgonce.App])
async def test_what_cannot_be_started_is_refused(part: Any) -> None:
    with pytest.raises(InvalidArgument, match="pass a receiver"):
        lifespan(part)
