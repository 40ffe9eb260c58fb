"""Answers the lifespan messages of an ASGI server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pgonce.errors import PgonceError


async def follow_lifespan(
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
    start: Callable[[], Awaitable[Any]],
    stop: Callable[[], Awaitable[Any]],
) -> None:
    """Call ``start`` before the first request and ``stop`` after the last one.

    A PgonceError of ``start`` ends the server, which prints its text.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await start()
            except PgonceError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        else:
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
