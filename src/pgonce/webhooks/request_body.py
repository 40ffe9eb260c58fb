"""Reads the bodies of requests within limits of size, time and memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from pgonce.core.lifespan import Receive
from pgonce.errors import DatabaseUnavailable, PayloadTooLarge
from pgonce.webhooks.responses import MAX_BODY, SlowRequest

BODY_SECONDS = 10.0
"""Seconds that a client may take to send a body. Stripe sends it at once."""
SMALL_BODY = 65_536
"""Bytes. A body that is larger counts against ``LARGE_BODIES`` while it is received."""
LARGE_BODIES = 64 * MAX_BODY
"""Bytes of large bodies that are received at the same time; the sender of one more gets 503."""


class RequestBody:
    """The body of a request, as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.begun = False
        """Whether the body matters: to other paths nothing is read."""
        self.complete = False

    async def read(self) -> bytes:
        """The next part of the body."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.complete = True
            raise SlowRequest("the client closed the connection before the end of the body")
        self.complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    async def discard_rest(self) -> None:
        """After an answer that closes the connection, read for a moment what still arrives.

        If bytes are left unread, the kernel resets the connection instead of closing it, and the client may lose the
        answer that it has not read yet.
        """
        left = MAX_BODY
        with suppress(TimeoutError, SlowRequest):
            async with asyncio.timeout(1):
                while left > 0 and not self.complete:
                    left -= len(await self.read())


class BodyReader:
    """Reads whole bodies of at most ``limit`` bytes; one for each receiver."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.large = 0
        """Bytes of large bodies that are being received."""

    def check_size(self, size: int) -> None:
        """Raise PayloadTooLarge if ``size`` is over the limit."""
        if size > self._limit:
            raise PayloadTooLarge(f"the body is over the limit of {self._limit:,} bytes")

    async def read(self, body: RequestBody) -> bytes:
        """Read the body. Refuse it as soon as it is larger than the limit, or takes longer than `BODY_SECONDS`."""
        size, counted = 0, 0
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while not body.complete:
                    chunk = await body.read()
                    chunks.append(chunk)
                    size += len(chunk)
                    self.check_size(size)
                    if size > SMALL_BODY:
                        self.large += size - counted
                        counted = size
                        if self.large > LARGE_BODIES:
                            raise DatabaseUnavailable("too many large bodies are being received at the same time")
        except TimeoutError:
            raise SlowRequest(f"the body was not received within {BODY_SECONDS:g} s") from None
        finally:
            self.large -= counted
        return b"".join(chunks)
