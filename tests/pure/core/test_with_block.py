"""What is called without ``with`` says that it did nothing."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

import pgonce
from pgonce.core.with_block import AsyncWithBlock, WithBlock
from pgonce.errors import InvalidArgument

CALL = "run.transaction()"


@contextmanager
def one() -> Any:
    yield 1


@asynccontextmanager
async def one_async() -> Any:
    yield 1


def test_a_block_that_nobody_enters_warns_in_the_line_that_made_it() -> None:
    with pytest.warns(RuntimeWarning) as said:
        WithBlock(one(), CALL, "tx")
    assert str(said[0].message) == "run.transaction() did nothing: write `with run.transaction() as tx:`"
    assert said[0].filename == __file__


def test_an_asynchronous_block_says_async_with() -> None:
    with pytest.warns(RuntimeWarning, match=r"write `async with run.transaction\(\) as tx:`"):
        AsyncWithBlock(one_async(), CALL, "tx")


def test_a_run_that_nobody_enters_warns() -> None:
    pool: ConnectionPool[Any] = ConnectionPool("", open=False)
    with pytest.warns(RuntimeWarning, match=r"write `with jobs.run\(\"nightly\"\) as run:`"):
        pgonce.Jobs(pool).run("nightly", expect_every="1 day")


def test_a_block_has_no_attributes_of_what_it_would_give() -> None:
    block = WithBlock[int](one(), CALL, "tx")
    with pytest.raises(AttributeError, match=r"is a block and has no 'execute': write `with run\.transaction"):
        block.execute  # noqa: B018


def test_a_block_that_is_entered_says_nothing() -> None:
    async def enter() -> int:
        async with AsyncWithBlock[int](one_async(), CALL, "tx") as value:
            return int(value)

    with WithBlock[int](one(), CALL, "tx") as value:
        assert value == asyncio.run(enter()) == 1


def test_a_block_that_is_entered_twice_says_so() -> None:
    async def twice() -> None:
        block = AsyncWithBlock[int](one_async(), CALL, "tx")
        async with block:
            with pytest.raises(InvalidArgument, match=r"entered before.*write `async with run\.transaction"):
                async with block:
                    pass

    asyncio.run(twice())
    block = WithBlock[int](one(), CALL, "tx")
    with suppress(ValueError), block:
        raise ValueError
    with pytest.raises(InvalidArgument, match=r"entered before.*write `with run\.transaction"), block:
        pass


def test_a_block_that_is_left_and_was_never_entered_does_not_begin() -> None:
    begun: list[int] = []

    @contextmanager
    def begin() -> Any:
        begun.append(1)
        yield

    with pytest.raises(InvalidArgument, match="never entered"), ExitStack() as stack:
        stack.push(WithBlock[None](begin(), CALL, "tx"))
    assert begun == []


def test_an_error_in_the_block_reaches_what_it_wraps() -> None:
    @contextmanager
    def suppressing() -> Any:
        with suppress(ValueError):
            yield

    with WithBlock(suppressing(), CALL, "tx"):
        raise ValueError
