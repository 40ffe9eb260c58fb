"""Procrastinate's lock, for comparison in the jobs benchmark."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from bench.server import new_database


def with_procrastinate(clients: int, seconds: float) -> float:
    """Jobs per second: each is deferred with a lock of its own, fetched by a worker's query, and finished."""
    return asyncio.run(_procrastinate(clients, seconds))


async def _procrastinate(connections: int, seconds: float) -> float:
    import procrastinate

    with new_database(migrated=False) as url:
        app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=url, min_size=connections, max_size=10)
        )
        done = 0
        ended = asyncio.Event()

        begun = asyncio.Event()

        @app.task(name="task", queue="q")
        async def task() -> None:
            nonlocal done
            done += 1
            begun.set()

        async with app.open_async():
            await app.schema_manager.apply_schema_async()

            async def client(number: int) -> None:
                while not ended.is_set():
                    await task.configure(lock=f"lock_{number}").defer_async()

            worker = asyncio.create_task(
                app.run_worker_async(concurrency=connections, install_signal_handlers=False, listen_notify=True)
            )
            await task.configure(lock="first").defer_async()
            await begun.wait()
            first, started = done, time.perf_counter()
            # only as many open jobs as keep the worker busy: a long queue makes its fetch slower
            clients = [asyncio.create_task(client(number)) for number in range(connections)]
            await asyncio.sleep(seconds)
            rate = (done - first) / (time.perf_counter() - started)
            ended.set()
            await asyncio.gather(*clients)
            worker.cancel()
            with suppress(asyncio.CancelledError):
                await worker
            return rate
