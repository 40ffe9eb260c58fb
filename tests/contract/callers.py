"""The callers of the SQL functions. One suite runs against each: if one fails, part of the protocol is not in SQL.

``PlainSql`` does what any language can do with the functions; ``Sync`` and ``Async`` are the Python classes. A test is
 written once, with blocking calls: ``Async`` runs an event loop in a thread and executes each call there.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent import futures
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, Connection, sql
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from pgonce import AsyncJobs, AsyncSeeds, AsyncWebhooks, Jobs, Seeds, Webhooks
from pgonce.errors import EventBusy, LeaseLost, translate
from pgonce.webhooks import stripe
from pgonce.webhooks.calls import Event, Ignored, Unhandled

T = TypeVar("T")
SECRET = "whsec_test"


class Tx(Protocol):
    """What a handler writes through."""

    def execute(self, query: str, args: Any = None) -> Any: ...
    def commit(self) -> None: ...


class Run(Protocol):
    """A job's run, with the methods that every caller has."""

    @property
    def id(self) -> UUID: ...
    def transaction(self) -> AbstractContextManager[Tx]: ...
    def processed(self, rows: int = 1) -> None: ...
    def skipped(self, rows: int = 1) -> None: ...


Handler = Callable[[Event, Tx], object]
Source = Callable[[Any], Iterable[tuple[Any, Any]]]


class Caller(Protocol):
    """The three primitives, in blocking calls."""

    def deliver(self, body: bytes, handler: Handler, lease: str = "5 minutes") -> str: ...
    def run(self, name: str, **options: Any) -> AbstractContextManager[Run | None]: ...
    def seed(self, name: str, source: Source, **options: Any) -> str: ...
    def close(self) -> None: ...


class PlainSql:
    """The SQL functions. Of pgonce's Python code it uses only the parsing of a body."""

    def __init__(self, url: str, **_: Any) -> None:
        self._url = url

    def close(self) -> None:
        pass

    def _connect(self) -> Connection[Any]:
        return psycopg.connect(self._url, autocommit=True, options="-c statement_timeout=30s")

    def deliver(self, body: bytes, handler: Handler, lease: str = "5 minutes") -> str:
        event = stripe.read(body)
        with self._connect() as conn:
            claim = "select * from claim_webhook(%s, %s, %s, p_raw => %s, p_lease_for => %s)"
            outcome, row, mine, attempts = one(conn, claim, event.id, event.type, event.text, event.raw, lease)
            if outcome == "busy":
                raise EventBusy
            if outcome != "claimed":
                return str(outcome)
            try:
                with conn.transaction(), conn.transaction("handler"):
                    if not one(conn, "select complete_webhook(%s, %s)", row, mine)[0]:
                        raise LeaseLost
                    handler(Event(event.id, event.type, event.payload, attempts), conn)
            except Ignored as decision:
                end = "select ignore_webhook(%s, %s, %s, %s)"
                if not one(conn, end, row, mine, str(decision), isinstance(decision, Unhandled))[0]:
                    raise LeaseLost from None
                return "ignored"
            except LeaseLost:
                raise
            except BaseException:
                with self._connect() as other:  # this connection may be the one that failed
                    one(other, "select fail_webhook(%s, %s, %s)", row, mine, traceback.format_exc())
                raise
            return "succeeded"

    @contextmanager
    def run(self, name: str, **options: Any) -> Iterator[SqlRun | None]:
        options = {f"p_{key}": Jsonb(value) if key == "scope" else value for key, value in options.items()}
        call = sql.SQL("select start_job_run({})").format(
            sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(key), sql.Literal(value))
                               for key, value in {"p_job_name": name, **options}.items())
        )  # fmt: skip
        with self._connect() as conn:
            found = conn.execute(call).fetchone()
            if not found or found[0] is None:
                yield None
                return
            run = SqlRun(self._connect, found[0])
            try:
                yield run
            except BaseException:
                one(conn, "select fail_job_run(%s, %s)", run.id, traceback.format_exc())
                raise
            if not one(conn, "select complete_job_run(%s, %s, %s)", run.id, *run.counts)[0]:
                raise LeaseLost

    def seed(self, name: str, source: Source, **options: Any) -> str:
        into, key, batch_size = options["into"], options["key"], options.get("batch_size", 2)
        with self.run("seed_runner", key=name, window="2 minutes") as run, self._connect() as conn:
            if run is None:
                return "overlap"
            found = conn.execute("select last_checkpoint, batch from get_checkpoint(%s)", [name]).fetchone()
            cursor, number = found or ({}, 0)
            try:
                for rows, at in in_batches(source(cursor or None), batch_size):
                    self._land(conn, rows, (name, run.id, number, Jsonb(at)), into, key)
                    number += 1
                one(conn, "select from complete_seed(%s)", name)
            except LeaseLost:
                raise
            except Exception:
                one(conn, "select from fail_seed(%s, %s)", name, traceback.format_exc())
                raise
            return "complete"

    @staticmethod
    def _land(conn: Connection[Any], rows: list[Any], step: tuple[Any, ...], into: str, key: Any) -> None:
        columns = sql.SQL(", ").join(map(sql.Identifier, rows[0]))
        keys = sql.SQL(", ").join(map(sql.Identifier, key))
        insert = sql.SQL("insert into {} ({}) values ({}) on conflict ({}) do nothing")
        try:
            with conn.transaction():
                inserted = 0
                for row in rows:
                    values = sql.SQL(", ").join(map(sql.Literal, row.values()))
                    inserted += conn.execute(insert.format(sql.Identifier(into), columns, values, keys)).rowcount
                counts = (inserted, len(rows) - inserted)
                if not conn.execute("select from pgonce_advance_seed(%s, %s, %s, %s, %s, %s)", step + counts).rowcount:
                    raise LeaseLost("moved by somebody else")
        except psycopg.Error as error:
            raise translate(error) from error


def in_batches(source: Iterable[tuple[Any, Any]], size: int) -> Iterator[tuple[list[Any], Any]]:
    """Yield at least ``size`` rows at a time, and the cursor of the last row.

    A part ends only where the cursor changes.
    """
    rows: list[Any] = []
    at: Any = None
    for row, cursor in source:
        if len(rows) >= size and cursor != at:
            yield rows, at
            rows = []
        rows.append(row)
        at = cursor
    if rows:
        yield rows, at


class SqlRun:
    """A run of which the caller has only the id."""

    def __init__(self, connect: Callable[[], Connection[Any]], run_id: UUID) -> None:
        self.id = run_id
        self.counts = [0, 0]
        self._connect = connect

    def processed(self, rows: int = 1) -> None:
        self.counts[0] += rows

    def skipped(self, rows: int = 1) -> None:
        self.counts[1] += rows

    @contextmanager
    def transaction(self) -> Iterator[Connection[Any]]:
        with self._connect() as conn, conn.transaction():
            conn.execute("select set_config('application_name', %s, true)", [f"pgonce {self.id}"])
            yield conn
            if not one(conn, "select beat_job_run(%s)", self.id)[0]:
                raise LeaseLost


def one(conn: Connection[Any], query: str, *args: Any) -> Any:
    """The only row."""
    row = conn.execute(query.encode(), args).fetchone()
    assert row is not None
    return row


def spawn(work: Callable[..., T], *args: Any) -> futures.Future[T]:
    """Start ``work`` in a daemon thread: a test that fails may leave it waiting."""
    future: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:  # noqa: BLE001 -- it is what the future is for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Sync:
    """``Webhooks``, ``Jobs``, ``Seeds``."""

    def __init__(self, url: str, *, size: int = 4, **kwargs: Any) -> None:
        kwargs = {"autocommit": True, **kwargs}
        self.pool = ConnectionPool(url, kwargs=kwargs, min_size=1, max_size=size, open=True, timeout=20)
        self.jobs = Jobs(self.pool)
        self.seeds = Seeds(self.pool)

    def close(self) -> None:
        self.pool.close()

    def deliver(self, body: bytes, handler: Handler, lease: str = "5 minutes") -> str:
        webhooks = Webhooks(self.pool, secrets=[SECRET], lease=lease)
        return webhooks.receive(body, stripe.sign(body, SECRET), handler)

    def run(self, name: str, **options: Any) -> AbstractContextManager[Any]:
        return self.jobs.run(name, **options)

    def seed(self, name: str, source: Source, **options: Any) -> str:
        return self.seeds.run(name, source, **{"batch_size": 2, **options}).outcome


class Async:
    """``AsyncWebhooks``, ``AsyncJobs``, ``AsyncSeeds``, on an event loop in a thread."""

    def __init__(self, url: str, *, size: int = 4, **kwargs: Any) -> None:
        self.loop = Loop()
        kwargs = {"autocommit": True, **kwargs}

        async def pool() -> AsyncConnectionPool[AsyncConnection[Any]]:
            made = AsyncConnectionPool(url, kwargs=kwargs, min_size=1, max_size=size, open=False, timeout=20)
            await made.open()
            return made

        self.pool = self.loop.call(pool())
        self.jobs = AsyncJobs(self.pool)
        self.seeds = AsyncSeeds(self.pool)

    def close(self) -> None:
        self.loop.call(self.pool.close())
        self.loop.close()

    def deliver(self, body: bytes, handler: Handler, lease: str = "5 minutes") -> str:
        webhooks = AsyncWebhooks(self.pool, secrets=[SECRET], lease=lease)

        async def bridged(event: Event, conn: AsyncConnection[Any]) -> None:
            await asyncio.to_thread(handler, event, LoopTx(self.loop, conn))

        return self.loop.call(webhooks.receive(body, stripe.sign(body, SECRET), bridged))

    @contextmanager
    def run(self, name: str, **options: Any) -> Iterator[LoopRun | None]:
        with self.loop.entered(self.jobs.run(name, **options)) as run:
            yield None if run is None else LoopRun(self.loop, run)

    def seed(self, name: str, source: Source, **options: Any) -> str:
        return self.loop.call(self.seeds.run(name, source, **{"batch_size": 2, **options})).outcome


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of ``coroutine``."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """``manager`` around a block.

        The same task enters and leaves it, because a cancellation must reach that task.
        """
        ready: futures.Future[T] = futures.Future()
        leave = self.call(_future())

        async def hold() -> None:
            async with manager as value:
                ready.set_result(value)
                await leave

        def left(error: BaseException | None) -> None:
            if not leave.done() and error is None:
                leave.set_result(None)
            elif not leave.done() and error is not None:
                leave.set_exception(error)

        task = asyncio.run_coroutine_threadsafe(hold(), self._loop)
        either: list[futures.Future[Any]] = [ready, task]
        futures.wait(either, return_when=futures.FIRST_COMPLETED)
        if not ready.done():
            task.result()
        try:
            yield ready.result()
        except BaseException as error:  # noqa: BLE001 -- it comes out of the manager again
            self._loop.call_soon_threadsafe(left, error)
        else:
            self._loop.call_soon_threadsafe(left, None)
        task.result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


class LoopTx:
    """An asynchronous connection whose methods block, as those of a synchronous one do."""

    def __init__(self, loop: Loop, conn: AsyncConnection[Any]) -> None:
        self._loop = loop
        self._conn = conn

    def execute(self, query: str, args: Any = None) -> Rows:
        async def fetched() -> list[Any]:
            cursor = await self._conn.execute(query.encode(), args)
            return await cursor.fetchall() if cursor.description else []

        return Rows(self._loop.call(fetched()))

    def commit(self) -> None:
        self._loop.call(self._conn.commit())


class Rows(list[Any]):
    """Rows that were read already, with the methods of a cursor."""

    def fetchone(self) -> Any:
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        return self


class LoopRun:
    """A run on the event loop, with blocking calls."""

    def __init__(self, loop: Loop, run: Any) -> None:
        self._loop = loop
        self._run = run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    @contextmanager
    def transaction(self) -> Iterator[LoopTx]:
        with self._loop.entered(self._run.transaction()) as conn:
            yield LoopTx(self._loop, conn)
