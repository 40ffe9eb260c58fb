"""A coroutine, generator or future that a function returns never counts as work that was done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

import pytest

from pgonce.core.callables import ensure_awaitable, ensure_result
from pgonce.errors import InvalidArgument


class Later:
    """An awaitable of one's own."""

    def __await__(self) -> Generator[None, None, int]:
        yield
        return 1


async def number() -> int:
    return 1


def numbers() -> Any:
    yield 1


async def stream() -> Any:
    yield 1


UNDONE = [number, numbers, stream, Later, Future]


@pytest.mark.parametrize("make", UNDONE)
def test_a_plain_function_may_not_return_work_that_is_not_done(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgument):
        ensure_result(make())


@pytest.mark.parametrize("make", [*UNDONE, lambda: asyncio.get_running_loop().create_future()])
def test_an_asynchronous_function_may_not_return_work_that_is_not_done(make: Callable[[], Any]) -> None:
    """As `return other(run)` does, without an await."""

    async def forgets() -> Any:
        return make()

    with pytest.raises(InvalidArgument, match=r"await|wait for its result"):
        asyncio.run(_ensured(forgets))


def test_a_future_that_is_done_is_a_result() -> None:
    done: Future[int] = Future()
    done.set_result(1)

    async def returns() -> Any:
        task = asyncio.ensure_future(number())
        await task
        return task

    assert ensure_result(done) is done
    assert asyncio.run(_ensured(returns)).result() == 1


def test_the_error_of_a_future_that_is_done_is_the_function_s() -> None:
    """Otherwise `return pool.submit(work)` would be a success or a failure, by whether it was done in time."""
    failed: Future[int] = Future()
    failed.set_exception(LookupError("x"))
    with pytest.raises(LookupError):
        ensure_result(failed)
    cancelled: Future[int] = Future()
    cancelled.cancel()
    with pytest.raises(InvalidArgument):
        ensure_result(cancelled)


async def _ensured(function: Callable[[], Any]) -> Any:
    return await ensure_awaitable(function())
