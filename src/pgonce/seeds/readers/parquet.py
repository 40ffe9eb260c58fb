"""Parquet through pyarrow, from any row on: only the row group in which an import stopped is read again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from pgonce.errors import InvalidArgument
from pgonce.seeds.copy_format import SPECIAL, TEXT
from pgonce.seeds.readers.file import File
from pgonce.seeds.source import Cursor, SeedRow, Verdict

BLOCK = 64 * 1024
"""Bytes of a block, about. While a longer one is made ready, the server runs out of rows, as in CSV."""
ROWS = 4096
"""Rows that are unpacked at a time, at most."""


class ParquetFile:
    """The source of a seed: a Parquet file. Needs pyarrow: ``pip install 'pgonce[parquet]'``.

    Lists, structs and maps are handed on as JSON text, for a json or jsonb column; binary values as bytea.

    Args:
        path: the file.
        columns: those to import; by default all.

    Raises:
        InvalidArgument: while reading: there is no pyarrow, or the file is no Parquet, or lacks a column.
    """

    copy_format = TEXT

    def __init__(self, path: str | Path, *, columns: Sequence[str] | None = None) -> None:
        self.file = File(Path(path))
        self._named = tuple(columns) if columns else None

    @cached_property
    def columns(self) -> Sequence[str]:
        """Those given, or all of the file."""
        with self._open() as file:
            there = list(file.schema_arrow.names)
        missing = [name for name in self._named or () if name not in there]
        if missing:
            raise InvalidArgument(f"{self.file.path.name} has no column {missing[0]}: it has {', '.join(there)}")
        return self._named or tuple(there)

    @property
    def copy_columns(self) -> Sequence[str]:
        """The same."""
        return self.columns

    @cached_property
    def total(self) -> int:
        """Rows in the file, as its footer has it."""
        with self._open() as file:
            return int(file.metadata.num_rows)

    def __call__(self, cursor: Cursor | None) -> Iterator[tuple[SeedRow, Cursor]]:
        """The rows behind ``cursor``, in the order of ``columns``."""
        for batch, group, row in self._batches(cursor):
            lists = [column.to_pylist() for column in batch.columns]
            for number, values in enumerate(zip(*lists, strict=True), row + 1):
                yield values, {"row_group": group, "row": number}

    def copy_blocks(self, cursor: Cursor | None) -> Iterator[tuple[bytes, int, Cursor]]:
        """The rows behind ``cursor`` in COPY's text format, made by pyarrow: no Python for each row."""
        arrow, compute = _pyarrow("lib"), _pyarrow("compute")
        for batch, group, row in self._batches(cursor):
            # by its size in memory: a column of few different texts is a hundred times smaller in the file
            step = max(1, BLOCK * batch.num_rows // max(1, batch.nbytes))
            fields = [_escaped(column.cast(arrow.string())) for column in batch.columns]
            for start in range(0, batch.num_rows, step):
                lines = compute.binary_join_element_wise(
                    *[field.slice(start, step) for field in fields],
                    "\t", null_handling="replace", null_replacement=r"\N",
                )  # fmt: skip
                rows = len(lines)
                [block] = compute.binary_join(arrow.ListArray.from_arrays([0, rows], lines), "\n")
                yield b"".join((block.as_buffer(), b"\n")), rows, {"row_group": group, "row": row + start + rows}

    def fingerprint(self, cursor: Cursor | None) -> Mapping[str, Any]:  # noqa: ARG002 -- the file is one whole
        """The file's size, and hashes of its first and last 64 kB: the last has the footer, and so the row groups."""
        return self.file.fingerprint(self.file.size, {"columns": list(self.columns)})

    def same(self, stored: Mapping[str, Any]) -> Verdict:
        """``same`` or ``changed``: a Parquet file cannot grow at its end."""
        verdict = self.file.same(stored, {"columns": list(self.columns)})
        return "changed" if verdict == "grown" else verdict

    def _batches(self, cursor: Cursor | None) -> Iterator[tuple[Any, int, int]]:
        """(record batch of texts and numbers, row group, rows of the group before it) behind ``cursor``."""
        first, done = _place(cursor, self.file.path.name)
        with self._open() as file:
            for group in range(first, file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                size = max(1, min(ROWS, BLOCK * about.num_rows // max(1, about.total_byte_size)))
                row = 0
                for batch in file.iter_batches(size, row_groups=[group], columns=list(self.columns), use_threads=False):
                    skipped = min(max(done - row, 0), batch.num_rows)
                    row += batch.num_rows
                    if skipped < batch.num_rows:
                        kept = batch.slice(skipped)
                        yield _as_text(kept.select(list(self.columns))), group, row - kept.num_rows
                done = 0

    @contextmanager
    def _open(self) -> Iterator[Any]:
        parquet = _pyarrow("parquet")
        _ = self.file.size  # its own error where there is no such file
        try:
            with parquet.ParquetFile(self.file.path) as file:
                yield file
        except (OSError, _pyarrow("lib").ArrowException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidArgument(f"{self.file.path.name} cannot be read as Parquet: {reason}") from error


def _as_text(batch: Any) -> Any:
    """The batch, with text in its columns of types whose text by Arrow is none that PostgreSQL reads."""
    arrow, types = _pyarrow("lib"), _pyarrow("types")
    for index, field in enumerate(batch.schema):
        column, kind = batch.column(index), field.type
        if types.is_dictionary(kind):
            column = column.dictionary_decode()
            kind = kind.value_type
        if types.is_nested(kind):
            texts = [
                None if value is None else json.dumps(value, ensure_ascii=False, default=str)
                for value in column.to_pylist(maps_as_pydicts="strict")
            ]
        elif types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            texts = [None if value is None else "\\x" + value.hex() for value in column.to_pylist()]
        elif types.is_duration(kind) or types.is_interval(kind):
            texts = [None if value is None else _interval(value) for value in column.to_pylist()]
        else:
            if getattr(kind, "unit", "") == "ns":  # Python and PostgreSQL have microseconds
                finer = arrow.timestamp("us", kind.tz) if types.is_timestamp(kind) else arrow.time64("us")
                column, kind = column.cast(finer, safe=False), finer
            if kind != field.type:
                batch = batch.set_column(index, field.name, column)
            continue
        batch = batch.set_column(index, field.name, arrow.array(texts, arrow.string()))
    return batch


def _escaped(texts: Any) -> Any:
    """The texts as fields of COPY's text format, NULL still as NULL."""
    raw = texts.buffers()[2].to_pybytes()  # all of a slice's base, too: a look more than needed at a resume
    for special, escape in SPECIAL.items():
        if special.encode() in raw:
            texts = _pyarrow("compute").replace_substring(texts, special, escape)
    return texts


def _interval(value: Any) -> str:
    if hasattr(value, "months"):  # a MonthDayNano
        return f"{value.months} months {value.days} days {value.nanoseconds // 1000} microseconds"
    return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"


def _place(cursor: Cursor | None, name: str) -> tuple[int, int]:
    if cursor is None:
        return 0, 0
    match cursor:
        case {"row_group": int(group), "row": int(row)} if group >= 0 and row >= 0:
            return group, row
    raise InvalidArgument(
        f'the checkpoint {cursor!r} is no place in {name}: it looks like {{"row_group": 3, "row": 1200}}; '
        "another source has run under this name"
    )


def _pyarrow(module: str) -> ModuleType:
    try:
        return __import__(f"pyarrow.{module}", fromlist=["_"])
    except ImportError as error:
        raise InvalidArgument("Parquet needs pyarrow: run pip install 'pgonce[parquet]'") from error
