"""A micro-batcher: calls that arrive while a batch is in flight are sent together in the next one (group commit)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Generic, TypeVar

Resource = TypeVar("Resource")
Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

AT_ONCE = 2
"""Batches in flight: while one waits for its commit's fsync, the other keeps the database's processor busy."""
CANCELLED_WAIT = 5.0
"""Seconds that a cancelled caller waits for the outcome of a batch in flight, as psycopg waits when it cancels."""


async def _ignore(_: object) -> None:
    """The default for ``unclaimed``: drop the outcome."""


class _Submission(Generic[Item, Outcome]):
    __slots__ = ("answer", "item", "was_sent")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.was_sent = False


class Batcher(Generic[Resource, Item, Outcome]):
    """Sends the first item at once. Items that arrive while it is in flight go into the next batch. For one event loop.

    Args:
        acquire: opens what a batch needs, such as a connection. The items of a batch are chosen after it is open.
        send: sends some items and returns their outcomes. An error it raises is raised to each of their callers.
        most: items in one batch.
        at_once: batches in flight.
        unclaimed: gets the outcome of an item whose caller was cancelled meanwhile; must not raise.
    """

    def __init__(
        self,
        acquire: Callable[[], AbstractAsyncContextManager[Resource]],
        send: Callable[[Resource, Sequence[Item]], Awaitable[Sequence[Outcome]]],
        *,
        most: int,
        at_once: float = AT_ONCE,
        unclaimed: Callable[[Outcome], Coroutine[Any, Any, None]] = _ignore,
    ) -> None:
        self._acquire = acquire
        self._send = send
        self._most = most
        self._at_once = at_once
        self._unclaimed = unclaimed
        self._waiting: list[_Submission[Item, Outcome]] = []
        self._in_flight: set[asyncio.Task[None] | None] = set()
        self._handing_back: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Outcome:
        """Send ``item`` with the next batch and return its outcome.

        A caller that is cancelled before its item was sent takes the item back. A caller that is cancelled later waits
        for the outcome, which then goes to ``unclaimed``.

        Raises:
            Exception: what ``acquire`` or ``send`` raised.
        """
        submission: _Submission[Item, Outcome] = _Submission(item)
        self._waiting.append(submission)
        if len(self._in_flight) < self._at_once:
            self._start()
        try:
            return await submission.answer
        except asyncio.CancelledError:
            if submission.was_sent and submission.answer.cancelled():
                submission.answer = asyncio.get_running_loop().create_future()
                with suppress(asyncio.CancelledError):  # after a second cancellation the sending task hands it back
                    await asyncio.wait([submission.answer], timeout=CANCELLED_WAIT)
            answer = submission.answer
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                with suppress(asyncio.CancelledError):
                    await self._hand_back(answer.result())
            submission.answer.cancel()
            raise

    def _start(self) -> None:
        task = asyncio.create_task(self._send_all())
        self._in_flight.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """Start a new task where one was cancelled, as at the end of the event loop, and items still wait."""
        self._in_flight.discard(task)
        if len(self._in_flight) < self._at_once and not all(each.answer.done() for each in self._waiting):
            self._start()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send_batch()
                await asyncio.sleep(0)  # a caller that has its answer may submit a new item for the next batch
        finally:
            # This must happen in the same step in which the list was found empty. In the done callback it would be too
            # late: a caller that submits in between would count this task as in flight and wait for ever.
            self._in_flight.discard(asyncio.current_task())

    async def _send_batch(self) -> None:
        batch = list(self._waiting)  # if no connection can be opened, all of them get the error
        outcomes: Sequence[Outcome] = []
        try:
            async with self._acquire() as resource:
                batch = self._next_batch()
                if batch:
                    outcomes = await self._send(resource, [each.item for each in batch])
        except BaseException as error:
            for each in batch:
                if not isinstance(error, Exception):  # the event loop ends
                    each.answer.cancel()
                elif not each.answer.done():
                    each.answer.set_exception(error)
            # if nothing could be acquired they are still in the list, and a closed pool would be asked for ever
            self._waiting = [each for each in self._waiting if not each.answer.done()]
            if not isinstance(error, Exception):
                raise
            return
        for each, outcome in zip(batch, outcomes, strict=True):
            if each.answer.done():
                self._hand_back(outcome)
            else:
                each.answer.set_result(outcome)

    def _next_batch(self) -> list[_Submission[Item, Outcome]]:
        """Take the next items, without those whose callers were cancelled."""
        batch = []
        for each in self._waiting[: self._most]:
            if not each.answer.done():
                each.was_sent = True
                batch.append(each)
        del self._waiting[: self._most]
        return batch

    def _hand_back(self, outcome: Outcome) -> asyncio.Future[None]:
        task = asyncio.create_task(self._unclaimed(outcome))
        self._handing_back.add(task)
        task.add_done_callback(self._handing_back.discard)
        return asyncio.shield(task)
