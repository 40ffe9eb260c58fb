"""Checks that a plain function has done its work, and that an asynchronous one returned something to await."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from pgonce.errors import InvalidArgument

T = TypeVar("T")
_UNFINISHED = (CoroutineType, GeneratorType, AsyncGeneratorType)


def is_async(function: Any) -> bool:
    """Whether calling ``function``, or its ``__call__``, makes a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def ensure_result(returned: T) -> T:
    """Return ``returned``, the result of a plain function.

    Raises:
        InvalidArgument: it is a coroutine or a generator, so nothing was done. Counted as a success, it would mark an
            event as handled whose handler never ran.
    """
    if isinstance(returned, _UNFINISHED):
        if isinstance(returned, CoroutineType | GeneratorType):
            returned.close()  # or Python warns that it was never awaited
        raise InvalidArgument(
            "the function is asynchronous or a generator and was called as a plain one, so nothing was done: "
            "make it plain, or `async def` with AsyncWebhooks, AsyncJobs, app.handle_async or a worker"
        )
    return returned


async def ensure_awaitable(returned: Awaitable[T]) -> T:
    """Await ``returned``, the result of an asynchronous function.

    Raises:
        InvalidArgument: it is not awaitable. What the function wrote is rolled back with this error.
    """
    anything: object = returned
    if not inspect.isawaitable(anything):
        ensure_result(anything)
        raise InvalidArgument("the function is plain and was called as an asynchronous one: make it `async def`")
    return await returned
