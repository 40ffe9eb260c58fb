"""Calls that arrive while a batch is in flight are sent together in the next one; a cancelled call has no effect."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from pgonce.core.batcher import AT_ONCE, Batcher


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    async def answered() -> None:
        try:
            await test()
        finally:  # or each caller that the loop's end cancels waits 5 s for its outcome
            while Wire.unanswered:
                Wire.unanswered.pop().cancel()
                await settled()

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(answered())

    vars(run).pop("__wrapped__")  # otherwise pytest treats it as a coroutine function
    return run


class Wire:
    """The receiver of the batches: it answers when the test says so."""

    unanswered: ClassVar[list[asyncio.Future[None]]] = []

    def __init__(self, most: int = 4) -> None:
        self.sent: list[list[int]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.unclaimed: list[str] = []
        self.behind: Callable[[], object] = int
        """Called after the step in which the callers get their outcomes."""
        self.refusing = False
        self.free = asyncio.Event()
        self.free.set()
        self.batcher = Batcher(self._acquire, self._send, most=most, unclaimed=self._unclaimed)

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[None]:
        refused = self.refusing
        await self.free.wait()
        if refused:
            raise ValueError("no connection")
        yield

    async def _send(self, _: None, items: Sequence[int]) -> list[str]:
        self.sent.append(list(items))
        self.answers.append(asyncio.get_running_loop().create_future())
        self.unanswered.append(self.answers[-1])
        await self.answers[-1]
        asyncio.get_running_loop().call_soon(self.behind)
        return [f"outcome of {item}" for item in items]

    async def _unclaimed(self, outcome: str) -> None:
        self.unclaimed.append(outcome)

    def answer_all(self) -> None:
        for answer in self.answers:
            if not answer.done():
                answer.set_result(None)

    def call(self, item: int) -> asyncio.Task[str]:
        return asyncio.create_task(self.batcher.submit(item))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def full() -> tuple[Wire, list[asyncio.Task[str]]]:
    """Start as many batches as may be in flight, with the items below `AT_ONCE`."""
    wire = Wire()
    tasks = []
    for item in range(AT_ONCE):
        tasks.append(wire.call(item))
        await settled()
    assert wire.sent == [[item] for item in range(AT_ONCE)]
    return wire, tasks


@in_loop
async def test_what_comes_meanwhile_goes_together_and_no_more_than_allowed() -> None:
    wire, tasks = await full()
    tasks += [wire.call(item) for item in range(10, 16)]
    await settled()
    assert len(wire.sent) == AT_ONCE
    wire.answers[0].set_result(None)
    await settled()
    assert wire.sent[AT_ONCE:] == [[10, 11, 12, 13]]
    wire.answers[1].set_result(None)
    await settled()
    assert wire.sent[AT_ONCE:] == [[10, 11, 12, 13], [14, 15]]
    for answer in wire.answers[AT_ONCE:]:
        answer.set_result(None)
    items = [*range(AT_ONCE), *range(10, 16)]
    assert await asyncio.gather(*tasks) == [f"outcome of {item}" for item in items]
    assert wire.unclaimed == []


@in_loop
async def test_an_error_is_everybodys_and_the_next_are_sent() -> None:
    wire, tasks = await full()
    tasks += [wire.call(10), wire.call(11)]
    await settled()
    wire.answers[0].set_exception(ValueError("refused"))
    await settled()
    wire.answers[AT_ONCE].set_exception(ValueError("refused too"))
    await settled()
    last = wire.call(12)
    await settled()
    wire.answers[-1].set_result(None)
    assert await last == "outcome of 12"
    wire.answers[1].set_result(None)
    assert [str(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
        "refused", "outcome of 1", "refused too", "refused too",
    ]  # fmt: skip


@in_loop
async def test_who_is_cancelled_before_it_is_sent_is_not_sent() -> None:
    wire, tasks = await full()
    tasks += [wire.call(10), wire.call(11), wire.call(12)]
    await settled()
    tasks[-2].cancel()
    wire.answers[0].set_result(None)
    await settled()
    assert wire.sent[AT_ONCE:] == [[10, 12]]
    wire.answers[1].set_result(None)
    wire.answers[2].set_result(None)
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in ends] == [False, False, False, True, False]
    assert len(wire.sent) == AT_ONCE + 1
    assert wire.unclaimed == []


@in_loop
async def test_who_is_cancelled_meanwhile_goes_when_its_outcome_is_handed_back() -> None:
    wire, tasks = await full()
    tasks[0].cancel()
    await settled()
    assert not tasks[0].done()
    wire.answers[0].set_result(None)
    await settled()
    assert tasks[0].cancelled()
    assert wire.unclaimed == ["outcome of 0"]


@in_loop
async def test_who_is_cancelled_twice_goes_at_once_and_its_outcome_is_handed_back_later() -> None:
    wire, tasks = await full()
    for _ in range(2):
        tasks[0].cancel()
        await settled()
    assert tasks[0].cancelled()
    assert wire.unclaimed == []
    wire.answers[0].set_result(None)
    await settled()
    assert wire.unclaimed == ["outcome of 0"]


@in_loop
async def test_the_outcome_of_one_that_is_cancelled_between_the_answer_and_its_next_step_is_handed_back() -> None:
    wire, tasks = await full()
    wire.behind = tasks[0].cancel
    wire.answers[0].set_result(None)
    await settled()
    assert tasks[0].cancelled()
    assert wire.unclaimed == ["outcome of 0"]
    assert wire.batcher._waiting == []


@in_loop
async def test_who_gives_up_while_no_turn_can_be_had_is_not_sent_and_who_comes_meanwhile_goes_along() -> None:
    wire = Wire()
    wire.free.clear()
    tasks = [wire.call(10), wire.call(11)]
    await settled()
    tasks[0].cancel()
    tasks.append(wire.call(12))
    await settled()
    wire.free.set()
    await settled()
    assert wire.sent == [[11, 12]]
    wire.answers[0].set_result(None)
    assert await asyncio.gather(*tasks[1:]) == ["outcome of 11", "outcome of 12"]
    assert wire.unclaimed == []


@in_loop
async def test_who_is_cancelled_again_in_the_moment_of_its_answer_leaves_nothing_behind() -> None:
    wire, tasks = await full()
    tasks[0].cancel()
    await settled()
    wire.behind = tasks[0].cancel
    wire.answers[0].set_result(None)
    await settled()
    assert tasks[0].cancelled()
    assert wire.unclaimed == ["outcome of 0"]


@in_loop
async def test_a_turn_that_cannot_be_had_is_an_error_for_those_who_have_waited_for_it() -> None:
    wire = Wire()
    wire.free.clear()
    wire.refusing = True
    early = [wire.call(10), wire.call(11)]
    await settled()
    wire.refusing = False
    late = wire.call(12)
    await asyncio.sleep(0)  # it waits, and the turn was asked for before
    wire.free.set()
    await asyncio.wait(early)
    assert [str(task.exception()) for task in early] == ["no connection"] * 2
    await settled()
    assert wire.sent == [[12]]
    wire.answers[0].set_result(None)
    assert await late == "outcome of 12"


@in_loop
async def test_where_nothing_can_be_acquired_nobody_goes_on_asking_for_those_who_have_their_answer() -> None:
    wire = Wire()
    wire.free.clear()
    wire.refusing = True
    refused, gone = wire.call(10), wire.call(11)
    await settled()
    gone.cancel()
    wire.free.set()
    await asyncio.wait([refused, gone])
    await settled()
    assert str(refused.exception()) == "no connection"
    assert not wire.batcher._in_flight, "a closed pool refuses at once: the event loop would never end"
    wire.refusing = False
    late = wire.call(12)
    await settled()
    assert wire.sent == [[12]]
    wire.answer_all()
    assert await late == "outcome of 12"


@in_loop
async def test_sendings_that_are_cancelled_tell_their_callers_and_those_who_wait_are_sent_after_them() -> None:
    wire, tasks = await full()
    late = [wire.call(10), wire.call(11)]
    await settled()

    def cancel_all() -> None:
        for sending in list(wire.batcher._in_flight):
            assert sending
            sending.cancel()

    cancel_all()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    await settled()
    assert wire.sent[AT_ONCE:] == [[10, 11]]
    wire.answers[-1].set_result(None)
    assert await asyncio.gather(*late) == ["outcome of 10", "outcome of 11"]
    late = [wire.call(12)]
    await asyncio.sleep(0)
    cancel_all()  # before the first step
    await settled()
    assert wire.sent[-1] == [12]
    wire.answers[-1].set_result(None)
    assert await late[0] == "outcome of 12"


@in_loop
async def test_an_event_loop_that_ends_lets_those_finish_who_want_to() -> None:
    wire, tasks = await full()

    async def stubborn(item: int) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(0.01, wire.answer_all)
        return await wire.batcher.submit(item)

    last = [asyncio.create_task(stubborn(item)) for item in (10, 11)]
    await settled()
    for each in asyncio.all_tasks() - {asyncio.current_task()}:  # as asyncio.run does at its end
        each.cancel()
    async with asyncio.timeout(10):
        assert await asyncio.gather(*last) == ["outcome of 10", "outcome of 11"]
    await asyncio.gather(*tasks, return_exceptions=True)
