"""A file is changed while it is read. No fingerprint must be returned for rows that the file no longer contains.

The engine takes a fingerprint for each batch before it commits the batch. So an error here stops the import at its
last good batch.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pgonce.errors import InvalidArgument, SourceChanged, SourceUnfinished
from pgonce.seeds.batch import BatchBuilder, BatchSizer, build_batches, join_blocks
from pgonce.seeds.copy_text import RowFormatter
from pgonce.seeds.readers import read
from tests.pure.seeds.columns import columns

ROWS = 20_000
KINDS = ["x.csv", "x.csv.gz", "x.jsonl", "x.parquet"]


@cache
def content(name: str, first: int = 0, rows: int = ROWS, word: str = "word") -> bytes:
    """A file of several blocks.

    Words of equal length give files of equal length, except perhaps for compressed ones.
    """
    numbers = range(first, first + rows)
    if name.endswith(".parquet"):
        arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        sink = arrow.BufferOutputStream()
        table = arrow.table({"id": list(numbers), "name": [f"{word} {n:07}" for n in numbers]})
        parquet.write_table(table, sink, row_group_size=2000, compression="none", use_dictionary=False)
        return bytes(sink.getvalue().to_pybytes())
    if "json" in name:
        data = "".join(json.dumps({"id": n, "name": f"{word} {n:07}"}) + "\n" for n in numbers).encode()
    else:
        data = ("id,name\n" * (not first) + "".join(f"{n},{word} {n:07}\n" for n in numbers)).encode()
    return gzip.compress(data, 1, mtime=0) if name.endswith(".gz") else data


def overwritten(path: Path, data: bytes) -> None:
    """Write other bytes to the same file, and restore its times."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path, data: bytes) -> None:
    other = path.with_name(f"other-{path.name}")
    other.write_bytes(data)
    other.replace(path)


def linked(path: Path, data: bytes) -> None:
    other = path.with_name(f"other-{path.name}")
    other.write_bytes(data)
    path.unlink()
    path.symlink_to(other)


Change = Callable[[Path, bytes], object]
CHANGES: dict[str, Change] = {
    "rewritten in place": lambda path, _: path.write_bytes(content(path.name, word="else")),
    "rewritten in place with its size and times": lambda path, _: overwritten(path, content(path.name, word="else")),
    "replaced by a move": lambda path, _: replaced(path, content(path.name, word="else")),
    "replaced by a move, longer": lambda path, _: replaced(path, content(path.name, rows=2 * ROWS, word="else")),
    "replaced by a link": lambda path, _: linked(path, content(path.name, word="else")),
    "truncated": lambda path, before: os.truncate(path, len(before) // 2),
    "emptied": lambda path, _: os.truncate(path, 0),
    "shortened at its end": lambda path, before: os.truncate(path, len(before) - 1),
}


def reading(path: Path) -> Iterator[tuple[Any, Any]]:
    """Read rows and fingerprints as the engine does, some hundred rows at a time."""
    source = read(path)
    for number, (row, cursor) in enumerate(source(None)):
        if number % 500 == 0:
            yield row, source.fingerprint(cursor)
    yield None, source.fingerprint(cursor)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_changed_while_it_is_read_gives_no_further_fingerprint(
    tmp_path: Path, name: str, change: str
) -> None:
    path = tmp_path / name
    data = content(name)
    path.write_bytes(data)
    rows = reading(path)
    for _ in range(ROWS // 1000):
        next(rows)
    CHANGES[change](path, data)
    with pytest.raises(SourceChanged, match=r"^x\.\S+ (was|has become) .* --restart --on-conflict update .* --accept"):
        next(rows)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_one_digit_far_before_the_cursor_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    rows = reading(path)
    for _ in range(ROWS // 600):
        next(rows)
    overwritten(path, content(name).replace(b"0005001", b"0005007"))
    with pytest.raises(SourceChanged):
        list(rows)
    # the next run finds it, too, by the fingerprint of the last good batch
    path.write_bytes(content(name))
    source = read(path)
    cursor = [cursor for _, cursor in source(None)][15_000]
    stored = source.fingerprint(cursor)
    overwritten(path, content(name).replace(b"0005001", b"0005007"))
    assert read(path).same(stored) == "changed"
    overwritten(path, content(name).replace(b"0015801", b"0015807"))
    assert read(path).same(stored) in {"same", "grown"}, "what lies after the cursor was not read"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("harmless", ["touched", "new mode", "removed", "equal copy", "link to an equal copy"])
def test_what_leaves_the_bytes_as_they_were_is_not_a_change(tmp_path: Path, name: str, harmless: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    rows = reading(path)
    next(rows)
    if harmless == "touched":
        path.touch()
    elif harmless == "new mode":
        path.chmod(0o600)
    elif harmless == "removed":
        path.unlink()
    else:
        (linked if "link" in harmless else replaced)(path, path.read_bytes())
    assert len(list(rows)) == ROWS // 500


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
@pytest.mark.parametrize("how", ["appended", "replaced by a longer copy"])
def test_a_file_that_grows_while_it_is_read_is_read_to_its_new_end(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    source = read(path)
    found = []
    for number, (row, cursor) in enumerate(source(None)):
        found.append(row)
        if number == 1000:
            more = content(name, first=ROWS, rows=500)
            if how == "appended":
                with path.open("ab") as file:
                    file.write(more)
            else:
                replaced(path, path.read_bytes() + more)
        if number % 500 == 0:
            stored = source.fingerprint(cursor)
            assert stored["offset"] == cursor["offset"]
    assert len(found) == ROWS + 500


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_lines_put_into_the_middle_of_what_was_read_are_found_while_the_file_grows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    rows = reading(path)
    for number in range(30):
        next(rows)
        with path.open("ab") as file:  # each growth is legal
            file.write(content(name, first=ROWS + number, rows=1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5000], content(name, first=99_999, rows=3), *lines[5000:]]))
    with pytest.raises(SourceChanged):
        next(rows)


@pytest.mark.parametrize("name", KINDS)
def test_an_equal_copy_elsewhere_is_the_same_file_and_another_one_is_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    source = read(path)
    cursors = [cursor for _, cursor in source(None)]
    stored = [json.loads(json.dumps(source.fingerprint(cursor))) for cursor in (cursors[10], cursors[-1])]
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(path, tmp_path / "copy" / name))
    for each in stored:
        assert read(copy).same(each) == "same"
    copy.write_bytes(content(name, word="else"))
    for each in stored:
        assert read(copy).same(each) == "changed"


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl"])
def test_a_resumed_run_guards_the_bytes_of_all_runs_before_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content(name))
    stored, cursor = None, None
    for part in range(3):  # three runs, each stops after 5,000 rows
        source = read(path)
        assert stored is None or source.same(stored) == "same"
        for number, (_, at) in enumerate(source(cursor), 1):
            if number == 5000:
                cursor, stored = at, source.fingerprint(at)
                break
        if part == 0:
            os.utime(path, (0, 0))  # the second run has to read again what the first has read
    assert stored is not None
    data = content(name) if not name.endswith(".gz") else gzip.decompress(content(name))
    changed = data.replace(b"0000100", b"0000107")
    path.write_bytes(gzip.compress(changed, 1) if name.endswith(".gz") else changed)
    assert read(path).same(stored) == "changed"


def test_the_file_that_was_opened_is_read_also_when_the_path_leads_elsewhere_before_the_first_row(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content(path.name))
    source = read(path)
    assert list(source.columns) == ["id", "name"]
    replaced(path, b"other,header\n1,2\n")
    [(row, _)] = source(None)
    assert (row, list(source.columns)) == (["1", "2"], ["other", "header"]), "nothing was read yet: it is the new file"


def whole_rows(source: Any, because: str = "has no line end") -> list[Any]:
    """The rows of a source that ends with half a line."""
    found = []
    with pytest.raises(SourceUnfinished, match=because):
        found.extend(source(None))
    return found


class TestHalfLines:
    """A last line without a line end, in a file that was written just now."""

    HALVES: ClassVar[dict[str, tuple[bytes, bytes, list[Any]]]] = {
        "x.csv": (b"id,name\n1,Ann\n2,B", b"ob\n3,Cid\n", ["1", "Ann"]),
        "crlf.csv": (b"id,name\r\n1,Ann\r\n2,Bob\r", b"\n3,Cid\r\n", ["1", "Ann"]),
        "quoted.csv": (b'id,name\n1,Ann\n2,"B\nob', b'"\n3,Cid\n', ["1", "Ann"]),
        "closed.csv": (b'id,name\n1,Ann\n2,"Bob"', b'" and more"\n3,Cid\n', ["1", "Ann"]),
        "x.csv.gz": (b"id,name\n1,Ann\n2,B", b"ob\n3,Cid\n", ["1", "Ann"]),
        "x.jsonl": (b'{"id": 1}\n{"id": 2', b'2}\n{"id": 3}\n', [1]),
    }

    @staticmethod
    def write(path: Path, *parts: bytes) -> None:
        # data appended to a .gz file is another member
        path.write_bytes(b"".join(gzip.compress(part) if path.suffix == ".gz" else part for part in parts))

    @pytest.mark.parametrize("name", HALVES)
    def test_it_is_left_out_and_comes_whole_with_the_next_run(self, tmp_path: Path, name: str) -> None:
        path, (half, rest, first) = tmp_path / name, self.HALVES[name]
        self.write(path, half)
        source = read(path)
        [(row, cursor)] = whole_rows(source, r"has no line end.*--complete")
        assert row == first
        stored = source.fingerprint(cursor)
        self.write(path, half, rest)
        source = read(path)
        assert source.same(stored) == "grown"
        assert len(list(source(cursor))) == 2

    @pytest.mark.parametrize("name", [name for name in HALVES if name not in {"quoted.csv", "x.jsonl"}])
    def test_it_is_taken_when_one_says_so_and_what_it_becomes_then_is_a_change(self, tmp_path: Path, name: str) -> None:
        path, (half, rest, _) = tmp_path / name, self.HALVES[name]
        self.write(path, half)
        source = read(path, complete=True)
        rows = list(source(None))
        assert len(rows) == 2
        stored = source.fingerprint(rows[-1][1])
        self.write(path, half, rest)
        if name == "crlf.csv":  # its line end was only half there: the row was whole
            assert read(path).same(stored) == "grown"
        else:
            with pytest.raises(SourceChanged, match="--restart --on-conflict update"):
                read(path).same(stored)

    @pytest.mark.parametrize("name", [name for name in HALVES if name not in {"quoted.csv", "x.jsonl"}])
    def test_it_is_taken_when_the_file_has_not_grown_since_the_last_run(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        self.write(path, self.HALVES[name][0])
        source = read(path)
        [(_, cursor)] = whole_rows(source)
        stored = source.fingerprint(cursor)
        source = read(path)
        assert source.same(stored) == "same"
        assert len(list(source(cursor))) == 1

    def test_it_is_taken_when_nobody_has_changed_the_file_for_a_minute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.csv"
        path.write_bytes(b"id\n1\n2")
        os.utime(path, (0, 0))  # a copy has its original's time: that is no sign
        assert len(whole_rows(read(path))) == 1
        monkeypatch.setattr("pgonce.seeds.readers.file.STILL", -1.0)
        assert len(list(read(path)(None))) == 2

    def test_an_object_that_is_closed_is_whole_without_a_line_end(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        path.write_bytes(b'{"id": 1}\n{"id": 2}')
        assert len(list(read(path)(None))) == 2


@pytest.mark.parametrize("packing", [".bz2", ".xz", ".gz", ".zst"])
def test_the_rest_of_a_damaged_file_of_several_streams_is_not_passed_over(tmp_path: Path, packing: str) -> None:
    zstd = pytest.importorskip("backports.zstd", reason="zstd missing: pip install 'pgonce[zstd]'")
    pack = {".bz2": bz2.compress, ".xz": lzma.compress, ".gz": gzip.compress, ".zst": zstd.compress}[packing]
    path = tmp_path / f"x.csv{packing}"
    parts = [pack(f"{n}\n{n + 1}\n".encode()) for n in (1, 3)]
    path.write_bytes(b"".join(parts))
    source = read(path, columns=["n"])
    assert [row for row, _ in source(None)] == [["1"], ["2"], ["3"], ["4"]]
    assert [row for row, _ in source({"offset": 4, "row": 2, "line": 2})] == [["3"], ["4"]]
    for damaged in (parts[0] + b"?" + parts[1], parts[0] + parts[1][:-3], parts[0] + b"rubbish", b"rubbish", b""):
        path.write_bytes(damaged)
        with pytest.raises(InvalidArgument, match=r"damaged or not finished"):
            list(read(path, columns=["n"], complete=True)(None))
    if packing == ".xz":
        path.write_bytes(parts[0] + b"\0" * 8 + parts[1] + b"\0" * 4)
        assert len(list(read(path, columns=["n"])(None))) == 4


def test_what_follows_the_end_of_copys_data_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "x.copy"
    for body, rows in ((b"1\ta\n\\.\n", 1), (b"1\ta\n\\.", 1), (b"1\ta\r\n\\.\r\n", 1), (b"\\.\n", 0), (b"1\ta", 1)):
        path.write_bytes(body)
        assert len(list(read(path, columns=["id", "name"], complete=True)(None))) == rows
    for rest in (b"2\tb\n", b"2", b"\n\nselect 1;\n" * 20_000):
        path.write_bytes(b"1\ta\n\\.\n" + rest)
        source = read(path, columns=["id", "name"])
        [(row, cursor)] = whole_rows(source, r"the line \\\. after row 1 ends the data")
        assert row == ["1", "a"]
        with pytest.raises(SourceUnfinished):
            list(source(cursor))


def test_a_row_group_with_fewer_rows_than_its_footer_says_stops_the_import(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    from pyarrow import parquet

    # of bits, so the pages of 5 and of 7 rows have equal lengths: a file with the footer of 7 rows and the page of 5
    pages = []
    for rows in (7, 5):
        path = tmp_path / f"{rows}.parquet"
        schema = arrow.schema([arrow.field("flag", arrow.bool_(), nullable=False)])
        table = arrow.table({"flag": [True] * rows}, schema)
        parquet.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
        column = parquet.ParquetFile(path).metadata.row_group(0).column(0)
        pages.append((path.read_bytes(), column.data_page_offset, column.total_compressed_size))
    (data, begin, size), (short, other_begin, other_size) = pages
    assert size == other_size
    path = tmp_path / "x.parquet"
    path.write_bytes(data[:begin] + short[other_begin : other_begin + size] + data[begin + size :])
    with pytest.raises(SourceChanged, match=r"row group 0 has 5 rows, and the file's footer says 7"):
        list(read(path)(None))


def test_one_value_in_a_row_group_that_was_read_is_found_by_the_next_run(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
    from pyarrow import parquet

    path = tmp_path / "x.parquet"
    table = arrow.table({"id": list(range(90_000)), "name": [f"name {n:05}" for n in range(90_000)]})
    # no statistics and no compression: the footer has nothing of the values
    parquet.write_table(
        table, path, row_group_size=30_000, compression="none", use_dictionary=False, write_statistics=False
    )
    data = path.read_bytes()
    source = read(path)
    stored = None
    for row, cursor in source(None):
        if row[0] in {10_000, 40_000}:
            stored = json.loads(json.dumps(source.fingerprint(cursor)))
        if row[0] == 40_000:
            break
    assert stored
    assert stored["offset"] < len(data) * 0.7
    assert read(path).same(stored) == "same"
    for digits, verdict in ((b"name 20007", "changed"), (b"name 50007", "changed"), (b"name 80007", "same")):
        place = data.index(digits)
        path.write_bytes(data[: place + 5] + b"9" + data[place + 6 :])
        assert read(path).same(stored) == verdict, digits
    path.write_bytes(data)
    resumed = read(path)
    assert resumed.same(stored) == "same"
    [(row, cursor)] = itertools.islice(resumed(cursor), 1)
    assert row[0] == 40_001
    assert resumed.fingerprint(cursor)["hash"] == stored["hash"]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl"])
@pytest.mark.parametrize("blocks", [True, False])
def test_the_fingerprint_of_a_batch_reads_nothing_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, blocks: bool
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the whole file is read again for a fingerprint")

    monkeypatch.setattr("pgonce.seeds.readers.file._hash_of", never)
    # a file that was written just now is compared as a whole
    monkeypatch.setattr("pgonce.seeds.readers.descriptor.TICK", -1)
    path = tmp_path / name
    path.write_bytes(content(name))
    source: Any = read(path)
    sizer = BatchSizer(1000)
    if blocks and "csv" in name:
        made = join_blocks(source, None, sizer)
    else:
        builder = BatchBuilder(sizer, lambda _: RowFormatter(columns(*source.columns)))
        made = build_batches(source(None), builder)
    taken = [source.fingerprint(batch.cursor)["hash"] for batch in made]
    assert len(set(taken)) == len(taken) > 5
