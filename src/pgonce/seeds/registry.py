"""Which function is the source of which import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pgonce.core.named import get_named
from pgonce.errors import InvalidArgument
from pgonce.seeds.seed import Seed

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class SeedRegistry:
    """The seeds of an app, by name."""

    seeds: dict[str, Seed] = field(default_factory=dict)

    def seed(
        self,
        name: str,
        *,
        into: str,
        key: Sequence[str],
        columns: Sequence[str] | None = None,
        batch_size: int | None = None,
        total: int | None = None,
        on_conflict: Literal["skip", "update", "fail"] = "skip",
        max_rejects: int = 0,
        fingerprint: Callable[[Any], Mapping[str, Any] | None] | None = None,
        partitions: Sequence[Any] | Callable[[], Sequence[Any]] | None = None,
    ) -> Callable[[F], F]:
        """Register ``function(cursor)``, which yields ``(row, cursor)``, as seed ``name``.

        Args:
            name: the seed's name.
            into: the table, with or without its schema.
            key: the columns of a unique index that tell which rows are there already.
            columns: their names, where rows are sequences and not mappings.
            batch_size: rows per transaction, at least. None: as many as take about a second.
            total: how many rows there are in all, where that is known: for the progress bar.
            on_conflict: what becomes of rows that are there already: ``skip``, ``update`` or ``fail``.
            max_rejects: so many rows that the table refuses are kept in seed_rejects and left out.
            fingerprint: called with a cursor; what the source looks like up to there, as a JSON object. A resume whose
                fingerprint at the checkpoint is another one stops with a choice.
            partitions: the parts of the import, each a JSON value, or a function that lists them: then the function is
                called as ``function(cursor, partition=part)``, and each part has a checkpoint of its own.
        """
        if batch_size is not None and batch_size < 1:
            raise InvalidArgument("the batch size must be at least 1")

        def register(function: F) -> F:
            if name in self.seeds or not name:
                raise InvalidArgument(
                    f"there is a seed {name!r} already" if name else "the seed name must not be empty"
                )
            self.seeds[name] = Seed(
                name, function, into, tuple(key), columns, batch_size, total, on_conflict, max_rejects, fingerprint,
                partitions,
            )  # fmt: skip
            return function

        return register

    def get_seed(self, name: str) -> Seed:
        """The seed of this name; NotFound names those there are."""
        return get_named(self.seeds, name, "seed")
