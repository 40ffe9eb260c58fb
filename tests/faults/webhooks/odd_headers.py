"""Odd Stripe-Signature headers. Each must be answered 200 or 400, and 200 only if Stripe's library accepts it.

Run it for a while against a real receiver: ``python -m tests.faults.webhooks.odd_headers 200000``.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pgonce
from pgonce.webhooks import stripe

SECRET = "whsec_test"
BODY = b'{"id":"evt_header","type":"pay"}'
Header = list[bytes]


def odd_headers(count: int, seed: int) -> Iterator[Header]:
    """``count`` lists of header values, the same for the same seed and second; about one in ten is a good one."""
    rng = random.Random(seed)
    while count > 0:
        now = int(time.time())
        good = stripe.sign(BODY, SECRET, now + rng.choice((0, 0, -100, 100))).encode()
        for _ in range(min(count, 500)):
            yield rng.choice(MUTATIONS)(rng, good, now)
        count -= 500


def _bytes(rng: random.Random, _: bytes, __: int) -> Header:
    return [rng.randbytes(rng.randrange(200))]


def _flip(rng: random.Random, good: bytes, _: int) -> Header:
    changed = bytearray(good)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return [bytes(changed)]


def _cut(rng: random.Random, good: bytes, _: int) -> Header:
    return [good[rng.randrange(20) : rng.randrange(20, len(good) + 1)]]


def _shuffled(rng: random.Random, good: bytes, now: int) -> Header:
    items = good.split(b",") + rng.choices(
        [
            b"v0=" + b"0" * 64,
            b"v1=" + b"f" * 64,
            b"t=%d" % (now - 9999),
            b"t=",
            b"v1=",
            b"",
            b"=",
            b"a=b",
            b" ",
            b"v2=x",
            b"t=-1",
        ],
        k=rng.randrange(30),
    )
    rng.shuffle(items)
    return [rng.choice((b",", b", ", b" ,", b",,")).join(items)]


def _several(rng: random.Random, good: bytes, now: int) -> Header:
    others = [good, b"", b"t=%d" % now, b"v1=" + b"0" * 64, stripe.sign(BODY, "whsec_other", now).encode(), b"\xff" * 9]
    values = [rng.choice(others) for _ in range(rng.randrange(4))]
    values.insert(rng.randrange(len(values) + 1), good)
    return values


def _long(rng: random.Random, good: bytes, _: int) -> Header:
    filling = rng.choice((b",", b"v1=" + b"0" * 64 + b",", b"x", b"t=1,", b" "))
    return [filling * rng.randrange(1, 3000) + good]


def _time(rng: random.Random, good: bytes, now: int) -> Header:
    moment = rng.choice(
        (b"0", b"9" * 15, b"9" * 5000, b"1e9", b"%d.0" % now, b"0x1", "\u0663".encode(), b"00000%d" % now)
    )
    return [b"t=" + moment + b"," + good.partition(b",")[2]]


def _none(_: random.Random, __: bytes, ___: int) -> Header:
    return []


def _good(_: random.Random, good: bytes, __: int) -> Header:
    return [good]


MUTATIONS: list[Callable[[random.Random, bytes, int], Header]] = [
    _bytes, _flip, _flip, _cut, _shuffled, _several, _long, _time, _none, _good,
]  # fmt: skip


async def answers(receiver: pgonce.Receiver, headers: Iterator[Header], at_once: int = 16) -> Counter[int]:
    """How often each status was answered.

    Raises:
        AssertionError: a 200 to what Stripe's own library refuses.
    """
    statuses: Counter[int] = Counter()

    async def client() -> None:
        for values in headers:
            scope = {
                "type": "http", "method": "POST", "path": "/webhooks/stripe",
                "headers": [(b"stripe-signature", value) for value in values],
            }  # fmt: skip
            sent: list[Any] = []

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": BODY, "more_body": False}

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            await receiver(scope, receive, send)
            status = sent[0]["status"]
            statuses[status] += 1
            assert status in {200, 400}, (status, values)
            assert status == 400 or _stripe_accepts(values), values

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(client())
    return statuses


def _stripe_accepts(values: Header) -> bool:
    """Stripe's library does not accept spaces and empty items; without these, both must agree."""
    from stripe import SignatureVerificationError, WebhookSignature

    try:
        items = [item.strip() for item in b",".join(values).decode("latin-1").split(",")]
        header = ",".join(item for item in items if re.fullmatch(r"t=[0-9]+|v1=[0-9a-fA-F]{64}", item))
        return bool(WebhookSignature.verify_header(BODY.decode(), header.lower(), SECRET, tolerance=301))
    except (SignatureVerificationError, ValueError, IndexError):
        return False


def main() -> None:
    """Print how often each status was answered, and the process's resident memory before and after."""
    from pgonce.core import embedded
    from tests.faults.webhooks.odd_bodies import resident_memory

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with tempfile.TemporaryDirectory(prefix="pgonce-odd-") as folder:
        server = embedded.start(Path(folder) / "data")
        pgonce.migrate(server.url)
        receiver = pgonce.receiver(pgonce.App(), secrets=[SECRET], url=server.url, worker=False)

        async def run() -> Counter[int]:
            async with receiver.lifespan():
                await answers(receiver, odd_headers(count // 10, seed=random.randrange(10**6)))
                before = resident_memory()
                statuses = await answers(receiver, odd_headers(count, seed=random.randrange(10**6)))
                sys.stdout.write(f"memory {before} kB after a tenth, {resident_memory()} kB at the end\n")
                return statuses

        sys.stdout.write(f"{dict(asyncio.run(run()))}\n")
        server.close()


if __name__ == "__main__":
    main()
