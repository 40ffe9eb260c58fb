"""``import pgonce`` and a command import only what they use, and every public name is found all the same."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import pgonce
from pgonce.cli import JOB, PLACES, SEED, WEBHOOK

SOURCE = Path(str(pgonce.__file__)).read_text(encoding="utf-8")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_for_types() -> Iterator[tuple[str, str]]:
    """(name, place) of what mypy and editors see, as __init__.py imports it under TYPE_CHECKING."""
    [block] = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.If)]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            is_module = whole in sys.modules or import_module(str(node.module)).__dict__.get(alias.name) is None
            yield alias.asname or alias.name, whole if is_module else f"{node.module}:{alias.name}"


def test_what_is_imported_at_its_first_use_is_what_type_checkers_see() -> None:
    for name in pgonce.__all__:
        getattr(pgonce, name)
    assert dict(imported_for_types()) == pgonce._PLACES
    assert sorted(pgonce.__all__) == pgonce.__all__
    assert {*pgonce.__all__} == {*pgonce._PLACES, "__version__"} - {"errors"}


def test_dir_and_a_star_import_have_every_name() -> None:
    assert {*pgonce.__all__} <= {*dir(pgonce)}
    assert run("import pgonce\nfrom pgonce import *\nprint(set(pgonce.__all__) <= globals().keys())") == "True\n"


def test_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'pgonce' has no attribute 'Appp'"):
        _ = pgonce.Appp
    with pytest.raises(ImportError, match="cannot import name 'Appp'"):
        exec("from pgonce import Appp", {})


def test_a_class_is_pickled_where_nothing_is_imported_yet() -> None:
    said = pickle.dumps((pgonce.Event, pgonce.NotFound, pgonce.Seed))
    assert run(f"import pickle\nprint([each.__name__ for each in pickle.loads({said!r})])") == (
        "['Event', 'NotFound', 'Seed']\n"
    )


def modules_of(program: str) -> set[str]:
    return {*run(f"{program}\nimport sys\nprint(*sys.modules)").split("\n")[-2].split()}


def test_the_package_alone_imports_none_of_its_modules() -> None:
    assert {name for name in modules_of("import pgonce") if name.split(".")[0] in {"pgonce", "psycopg"}} == {"pgonce"}


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("ps", "pgonce.app pgonce.jobs pgonce.seeds pgonce.webhooks pgonce.console"),
        ("exec", "pgonce.app pgonce.seeds pgonce.webhooks pgonce.console"),
        ("job ls", "pgonce.app pgonce.seeds pgonce.webhooks pgonce.console"),
        ("seed load", "pgonce.app pgonce.webhooks pgonce.console"),
        ("webhook ls", "pgonce.app pgonce.jobs pgonce.seeds urllib.request"),
        ("migrate", "pgonce.app pgonce.jobs pgonce.seeds pgonce.webhooks pgonce.console"),
    ],
)
def test_a_command_imports_only_what_it_uses(command: str, without: str) -> None:
    arguments = [*command.split(), "--help"]
    found = modules_of(f"from pgonce.cli import main\nmain({arguments!r}, standalone_mode=False)")
    assert found & {*without.split(), "rich.console", "pgonce.core.embedded", "starlette", "jinja2"} == set()


@pytest.mark.parametrize("places", [PLACES, JOB, SEED, WEBHOOK], ids=["pgonce", "job", "seed", "webhook"])
def test_a_command_is_listed_by_its_own_name(places: dict[str, str]) -> None:
    for name, place in places.items():
        module, _, attribute = place.partition(":")
        assert getattr(import_module(f"pgonce.cli.{module}"), attribute).name == name
