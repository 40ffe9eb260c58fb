"""Context managers that say so if nobody enters them: without ``with`` they would silently do nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")


class _Block:
    """Warns when it is deleted and was never entered, as Python does for a coroutine that nobody awaited."""

    def __init__(self, wrapped: Any, call: str, name: str, keyword: str) -> None:
        self._wrapped = wrapped
        self._call = call
        self._write = f"write `{keyword} {call} as {name}:`"
        self._is_noticed = False

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("_"):  # Python itself asks for some
            raise AttributeError(attribute)
        self._is_noticed = True
        raise AttributeError(f"{self._call} is a block and has no {attribute!r}: {self._write}")

    def __del__(self) -> None:
        if not self._is_noticed:
            warnings.warn(f"{self._call} did nothing: {self._write}", RuntimeWarning, stacklevel=2)


class WithBlock(_Block, AbstractContextManager[T], Generic[T]):
    """A context manager.

    Args:
        wrapped: what it enters.
        call: how it was made, such as "run.transaction()".
        name: what the block's variable is usually called.
    """

    def __init__(self, wrapped: AbstractContextManager[T], call: str, name: str) -> None:
        super().__init__(wrapped, call, name, "with")

    @classmethod
    def made_by(
        cls, call: str, name: str
    ) -> Callable[[Callable[P, AbstractContextManager[V]]], Callable[P, AbstractContextManager[V]]]:
        """A decorator for functions that return a context manager; the arguments are those of the class."""

        def decorate(function: Callable[P, AbstractContextManager[V]]) -> Callable[P, AbstractContextManager[V]]:
            @wraps(function)
            def make(*arguments: P.args, **options: P.kwargs) -> AbstractContextManager[V]:
                return WithBlock(function(*arguments, **options), call, name)

            return make

        return decorate

    def __enter__(self) -> T:
        """Enter what it wraps."""
        self._is_noticed = True
        entered: T = self._wrapped.__enter__()
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Leave what it wraps."""
        left: bool | None = self._wrapped.__exit__(kind, error, trace)
        return left


class AsyncWithBlock(_Block, AbstractAsyncContextManager[T], Generic[T]):
    """``WithBlock`` for an asynchronous one."""

    def __init__(self, wrapped: AbstractAsyncContextManager[T], call: str, name: str) -> None:
        super().__init__(wrapped, call, name, "async with")

    @classmethod
    def made_by(
        cls, call: str, name: str
    ) -> Callable[[Callable[P, AbstractAsyncContextManager[V]]], Callable[P, AbstractAsyncContextManager[V]]]:
        """``WithBlock.made_by`` for asynchronous ones."""

        def decorate(
            function: Callable[P, AbstractAsyncContextManager[V]],
        ) -> Callable[P, AbstractAsyncContextManager[V]]:
            @wraps(function)
            def make(*arguments: P.args, **options: P.kwargs) -> AbstractAsyncContextManager[V]:
                return AsyncWithBlock(function(*arguments, **options), call, name)

            return make

        return decorate

    async def __aenter__(self) -> T:
        """Enter what it wraps."""
        self._is_noticed = True
        entered: T = await self._wrapped.__aenter__()
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Leave what it wraps."""
        left: bool | None = await self._wrapped.__aexit__(kind, error, trace)
        return left
