"""The readers of files return what was written, from every cursor on, by rows and by blocks for COPY."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.copy_format import copy_lines, copy_values
from pgonce.seeds.readers import csv as csv_module
from pgonce.seeds.readers import jsonl as jsonl_module
from pgonce.seeds.readers import read
from pgonce.seeds.readers.csv import CsvFile
from pgonce.seeds.readers.csv_text import Dialect, as_text, cut, record_end, values
from pgonce.seeds.readers.file import OpenFile
from pgonce.seeds.readers.names import items, name_of, written
from pgonce.seeds.source import BadRow, BlockSource, Fingerprinted

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", '"', '""', "\n", "\r\n", "\r", ",", '",\n"', "\\.", "a\n\\.\nb", "﻿", "NULL", " "]
)


@contextmanager
def file(data: bytes, name: str = "file.csv") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        yield path


@contextmanager
def reading(block: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_module, "BLOCK", block)
        patch.setattr(jsonl_module, "BLOCK", block)
        yield


def in_blocks(source: Any, cursor: Any = None) -> list[list[str | None]]:
    """What COPY is sent, taken apart again."""
    found = []
    for data, rows, _ in source.copy_blocks(cursor):
        lines = copy_lines(data)
        assert len(lines) == rows
        found += [copy_values(line) for line in lines]
    return found


@settings(max_examples=100)
@given(
    table=st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(text, min_size=width, max_size=width), max_size=8)),
    delimiter=st.sampled_from(",;\t|"),
    terminator=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    last_line_ends=st.booleans(),
    block=st.sampled_from([1, 2, 3, 7, 64, csv_module.BLOCK]),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_whatever_the_csv_module_writes_is_read_back_from_every_cursor_on(
    table: list[list[str]],
    delimiter: str,
    terminator: str,
    quoting: Any,
    bom: bool,
    last_line_ends: bool,
    block: int,
    suffix: str,
) -> None:
    if terminator == "\n" and quoting == csv.QUOTE_MINIMAL:
        # the csv module before Python 3.13 leaves a CR without quotes there, which COPY refuses
        table = [[value.replace("\r", "") for value in row] for row in table]
    columns = [f"c{number}" for number in range(len(table[0]) if table else 1)]
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter, lineterminator=terminator, quoting=quoting)
    writer.writerows([columns, *table])
    data = written.getvalue()
    data = data if last_line_ends else data.removesuffix(terminator)
    # an empty value without quotes is NULL, as in COPY; the csv module quotes it if it is the only value of a row
    quoted = quoting == csv.QUOTE_ALL or len(columns) == 1
    expected = [[value if value or quoted else None for value in row] for row in table]

    with file((b"\xef\xbb\xbf" if bom else b"") + data.encode(), f"x{suffix}") as path, reading(block):
        source = read(path, delimiter=delimiter, complete=True)
        assert isinstance(source, CsvFile)
        assert list(source.columns) == columns
        found = list(source(None))
        assert [row for row, _ in found] == expected
        assert in_blocks(source) == expected
        for index, (_, cursor) in enumerate(found, 1):
            assert [row for row, _ in source(cursor)] == expected[index:]
            assert in_blocks(source, cursor) == expected[index:]
        # a run may read by blocks and the next one by rows, because the cursors are the same
        cursors = [cursor for _, cursor in found]
        assert all(cursor in cursors for _, _, cursor in source.copy_blocks(None))


def equal(value: Any, wanted: Any) -> bool:
    """Whether a value equals the expected one; numbers are compared as they are written."""
    if isinstance(wanted, list):
        return isinstance(value, list) and len(value) == len(wanted) and all(map(equal, value, wanted))
    if isinstance(wanted, dict):
        return (
            isinstance(value, dict) and list(value) == list(wanted) and all(map(equal, value.values(), wanted.values()))
        )
    if isinstance(wanted, float):
        return float(str(value)) == wanted
    return bool(value == wanted) and type(value) is type(wanted)


json_value = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_any = st.recursive(
    json_value, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)


@settings(max_examples=100)
@given(
    table=st.sets(text.filter(bool), min_size=1, max_size=3).flatmap(
        lambda keys: st.lists(st.fixed_dictionaries(dict.fromkeys(sorted(keys), json_any)), min_size=1, max_size=6)
    ),
    ascii_only=st.booleans(),
    terminator=st.sampled_from(["\n", "\r\n", "\n\n"]),
    last_line_ends=st.booleans(),
    block=st.sampled_from([1, 2, 5, 64, jsonl_module.BLOCK]),
    suffix=st.sampled_from([".jsonl", ".ndjson.gz"]),
)
def test_whatever_the_json_module_writes_is_read_back_from_every_cursor_on(
    table: list[dict[str, Any]], ascii_only: bool, terminator: str, last_line_ends: bool, block: int, suffix: str
) -> None:
    data = terminator.join(json.dumps(row, ensure_ascii=ascii_only) for row in table)
    with file((data + terminator * last_line_ends).encode(), f"x{suffix}") as path, reading(block):
        source = read(path, complete=True)
        found = list(source(None))
        assert list(source.columns or ()) == list(table[0])
        for (row, _), expected in zip(found, table, strict=True):
            for value, wanted in zip(row, map(expected.get, table[0]), strict=True):
                assert equal(value, wanted)
        rows = [row for row, _ in found]
        for index, (_, cursor) in enumerate(found, 1):
            assert [row for row, _ in source(cursor)] == rows[index:]


@given(st.lists(st.sampled_from([b'"', b"\n", b"a", b","]), max_size=40).map(b"".join))
def test_records_end_at_line_ends_outside_of_quotes(data: bytes) -> None:
    quotes, ends = 0, [0]
    for position, byte in enumerate(data):
        quotes += byte == ord('"')
        if byte == ord("\n") and quotes % 2 == 0:
            ends.append(position + 1)
    assert record_end(data) == ends[-1]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a,b", ["a", "b"]),
        (",", [None, None]),
        ('"",x', ["", "x"]),
        ('"a ""b"" c",""""', ['a "b" c', '"']),
        ('"a\nb"', ["a\nb"]),
        ("", [None]),
    ],
)
def test_values_are_what_copy_makes_of_them(line: str, expected: list[str | None]) -> None:
    assert values(line, Dialect()) == expected


def test_blocks_end_every_line_alike_and_leave_out_empty_ones() -> None:
    data = b'a,1\r\n\r\nb,"2\r\n3"\n\n\\.\n"x""y",\\.\nlast,4'
    assert as_text(data, Dialect()) == (b'a\t1\nb\t2\\r\\n3\n\\\\.\nx"y\t\\\\.\nlast\t4\n', 5)


def strictly(  # noqa: PLR0912 -- sign by sign, in one piece
    data: str, delimiter: str, quote: str
) -> list[list[str | None] | None]:
    """A separate reader, character by character: the values of each record, or None if the record or a quote is bad."""
    found: list[list[str | None] | None] = []
    row: list[str | None] = []
    position = 0
    while position < len(data):
        value, bad = "", False
        if data[position] == quote:
            position, closed = position + 1, False
            while position < len(data):
                if data.startswith(quote * 2, position):
                    value, position = value + quote, position + 2
                elif data[position] == quote:
                    position, closed = position + 1, True
                    break
                else:
                    value, position = value + data[position], position + 1
            row.append(value)
            bad = not closed
        else:
            while position < len(data) and data[position] not in (delimiter, "\n", "\r", quote):
                value, position = value + data[position], position + 1
            row.append(value or None)
        if data.startswith(delimiter, position):
            position += 1
            if position < len(data):
                continue
        end = 2 if data.startswith("\r\n", position) else 1 if data.startswith("\n", position) else 0
        if bad or not end:
            position = data.find("\n", position) + 1 or len(data)
            found.append(None)
        else:
            position += end
            if row != [None] or data[position - end - 1 : position - end] == delimiter:
                found.append(row)
        row = []
    return found


signs = st.lists(
    st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "a", "\\", "\t", "\\N", "\x01", "é"]), max_size=14
)


@settings(max_examples=200)
@given(signs, st.sampled_from(",\t"), st.sampled_from([1, 5, csv_module.BLOCK]))
def test_every_record_is_read_or_is_bad_wherever_quotes_stand(parts: list[str], delimiter: str, block: int) -> None:
    data = "".join(parts).replace(",", delimiter) + "\n"
    expected = strictly(data, delimiter, '"')
    # a record whose quote is never closed is not a record
    open_quote = list(cut(data.encode(), Dialect(delimiter)))[-1:] != [(len(data.encode()), None)] and expected[
        -1:
    ] == [None]
    width = max([len(row) for row in expected if row], default=1)
    columns = [f"c{number}" for number in range(width)]
    with file(data.encode()) as path, reading(block):
        source = read(path, columns=columns, delimiter=delimiter, complete=True)
        assert isinstance(source, CsvFile)
        found: list[Any] = []
        try:
            found.extend(row for row, _ in source(None))
        except InvalidArgument:
            assert open_quote
            expected = expected[: len(found)]
        short = [None if row is None or len(row) != width else row for row in expected]
        assert [None if isinstance(row, BadRow) else row for row in found] == short
        by_block: list[Any] = []
        try:
            for sent, rows, _ in source.copy_blocks(None):
                lines = [None] if isinstance(sent, BadRow) else [copy_values(line) for line in copy_lines(sent)]
                assert len(lines) == rows
                by_block.extend(lines)
        except InvalidArgument:
            assert open_quote
        assert by_block == expected


def test_a_record_far_longer_than_a_block_is_read_whole() -> None:
    long = "x\n" * 700_000 + '"'
    with file(('a,b\n1,"' + long.replace('"', '""') + '"\n2,y\n').encode()) as path:
        source = read(path)
        assert [row for row, _ in source(None)] == [["1", long], ["2", "y"]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty: it does not even have a header line"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"K\xf6ln\n", "the header line of file.csv is not UTF-8: .*--encoding cp1252"),
        (b'a,b\n1,"2\n3,4\n', r"a quote is never closed: in the row at line 2 \(byte 4\)"),
        (b'a,"b\n', "a quote is never closed: in the header line"),
        (b'a,b"c\n', "the header line has a quote in the middle of a value"),
        (b"a,b\r1,2\r", "the header line has a CR without LF"),
        (b"a,,b\n", "a column has no name"),
        (
            "a,b\n1,2\n".encode("utf-16-le"),
            "the header of file.csv: it has zero bytes: .*: --encoding utf-16-le",
        ),
        (b"a,b,a\n", "two columns have the same name in the header of file.csv: a"),
    ],
)
def test_a_file_that_is_no_such_csv_is_refused_with_its_place(data: bytes, said: str) -> None:
    def load(path: Path) -> None:
        source = read(path, complete=True)
        assert source.columns  # an import asks for them first
        list(source(None))

    with file(data) as path, pytest.raises(InvalidArgument, match=said):
        load(path)


@pytest.mark.parametrize(
    ("name", "data", "options", "said"),
    [
        ("f.csv", b'\xef\xbb\xbfID,"b"\r\n1,2\r\n', {"columns": ["id", "b"]}, "the first line of f.csv has the names"),
        ("f.tsv", b"id\tb\n1\t2\n", {"columns": ["id", "b"], "format": "copy"}, "leave --columns out"),
        ("f.csv", b"\xef\xbb\xbfa\n1\n", {"encoding": "latin1"}, "mark of utf-8, so it is not iso8859-1: leave --enc"),
        ("f.jsonl", '{"a": 1}\n'.encode("utf-16"), {"encoding": "ascii"}, "mark of utf-16, so it is not ascii"),
        ("f.csv.gz", b"id,name\n1,a\n", {}, r"Not a gzipped file \(b'id'\)"),
    ],
)
def test_an_option_that_the_first_bytes_of_a_file_belie_is_refused(
    tmp_path: Path, name: str, data: bytes, options: dict[str, Any], said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidArgument, match=said):
        list(read(tmp_path / name, **options)(None))


@pytest.mark.parametrize(
    ("name", "begin", "said"),
    [("f.csv", b"a,b\r1,2\r", "the header line has a CR"),
     ("f.jsonl", b'[{"a": 1}, ', "over 256 MB long: make one object per line of it")],
)  # fmt: skip
def test_a_file_without_line_ends_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, begin: bytes, said: str
) -> None:
    for module in (csv_module, jsonl_module):
        monkeypatch.setattr(module, "BLOCK", 4096)
        monkeypatch.setattr(module, "LONGEST", 4096)
    (tmp_path / name).write_bytes(begin + b'"x", ' * 100_000)
    source = read(tmp_path / name)
    taken = list[int]()
    read_at = OpenFile.read_at

    def counted(file: OpenFile, offset: int, size: int) -> bytes:
        taken.append(size)
        return read_at(file, offset, size)

    monkeypatch.setattr(OpenFile, "read_at", counted)
    with pytest.raises(InvalidArgument, match=said):
        list(source.columns)
    assert sum(taken) < 20_000


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"3", "line 3: 1 values for 2 columns"),
        (b"1,2,3", "line 3: 3 values for 2 columns"),
        (b"K\xf6ln,3", "line 3: not UTF-8"),
        (b'1,5" pipe', "line 3: a quote in the middle of a value (where quotes are text: --quote none)"),
        (b'"1"x,2', "line 3: text after a closing quote"),
        (b'"1\n1" ,2', "line 3: text after a closing quote"),
        (b'1,"2"3"', "line 3: text after a closing quote"),
        (b"1,2\r3", "line 3: a CR without LF"),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_record_is_one_row_with_its_line_and_the_rows_around_it_are_read(
    record: bytes, reason: str, end: bytes
) -> None:
    with file(end.join([b"a,b", b"1,2", record, b"5,6", b'"7"",""\n",8', b""])) as path:
        rows, places = zip(*read(path)(None), strict=True)
        before, bad, *after = rows
        assert [each["row"] for each in places] == [1, 2, 3, 4]
        source = read(path)
        assert isinstance(source, BlockSource)
        assert {each["row"] for _, _, each in source.copy_blocks(None)} <= {1, 2, 4}
        assert before == ["1", "2"]
        assert isinstance(bad, BadRow)
        assert f"file.csv, {reason}" in bad.reason
        assert bad.text == record.decode("utf-8", "replace")
        assert after == [["5", "6"], ['7","\n', "8"]]


def test_quotes_are_text_where_that_is_asked_for() -> None:
    with file(b'a,b\n1,5" pipe\n2,3" nail\n') as path:
        source = read(path, quote=None)
        assert [row for row, _ in source(None)] == [["1", '5" pipe'], ["2", '3" nail']]
        assert in_blocks(source) == [["1", '5" pipe'], ["2", '3" nail']]
    with file(b"a,b\n1,'x''\n,y'\n") as path:
        assert [row for row, _ in read(path, quote="'")(None)] == [["1", "x'\n,y"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [None, "", "\\N", "NULL", "NULL"]),
        ({"nulls": [r"\N"]}, ["", "", None, "NULL", "NULL"]),
        ({"nulls": ["", "NULL"]}, [None, "", "\\N", None, "NULL"]),
        ({"force_null": True}, [None, None, "\\N", "NULL", "NULL"]),
        ({"nulls": ["NULL"], "force_null": True}, ["", "", "\\N", None, None]),
    ],
)
def test_null_is_spelled_as_one_says(options: Any, expected: list[str | None]) -> None:
    for row in (b',"",\\N,NULL,"NULL"', b'"NULL",NULL,\\N,"",'):
        with file(b"a,b,c,d,e\n" + row + b"\n" + row + b"\r\n") as path:
            source = read(path, **options)
            wanted = expected if row.startswith(b",") else expected[::-1]
            assert [row for row, _ in source(None)] == [wanted] * 2
            assert in_blocks(source) == [wanted] * 2
            assert list(source.reread()) == [wanted] * 2
    with file(b'a\n"NULL"\n"x"\n\n"NULL"\r\n""\n') as path:  # a line with NULL alone is a row, an empty line is not
        source = read(path, **options)
        alone = [[each] for each in (expected[4], "x", expected[4], expected[1])]
        assert [row for row, _ in source(None)] == in_blocks(source) == list(source.reread()) == alone


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a":1}\n{"b":1}\n', r"line 2 has a key that the first line lacks \(b\): .* --columns a,b"),
        (b'{"a":1}\n{"b c,d":1}\n', r"""line 2 has a key that the first line lacks .* --columns 'a,"b c,d"'"""),
        (b"", "is empty"),
        (b"[1]\n", "line 1: it is a list, not a JSON object: make one object per line of it: jq"),
        (b'[{"a":1},\n{"a":2}]\n', "line 1: not JSON: .*: make one object per line of it: jq"),
    ],
)
def test_a_file_that_is_no_such_json_is_refused_with_its_place(data: bytes, said: str) -> None:
    with file(data, "file.jsonl") as path, pytest.raises(InvalidArgument, match=said):
        list(read(path, complete=True)(None))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a":', "line 2: not JSON"),
        (b"[1]", "line 2: it is a list, not a JSON object"),
        (b"1.5", "line 2: it is a number, not a JSON object"),
        (b'{"a":"\xff"}', "line 2: not UTF-8"),
        (b'{"a":NaN}', "line 2: not JSON: NaN is not a JSON number"),
        (b'{"a":-Infinity}', "line 2: not JSON: -Infinity is not a JSON number"),
        (b'{"a":01}', "line 2: not JSON"),
        (b'{"a":' + b"[" * 100_000, "line 2: not JSON that can be read: it is nested too deep"),
        (b'{"a":1} {"a":2}', "line 2: not JSON"),
        (b"{'a':1}", "line 2: not JSON"),
    ],
)
def test_a_line_that_is_not_an_object_is_a_bad_row_with_its_number(line: bytes, reason: str) -> None:
    with file(b'{"a":1}\n' + line + b'\n\n{"a":3}\n', "file.jsonl") as path:
        rows = list(read(path)(None))
        assert [row for row, _ in rows[::2]] == [[1], [3]]
        bad, cursor = rows[1]
        assert isinstance(bad, BadRow)
        assert f"file.jsonl, {reason}" in bad.reason
        assert bad.text == line.decode("utf-8", "replace")
        assert [row for row, _ in read(path)(cursor)] == [[3]]


@pytest.mark.parametrize("line", [b" ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf\r", b"\x0b"])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_of_blanks_and_marks_is_no_row(line: bytes, end: bytes) -> None:
    for data, rows in ((b'{"a":1}\n' + line + end, [[1]]), (line + b'\n{"a":1}' + end, [[1]])):
        with file(data, "file.jsonl") as path:
            assert [row for row, _ in read(path, complete=True)(None)] == list(read(path).reread()) == rows


def test_a_header_alone_is_an_import_without_rows() -> None:
    for data in (b"a,b", b"a,b\r\n"):
        with file(data) as path:
            source = read(path)
            assert list(source.columns or ()) == ["a", "b"]
            assert list(source(None)) == []


def test_columns_that_are_named_mean_that_there_is_no_header() -> None:
    with file(b"\xef\xbb\xbf1,2\n") as path:
        assert [row for row, _ in read(path, columns=["x", "y"])(None)] == [["1", "2"]]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("quoted", [b"sep=;\r\n", b'"sep=;"\n'])
def test_excels_line_that_names_the_delimiter_is_no_row(bom: bytes, quoted: bytes) -> None:
    with file(bom + quoted + b"a;b\r\n1;2,5\n") as path:
        source = read(path, delimiter=";")
        [(row, cursor)] = source(None)
        assert (list(source.columns), row, cursor["line"]) == (["a", "b"], ["1", "2,5"], 3)
        assert list(source.reread()) == [["1", "2,5"]]
        named = read(path, delimiter=";", columns=["x", "y"])
        assert [row for row, _ in named(None)] == list(named.reread()) == [["a", "b"], ["1", "2,5"]]
        with pytest.raises(InvalidArgument, match=r"begins with Excel's line sep=;.* pass --delimiter ';'"):
            list(read(path)(None))


def test_keys_that_a_line_lacks_are_null_and_columns_choose_among_them() -> None:
    with file(b'\xef\xbb\xbf{"a":1,"b":1.10}\n{"b":2}\n', "x.jsonl") as path:
        assert [list(map(str, row)) for row, _ in read(path)(None)] == [["1", "1.10"], ["None", "2"]]
        assert [list(map(str, row)) for row, _ in read(path, columns=["b", "a"])(None)] == [
            ["1.10", "1"],
            ["2", "None"],
        ]


def test_a_named_key_that_is_in_no_line_stops_before_the_first_row_and_one_in_the_last_line_does_not() -> None:
    lines = b'{"a":1}\n' * 5000 + b'{"a":1,"\\u0062":2}\n'
    with file(lines, "x.jsonl") as path, pytest.raises(InvalidArgument, match="no line has the key 'c': leave it out"):
        next(iter(read(path, columns=["a", "b", "c"])(None)))
    with file(lines, "x.jsonl") as path:
        assert [row for row, _ in read(path, columns=["a", "b"])(None)][-2:] == [[1, None], [1, 2]]


def test_the_reader_is_chosen_by_the_name() -> None:
    suffixes = (".CSV", ".tsv.gz", ".ndjson", ".jsonl.gz", ".parquet")
    assert [type(read(f"x{suffix}")).__name__ for suffix in suffixes] == [
        "CsvFile", "CsvFile", "JsonLinesFile", "JsonLinesFile", "ParquetFile",
    ]  # fmt: skip
    for name in ("x.xlsx", "x", "x.gz", "x.parquet.gz"):
        with pytest.raises(InvalidArgument, match="no reader knows"):
            read(name)
    with pytest.raises(InvalidArgument, match="not a CSV file: it has no delimiter"):
        read("x.jsonl", delimiter=";")
    for delimiter in ("", ";;", "ä", '"', "\n", "a"):
        with pytest.raises(InvalidArgument, match="the delimiter must be one ASCII sign"):
            CsvFile("x.csv", delimiter=delimiter)
    for quote in ("", "''", "«", "\n", "\t", "a"):
        with pytest.raises(InvalidArgument, match="the quote must be one ASCII sign"):
            CsvFile("x.csv", quote=quote)


def test_a_file_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    for name in ("no.csv", "no.jsonl", "no.csv.gz", "no.parquet"):
        with pytest.raises(InvalidArgument, match=f"cannot read .*{name}: No such file"):
            list(read(tmp_path / name)(None))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidArgument, match=r"folder\.csv is a folder: load its files by a pattern"):
        list(read(tmp_path / "folder.csv")(None))
    with pytest.raises(InvalidArgument, match="is a folder: load its files by a pattern"):
        read(tmp_path)


def test_a_gz_file_that_ends_in_the_middle_is_damaged(tmp_path: Path) -> None:
    packed = gzip.compress(b"a\n" + os.urandom(100_000).hex().encode())
    for name, data in {"half.csv.gz": packed[:50_000], "none.csv.gz": b"a\n1\n"}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidArgument, match=f"{name} is damaged"):
            list(read(tmp_path / name)(None))


@pytest.mark.parametrize("cursor", [{"last_row_id": 3}, {"offset": 0, "row": 1}, {"offset": "9", "row": 1}, [4], "x"])
def test_the_cursor_of_another_source_is_refused(cursor: Any) -> None:
    with file(b"a\n1\n") as path, pytest.raises(InvalidArgument, match=r"is not a place in file\.csv"):
        list(read(path)(cursor))


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.jsonl"])
def test_a_file_is_the_same_grown_or_changed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    clock = count(1_700_000_000)  # gzip stores when it packed

    def write(lines: list[str]) -> None:
        # data appended to a .gz file is another member
        parts = ["".join(lines[:30_000]), *lines[30_000:]]
        data = [part.encode() for part in parts]
        if name.endswith(".gz"):
            data = [gzip.compress(part, mtime=next(clock)) for part in data]
        path.write_bytes(b"".join(data))

    lines = [f'{{"a": {number}}}\n' if "json" in name else f"{number}\n" for number in range(30_000)]
    write(lines)
    source = read(path)
    assert isinstance(source, Fingerprinted)
    cursor = next(cursor for row, cursor in source(None) if next(iter(row)) in {20_000, "20000"})
    stored = json.loads(json.dumps(source.fingerprint(cursor)))
    assert source.same(stored) == "same"
    os.utime(path, (0, 0))
    assert source.same(stored) == "same"

    write([*lines, lines[0]])
    assert read(path).same(stored) == "grown"
    write(lines[:-1])
    assert read(path).same(stored) == "changed"
    for place in (1, 19_998):  # in the head; before the cursor
        other = [*lines]
        other[place] = other[place].replace("1", "7")
        write(other)
        assert read(path).same(stored) == "changed"
    write(lines)
    assert read(path).same(stored) == "same"
    if "csv" in name:
        assert read(path, columns=["a"]).same(stored) == "changed"
    else:
        assert read(path, columns=["a"]).same(stored) == "same", "naming the columns that it had changes nothing"


def test_a_last_line_that_has_become_longer_is_a_change_and_one_that_was_ended_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"a\n1\n23")
    source = read(path, complete=True)
    [*_, (row, cursor)] = source(None)
    assert row == ["23"]
    stored = source.fingerprint(cursor)
    path.write_bytes(b"a\n1\n234\n")
    with pytest.raises(SourceChanged, match=r"has become longer since.* --restart --on-conflict update"):
        source.same(stored or {})
    with pytest.raises(SourceChanged, match="has become longer since"):  # also where the change is accepted
        list(source(cursor))
    for ended in (b"a\n1\n23\n4\n", b"a\n1\n23\r\n4\n"):
        path.write_bytes(ended)
        assert source.same(stored or {}) == "grown"
        assert [row for row, _ in source(cursor)] == [["4"]]


def bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().partition("rchar:")[2].split()[0])


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_resume_reads_nothing_of_what_lies_before_its_cursor(tmp_path: Path, name: str) -> None:
    path, size = tmp_path / name, 2_000_000_000
    line = b"1,x\n" if "csv" in name else b'{"a": 1, "b": "x"}\n'
    with path.open("wb") as sparse:  # a hole takes no room on the disk
        sparse.write(b"a,b\n" + line if "csv" in name else line)
        sparse.seek(size - 1)
        sparse.write(b"\n" + line * 3)
    source = read(path)
    cursor = {"offset": size, "row": 7}
    before = bytes_read()
    assert len(list(source(cursor))) == 3
    assert source.same(source.fingerprint(cursor) or {}) == "same"
    if isinstance(source, CsvFile):
        assert [rows for _, rows, _ in source.copy_blocks(cursor)] == [3]
    assert bytes_read() - before < 1_000_000 + 2 * csv_module.BLOCK


def test_blocks_are_64_kb_to_1_mb_so_that_a_batch_can_have_any_size(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1,abcdefgh\n" * 300_000)
    source = read(path)
    assert isinstance(source, BlockSource)
    sizes = [len(data) for data, _, _ in source.copy_blocks(None)]
    assert all(64_000 <= size <= 1_000_000 for size in sizes[:-1])
    assert sum(rows for _, rows, _ in source.copy_blocks(None)) == 300_000


class TestParquet:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        table = arrow.table(
            {
                "id": list(range(1000)),
                "name": [None if n % 7 == 0 else "" if n % 5 == 0 else f'q"{n}\n,' for n in range(1000)],
                "tags": [[n, n + 1] for n in range(1000)],
                "raw": [bytes([n % 256]) for n in range(1000)],
                "at": arrow.array(range(1000), arrow.timestamp("ns", "UTC")),
            }
        )
        parquet.write_table(table, tmp_path / "x.parquet", row_group_size=300)
        return tmp_path / "x.parquet"

    def test_rows_are_read_back_from_every_cursor_on(self, path: Path) -> None:
        source = read(path)
        found = list(source(None))
        assert source.total == len(found) == 1000
        assert list(source.columns or ()) == ["id", "name", "tags", "raw", "at"]
        assert tuple(found[1][0])[:4] == (1, 'q"1\n,', [1, 2], b"\x01")
        for index in (0, 1, 298, 299, 300, 301, 599, 998, 999):
            assert list(source(found[index][1])) == found[index + 1 :]

    def test_blocks_hold_the_same_rows_under_the_same_cursors(self, path: Path) -> None:
        source = read(path, columns=["name", "id"])
        assert isinstance(source, BlockSource)
        rows = list(source(None))
        blocks = [block for cursor in (None, rows[400][1]) for block in source.copy_blocks(cursor)]
        lines = [values for data, _, _ in blocks for values in map(copy_values, copy_lines(data))]
        expected = [[name, str(id_)] for (name, id_), _ in rows]
        assert lines == expected + expected[401:]
        assert {str(cursor) for _, _, cursor in blocks} <= {str(cursor) for _, cursor in rows}

    def test_nulls_and_empty_texts_stay_apart_in_blocks_also_of_one_column(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        names = [None, "", '"', '""', '"a"', "a\nb", None, "\\N", "\t"]
        for columns in (["name"], ["name", "other"]):
            table = pa.table({column: pa.array(names, pa.string()) for column in columns})
            parquet.write_table(table, tmp_path / "z.parquet")
            source = read(tmp_path / "z.parquet")
            assert isinstance(source, BlockSource)
            [(data, rows, _)] = source.copy_blocks(None)
            assert rows == len(names)
            assert [copy_values(line) for line in copy_lines(data)] == [[name] * len(columns) for name in names]

    def test_only_the_row_group_of_the_cursor_and_those_behind_it_are_read(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        big = tmp_path / "big.parquet"
        noise = [os.urandom(1000) for _ in range(20_000)]
        parquet.write_table(pa.table({"a": noise}), big, row_group_size=1000)
        before = bytes_read()
        assert len(list(read(big)({"row_group": 18, "row": 500}))) == 1500
        assert bytes_read() - before < 20_000_000 / 4

    def test_a_file_is_the_same_or_changed_but_never_grown(self, path: Path) -> None:
        source = read(path)
        stored = source.fingerprint({"row_group": 1, "row": 3}) or {}
        assert source.same(stored) == "same"
        path.write_bytes(path.read_bytes() + b"x")
        assert source.same(stored) == "changed"

    def test_what_is_no_parquet_file_or_lacks_a_column_is_refused(self, path: Path, tmp_path: Path) -> None:
        with pytest.raises(InvalidArgument, match="has no column nmae: it has id, name"):
            list(read(path, columns=["nmae"])(None))
        arrow = pytest.importorskip("pyarrow", reason="pyarrow missing: pip install 'pgonce[parquet]'")
        from pyarrow import parquet

        parquet.write_table(arrow.table([arrow.array([1])] * 2, names=["a", "a"]), tmp_path / "twice.parquet")
        with pytest.raises(InvalidArgument, match=r"two columns of twice\.parquet have the same name: a"):
            list(read(tmp_path / "twice.parquet")(None))
        parquet.write_table(arrow.table([arrow.array([1])] * 2, names=["a", ""]), tmp_path / "nameless.parquet")
        with pytest.raises(InvalidArgument, match=r"a column of nameless\.parquet has no name: .*--columns"):
            list(read(tmp_path / "nameless.parquet")(None))
        assert [row for row, _ in read(tmp_path / "nameless.parquet", columns=["a"])(None)] == [(1,)]
        (tmp_path / "y.parquet").write_bytes(b"a,b\n")
        with pytest.raises(InvalidArgument, match=r"y\.parquet cannot be read as Parquet"):
            list(read(tmp_path / "y.parquet")(None))
        with pytest.raises(InvalidArgument, match=r"is not a place in x\.parquet"):
            list(read(path)({"offset": 4, "row": 1}))


@given(st.lists(st.text("a=,\"' ", min_size=1), min_size=1, max_size=3))
def test_names_of_any_letters_are_read_as_they_are_written(names: list[str]) -> None:
    assert [name_of(item) for item in items(written(names))] == names
    pairs = [f"{written([name])}=column" for name in names]
    assert [name_of(item.rpartition("=")[0]) for item in items(",".join(pairs))] == names


def test_blanks_around_names_are_no_part_of_them_and_quotes_inside_are() -> None:
    assert [name_of(item) for item in items(' a , "b, c" ,d"e,,"f" g,')] == ["a", "b, c", 'd"e', "", '"f" g', ""]
