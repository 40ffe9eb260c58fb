"""What is imported, from where, and into which table: one value for the registry, the engine and the command line."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict

from psycopg import sql

from pgonce.core.registration import (
    check_choice,
    check_columns,
    check_count,
    check_flag,
    check_function,
    check_options,
    check_text,
)
from pgonce.errors import InvalidArgument, NotFound

OnConflict: TypeAlias = Literal["skip", "update", "fail"]
Fingerprint: TypeAlias = Callable[[Any], Mapping[str, Any] | None]


class SeedOptions(TypedDict, total=False):
    """The fields of a `Seed` as keyword arguments; `Seed` explains each."""

    into: str
    key: Sequence[str]
    columns: Sequence[str] | None
    batch_size: int | None
    total: int | None
    on_conflict: OnConflict
    max_rejects: int
    fingerprint: Fingerprint | None
    partitions: Sequence[Any] | Callable[[], Sequence[Any]] | None
    set_sequences: bool
    allow_unlogged: bool


@dataclass(frozen=True, slots=True)
class Seed:
    """An import: a source of rows and the table they are written to.

    Args:
        name: the seed's name.
        function: the source: called with the last checkpoint's cursor (None at the start), it yields ``(row, cursor)``.
            A row is a mapping of columns, or a sequence in the order of ``columns``; its cursor says where to resume
            after it. Rows with equal cursors are committed together. ``pgonce.seeds.source`` lists what else a source
            may offer.
        into: the table, with or without its schema.
        key: the columns of a unique index that identify a row. Without a key every row is inserted: the cursor, which
            is written in the transaction of the rows, is what keeps a row from being inserted twice.
        columns: the names of the columns, where rows are sequences and not mappings. A file has its own.
        batch_size: rows per transaction, at least; a batch ends only where the cursor changes. None: as many as take
            about a second, from 100 to 50,000. A batch of 8 MB ends in any case.
        total: how many rows there are in all, where that is known: for the progress bar.
        on_conflict: what happens to a row whose key is in the table already: ``skip`` counts it and leaves the table
            alone, ``update`` overwrites the other columns, ``fail`` makes it a bad row.
        max_rejects: the number of rows, over all resumes, that may be refused by the table. They are kept in
            pgonce_seed_rejects and left out; one more ends the import.
        fingerprint: called with a cursor; returns what the source looks like up to there, as a JSON object. It is
            stored with each checkpoint and compared before a resume. None: the source's own, if it has one.
        partitions: the parts of the import, each a JSON value, or a function that lists them. The source is then called
            as ``function(cursor, partition=part)``, and each part has a checkpoint of its own.
        set_sequences: at the end set the sequences of the imported columns to their greatest value; else the next
            insert of an application may get a number that is taken.
        allow_unlogged: write to an unlogged table, which a crash of the server empties while the checkpoint stays.

    Raises:
        InvalidArgument: an argument cannot be used, for example text as ``key``, or there is no key to update by.
    """

    name: str
    function: Callable[..., Any]
    into: str
    key: Sequence[str] = ()
    columns: Sequence[str] | None = None
    batch_size: int | None = None
    total: int | None = None
    on_conflict: OnConflict = "skip"
    max_rejects: int = 0
    fingerprint: Fingerprint | None = None
    partitions: Sequence[Any] | Callable[[], Sequence[Any]] | None = None
    set_sequences: bool = False
    allow_unlogged: bool = False

    def __post_init__(self) -> None:
        of = f"of seed {self.name}"
        check_text(self.name, "the seed name", '"psalms"')
        if not self.name:
            raise InvalidArgument("the seed name must not be empty")
        _check_table(self.into, of)
        check_columns(self.key, "key", empty=True)
        object.__setattr__(self, "key", tuple(self.key))
        if self.columns is not None:
            check_columns(self.columns, "columns")
        if self.batch_size is not None:
            check_count(self.batch_size, f"the batch size {of}", 1)
        if self.total is not None:
            check_count(self.total, f"total {of}", most=2**63 - 1)
        check_count(self.max_rejects, f"max_rejects {of}")
        check_flag(self.set_sequences, f"set_sequences {of}")
        check_flag(self.allow_unlogged, f"allow_unlogged {of}")
        check_choice(self.on_conflict, f"on_conflict {of}", ("skip", "update", "fail"))
        _check_partitions(self.partitions, of)
        if self.fingerprint is not None and not callable(self.fingerprint):
            raise InvalidArgument(f"fingerprint {of} must be a function of the cursor, not {self.fingerprint!r}")
        if self.fingerprint is not None:
            check_function(self.fingerprint, f"the fingerprint {of}", ("cursor",), plain="make it plain")
        if not self.key and self.on_conflict != "skip":
            raise InvalidArgument(f"on_conflict={self.on_conflict!r} needs a key")

    @property
    def table(self) -> sql.Identifier:
        """The table's name, quoted part by part."""
        return sql.Identifier(*self.into.split("."))

    @property
    def named_columns(self) -> Sequence[str] | None:
        """The columns of rows that are sequences: the seed's own, or those that the source offers."""
        return self.columns or getattr(self.function, "columns", None)

    def parts(self) -> dict[str, Any]:
        """Its partitions by name: a text stands for itself, anything else for its JSON; empty where it has none.

        Raises:
            InvalidArgument: one is not JSON, or two have one name, such as 1 and "1".
        """
        named = dict[str, Any]()
        for part in (self.partitions() if callable(self.partitions) else self.partitions) or ():
            try:
                name = part if isinstance(part, str) else json.dumps(part)
            except (TypeError, ValueError):
                kind = type(part).__name__
                raise InvalidArgument(
                    f"a partition of seed {self.name} is a {kind} and not JSON: pass its text"
                ) from None
            if named.setdefault(name, part) != part:
                raise InvalidArgument(f"two partitions of seed {self.name} have one name: {part!r} and {named[name]!r}")
        return named

    def sources(self) -> dict[str | None, Callable[..., Any]]:
        """The functions that take only a cursor: one under each partition's name, or the whole seed's under None."""
        if self.partitions is None:
            return {None: self.function}
        return {name: self.source(part) for name, part in self.parts().items()}

    def source(self, part: Any = None) -> Callable[[Any], Any]:
        """The function that takes only a cursor: the whole seed's, or that of one of its partitions."""
        if self.partitions is None:
            return self.function
        source = functools.partial(self.function, partition=part)
        for name in ("columns", "json_strings"):  # what else a source offers does not know the part
            if hasattr(self.function, name):
                setattr(source, name, getattr(self.function, name))
        return source


def check_seed_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a `Seed` does not have, and options without its table.

    Raises:
        InvalidArgument: the message says what to write.
    """
    check_options(options, SeedOptions.__annotations__, f"seed {name}")
    if "into" not in options:
        raise InvalidArgument(
            f'seed {name} has no table: write into="chapters", or pass the registered one: app.get_seed("{name}")'
        )


def _check_table(given: Any, of: str) -> None:
    if not given or not isinstance(given, str):
        raise InvalidArgument(f'into {of} must be the name of a table, not {given!r}: write into="chapters"')
    parts = given.split(".")
    if len(parts) > 2 or any(not part or part.strip() != part or part[0] == part[-1] == '"' for part in parts):
        raise InvalidArgument(
            f"into {of} is {given!r}: write the table, or schema.table, without quotation marks or spaces around it"
        )


def _check_partitions(given: Any, of: str) -> None:
    if given is None or callable(given):
        return
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise InvalidArgument(f"partitions {of} must be a list, or a function that returns one, not {given!r}")
    if not given:
        raise InvalidArgument(f"partitions {of} is empty, so nothing would be imported: name a part, or leave it out")
    if twice := next((part for at, part in enumerate(given) if part in given[:at]), None):
        raise InvalidArgument(f"partitions {of} has {twice!r} twice: name each part once")
    try:
        json.dumps(list(given))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"partitions {of} must be JSON values, such as text: {error}") from None


def seed_of(seed: Seed | str, source: Any, options: SeedOptions) -> Seed:
    """The seed that a method of Seeds was called with: itself, or its name and its fields."""
    if isinstance(seed, Seed):
        check_options(options, SeedOptions.__annotations__, f"seed {seed.name}")
        return replace(seed, **({"function": source} if source else {}), **options)
    if not isinstance(seed, str):
        raise InvalidArgument(f'pass a Seed or its name, not {type(seed).__name__}: app.get_seed("psalms")')
    check_seed_options(seed, options)
    return Seed(seed, source, **options)


def part_of(seed: Seed, partition: str) -> Any:
    """The partition of this name."""
    parts = seed.parts()
    if partition not in parts:
        raise NotFound(f"the seed {seed.name} has no partition {partition!r} here: is the app the same everywhere?")
    return parts[partition]


def sources_of(
    seed: Seed | str, source: Any, options: SeedOptions
) -> tuple[Seed, dict[str | None, Callable[..., Any]]]:
    """What ``seed_of`` returns, and the seed's sources by partition."""
    found = seed_of(seed, source, options)
    if isinstance(source, Mapping):
        return found, dict(source)
    return found, found.sources()
