"""A TCP proxy before the server, which stops the traffic at an exact message and so forces an interleaving.

A client that is killed while the proxy holds its COMMIT was killed before the commit; one that is killed while the
proxy holds the answer was killed after it. Neither needs a change in the tested code, or timing.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest
from psycopg.conninfo import conninfo_to_dict

READY = re.compile(rb"(Z\0\0\0\x05.|G\0\0..[\0\1]\0.(\0[\0\1])*)\Z", re.DOTALL)
"""ReadyForQuery, the last message of every answer, or CopyInResponse, after which the client sends."""


@dataclass
class Hold:
    """A client's message to hold: the message itself, or, with ``answer``, the server's answer to it."""

    text: bytes
    answer: bool = False
    _reached: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float = 60) -> None:
        """Wait until the message has arrived and is held."""
        if not self._reached.wait(seconds):
            pytest.fail(f"waited {seconds} s in vain for a message with {self.text!r}")

    def release(self) -> None:
        """Let the message pass."""
        self._released.set()

    def stop_here(self) -> None:
        """Called by the pump: report that the message is here, and wait until it is released."""
        self._reached.set()
        self._released.wait()


@dataclass
class Watch(Hold):
    """Messages that contain a text, when the server has answered and the client has not received the answer."""

    answer: bool = True
    call: Callable[[], object] = bool

    def stop_here(self) -> None:
        """Call the function, and let the message pass."""
        self.call()


class Proxy:
    """Listens on a free port of the loopback; ``url`` is the server's URL through it.

    ``refused`` counts the connections that were tried while it was down.
    """

    def __init__(self, upstream: str) -> None:
        self._server = {key: str(value) for key, value in conninfo_to_dict(upstream).items()}
        self._lock = threading.Lock()
        self._awaited: list[Hold] = []
        self._matched: list[Hold] = []
        self._open: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._left: int | None = None
        self._call: Callable[[], object] = bool
        self._down = False
        self._cut_at: int | None = None
        self._cut_answer = self.has_cut = False
        self.refused = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        user, name = quote(self._server.get("user", "")), quote(self._server["dbname"])
        self.url = f"postgresql://{user}@127.0.0.1:{port}/{name}?sslmode=disable&gssencmode=disable"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def hold(self, text: bytes, *, answer: bool = False) -> Hold:
        """Hold the next message of any client that contains ``text``; or let it pass and hold the answer."""
        hold = Hold(text, answer)
        with self._lock:
            self._awaited.append(hold)
        return hold

    def watch(self, text: bytes, call: Callable[[], object]) -> None:
        """Call ``call`` whenever the server has answered a message that contains ``text``."""
        with self._lock:
            self._awaited.append(Watch(text, call=call))

    def after(self, size: int, call: Callable[[], object]) -> None:
        """Call ``call`` once, before forwarding the message that completes ``size`` further bytes from the clients."""
        with self._lock:
            self._left, self._call = size, call

    def cut_at(self, number: int, *, answer: bool) -> None:
        """Cut every connection at the clients' message with this number from now on, or at its ``answer``.

        ``has_cut`` says whether that has happened.
        """
        with self._lock:
            self._cut_at, self._cut_answer, self.has_cut = number, answer, False

    def cut(self) -> None:
        """Cut every connection, as a broken network does; held messages are lost."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for hold in (*self._awaited, *self._matched):
                hold.release()
            self._awaited.clear()

    def cut_clients(self) -> None:
        """Cut every connection on the client's side only: the server gets held messages when they are released."""
        with self._lock:
            for each in self._clients:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def refuse(self) -> None:
        """Refuse new connections."""
        self._down = True

    def down(self) -> None:
        """``cut``, and refuse new connections: the database cannot be reached."""
        self.refuse()
        self.cut()

    def up(self) -> None:
        """Accept connections again."""
        self._down = False

    def close(self) -> None:
        """The end."""
        self._down = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(20)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                self.refused += 1
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        answers: list[Hold] = []
        with client, self._connect() as upstream:
            with self._lock:
                self._open += [client, upstream]
                self._clients.append(client)
            back = threading.Thread(target=self._pump, args=(self._back, client, upstream, answers), daemon=True)
            back.start()
            self._pump(self._forth, client, upstream, answers)
            back.join()
            with self._lock:
                self._open = [each for each in self._open if each not in (client, upstream)]
                self._clients.remove(client)

    def _connect(self) -> socket.socket:
        host, port = self._server.get("host", "localhost"), self._server.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((host, int(port)))
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(f"{host}/.s.PGSQL.{port}")
        return upstream

    @staticmethod
    def _pump(way: Callable[..., None], client: socket.socket, upstream: socket.socket, answers: list[Hold]) -> None:
        with suppress(OSError):
            way(client, upstream, answers)
        for each in (client, upstream):  # one side has closed: close the other
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _forth(self, client: socket.socket, upstream: socket.socket, answers: list[Hold]) -> None:
        while sent := client.recv(65536):
            hold = self._match(sent) or self._cut_here()
            if hold and hold.answer:
                answers.append(hold)
            elif hold:
                hold.stop_here()
            self._spend(len(sent))
            upstream.sendall(sent)

    @staticmethod
    def _back(client: socket.socket, upstream: socket.socket, answers: list[Hold]) -> None:
        held = b""
        while answer := upstream.recv(65536):
            held += answer
            if answers and not READY.search(held):
                continue
            if answers:
                answers.pop().stop_here()
            client.sendall(held)
            held = b""

    def _match(self, sent: bytes) -> Hold | None:
        with self._lock:
            for hold in self._awaited:
                if hold.text in sent:
                    if not isinstance(hold, Watch):
                        self._awaited.remove(hold)
                        self._matched.append(hold)
                    return hold
        return None

    def _cut_here(self) -> Watch | None:
        with self._lock:
            if self._cut_at is None:
                return None
            self._cut_at -= 1
            if self._cut_at >= 0:
                return None
            self._cut_at, self.has_cut = None, True
        return Watch(b"", self._cut_answer, call=self.cut)

    def _spend(self, size: int) -> None:
        with self._lock:
            if self._left is None:
                return
            self._left -= size
            if self._left > 0:
                return
            self._left = None
        self._call()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    opened = Proxy(upstream)
    try:
        yield opened
    finally:
        opened.close()
