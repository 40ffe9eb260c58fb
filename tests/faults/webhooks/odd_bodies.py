"""Bodies that Stripe would never send, each with a usable id and type. If they are signed, they must be recorded.

Run it for a while against a real receiver: ``python -m tests.faults.webhooks.odd_bodies 20000``.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

STRINGS = (
    "", "x", "\0", "a\0b", "\ud800", "\udfff\ud800", "\ud83d\ude00", "\x7f", "\u2028", "é", "\\", '"', "\\u0000",
    "null", "1e999", "x" * 300, "y" * 9000, " ", "\t\n", "-1", "{}", "' or 1=1 --", "%s", "{0}",
    "\ufeff", "\ufffd", "\x1f",
)  # fmt: skip
NUMBERS = (
    b"0", b"-0", b"-0.0", b"1e400000", b"-1e400000", b"1e131071", b"1e-400000", b"1E+400", b"0.1e-99999", b"9" * 400,
    b"9" * 5000, b"1" * 140_000, b"0." + b"3" * 17_000, b"123456789012345678901234567890.5", b"1e308", b"1e309",
)  # fmt: skip
SHORT_NUMBERS = tuple(number for number in NUMBERS if len(number) < 500)
KEYS = ("id", "object", "account", "data", "related_object", "livemode", "created", "api_version", "snapshot_event",
        "customer", "metadata", "pending_webhooks", "", "\0", "\ud800", "type", "request")  # fmt: skip


def odd_bodies(count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` bodies with different ids; the same seed gives the same bodies."""
    rng = random.Random(seed)
    for number in range(count):
        yield _body(rng, f"evt_{seed}_{number}")


def _body(rng: random.Random, event_id: str) -> bytes:
    members = [(rng.choice(KEYS[1:]), _value(rng, 0)) for _ in range(rng.randrange(6))]
    members = [(key, value) for key, value in members if key != "type"]
    for odd in rng.sample(("object", "account", "related", "snapshot", "type of object", "livemode"), rng.randrange(4)):
        members.append(_place(rng, odd))
    if rng.random() < 0.05:
        event_id += rng.choice(STRINGS)
    members += [
        ("id", json.dumps(event_id).encode()),
        ("type", json.dumps(rng.choice(("pay", "a.b", "v1.x", rng.choice(STRINGS) or "x"))).encode()),
    ]
    rng.shuffle(members)
    if rng.random() < 0.2:  # of two equal keys the last counts
        members.insert(0, ("id", b'"evt_first"'))
        members.insert(0, ("type", b"null"))
    space = rng.choice((b"", b" ", b"\n\t", b"\r\n"))
    inside = b",".join(space + _text(rng, key) + space + b":" + space + value for key, value in members)
    return space + b"{" + inside + space + b"}" + space


def _place(rng: random.Random, odd: str) -> tuple[str, bytes]:
    text = _text(rng, rng.choice(STRINGS))
    return {
        "object": ("data", b'{"object":{"id":' + text + b',"customer":' + _value(rng, 2) + b"}}"),
        "account": ("account", text),
        "related": ("related_object", b'{"id":' + text + b"}"),
        "snapshot": ("snapshot_event", text),
        "type of object": ("data", b'{"object":{"id":"sub_1","object":' + text + b"}}"),
        "livemode": ("livemode", rng.choice((b"true", b"false", b"null", b'"true"', b"1", b"[]"))),
    }[odd]


def _text(rng: random.Random, text: str) -> bytes:
    if rng.random() < 0.5 and not any("\ud800" <= each <= "\udfff" for each in text):
        return json.dumps(text, ensure_ascii=False).encode()
    return json.dumps(text).encode()


def _value(rng: random.Random, depth: int) -> bytes:
    kind = rng.randrange(9 if depth < 4 else 5)
    if kind == 0:
        return _text(rng, rng.choice(STRINGS))
    if kind == 1:
        return rng.choice(NUMBERS if rng.random() < 0.2 else SHORT_NUMBERS)
    if kind == 2:
        return rng.choice((b"null", b"true", b"false"))
    if kind == 3:
        levels = rng.choice((3, 900, 1100, 7000, 60_000) if rng.random() < 0.2 else (1, 3, 40))
        return rng.choice((b"[" * levels + b"]" * levels, b'{"a":' * levels + b"1" + b"}" * levels))
    if kind == 4:
        return b'"' + rng.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")) + b'"'
    inner = [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 7:
        return b"[" + b",".join(inner) + b"]"
    return b"{" + b",".join(_text(rng, rng.choice(KEYS)) + b":" + each for each in inner) + b"}"


async def _post_all(count: int, url: str) -> tuple[Counter[int], set[str], list[int]]:
    """Deliver the bodies to a receiver on a real pool, 16 at a time.

    Returns:
        How often each status was answered, the ids that were answered with 200, and the process's resident memory in
        kB after each tenth of the bodies and after the end.

    The memory grows where several large bodies share an INSERT: a connection's buffer in libpq stays as long as its
    longest statement, at most 100 bodies, until the connection is closed. The ids that are collected here are another
    2 MB for 20,000 bodies. The objects that Python's garbage collector knows stay as many as they are.
    """
    import pgonce
    from pgonce.webhooks import stripe

    app = pgonce.App()

    @app.webhook("*", ordered=True)
    def anything(event: pgonce.Event, tx: Any) -> None:
        pass

    receiver = pgonce.receiver(app, secrets=["whsec_test"], url=url, worker=False)
    statuses: Counter[int] = Counter()
    accepted: set[str] = set()
    memory: list[int] = []
    bodies = odd_bodies(count, seed=random.randrange(10**6))

    async def client() -> None:
        for raw in bodies:
            header = stripe.sign(raw, "whsec_test").encode()
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/webhooks/stripe",
                "headers": [(b"stripe-signature", header)],
            }
            sent: list[Any] = []

            async def receive(raw: bytes = raw) -> dict[str, Any]:
                return {"type": "http.request", "body": raw, "more_body": False}

            async def send(message: Any, sent: list[Any] = sent) -> None:
                sent.append(message)

            await receiver(scope, receive, send)
            statuses[sent[0]["status"]] += 1
            if sent[0]["status"] == 200:
                accepted.add(stripe.read(raw).id)
            if statuses.total() % max(count // 10, 1) == 0:
                memory.append(resident_memory())
            if sent[0]["status"] != 200 and len(raw) <= 1_000_000:
                sys.stderr.write(f"{sent} {raw[:300]!r}\n")

    async with receiver.lifespan(), asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(client())
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    memory.append(resident_memory())
    return statuses, accepted, memory


def resident_memory() -> int:
    """Of this process, in kB."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmRSS:")[2].split()[0])


def main() -> None:
    """Print how often each status was answered, whether exactly the accepted events are rows, and the memory."""
    import psycopg

    import pgonce
    from pgonce.core import embedded
    from tests.conftest import remove

    server = embedded.start(Path(tempfile.mkdtemp(prefix="pgonce-odd-")) / "data")
    pgonce.migrate(server.url)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    statuses, accepted, memory = asyncio.run(_post_all(count, server.url))
    with psycopg.connect(server.url) as conn:
        rows = {row[0] for row in conn.execute("select stripe_event_id from webhook_events").fetchall()}
    sys.stdout.write(
        f"{dict(statuses)}; {len(accepted)} events accepted, {len(rows)} recorded, the same: {rows == accepted};"
        f" memory {memory} kB\n"
    )
    server.close()
    remove(server.data_dir)
    server.data_dir.parent.rmdir()


if __name__ == "__main__":
    main()
