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
PATIENCE = 5.0
"""Seconds that a cancelled caller waits for an outcome that is under way, as psycopg waits for what it cancels."""


async def _forget(_: object) -> None:
    """What becomes of an outcome that nobody claims, unless told otherwise."""


class _Place(Generic[Item, Outcome]):
    __slots__ = ("answer", "goes", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.goes = False
        """Whether it is under way, or has been."""


class Gathering(Generic[Turn, Item, Outcome]):
    """Sends what comes: the first at once, and with the next one all that has come meanwhile. For one event loop.

    Args:
        turn: what a sending needs, such as a connection; what goes along is decided when it is there.
        send: sends some items and returns their outcomes; what it raises, each of their callers gets.
        most: items in one sending.
        at_once: sendings under way.
        unclaimed: is given the outcome of an item whose caller was cancelled meanwhile; raises nothing.
    """

    def __init__(
        self,
        turn: Callable[[], AbstractAsyncContextManager[Turn]],
        send: Callable[[Turn, Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        most: int,
        at_once: float = AT_ONCE,
        unclaimed: Callable[[Outcome], Coroutine[Any, Any, None]] = _forget,
    ) -> None:
        self._turn = turn
        self._send = send
        self._most = most
        self._at_once = at_once
        self._unclaimed = unclaimed
        self._waiting: list[_Place[Item, Outcome]] = []
        self._sending: set[asyncio.Task[None] | None] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def sent(self, item: Item) -> Outcome:
        """The outcome of ``item``, when it is there. Raises what ``turn`` or ``send`` raised.

        Cancelled before it goes, it does not go; while it is under way, its outcome is waited for, and handed back.
        """
        place: _Place[Item, Outcome] = _Place(item)
        self._waiting.append(place)
        if len(self._sending) < self._at_once:
            self._begin()
        try:
            return await place.answer
        except asyncio.CancelledError:
            if place.goes and place.answer.cancelled():
                place.answer = asyncio.get_running_loop().create_future()
                with suppress(asyncio.CancelledError):  # a second one lets it go: then whoever sends it hands it back
                    await asyncio.wait([place.answer], timeout=PATIENCE)
            if place.answer.done() and not place.answer.cancelled() and place.answer.exception() is None:
                with suppress(asyncio.CancelledError):
                    await self._leave(place.answer.result())
            place.answer.cancel()
            raise

    def _begin(self) -> None:
        task = asyncio.create_task(self._send_all())
        self._sending.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Behind a sending. One that is cancelled, as all tasks are when the event loop ends, leaves others waiting."""
        self._sending.discard(task)
        if len(self._sending) < self._at_once and not all(place.answer.done() for place in self._waiting):
            self._begin()

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
        batch = list(self._waiting)  # what a turn that cannot be had is an error for
        outcomes: Sequence[Outcome] = []
        try:
            async with self._turn() as turn:
                batch = self._taken()
                if batch:
                    outcomes = await self._send(turn, [place.item for place in batch])
        except BaseException as error:
            for place in batch:
                if not isinstance(error, Exception):  # the event loop ends
                    place.answer.cancel()
                elif not place.answer.done():
                    place.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for place, outcome in zip(batch, outcomes, strict=True):
            if place.answer.done():
                self._leave(outcome)
            else:
                place.answer.set_result(outcome)

    def _taken(self) -> list[_Place[Item, Outcome]]:
        """The next to go: whoever was cancelled is not sent any more."""
        batch = []
        for place in self._waiting[: self._most]:
            if not place.answer.done():
                place.goes = True
                batch.append(place)
        del self._waiting[: self._most]
        return batch

    def _leave(self, outcome: Outcome) -> asyncio.Future[None]:
        task = asyncio.create_task(self._unclaimed(outcome))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return asyncio.shield(task)
