"""tools/unasync.py on small packages: what it translates, leaves as it is, and refuses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import unasync

NAMES = {"AsyncJobs": "Jobs", "AsyncConnection": "Connection", "__aenter__": "__enter__", "lease_async": "lease"}


def sync(source: str, names: dict[str, str] = NAMES) -> str:
    return unasync.translate(source, "x.py", names, set()).removeprefix(unasync.BANNER.format(name="x.py"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "guard_async.py").write_text("class AsyncJobs:\n    async def start(self) -> None: ...\n")
    return tmp_path


def problems(package: Path, hand_written: frozenset[str] = frozenset()) -> list[str]:
    return unasync.problems(package, {"AsyncJobs": "Jobs"}, hand_written)


def write(package: Path, hand_written: frozenset[str] = frozenset()) -> list[str]:
    return unasync.write(package, {"AsyncJobs": "Jobs"}, hand_written)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("async def f(): ...\n", "def f(): ...\n"),
        ("async def f():\n    return await g(await h)\n", "def f():\n    return g(h)\n"),
        (
            "async def f():\n    async with a as b, c:\n        async for d in b: await d\n",
            "def f():\n    with a as b, c:\n        for d in b: d\n",
        ),
        ("async def f(): return [x async for x in y]\n", "def f(): return [x for x in y]\n"),
        ("def f(db: AsyncConnection) -> AsyncJobs: ...\n", "def f(db: Connection) -> Jobs: ...\n"),
        ("from pgonce.jobs.lease_async import Lease\n", "from pgonce.jobs.lease import Lease\n"),
        ("async def __aenter__(self): ...\n", "def __enter__(self): ...\n"),
        ("f'{AsyncJobs} {{AsyncJobs}}'\n", "f'{Jobs} {{Jobs}}'\n"),
        ("x = 1  # see AsyncJobs", "x = 1  # see Jobs"),
    ],
)
def test_code_loses_async_and_await_and_names_are_replaced(before: str, after: str) -> None:
    assert sync(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '"""async with jobs.run() as run: await run.beat()"""\n',
            '"""with jobs.run() as run: run.beat()"""\n',
        ),
        ("# await jobs.start(1), then go on\n", "# jobs.start(1), then go on\n"),
    ],
)
def test_an_example_in_a_docstring_or_comment_is_translated(before: str, after: str) -> None:
    assert sync(before) == after


@pytest.mark.parametrize(
    "prose",
    [
        '"""Callers await the result of an async handler."""\n',
        "# an async commit: losing it loses only an attempt count\n",
        "x = 'set local synchronous_commit to off'\n",
        "MyAsyncJobs2 = my_async = 1\n",
    ],
)
def test_prose_and_longer_names_stay_as_they_are(prose: str) -> None:
    assert sync(prose) == prose


@pytest.mark.parametrize("left", ["import asyncio\n", "x: AsyncPipeline\n", "def __anext__(self): ...\n"])
def test_an_async_word_without_a_rule_is_refused_by_name(left: str) -> None:
    with pytest.raises(unasync.Refused, match=r"x\.py: '(asyncio|AsyncPipeline|__anext__)' is left in .* add a rule"):
        sync(left)


def test_await_inside_an_f_string_is_refused_with_its_line() -> None:
    with pytest.raises(unasync.Refused, match=r"x\.py:2: await inside an f-string"):
        sync("async def f():\n    return f'{await g()}'\n")


def test_a_written_package_is_fresh_formatted_and_carries_the_banner(package: Path) -> None:
    (package / "jobs" / "guard_async.py").write_text(
        "from b import AsyncJobs\nfrom a import  c\n\nasync def f(): await  c\n"
    )
    assert write(package) == ["jobs/guard.py"]
    assert (package / "jobs" / "guard.py").read_text() == (
        "# Generated from guard_async.py by tools/unasync.py: edit that one, then `make generate`.\n"
        "from a import c\nfrom b import Jobs\n\n\ndef f():\n    c\n"
    )
    assert problems(package) == []
    assert write(package) == []


def test_a_missing_file_is_found(package: Path) -> None:
    assert problems(package) == ["jobs/guard.py is missing: make generate"]


@pytest.mark.parametrize(
    "edit", [lambda text: text.replace("start", "stop"), lambda text: text[:-40], lambda text: text + "\n"]
)
def test_an_edited_shortened_or_lengthened_file_is_found_with_its_difference(
    package: Path, edit: Callable[[str], str]
) -> None:
    write(package)
    generated = package / "jobs" / "guard.py"
    generated.write_text(edit(generated.read_text()))
    [problem] = problems(package)
    assert problem.startswith("jobs/guard.py is stale: make generate\n--- jobs/guard.py\n+++ generated\n")


def test_a_file_without_a_source_is_found_and_removed_by_writing(package: Path) -> None:
    write(package)
    (package / "jobs" / "old.py").write_text(unasync.BANNER.format(name="old_async.py"))
    assert problems(package) == ["jobs/old.py has no source: remove it"]
    assert write(package) == ["jobs/old.py"]
    assert problems(package) == []


def test_a_rule_that_matches_nothing_is_found(package: Path) -> None:
    write(package)
    assert unasync.problems(package, {"AsyncJobs": "Jobs", "AsyncOld": "Old"}, frozenset()) == [
        "rule 'AsyncOld' in tools/unasync.py matches nothing: remove it"
    ]


def test_a_hand_written_pair_is_left_alone_and_must_be_whole(package: Path) -> None:
    pair = frozenset({"jobs/waiting"})
    (package / "jobs" / "waiting_async.py").write_text("import asyncio\n")
    assert write(package, pair) == ["jobs/guard.py"]
    assert problems(package, pair) == ["jobs/waiting.py is missing: it is written by hand"]
    (package / "jobs" / "waiting.py").write_text("import time\n")
    assert problems(package, pair) == []
    assert write(package, pair) == []
    assert (package / "jobs" / "waiting.py").read_text() == "import time\n"


def test_the_command_line_answers_a_wrong_option_with_its_usage() -> None:
    done = subprocess.run([sys.executable, unasync.__file__, "--chekc"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "usage: python tools/unasync.py [--check]\n",
    )
