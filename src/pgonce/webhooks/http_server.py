"""uvicorn as ``pgonce serve`` runs it: slow, silent or many clients cannot block it.

uvicorn limits neither the time for a request's head, nor the connections, nor a chunked body's overhead.
2,000 requests that were sent in part stayed open for ever, and 1,100 idle connections used up the file descriptors.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from pgonce.core import logs
from pgonce.core.service import StopRequests
from pgonce.errors import PgonceError

HEAD_SECONDS = 15.0
"""Seconds until a connection must have sent the whole head of its next request; a silent one is closed then."""
REQUEST_SECONDS = 45.0
"""Seconds from the head of a request to the end of its answer, for a client that does not read the answer."""
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


def bounded_protocol(max_connections: int = MAX_CONNECTIONS) -> type[asyncio.Protocol]:
    """The class of a server's connections. If there are too many, the one waiting longest for a request is closed.

    ``max_connections`` is lowered to what the process may open.
    """
    unfinished: dict[_Bounded, None] = {}  # in the order in which they began to wait

    class Protocol(_Bounded):
        waiting = unfinished
        limit = min(max_connections, _most_connections())

    return Protocol


class _Bounded(_Base):  # type: ignore[misc] # one of uvicorn's two classes, whichever is installed
    waiting: dict[_Bounded, None]
    """The connections without a whole request."""
    limit: int
    _timer: asyncio.TimerHandle | None = None
    _has_head = False
    _received = _lines = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._wait_for_request()
        if len(self.connections) > self.limit:
            longest = next(iter(self.waiting))  # this one, if all others are being answered
            longest._end_waiting()  # noqa: SLF001 -- of this class
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._lines += data.count(b"\r\n")
        wasteful = self._received > 16_384 and self._lines * SHORTEST_LINE > self._received
        if wasteful or (not self._has_head and self._received > MAX_HEAD + len(data)):
            self.transport.abort()
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        self._received = self._lines = 0
        super().on_response_complete()
        if not self.transport.is_closing():
            self._wait_for_request()
            self._look()  # the next request has already begun to arrive

    def _look(self) -> None:
        """After data or an answer, look how much of a request has arrived."""
        if self.cycle is None or self.cycle.response_complete:
            return
        if not self._has_head:
            self._has_head = True
            self._set_timer(REQUEST_SECONDS)
        if not self.cycle.more_body:
            self.waiting.pop(self, None)

    def _wait_for_request(self) -> None:
        self._has_head = False
        self.waiting.pop(self, None)
        self.waiting[self] = None
        self._set_timer(HEAD_SECONDS)

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._cut_off)

    def _cut_off(self) -> None:
        # Without lingering: otherwise the kernel would keep what the client does not read, and the connection would
        # stay.
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _end_waiting(self) -> None:
        self.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """The server. As soon as it is asked to end, it calls ``stop`` in a thread.

    ``stop`` ends the other services of the process, once.
    """

    def __init__(
        self,
        app: Any,
        *,
        max_connections: int = MAX_CONNECTIONS,
        log_level: str = "info",
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(max_connections),
                ws="none",
                log_level=log_level,
                access_log=False,
                log_config=None if logs.is_json() else LOGGING_CONFIG,
                server_header=False,
                # the console reads X-Forwarded-… itself, and only from the proxies that it knows
                proxy_headers=False,
                timeout_keep_alive=int(HEAD_SECONDS),
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )
        self._stop_services = stop
        self._requests = StopRequests()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At a second Ctrl-C uvicorn cuts its answers off. One that is passed on is the same (see `StopRequests`)."""
        if self._requests.is_new():
            super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and finish the answers while the services stop."""
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
        PgonceError: the port is in use, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # the queue is as long as uvicorn's. It listens at once: two sockets may be bound to a port, and then one fails
        # later
        listening.listen(2048)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PgonceError(f"port {port} is in use: choose another with --port") from error
        reason = error.strerror or error
        raise PgonceError(f"cannot listen on {host}, port {port} ({reason}): see --host and --port") from error
    return listening


def address_of(listening: socket.socket, host: str) -> str:
    """The socket's address, such as http://localhost:8000."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
