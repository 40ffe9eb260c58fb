"""What comes while something is under way goes together, in one round trip and one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Generic, TypeVar

Turn = TypeVar("Turn")
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

AT_ONCE = 2
"""Sendings under way: while one waits for its commit's fsync, the other fills the database's processor."""


async def _forget(_: object) -> None:
    """What becomes of an outcome that nobody claims, unless told otherwise."""


class Gathering(Generic[Turn, Item, Outcome]):
    """Sends what comes: the first at once, and with the next one all that has come meanwhile. For one event loop.

    Args:
        turn: what a sending needs, such as a connection; what goes along is decided when it is there.
        send: sends some items and returns their outcomes; what it raises, each of their callers gets.
        most: items in one sending.
        unclaimed: is given the outcome of an item whose caller was cancelled meanwhile; raises nothing.
    """

    def __init__(
        self,
        turn: Callable[[], AbstractAsyncContextManager[Turn]],
        send: Callable[[Turn, Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        most: int,
        unclaimed: Callable[[Outcome], Coroutine[Any, Any, None]] = _forget,
    ) -> None:
        self._turn = turn
        self._send = send
        self._most = most
        self._unclaimed = unclaimed
        self._waiting: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._sending: set[asyncio.Task[None] | None] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def sent(self, item: Item) -> Outcome:
        """The outcome of ``item``, when it is there. Raises what ``turn`` or ``send`` raised."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if len(self._sending) < AT_ONCE:
            task = asyncio.create_task(self._send_all())
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)  # for one that is cancelled before its first step
        try:
            return await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:  # between its answer and this step
                with suppress(asyncio.CancelledError):
                    await self._leave(answer.result())
            raise

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send_some()
                await asyncio.sleep(0)  # whoever has an answer may have something new, which goes along
        finally:
            # Here, in the step that has found nothing waiting. The done callback comes later: whoever was answered in
            # this step and comes again before it would count this task as under way and wait for ever.
            self._sending.discard(asyncio.current_task())

    async def _send_some(self) -> None:
        batch: list[tuple[Item, asyncio.Future[Outcome]]] = []
        outcomes: Sequence[Outcome] = []
        try:
            async with self._turn() as turn:
                batch = self._taken()
                if batch:
                    outcomes = await self._send(turn, [item for item, _ in batch])
        except BaseException as error:
            for _, answer in batch or self._taken():
                if not isinstance(error, Exception):  # the event loop ends
                    answer.cancel()
                elif not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():
                self._leave(outcome)
            else:
                answer.set_result(outcome)

    def _taken(self) -> list[tuple[Item, asyncio.Future[Outcome]]]:
        """The next to go: whoever was cancelled is not sent any more."""
        self._waiting = [place for place in self._waiting if not place[1].done()]
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        return batch

    def _leave(self, outcome: Outcome) -> asyncio.Future[None]:
        task = asyncio.create_task(self._unclaimed(outcome))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return asyncio.shield(task)
