"""Threads of pgonce that repeat something: whatever one call raises, the next one is made."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

from pgonce.core import concurrency, concurrency_async


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_action_that_raises_is_repeated_and_logged(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    calls, third = itertools.count(1), threading.Event()

    def action() -> bool:
        number = next(calls)
        if number == 3:
            third.set()
            return False
        raise (OSError(24, "Too many open files"), MemoryError())[number - 1]

    async def main() -> None:
        async with concurrency_async.in_thread(action, 0.01):
            await asyncio.to_thread(third.wait, 20)

    if asynchronous:
        asyncio.run(main())
    else:
        with concurrency.in_thread(action, 0.01):
            third.wait(20)
    assert third.is_set()
    assert [str(record.exc_info and record.exc_info[1]) for record in caplog.records] == [
        "[Errno 24] Too many open files",
        "",
    ]


def test_a_call_in_an_event_loop_that_ends_meanwhile_is_an_answer_that_did_not_come() -> None:
    # asyncio.run() cancels what is left in its loop: the thread that waits for it must not end by a CancelledError
    loop = asyncio.new_event_loop()
    began = threading.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    async def end() -> None:
        await asyncio.to_thread(began.wait, 20)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop()
        raised: list[BaseException] = []

        def call() -> None:
            try:
                concurrency_async.call_in_loop(loop, work(), 20)
            except BaseException as error:  # noqa: BLE001 -- which one is the question
                raised.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        runner.run(end())
    thread.join(20)
    assert [type(error) for error in raised] == [TimeoutError]
