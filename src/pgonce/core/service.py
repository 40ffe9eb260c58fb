"""What runs in threads of its own until it is stopped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Service(ABC):
    """``with`` starts it, and stops it at the end for as long as that takes."""

    @abstractmethod
    def start(self) -> Self:
        """Begin; what is wrong is raised now, rather than in a thread."""

    @abstractmethod
    def stop(self, timeout: float | None = None) -> bool:
        """End; whether it has ended after ``timeout`` seconds (None: for ever)."""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
