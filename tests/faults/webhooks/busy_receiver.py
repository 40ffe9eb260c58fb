"""The receiver while it is held up: idle connections, half bodies and huge headers, with good deliveries between them.

    python -m tests.faults.webhooks.busy_receiver

A real ``pgonce serve`` and a real PostgreSQL. It prints how long good deliveries took, alone and beside the others, how
many connections were left, and the receiver's memory. Everything is on 127.0.0.1 and ends after some seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psycopg

from pgonce.core import embedded
from pgonce.core import migrate as schema
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.edge.command import SECRET, running

APP = "import pgonce\napp = pgonce.App()\n"


def good(prefix: str, number: int) -> tuple[bytes, dict[str, str]]:
    body = json.dumps({"id": f"evt_{prefix}_{number}", "type": "pay", "object": "event"}).encode()
    return body, {"Stripe-Signature": stripe.sign(body, SECRET)}


async def deliver(base: str, prefix: str, seconds: float) -> tuple[list[float], list[int]]:
    """Deliver one event after the other in four clients; the times in seconds, and the answers that were not 200."""
    until, times, wrong = time.monotonic() + seconds, [], []
    numbers = iter(range(10**6))

    async def client() -> None:
        async with httpx.AsyncClient(base_url=base, timeout=60) as http:
            while time.monotonic() < until:
                body, headers = good(prefix, next(numbers))
                started = time.perf_counter()
                answer = await http.post("/webhooks/stripe", content=body, headers=headers)
                times.append(time.perf_counter() - started)
                if answer.status_code != 200:
                    wrong.append(answer.status_code)

    await asyncio.gather(*(client() for _ in range(4)))
    return times, wrong


def half_body() -> bytes:
    header = stripe.sign(b"x" * 900_000, SECRET)
    return (
        f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: {header}\r\n"
        f"Content-Length: 900000\r\n\r\n{'x' * 20_000}"
    ).encode()


def huge_header() -> bytes:
    entries = ",".join([f"t={int(time.time())}", *["v1=" + "0" * 64] * 850])
    head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: {entries}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


class Crowd:
    """Connections that are opened and kept by this process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []
        self.closed = 0

    def open(self, count: int, content: bytes = b"") -> None:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            if content:
                with suppress(OSError):
                    connection.sendall(content)
            connection.setblocking(False)
            self._sockets.append(connection)

    def count_closed(self) -> int:
        """How many of them the receiver has closed."""
        closed = 0
        for each in self._sockets:
            try:
                closed += each.recv(65_536) == b""
            except BlockingIOError:
                pass
            except OSError:
                closed += 1
        return closed

    def close(self) -> None:
        for each in self._sockets:
            each.close()


async def flood(port: int, seconds: float) -> int:
    """Send requests with 850 signatures, one after the other in four connections each; how many were answered."""
    until, answered = time.monotonic() + seconds, 0

    async def client() -> None:
        nonlocal answered
        while time.monotonic() < until:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(huge_header())
                answered += bool(await reader.read(1000))
                writer.close()

    await asyncio.gather(*(client() for _ in range(4)))
    return answered


def memory(pid: int) -> int:
    """Resident memory in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def measure(seconds: float, idle: int, halves: int) -> Iterator[str]:
    """The lines of the report."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgonce-busy-")))
        server = stack.enter_context(embedded.start(home / "data"))
        schema.migrate(server.url)
        (home / "shop.py").write_text(APP)
        serve = stack.enter_context(
            running(server.url, "serve", "--port", "0", "--no-worker", "--app", "shop", cwd=home)
        )
        wait_until(lambda: serve.printed("Uvicorn running on"), "the receiver to listen", 120)
        base = f"http://127.0.0.1:{serve.port}"
        alone, wrong = asyncio.run(deliver(base, "alone", seconds))
        before = memory(serve.process.pid)
        yield f"alone            {describe(alone)}, {len(wrong)} not 200"

        crowd = Crowd(serve.port)
        stack.callback(crowd.close)
        crowd.open(idle)
        crowd.open(halves, half_body())

        async def both() -> tuple[Any, int]:
            return await asyncio.gather(deliver(base, "beside", seconds), flood(serve.port, seconds))

        (beside, wrong_beside), answered = asyncio.run(both())
        yield f"beside the crowd {describe(beside)}, {len(wrong_beside)} not 200: {sorted(set(wrong_beside))}"
        yield f"crowd            {idle} idle, {halves} half bodies, {answered} answered headers of 850 signatures"
        yield f"closed           {crowd.count_closed()} of {idle + halves} connections by the receiver"
        yield f"memory           {before:,} kB before, {memory(serve.process.pid):,} kB after"
        with psycopg.connect(server.url) as conn:
            rows = conn.execute("select count(*) from webhook_events").fetchone()
        acked = len(alone) + len(beside) - len(wrong) - len(wrong_beside)
        yield f"recorded         {rows[0] if rows else 0} rows, {acked} answers of 200"


def describe(times: list[float]) -> str:
    """Number, median and 99th percentile of times in seconds."""
    p99 = quantiles(times, n=100)[98]
    return f"{len(times):>6} deliveries, median {median(times) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.webhooks.busy_receiver")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--idle", type=int, default=1100)
    parser.add_argument("--halves", type=int, default=40)
    arguments = parser.parse_args()
    for line in measure(arguments.seconds, arguments.idle, arguments.halves):
        print(line, flush=True)  # noqa: T201 -- run by hand, it says what it found


if __name__ == "__main__":
    main()
