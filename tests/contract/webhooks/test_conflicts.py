"""A handler that loses against a concurrent transaction is called again soon. One that always does has failed."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import Connection

import pgonce
from pgonce.webhooks import conflicts
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.contract.webhooks.handler_kinds import KINDS, register
from tests.contract.webhooks.test_worker import Effects, Queue, app, effects, put, status

__all__ = ["app", "effects", "put"]

CONFLICT = "do $$ begin raise sqlstate '{}' using message = 'the version has changed'; end $$"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_a_conflict_at_each_call_is_a_failure_in_the_end(
    app: pgonce.App,
    database: str,
    conn: Connection[Any],
    put: Queue,
    effects: Effects,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    kind: str,
) -> None:
    monkeypatch.setattr(conflicts, "MOST", 10)
    calls: list[str] = []
    statement = CONFLICT.format(state).encode()

    def conflict(event: pgonce.Event, tx: Any) -> Any:
        calls.append(event.id)
        return tx.execute(statement) if event.id == "evt_0" or calls.count(event.id) < 3 else None

    register(app, database, kind, conflict)
    put("pay", "evt_0", "evt_1")
    with Worker(app, database, poll=0.05, concurrency=1):
        wait_until(lambda: status(conn, "evt_0")["status"] == "failed" and effects() == ["evt_1"], "both to end")
    failed = status(conn, "evt_0")
    assert failed["attempts"] == 1
    assert "the version has changed" in failed["error_message"]
    assert calls.count("evt_0") == 10
    assert status(conn, "evt_1")["attempts"] == 1
