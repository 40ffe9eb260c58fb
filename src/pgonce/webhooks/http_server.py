"""uvicorn as ``pgonce serve`` runs it: no client can hold it up by being slow, silent or numerous.

uvicorn has no time limit for a request's head, no limit of connections and no limit of a chunked body's overhead.
2,000 requests that were sent in part stayed open for ever, and 1,100 idle connections used up the file descriptors.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 15.0
"""Seconds until a connection must have sent the whole head of its next request; a silent one is closed then."""
MAX_CONNECTIONS = 1000
"""Connections at the same time."""
RESERVED_FILES = 100
"""File descriptors that are left for the database's connections and log files."""
MAX_HEAD = 65_536
"""Bytes of a request's head."""
SHORTEST_LINE = 8
"""Bytes between two line breaks on average, when there are many: a body in chunks of a few bytes is not Stripe's, and
0.9 MB of it in chunks of one byte cost 3.8 s of CPU."""
CLOSE_SECONDS = 5
"""Seconds for the requests that are being answered when the server stops; then their tasks are cancelled."""

_Base: Any = AutoHTTPProtocol


def bounded_protocol(max_connections: int) -> type[asyncio.Protocol]:
    """The class of a server's connections. When there are too many, the one that has been silent longest is closed."""
    silent: dict[_Bounded, None] = {}  # in the order in which they became silent

    class Protocol(_Bounded):
        silent_connections = silent
        limit = max_connections

    return Protocol


class _Bounded(_Base):  # type: ignore[misc] # one of uvicorn's two classes, whichever is installed
    silent_connections: dict[_Bounded, None]
    limit: int
    _timer: asyncio.TimerHandle | None = None
    _received = _lines = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_head()
        if len(self.connections) > self.limit:
            longest = next(iter(self.silent_connections))  # this one, if no other is silent
            longest._stop_waiting()  # noqa: SLF001 -- of this class
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._lines += data.count(b"\r\n")
        wasteful = self._received > 16_384 and self._lines * SHORTEST_LINE > self._received
        if wasteful or (self._timer is not None and self._received > MAX_HEAD + len(data)):
            self.transport.abort()
            return
        super().data_received(data)
        if self._is_answering():
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._received = self._lines = 0
        super().on_response_complete()
        if not self._is_answering() and not self.transport.is_closing():
            self._wait_for_head()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self.silent_connections[self] = None
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        self.silent_connections.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """The server, which calls ``stop`` in a thread as soon as it is asked to end.

    Args:
        app: the ASGI app.
        max_connections: fewer where the process may open fewer files.
        stop: ends the other services of the process; called once.
    """

    def __init__(self, app: Any, *, max_connections: int = MAX_CONNECTIONS, stop: Callable[[], object]) -> None:
        protocol = bounded_protocol(min(max_connections, _most_connections()))
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                log_level="info",
                access_log=False,
                server_header=False,
                timeout_keep_alive=int(HEAD_SECONDS),
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )
        self._stop_services = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, finish the answers, and stop the services meanwhile."""
        await asyncio.gather(super().shutdown(sockets), asyncio.to_thread(self._stop_services))


def _most_connections() -> int:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS * 100
    return max(soft - RESERVED_FILES, soft // 2, 1)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Its protocol is IPPROTO_TCP: asyncio sets TCP_NODELAY for no other. Without it each delivery on a connection that is
    kept open took 44 ms, because the kernel waited for an acknowledgement.

    Raises:
        OSError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # as long a queue as uvicorn's; and not only bound: two sockets may be bound at once, and then one fails later
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening
