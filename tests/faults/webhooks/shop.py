"""The application of the processes in these tests. Its effects are rows, so they can be counted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pgonce

TABLES = """
create table effects (name text not null, note text);
create table numbers (id int primary key, note text);
"""

app = pgonce.App()


@app.webhook("effect")
def effect(event: pgonce.Event, tx: Any) -> None:
    """One row for each time this event is handled."""
    tx.execute("insert into effects (name) values (%s)", [event.id])


@app.webhook("boom")
def boom(event: pgonce.Event, tx: Any) -> None:
    """Write an effect, and fail with an error that quotes the payload."""
    tx.execute("insert into effects (name) values (%s)", [event.id])
    raise RuntimeError(event.payload["card"])


@app.job("once")
def once(run: pgonce.Run) -> None:
    """Runs until 19 others have been refused."""
    with run.transaction() as tx:
        tx.execute("insert into effects (name) values ('once')")
    deadline = time.monotonic() + 60
    skipped: Any = None
    while skipped != (19,):
        assert time.monotonic() < deadline, skipped
        time.sleep(0.02)
        with run.connection() as conn:
            skipped = conn.execute("select count(*) from cron_job_runs where status = 'skipped'").fetchone()


@app.job("fails")
def fails(run: pgonce.Run) -> None:
    """Fails."""
    raise RuntimeError(f"run {run.name} is of no use")


TOTAL = 20_000


def number(place: int) -> int:
    """The key of the row at ``place``. Every tenth key occurs twice, some of them among rows that share a cursor."""
    return place - place % 7 if place % 10 == 9 else place


DISTINCT = len({number(place) for place in range(TOTAL)})


@app.seed("numbers", into="numbers", key=("id",), batch_size=500, total=TOTAL)
def numbers(cursor: dict[str, int] | None) -> Iterator[tuple[Any, Any]]:
    """Rows, of which three at a time share a cursor.

    With GATE, the source waits at row 5,000 until that file exists.
    """
    gate = os.environ.get("GATE")
    for place in range((cursor["unit"] + 1) * 3 if cursor else 0, TOTAL):
        if gate and place == 5_000:
            sys.stderr.write("at the gate\n")
            while not Path(gate).exists():
                time.sleep(0.005)
        yield {"id": number(place), "note": f"row {place}"}, {"unit": place // 3}
