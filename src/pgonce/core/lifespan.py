"""The types of an ASGI app, and its answers to the server's lifespan messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from pgonce.errors import PgonceError

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def follow_lifespan(
    receive: Receive, send: Send, start: Callable[[], Awaitable[Any]], stop: Callable[[], Awaitable[Any]]
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
