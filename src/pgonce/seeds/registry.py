"""The seeds of an app, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, Unpack

from pgonce.core.registration import called, check_function, check_name, get_named
from pgonce.errors import InvalidArgument
from pgonce.seeds.seed import Seed, SeedOptions, check_seed_options

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class SeedRegistry:
    """The seeds of an app, by name."""

    seeds: dict[str, Seed] = field(default_factory=dict)

    def seed(self, name: str, **options: Unpack[SeedOptions]) -> Callable[[F], F]:
        """Register ``function(cursor)``, which yields ``(row, cursor)``, as seed ``name``.

        Args:
            name: the seed's name, unique in the app.
            options: ``into`` and ``key``, and the other fields of `pgonce.Seed`.

        Raises:
            InvalidArgument: an option is unknown or cannot be read; or, from the decorator, there is a seed of this
                name, or the function cannot be called with a cursor.
        """
        check_name(name, "@app.seed", "the seed's name", "psalms")
        check_seed_options(name, options)

        def register(function: F) -> F:
            keywords = () if options.get("partitions") is None else ("partition",)
            check_function(function, f"the source of seed {name}", ("cursor",), keywords=keywords, generator=True)
            if inspect.iscoroutinefunction(function):
                raise InvalidArgument(
                    f"the source of seed {name}, {called(function)}, is `async def` and never yields: "
                    "yield (row, cursor)"
                )
            if name in self.seeds:
                raise InvalidArgument(
                    f"there is a seed {name!r} already, {called(self.seeds[name].function)}: give one another name"
                )
            self.seeds[name] = Seed(name, function, **options)
            return function

        return register

    def get_seed(self, name: str) -> Seed:
        """The seed of this name.

        Raises:
            NotFound: there is none; the message lists those that are registered.
        """
        return get_named(self.seeds, name, "seed")
