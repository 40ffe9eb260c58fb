"""What a function of the user's has returned: whether it has done its work, or has only promised to."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from pgonce.errors import InvalidArgument

T = TypeVar("T")
_PROMISES = (CoroutineType, GeneratorType, AsyncGeneratorType)


def is_async(function: Any) -> bool:
    """Whether calling ``function``, or its ``__call__``, makes a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def finished(returned: T) -> T:
    """What a plain function has returned.

    Raises:
        InvalidArgument: a coroutine or a generator: nothing has been done. Taken for a success, it would mark an event
            as handled whose handler never ran.
    """
    if isinstance(returned, _PROMISES):
        if isinstance(returned, CoroutineType | GeneratorType):
            returned.close()  # or Python warns that it was never awaited
        raise InvalidArgument(
            "the function is asynchronous or a generator, and was called as a plain one, so nothing was done: "
            "make it plain, or `async def` with AsyncWebhooks, AsyncJobs, app.handle_async or a worker"
        )
    return returned


async def awaited(returned: Awaitable[T]) -> T:
    """What an asynchronous function has returned, in the end.

    Raises:
        InvalidArgument: it is none; what it wrote is rolled back with the error.
    """
    anything: object = returned
    if not inspect.isawaitable(anything):
        finished(anything)
        raise InvalidArgument("the function is a plain one, and was called as an asynchronous one: make it `async def`")
    return await returned
