"""Checks that a function has done its work, and has not returned something that still has to do it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import AsyncContextDecorator, ContextDecorator
from functools import partial
from itertools import starmap
from types import FunctionType, MethodType
from typing import Any, TypeVar

from pgonce.errors import InvalidArgument

T = TypeVar("T")
_UNFINISHED = (Coroutine, Generator, AsyncGenerator)
"""Not the types of Python's own: Cython's coroutines and generators are others."""
_LAZY = (map, filter, starmap, partial, FunctionType, MethodType, ContextDecorator, AsyncContextDecorator)
"""What does its work only when it is iterated, called or entered. A cursor can be iterated, too, and has done its."""


def is_async(function: Any) -> bool:
    """Whether calling ``function``, or its ``__call__``, makes a coroutine."""
    while isinstance(function, partial | staticmethod):  # inspect looks only for a function in them
        function = function.func if isinstance(function, partial) else function.__func__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def ensure_result(returned: T) -> T:
    """Return ``returned``, the result of a plain function.

    Raises:
        InvalidArgument: it is a coroutine, a generator or a future that is not done, so the work was not done. Counted
            as a success, it would mark an event as handled whose handler never ran.
    """
    _check_done(
        returned,
        "the function is asynchronous or a generator and was called as a plain one, so nothing was done: "
        "make it plain, or `async def` with AsyncWebhooks, AsyncJobs, app.handle_async or a worker",
    )
    return returned


async def ensure_awaitable(returned: Awaitable[T]) -> T:
    """Await ``returned``, the result of an asynchronous function.

    Raises:
        InvalidArgument: it is not awaitable, or what it makes must itself be awaited. What the function wrote is rolled
            back with this error.
    """
    anything: object = returned
    if not inspect.isawaitable(anything):
        ensure_result(anything)
        raise InvalidArgument("the function is plain and was called as an asynchronous one: make it `async def`")
    result = await returned
    _check_done(result, "the function returned a coroutine or a generator, which has not run: write `return await ...`")
    return result


def _check_done(returned: object, if_unfinished: str) -> None:
    if returned is None:  # the usual result, of which inspect would look up the class's attributes
        return
    if isinstance(returned, _UNFINISHED):
        if isinstance(returned, Coroutine | Generator):
            returned.close()  # or Python warns that it was never awaited
        raise InvalidArgument(if_unfinished)
    _refuse_future(returned)
    _refuse_lazy(returned)


def _refuse_future(returned: object) -> None:
    if not isinstance(returned, Future) and not inspect.isawaitable(returned):
        return
    if not isinstance(returned, Future | asyncio.Future) or not returned.done() or returned.cancelled():
        raise InvalidArgument(
            "the function returned a future or another awaitable that is not done: wait for its result in the function"
        )
    if (error := returned.exception()) is not None:  # it is the function's, which has only not looked at it
        raise error


def _refuse_lazy(returned: object) -> None:
    kind: type = type(returned)
    if isinstance(returned, _LAZY):
        raise InvalidArgument(
            f"the function returned an object of type {kind.__name__.lstrip('_')}, which has not run: "
            "call it, loop over it or enter it in the function"
        )
