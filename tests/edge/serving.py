"""Serves an ASGI or WSGI app on a free loopback port, in a thread, for one test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from socketserver import BaseServer
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import uvicorn

Served = httpx.Client
S = TypeVar("S", bound=BaseServer)


def serve_asgi(app: Any, on_stop: Callable[[], Awaitable[None]] | None = None, **settings: Any) -> Iterator[Served]:
    started = threading.Event()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="auto", **settings))

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)  # uvicorn has no event for it
        started.set()
        await task
        if on_stop:
            await on_stop()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client
    server.should_exit = True
    thread.join(30)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def serve_wsgi(app: Any) -> Iterator[Served]:
    with (
        serving(make_server("127.0.0.1", 0, app, handler_class=_Quiet)) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", timeout=30) as client,
    ):
        yield client


@contextmanager
def serving(server: S) -> Iterator[S]:
    """``server`` at work in a thread. It looks every 10 ms whether it should end: by default it takes half a second."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(30)
