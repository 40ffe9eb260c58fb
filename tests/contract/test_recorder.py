"""Recording deliveries that come together: one INSERT for many, an answer for each."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from psycopg import Connection

from pgonce import database as databases
from pgonce import recorder as module
from pgonce.protocol import stripe
from pgonce.recorder import Recorder


def body(nr: int) -> stripe.Body:
    return stripe.read(json.dumps({"id": f"evt_{nr}", "type": "pay", "quoted": 'a "b" \\ {c}, NULL'}).encode())


@pytest.mark.parametrize("inserts", [1, 2])
def test_clients_that_send_the_next_event_as_soon_as_they_are_answered_all_get_through(
    database: str, conn: Connection[Any], monkeypatch: pytest.MonkeyPatch, inserts: int
) -> None:
    monkeypatch.setattr(module, "INSERTS", inserts)
    waiting = iter(range(200))

    async def record() -> None:
        async with await databases.open_async_pool(database, 4) as pool:
            recorder = Recorder(pool)

            async def client() -> None:
                for nr in waiting:
                    assert await recorder.record(body(nr), None) == "queued"

            # with a done callback instead of `finally` in the recorder's task this hangs at the first batch
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(client())

    asyncio.run(record())
    assert conn.execute("select count(*) from webhook_events").fetchone() == (200,)
    assert conn.execute("select distinct payload ->> 'quoted' from webhook_events").fetchall() == [
        ('a "b" \\ {c}, NULL',)
    ]
