"""Context managers that are entered once. They say so if nobody enters them, or somebody enters them twice."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import TracebackType
from typing import Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, cast

from pgonce.errors import InvalidArgument

T = TypeVar("T")
V = TypeVar("V")
P = ParamSpec("P")


class _Block:
    """Warns when it is deleted and was never entered, as Python does for a coroutine that nobody awaited.

    Args:
        wrapped: the context manager that it enters.
        call: how it was made, such as "run.transaction()".
        name: what the block's variable is usually called.
    """

    keyword: ClassVar[str]

    def __init__(self, wrapped: Any, call: str, name: str) -> None:
        self._wrapped = wrapped
        self._call = call
        self._name = name
        self._is_entered = self._is_noticed = False

    @property
    def _write(self) -> str:
        return f"write `{self.keyword} {self._call} as {self._name}:`"

    @classmethod
    def made_by(cls, call: str, name: str) -> Callable[[Callable[P, V]], Callable[P, V]]:
        """A decorator for functions that return a context manager; the arguments are those of the class."""

        def decorate(function: Callable[P, V]) -> Callable[P, V]:
            @wraps(function)
            def make(*arguments: P.args, **options: P.kwargs) -> V:
                return cast(V, cls(function(*arguments, **options), call, name))

            return make

        return decorate

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("_"):  # Python itself asks for some
            raise AttributeError(attribute)
        self._is_noticed = True
        raise AttributeError(f"{self._call} is a block and has no {attribute!r}: {self._write}")

    def _enter_once(self) -> Any:
        self._is_noticed = True
        if self._is_entered:
            raise InvalidArgument(f"this block has been entered before, and is for one `{self.keyword}`: {self._write}")
        self._is_entered = True
        return self._wrapped

    def _leave(self) -> Any:
        self._is_noticed = True
        if not self._is_entered:  # a generator would begin now: ExitStack.push in place of enter_context
            raise InvalidArgument(f"this block is left and was never entered: {self._write}")
        return self._wrapped

    def __del__(self) -> None:
        if not self._is_noticed:
            warnings.warn(f"{self._call} did nothing: {self._write}", RuntimeWarning, stacklevel=2)


class WithBlock(_Block, AbstractContextManager[T], Generic[T]):
    """A context manager."""

    keyword = "with"

    def __enter__(self) -> T:
        entered: T = self._enter_once().__enter__()
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        left: bool | None = self._leave().__exit__(kind, error, trace)
        return left


class AsyncWithBlock(_Block, AbstractAsyncContextManager[T], Generic[T]):
    """An asynchronous one."""

    keyword = "async with"

    def __aenter__(self) -> Coroutine[Any, Any, T]:
        entered: Coroutine[Any, Any, T] = self._enter_once().__aenter__()
        return entered

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        left: Coroutine[Any, Any, bool | None] = self._leave().__aexit__(kind, error, trace)
        return left
