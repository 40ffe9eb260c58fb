"""What an App knows of a seed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Seed:
    """A generator of rows for the table ``into``."""

    name: str
    function: Callable[..., Any]
    into: str
    key: Sequence[str]
    columns: Sequence[str] | None = None
    batch_size: int | None = None
    total: int | None = None
    on_conflict: Literal["skip", "update", "fail"] = "skip"
    max_rejects: int = 0
    fingerprint: Callable[[Any], Mapping[str, Any] | None] | None = None
    partitions: Sequence[Any] | Callable[[], Sequence[Any]] | None = None

    def parts(self) -> dict[str, Any]:
        """Its partitions by name: a text stands for itself, anything else for its JSON; empty where it has none."""
        found = self.partitions() if callable(self.partitions) else self.partitions
        return {part if isinstance(part, str) else json.dumps(part): part for part in found or ()}

    def whole(self) -> Callable[[Any], Any] | dict[str, Callable[[Any], Any]]:
        """The function of the cursor; of a seed with partitions one for each of them."""
        if self.partitions is None:
            return self.function
        return {name: self.source(part) for name, part in self.parts().items()}

    def source(self, part: Any = None) -> Callable[[Any], Any]:
        """The function of the cursor alone: of the whole seed, or of one of its partitions."""
        return self.function if self.partitions is None else functools.partial(self.function, partition=part)
