"""Several files as one source: a file that was read to its end counts until the last batch, and is not held open."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.errors import InvalidArgument, SourceChanged
from pgonce.seeds.readers import descriptor, read, read_files
from pgonce.seeds.run_options import Progress
from pgonce.seeds.seeds import Seeds

Conn = psycopg.Connection[Any]
pytestmark = pytest.mark.usefixtures("things")


def rows(start: int, stop: int, note: str = "old") -> str:
    return "id,note\n" + "".join(f"{number},{note}\n" for number in range(start, stop))


def load(seeds: Seeds, files: list[Path], **options: Any) -> Any:
    return seeds.run("s", read_files(files, "files"), into="things", key=("id",), **options)


def replace(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_text(rows(0, 500, "new"))
    new.replace(file)


def append(file: Path) -> None:
    with file.open("a") as end:
        end.write("99999,late\n")


def equal(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(file.read_bytes())
    new.replace(file)


@pytest.mark.parametrize("tick", [0, 3600], ids=["written long ago", "just written"])
@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize(
    ("change", "said"),
    [(replace, "was (changed after it was read|replaced by another file)"), (append, "has grown after"),
     (equal, ""), (Path.unlink, "")],
)  # fmt: skip
def test_a_file_that_was_read_to_its_end_is_compared_before_each_batch(
    seeds: Seeds, conn: Conn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None],
    said: str, after: int, tick: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(descriptor, "TICK", tick)
    first, second = files = [tmp_path / "1.csv", tmp_path / "2.csv"]
    first.write_text(rows(0, 500))
    second.write_text(rows(500, 60_000))  # several blocks of 64 kB
    batches = list[int]()

    def on_progress(step: Progress) -> None:
        batches.append(step.rows)
        if len(batches) == after:
            change(first)

    if not said:
        assert load(seeds, files, batch_size=100, on_progress=on_progress).outcome == "complete"
        assert conn.execute("select count(*) from things").fetchone() == (60_000,)
        return
    with pytest.raises(SourceChanged, match=said):
        load(seeds, files, batch_size=100, on_progress=on_progress)
    assert len(batches) == after
    done = load(seeds, files, restart=True, on_conflict="update")
    assert done.outcome == "complete"
    expected = "new" if change is replace else "old"
    assert conn.execute("select note from things where id = 7").fetchone() == (expected,)
    assert conn.execute("select count(*) from things where id = 99999").fetchone() == (int(change is append),)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_whose_rows_are_committed_are_closed(seeds: Seeds, tmp_path: Path, kind: str) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = []
    for number in range(60):
        files.append(tmp_path / f"{number:02}.{kind}")
        if kind == "csv":
            files[-1].write_text(rows(number, number + 1))
        elif kind == "jsonl":
            files[-1].write_text(json.dumps({"id": number, "note": "old"}) + "\n")
        else:
            parquet.write_table(arrow.table({"id": [number], "note": ["old"]}), files[-1])

    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no /proc")

    def open_files() -> int:
        links = (each for each in folder.iterdir() if each.is_symlink())
        return sum(tmp_path in each.readlink().parents for each in links)

    most = list[int]()
    gc.disable()  # they are closed at once, and not some time later
    try:
        done = load(seeds, files, batch_size=1, on_progress=lambda _: most.append(open_files()))
    finally:
        gc.enable()
    assert done.outcome == "complete"
    assert len(most) == 60
    assert max(most) <= 3


def test_a_column_in_the_name_of_a_folder_is_refused_in_code_too(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    conn.execute("alter table things add day date")
    file = tmp_path / "day=2026-11-29" / "1.csv"
    file.parent.mkdir()
    file.write_text(rows(0, 2))
    for source in (read(file), read_files([file], "files")):
        for call in (seeds.run, seeds.rehearse, seeds.verify):
            with pytest.raises(InvalidArgument, match=r"column day of things is in the name of the folder day="):
                call("s", source, into="things", key=("id",))
    file.write_text("id,note,day\n1,a,2026-11-29\n")
    assert load(seeds, [file]).outcome == "complete"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_files_whose_names_are_not_utf_8_are_imported(seeds: Seeds, tmp_path: Path) -> None:
    files = [tmp_path / os.fsdecode(name) for name in (b"1\xff.csv", b"2\xff.csv", b"3\xff.csv")]
    for number, file in enumerate(files[:2]):
        file.write_text(f"id,note\n{number},a\n{number},b\nx,bad\n")
    assert load(seeds, files[:2], max_rejects=2).outcome == "complete"
    assert [(each.row_number, each.cursor["file"]) for each in seeds.rejects("s")] == [
        (3, "2\ufffd.csv"), (6, "2\ufffd.csv"),
    ]  # fmt: skip
    files[2].write_text("id,note\n3,a")
    left = load(seeds, files, max_rejects=2)
    assert left.unfinished.startswith("3\ufffd.csv, line 2: the last line has no line end")


def test_a_named_key_may_be_lacking_in_whole_files_and_not_in_all(seeds: Seeds, conn: Conn, tmp_path: Path) -> None:
    lines = ["", '{"id": 2}\n', '{"id": 3}\n{"id": 4, "note": "a"}\n', '{"id": 5}\n']
    files = [tmp_path / f"{number}.jsonl" for number in range(4)]
    for file, text in zip(files, lines, strict=True):
        file.write_text(text)
    source = read_files(files, "files", columns=["id", "note"])
    assert seeds.run("s", source, into="things", key=("id",)).outcome == "complete"
    assert conn.execute("select id, note from things order by id").fetchall() == [
        (2, None), (3, None), (4, "a"), (5, None),
    ]  # fmt: skip
    assert seeds.verify("s", read_files(files, "files", columns=["id", "note"]), into="things", key=("id",))["ok"]
    (tmp_path / "4.jsonl").write_text('{"id": 6}\n')
    again = read_files([*files, tmp_path / "4.jsonl"], "files", columns=["id", "note"])
    assert seeds.run("s", again, into="things", key=("id",)).new_rows == 1
    files[2].write_text('{"id": 3}\n')
    with pytest.raises(InvalidArgument, match="files: no line of the files has the key 'note': leave it out of"):
        seeds.run("other", read_files(files, "files", columns=["id", "note"]), into="things", key=("id",))


def test_the_advice_about_other_columns_is_one_that_helps(seeds: Seeds, tmp_path: Path) -> None:
    one, other = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_text(rows(0, 2))
    other.write_text("note,id\nold,2\n")
    # --columns would make a row of each header, and exchange the values
    with pytest.raises(InvalidArgument, match=r"load them one by one$"):
        load(seeds, [one, other])
    one, other = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    one.write_text('{"id": 10, "note": "a"}\n')
    other.write_text('{"note": "b", "id": 11}\n')
    with pytest.raises(InvalidArgument, match="or name the columns"):
        load(seeds, [one, other])
    named = read_files([one, other], "files", columns=["id", "note"])
    assert seeds.run("named", named, into="things", key=("id",)).outcome == "complete"
