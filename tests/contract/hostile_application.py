"""A program that changes every setting of its database, role and adapters; run by test_hostile_settings.py.

    python -m tests.contract.hostile_application URL

It delivers, works, runs jobs and imports, in both worlds and through pools of its own, and prints a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
from click.testing import CliRunner
from psycopg import AsyncConnection, AsyncRawCursor, RawCursor
from psycopg.adapt import Loader
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool, ConnectionPool

import pgonce
from pgonce.cli import main as command
from pgonce.core.execute import call
from pgonce.errors import LeaseLost
from pgonce.jobs.scheduler import Scheduler
from pgonce.webhooks import calls, stripe
from pgonce.webhooks.calls import Claim
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until

TYPES = [
    "uuid",
    "timestamptz",
    "jsonb",
    "json",
    "bool",
    "int2",
    "int4",
    "int8",
    "text",
    "varchar",
    "interval",
    "bytea",
    "float8",
]
said: dict[str, Any] = {}


class Shout(Loader):
    def load(self, _data: Any) -> Any:
        return "LOADED BY THE APPLICATION"


class ShoutInBinary(Shout):
    format = psycopg.pq.Format.BINARY


def register(where: Any) -> None:
    for name in TYPES:
        where.adapters.register_loader(name, Shout)
        where.adapters.register_loader(name, ShoutInBinary)


def observer(url: str) -> psycopg.Connection[Any]:
    """A session that reads; under SERIALIZABLE its own reads would fail."""
    options = "-c default_transaction_isolation=read\\ committed"
    return psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor, options=options)


async def configure_async(conn: AsyncConnection[Any]) -> None:
    register(conn)


def body(name: str) -> bytes:
    return json.dumps(
        {"id": f"evt_{name}", "type": "pay", "object": "event", "data": {"object": {"id": "ü€\u0001", "n": "\0"}}}
    ).encode()


def write(event: Any, tx: Any) -> None:
    tx.execute("insert into public.effects values ($1)", [event.id])
    if event.id.endswith("fails") and event.attempts == 1:
        raise ValueError(event.id)
    if event.id.endswith("ignored"):
        event.ignore("ü€ not ours")


async def write_async(event: Any, tx: Any) -> None:
    await tx.execute("insert into public.effects values ($1)", [event.id])
    if event.id.endswith("fails") and event.attempts == 1:
        raise ValueError(event.id)
    if event.id.endswith("ignored"):
        event.ignore("ü€ not ours")


def signed(name: str) -> tuple[bytes, str]:
    return body(name), stripe.sign(body(name), "whsec_test")


def webhooks(pool: Any, world: str) -> None:
    hooks = pgonce.Webhooks(pool, secrets=["whsec_test"])
    outcomes: list[Any] = [hooks.receive(*signed(f"{world}_once"), write) for _ in range(2)]
    for _ in range(2):
        try:
            outcomes.append(hooks.receive(*signed(f"{world}_fails"), write))
        except ValueError:
            outcomes.append("failed")
    outcomes.append(hooks.receive(*signed(f"{world}_ignored"), write))
    said[f"{world} webhooks"] = outcomes
    body_ = stripe.read(body(f"{world}_lost"))
    claim = call(pool, calls.claim_webhook(body_), "public")
    lost = Claim("claimed", claim.id, claim.id, 1)  # a lease that is not its
    with pool.connection() as conn:
        try:
            with conn.transaction():
                calls.Event("evt", "pay", {}, claim=lost).complete(conn)
        except LeaseLost:
            said[f"{world} lost"] = True


def jobs(pool: Any, world: str) -> None:
    one = pgonce.Jobs(pool)
    with one.run(f"{world}_job", window="1 minute", scope={"ü€": None}) as run:
        assert run is not None
        with one.run(f"{world}_job") as second:
            said[f"{world} overlap"] = second is None
        for _ in range(2):
            with run.transaction() as tx:
                tx.execute("insert into public.effects values ($1)", [f"{world}_job"])
            run.processed()
    try:
        with one.run(f"{world}_job") as run:
            raise ValueError("ü€ broken")
    except ValueError:
        pass


def source(cursor: Any) -> Iterator[tuple[Any, Any]]:
    for number in range(cursor["n"] + 1 if cursor else 0, 10):
        if number == 5 and not cursor:
            raise OSError("the file ends")
        yield {"id": number, "note": "ü"}, {"n": number}


async def source_async(cursor: Any) -> AsyncIterator[tuple[Any, Any]]:
    for row in source(cursor):
        yield row


def seeds(pool: Any, world: str) -> None:
    one = pgonce.Seeds(pool)
    for _ in range(2):
        try:
            done = one.run(f"{world}_seed", source, into=f"public.{world}_rows", key=("id",), batch_size=2)
            said[f"{world} seed"] = done.outcome
        except OSError:
            pass
    options: dict[str, Any] = {"into": f"public.{world}_rows", "key": ("id",)}
    said[f"{world} verified"] = one.verify(f"{world}_seed", other, **options)["different"] == 1
    said[f"{world} rehearsed"] = one.rehearse(f"{world}_again", other, **options).skipped == 10
    done = one.run(f"{world}_again", other, on_conflict="update", set_sequences=True, **options)
    found = one.checkpoint(f"{world}_again")
    said[f"{world} updated"] = bool(found and (found.rows_updated, found.rows_skipped) == (1, 9))


def other(_: Any) -> Iterator[tuple[Any, Any]]:
    for number in range(10):
        yield {"id": number, "note": "ü" if number else "ö"}, {"n": number}


async def in_asyncio(url: str) -> None:
    pool = AsyncConnectionPool[Any](
        url,
        kwargs={"autocommit": True, "row_factory": dict_row, "cursor_factory": AsyncRawCursor},
        configure=configure_async,
        min_size=1,
        max_size=4,
        open=False,
    )
    async with pool:
        hooks = pgonce.AsyncWebhooks(pool, secrets=["whsec_test"])
        outcomes: list[Any] = [await hooks.receive(*signed("looped_once"), write_async) for _ in range(2)]
        for _ in range(2):
            try:
                outcomes.append(await hooks.receive(*signed("looped_fails"), write_async))
            except ValueError:
                outcomes.append("failed")
        outcomes.append(await hooks.receive(*signed("looped_ignored"), write_async))
        said["looped webhooks"] = outcomes
        one = pgonce.AsyncJobs(pool)
        async with one.run("looped_job", window="1 minute", scope={"ü€": None}) as run:
            assert run is not None
            async with one.run("looped_job") as second:
                said["looped overlap"] = second is None
            for _ in range(2):
                async with run.transaction() as tx:
                    await tx.execute("insert into public.effects values ($1)", ["looped_job"])
                run.processed()
        refused = asyncio.Semaphore(0)
        both = await asyncio.gather(*(entered(one, refused) for _ in range(8)))
        said["looped at once"] = sum(both)


async def entered(jobs: pgonce.AsyncJobs, refused: asyncio.Semaphore) -> bool:
    async with jobs.run("at_once", key="k") as run:
        if run is None:
            refused.release()
        else:  # a run that ended earlier would let another one start
            async with asyncio.timeout(20):
                for _ in range(7):
                    await refused.acquire()
        return run is not None


def worker(url: str, pool: Any) -> None:
    app = pgonce.App()
    app.webhook("sync")(lambda event, tx: tx.execute("insert into public.effects values (%s)", [event.id]) and None)

    @app.webhook("async", ordered=True)
    async def handle(event: Any, tx: Any) -> None:
        await tx.execute("insert into public.effects values (%s)", [event.id])

    @app.webhook_batch("batch")
    def batch(events: Any, tx: Any) -> None:
        for event in events:
            tx.execute("insert into public.effects values (%s)", [event.id])

    @app.webhook("own", transaction="own")
    def own(event: Any) -> None:
        with psycopg.connect(url) as conn:
            conn.execute("insert into public.effects values (%s)", [event.id])
            event.complete(conn)

    bodies = [
        stripe.read(json.dumps({"id": f"evt_{kind}_{n}", "type": kind, "data": {"object": {"id": "ü"}}}).encode())
        for kind in ("sync", "async", "batch", "own", "nobody")
        for n in range(5)
    ]
    call(
        pool,
        calls.queue_webhooks(bodies, [app.order_key(pgonce.Event(b.id, b.type, b.payload)) for b in bodies]),
        "public",
    )
    with (
        Worker(app, url, poll=0.05),
        observer(url) as conn,
    ):
        left = "select 1 from public.webhook_events where queued and status = 'processing'"
        wait_until(lambda: conn.execute(left).fetchone() is None, "the worker to handle everything", seconds=60)


def imports(url: str) -> None:
    """Through pools whose cursors and loaders are the application's own."""
    options = {"row_factory": dict_row, "cursor_factory": RawCursor}
    for world, autocommit in (("auto", True), ("plain", False)):
        with ConnectionPool[Any](
            url, kwargs={"autocommit": autocommit, **options}, configure=register, min_size=1, open=True
        ) as pool:
            seeds(pool, world)

    async def in_asyncio() -> None:
        async with AsyncConnectionPool[Any](
            url,
            kwargs={"autocommit": True, "row_factory": dict_row, "cursor_factory": AsyncRawCursor},
            configure=configure_async,
            min_size=1,
            open=False,
        ) as pool:
            seeds = pgonce.AsyncSeeds(pool)
            for _ in range(2):
                try:
                    done = await seeds.run(
                        "looped_seed", source_async, into="public.looped_rows", key=("id",), batch_size=2
                    )
                    said["looped seed"] = done.outcome
                except OSError:
                    pass

    asyncio.run(in_asyncio())


def scheduler(url: str) -> None:
    app = pgonce.App()
    app.job("ticking", cron="0 6 * * *", timezone="America/New_York")(print)
    known = "select 1 from public.pgonce_job_schedules where job_name = 'ticking'"
    with Scheduler(app, url), observer(url) as conn:
        wait_until(lambda: conn.execute(known).fetchone(), "the scheduler to register its job")


def main(url: str) -> None:
    register(psycopg)
    set_json_loads(lambda _: "LOADED BY THE APPLICATION")
    set_json_dumps(lambda _: '"dumped by the application"')
    imports(url)
    for autocommit in (True, False):
        world = "auto" if autocommit else "plain"
        pool = ConnectionPool[Any](
            url,
            kwargs={"autocommit": autocommit, "row_factory": dict_row, "cursor_factory": RawCursor},
            configure=register,
            min_size=1,
            max_size=4,
            open=True,
        )
        with pool:
            webhooks(pool, world)
            jobs(pool, world)
            if autocommit:
                worker(url, pool)
    asyncio.run(in_asyncio(url))
    scheduler(url)
    for arguments in (
        ["job", "ls"],
        ["webhook", "ls"],
        ["webhook", "show", "evt_sync_1"],
        ["seed", "ls"],
        ["job", "stats"],
    ):
        done = CliRunner().invoke(command, [*arguments, "--json", "--database-url", url])
        said[" ".join(arguments)] = done.exit_code or (json.loads(done.stdout) and 0)
        if done.exit_code:
            said[f"{' '.join(arguments)} output"] = f"{done.output} {done.exception!r}"


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BaseException:  # noqa: BLE001 -- the test says it
        said["error"] = traceback.format_exc()
    sys.stdout.write(json.dumps(said) + "\n")
