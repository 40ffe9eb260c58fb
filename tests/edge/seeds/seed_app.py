"""An app with seeds, as a user writes it. The tests of the command line start processes with it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pgonce

app = pgonce.App()
COLUMNS = ("id", "note", "twin")
PART = 600


@app.seed("whole", into="things", key=("id",), columns=COLUMNS, total=60, batch_size=10, max_rejects=1)
def whole(cursor: int | None) -> Iterator[tuple[Any, int]]:
    """Row 7 is bad."""
    for n in range(0 if cursor is None else cursor + 1, 60):
        yield (n, "bad" if n == 7 else "x", f"t{n}"), n


@app.seed("async", into="things", key=("id",), columns=COLUMNS)
async def asynchronous(cursor: int | None) -> AsyncIterator[tuple[Any, int]]:
    """The same without the bad one."""
    for n in range(0 if cursor is None else cursor + 1, 60):
        yield (n, "x", f"t{n}"), n


@app.seed("exits", into="things", key=("id",), columns=COLUMNS)
def exits(cursor: int | None) -> Iterator[tuple[Any, int]]:
    """It ends the process after its first row."""
    yield (0, "x", "t0"), 0
    _exit()


@app.seed(
    "parts", into="things", key=("id",), columns=COLUMNS, batch_size=50, total=4 * PART,
    partitions=lambda: [{"first": first} for first in range(0, 4 * PART, PART)],
)  # fmt: skip
def parts(cursor: int | None, partition: dict[str, int]) -> Iterator[tuple[Any, int]]:
    """Four ranges. If KILL_ONCE names a file that does not exist yet, the process is killed in the middle of a range.

    In the range that begins at KILL_ALWAYS it is killed each time.
    """
    first = partition["first"]
    for n in range(first if cursor is None else cursor + 1, first + PART):
        if n == PART + 1 and "EXIT" in os.environ:
            _exit()
        flag = os.environ.get("KILL_ONCE")
        if flag and n == first + PART // 2:
            _die_once(Path(flag))
        if n == first + PART // 2 and os.environ.get("KILL_ALWAYS") == str(first):
            _die()
        yield (n, "x", f"t{n}"), n


@app.seed("append", into="things", columns=COLUMNS, partitions=["a"])
def append(cursor: int | None, partition: str) -> Iterator[tuple[Any, int]]:
    """It has no key."""
    if cursor is None:
        yield (0, "x", partition), 1


def _exit() -> None:
    code = os.environ.get("EXIT", "0")
    sys.exit(None if code == "none" else int(code) if code.isdigit() else code)


def _die_once(flag: Path) -> None:
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        return
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
