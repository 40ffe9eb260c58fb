"""Events handled per second: recorded, handled by a Python function with one SQL effect, marked; durable commits.

Every contender has eight connections to the database and gets the same deliveries, one in ten a duplicate; the figure
is deliveries per second. pgbench's eight connections have eight deliveries in flight. A receiver answers more
requests than it has connections, so pgonce and PgQueuer are measured with eight in flight, with 32, as many as the
HTTP benchmark sends, and with 64. pgbench uses the specification's own table, and its handler is SQL, so it shows
PostgreSQL without any client; "by hand" is the same three statements sent by Python."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg

import pgonce
from bench import processes
from bench.cpu import Stopwatch
from bench.load import deliveries, event
from bench.result import Result
from bench.server import new_database
from bench.webhook_peers import EFFECTS, ONE, THREE, by_hand, with_pgbench, with_pgqueuer
from pgonce.cli.serve import freeze_garbage
from pgonce.core import database
from pgonce.core.execute import call
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import queue_webhooks
from pgonce.webhooks.inbox_writer import InboxWriter
from pgonce.webhooks.worker import Worker

ONE_STATEMENT, THREE_STATEMENTS = "pgbench, one statement", "pgbench, three statements"
BY_HAND = "psycopg by hand"
IN_FLIGHT = (8, 32, 64)


def one_by_one() -> pgonce.App:
    app = pgonce.App()

    @app.webhook("customer.subscription.*")
    def handle(event: pgonce.Event, tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects (event) values (%s)", [event.id])

    return app


def set_wise() -> pgonce.App:
    app = pgonce.App()

    @app.webhook_batch("customer.subscription.*")
    def handle(events: Sequence[pgonce.Event], tx: psycopg.Connection[Any]) -> None:
        tx.execute("insert into effects (event) select unnest(%s::text[])", [[event.id for event in events]])

    return app


@contextmanager
def _fresh() -> Any:
    with new_database() as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute(EFFECTS)
        yield url, conn


@contextmanager
def settled() -> Iterator[None]:
    """Sets the garbage collector as the commands do; restores it afterwards for the others."""
    usual = gc.get_threshold()
    freeze_garbage()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


def end_to_end(make: Callable[[], pgonce.App], bodies: Sequence[bytes], in_flight: int) -> float:
    """Writer and worker in one process, as in ``pgonce serve``; from the first delivery to the last effect."""
    with _fresh() as (url, conn), settled():
        distinct = len(set(bodies))
        with Worker(make(), url, concurrency=4, poll=0.2) as worker:
            watch = Stopwatch(f"{make.__name__}, {in_flight} in flight")
            asyncio.run(record_all(url, bodies, worker, in_flight))
            wait_for_effects(conn, distinct)
            return watch.rate(len(bodies))


async def record_all(url: str, bodies: Sequence[bytes], worker: Worker, in_flight: int) -> None:
    waiting = iter(bodies)
    async with await database.open_async_pool(url, 2) as pool:  # the worker has six more
        writer = InboxWriter(pool, worker=worker)

        async def client() -> None:
            for body in waiting:
                await writer.record(stripe.read(body), None)

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(client())


def wait_for_effects(conn: psycopg.Connection[Any], wanted: int) -> None:
    # read from the statistics of the queue's index: counting effects would slow down the measured worker
    open_events = "select exists (select from webhook_events where next_attempt_at is not null)"
    while conn.execute(open_events).fetchone() == (True,):
        time.sleep(0.01)
    found = conn.execute("select count(*) from effects").fetchone()
    assert found == (wanted,), f"{found} effects of {wanted} events"


def drain(make: Callable[[], pgonce.App], count: int) -> float:
    """Only the worker, on events that are all recorded."""
    with _fresh() as (url, conn), settled():
        fill(url, count)
        conn.execute("vacuum analyze webhook_events")
        watch = Stopwatch(f"{make.__name__}, draining")
        with Worker(make(), url, concurrency=4, poll=0.2):
            wait_for_effects(conn, count)
            return watch.rate(count)


def fill(url: str, count: int, start: int = 0) -> None:
    """Queue ``count`` distinct events."""
    import json

    with database.open_pool(url, 1) as pool:
        for first in range(start, start + count, 500):
            some = range(first, min(first + 500, start + count))
            bodies = [stripe.read(json.dumps(event(f"evt_{nr:010}", nr)).encode()) for nr in some]
            call(pool, queue_webhooks(bodies), "public")


def run(quick: bool) -> list[Result]:
    count, seconds, rounds = (3000, 2.0, 1) if quick else (15000, 5.0, 5)
    # Of 3,000 events each of 32 processes would handle 94, and the first ones are slow: see docs/decisions/worker.md.
    many = max(count, 12000)
    bodies = deliveries(count)
    some = bodies[: max(500, count // 10)]
    contenders: dict[str, Callable[[], float]] = {
        ONE_STATEMENT: lambda: with_pgbench(ONE, seconds),
        THREE_STATEMENTS: lambda: with_pgbench(THREE, seconds),
        BY_HAND: lambda: by_hand(bodies),
        "draining": lambda: drain(one_by_one, count),
        "draining set-wise": lambda: drain(set_wise, count),
        "draining, 8 processes": lambda: processes.drain(8, many, fill),
        "draining, 32 processes": lambda: processes.drain(32, many, fill),
        "draining by hand, 8 processes": lambda: processes.drain(8, many, fill, by_hand=True),
        "draining by hand, 32 processes": lambda: processes.drain(32, many, fill, by_hand=True),
    }
    for number in IN_FLIGHT:
        contenders[f"one by one, {number}"] = partial(end_to_end, one_by_one, bodies, number)
        contenders[f"set-wise, {number}"] = partial(end_to_end, set_wise, bodies, number)
        if importlib.util.find_spec("pgqueuer"):
            contenders[f"PgQueuer, {number} in flight"] = partial(with_pgqueuer, some, number)
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):  # alternately, so that other load on the machine affects all of them
        for name, measure in contenders.items():
            figures[name].append(measure())
    return list(_table({name: statistics.median(values) for name, values in figures.items()}))


def _table(median: dict[str, float]) -> list[Result]:
    def line(name: str, figure: str, least: float, peer: str) -> Result:
        if peer not in median:
            return Result(name, median[figure], "deliveries/s", None, f"{peer} is not installed", None)
        ratio = median[figure] / median[peer]
        return Result(name, median[figure], "deliveries/s", ratio, f">= {least:g} x {peer}", ratio >= least)

    own = ("one by one", "set-wise", "draining")
    results = [Result(name, rate, "deliveries/s") for name, rate in median.items() if not name.startswith(own)]
    for number in IN_FLIGHT:
        name, figure = f"record + handler + mark, {number} in flight", f"one by one, {number}"
        few = number < 32
        results.append(line(name, figure, 0.7 if few else 1.0, THREE_STATEMENTS))
        results.append(line(name, figure, 1.35 if few else 1.0, BY_HAND))
        results.append(line(name, figure, 4.0, f"PgQueuer, {number} in flight"))
    for number in IN_FLIGHT:
        name = f"record + webhook_batch + mark, {number} in flight"
        results.append(line(name, f"set-wise, {number}", 1.0, ONE_STATEMENT))
    results.append(line("draining, one by one", "draining", 1.1, THREE_STATEMENTS))
    results.append(Result("draining, 8 processes", median["draining, 8 processes"], "events/s"))
    results.append(line("draining, 32 processes", "draining, 32 processes", 0.8, "draining, 8 processes"))
    by_hand = median["draining by hand, 32 processes"]
    ratio = by_hand / median["draining by hand, 8 processes"]
    results.append(Result("draining by hand, 32 processes", by_hand, "events/s", ratio, "of 8 processes by hand"))
    results.append(line("draining, webhook_batch", "draining set-wise", 2.5, THREE_STATEMENTS))
    return results
