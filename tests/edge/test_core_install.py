"""The library and the command work with what `pip install pgonce` installs, without any extra."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest

from tests.edge.command import pgonce

HIDE = """
import sys

HIDDEN = set({hidden!r})


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Hide())
"""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def core() -> set[str]:
    """The distributions that are installed without an extra."""
    found: set[str] = set()
    waiting = ["pgonce"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            wanted = requires(name) or []
        except PackageNotFoundError:  # for another platform
            continue
        # psycopg's own extras are ours: psycopg[binary,pool]
        wanted = [each for each in wanted if "extra ==" not in each] + ["psycopg-binary", "psycopg-pool"]
        waiting += [plain(re.split(r"[^\w.-]", each)[0]) for each in wanted]
    return found


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A PYTHONPATH on which the modules of every other distribution are missing."""
    kept = core()
    hidden = sorted(
        module
        for module, owners in packages_distributions().items()
        if not {plain(each) for each in owners} & kept and module.isidentifier()
    )
    assert {"orjson", "uvicorn", "pyarrow"} & set(hidden)
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden=hidden))
    return str(tmp_path)


@pytest.mark.parametrize("arguments", ["--version", "migrate", "job ls", "webhook ls", "seed ls", "worker --help"])
def test_a_command_needs_no_extra(database: str, bare: str, arguments: str) -> None:
    code, _, said = pgonce(database, *arguments.split(), PYTHONPATH=bare)
    assert code == 0, said


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["serve", "--app", "tests.edge.seeds.seed_app:app"], "pgonce[serve]"),
        (["reconcile", "--app", "tests.edge.seeds.seed_app:app"], "pgonce[stripe]"),
    ],
)
def test_what_needs_one_says_which(database: str, bare: str, arguments: list[str], extra: str) -> None:
    root = str(Path(__file__).parents[2])
    code, _, said = pgonce(database, *arguments, PYTHONPATH=f"{bare}:{root}", STRIPE_API_KEY="rk_test_x")
    assert code == 1
    assert said.startswith("pgonce: ")
    assert extra in said
    assert said.count("\n") == 1
