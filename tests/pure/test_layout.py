"""The project is laid out as CONTRIBUTING.md says: imports follow one rule, files are short, nothing is out of date."""

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "pgonce"

# The rule in one line: errors <- core <- {webhooks, jobs} <- seeds <- {app, ...} <- {console, integrations} <- cli.
# A module imports from the rows above its own. Names in one row do not import each other. The files of one folder may
# import each other, but not in a circle.
ROWS = (
    ("errors", "sql"),
    ("core",),
    ("webhooks", "jobs"),
    ("seeds",),
    ("app", "alerts", "stripe_sync", "retention", "doctor", "metrics", "testing"),
    ("console", "integrations"),
    ("cli",),
)
ROW = {noun: number for number, nouns in enumerate(ROWS) for noun in nouns}
LONGEST = 400
UNKNOWN = "say in which row {!r} belongs (ROWS in tests/pure/test_layout.py)"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("src", "tests", "tools", "examples", "bench", "docs", "requirements", ".ci", ".github")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def noun(path: Path) -> str:
    """errors.py -> errors, jobs/guard.py -> jobs; `python -m pgonce` is the command line, and Django reads apps.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__main__": "cli", "apps": "integrations"}.get(first, first)


def is_generated(path: Path) -> bool:
    return path.suffix == ".py" and path.read_text(encoding="utf-8").startswith("# Generated from ")


def imported(path: Path, source: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line, parts of the name below pgonce) of every import of pgonce in the file, also inside functions."""
    package = ("pgonce", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            targets = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        for target in targets:
            parts = tuple(target.split("."))
            if parts[0] == "pgonce":
                yield node.lineno, parts[1:]


def _exists(name: str) -> bool:
    return name != "" and ((PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir())


def wrong_imports(path: Path, source: str) -> list[str]:
    here = noun(path)
    found = []
    for line, parts in imported(path, source):
        where = f"{name(path)}:{line}"
        there = parts[0] if parts else ""
        if there == here:
            continue
        if not there or (there not in ROW and not _exists(there)):
            found.append(f"{where} imports pgonce itself: import from the module that defines it")
        elif there not in ROW:
            found.append(f"{where}: {UNKNOWN.format(there)}")
        elif ROW[there] == ROW[here]:
            found.append(f"{where} imports {there!r}, which is in the same row")
        elif ROW[there] > ROW[here]:
            found.append(f"{where} imports {there!r}, which comes after {here!r}")
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if noun(path) != "__init__"], ids=name)
def test_imports_follow_the_rule(path: Path) -> None:
    assert noun(path) in ROW, UNKNOWN.format(noun(path))
    assert wrong_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("errors.py", "from pgonce.jobs import calls", "imports 'jobs', which comes after 'errors'"),
        ("jobs/calls.py", "from ..app import App", "imports 'app', which comes after 'jobs'"),
        ("jobs/calls.py", "from pgonce.webhooks.calls import Event", "imports 'webhooks', which is in the same row"),
        ("seeds/calls.py", "from pgonce.retention import f", "imports 'retention', which comes after 'seeds'"),
        ("stripe_sync.py", "def f():\n    from .alerts import send", "imports 'alerts', which is in the same row"),
        ("jobs/guard.py", "import pgonce", "imports pgonce itself"),
        ("jobs/guard.py", "from pgonce import App", "imports pgonce itself"),
    ],
)
def test_an_import_against_the_rule_is_found(module: str, source: str, wrong: str) -> None:
    [found] = wrong_imports(PACKAGE / module, source)
    assert wrong in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli/main.py", "from pgonce import app, console\nfrom .jobs import show\nimport pgonce.errors"),
        ("jobs/guard_async.py", "from . import run\nfrom .run import Run\nfrom ..core import call\nimport psycopg"),
        ("seeds/seeds.py", "from pgonce.jobs.guard import Jobs"),
    ],
)
def test_an_import_by_the_rule_is_allowed(module: str, source: str) -> None:
    assert wrong_imports(PACKAGE / module, source) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in MODULES}
    graph = {
        parts: {
            next((target[:n] for n in (len(target), len(target) - 1) if target[:n] in modules), ())
            for _, target in imported(path, path.read_text(encoding="utf-8"))
        }
        for parts, path in modules.items()
        if parts[-1] != "__init__"
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_tests_and_pages_of_a_noun_are_where_its_name_says() -> None:
    for each in ("webhooks", "jobs", "seeds"):
        for place in ("tests/sql", "tests/contract", "tests/edge", "tests/faults"):
            assert list((ROOT / place / each).glob("test_*.py")), f"{place}/{each} has no tests"
        assert (ROOT / "docs" / f"{each}.md").exists()
        assert list((PACKAGE / "sql" / "api").glob(f"{each}_*.sql"))


# The folder of each column in the first table of CONTRIBUTING.md; the tests' column names folders that have the noun's.
COLUMNS = ("", "src/pgonce/", "src/pgonce/sql/api/", "src/pgonce/cli/", "", "")


def paths_named(text: str) -> Iterator[str]:
    """Every path in CONTRIBUTING.md: the first table by its columns, then whatever else looks like a path."""
    rows = re.findall(r"^\| (\w[\w ]*) \|(.*)\|(.*)\|(.*)\|(.*)\|(.*)\|$", text, re.MULTILINE)
    for place, *cells in rows[1:]:
        for cell, start in zip(cells, COLUMNS[1:], strict=True):
            for found in re.findall(r"`([^`]+)`", cell):
                is_folder = found.startswith("tests/") and not found.endswith(".py")
                yield f"{found}/{place.replace('imports', 'seeds')}" if is_folder else start + found
    rest = re.sub(r"^\| \w[\w ]* (?:\|[^|\n]*){5}\|$", "", text, flags=re.MULTILINE)
    for found in re.findall(r"`([\w./*-]+)`", rest):
        if re.search(r"\w/|\.(?:py|sql|md|toml|ts)$", found) and not found.startswith(("*", "x", "calls.py")):
            yield found


def test_every_path_that_contributing_names_exists() -> None:
    named = list(paths_named((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert {"src/pgonce/webhooks/", "src/pgonce/sql/api/jobs_*.sql", "tests/faults/seeds", "docs/alerts.md"} <= {*named}
    assert [path for path in named if not list(ROOT.glob(path))] == []


def test_every_function_on_the_paths_of_contributing_exists() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    paths = text.partition("### Five paths")[2].partition("\n## ")[0]
    named = {name.rpartition(".")[2] for name in re.findall(r"`([\w.]+)`", paths) if not name.endswith(".py")}
    sources = [path.read_text(encoding="utf-8") for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.sql")]]
    made = set(re.findall(r"\b(?:def|class|function) (\w+)", "\n".join(sources)))
    assert "pgonce_advance_seed" in named
    assert named - made == set()


def test_contributing_lists_every_noun_of_the_source() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"**{' ← '.join(_row(nouns) for nouns in ROWS)}**" in " ".join(text.split())


def _row(nouns: tuple[str, ...]) -> str:
    names = [noun for noun in nouns if noun != "sql"]
    return names[0] if len(names) == 1 else f"{{{', '.join(names)}}}"


def test_the_package_itself_only_re_exports() -> None:
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=[]):
                assert all(isinstance(each, ast.ImportFrom) for each in node.body)
            case ast.FunctionDef(name="__getattr__" | "__dir__"):  # how a name is imported at its first use
                continue
            case ast.Assign(targets=[ast.Name(id="_PLACES")]):  # made of the two tables before it
                continue
            case ast.Assign(targets=[ast.Name(id="__all__" | "__version__" | "_MEMBERS" | "_MODULES")]):
                ast.literal_eval(node.value)
            case _:
                pytest.fail(f"src/pgonce/__init__.py:{node.lineno} is code: move it to the module it belongs to")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


def test_no_file_is_longer_than_400_lines() -> None:
    written = (path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".sql", ".html"})
    files = [path for path in written if not is_generated(path)]
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert len(lengths) > 1
    too_long = {path: lines for path, lines in lengths.items() if lines > LONGEST}
    assert not too_long, "a noun is hiding in there: give it a file of its own"


def test_no_file_names_a_machine_s_path_or_a_package_registry() -> None:
    private = re.compile(
        r"(?<![\w.])/(?:root|work|home|Users)/\w"
        r"|py(?:pi\.org|thonhosted)|registry\.(?:npm|yarn)|(?:index-url|find-links) *[=:]? *\S+://"
    )
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.glob("*") if path.name not in {"uv.lock", ".git"}]  # .git: a file in a worktree
    found = []
    for path in filter(Path.is_file, files):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name(path)}:{number}: {match[0]}"
            for number, line in enumerate(lines, 1)
            if (match := private.search(line))
        ]
    assert found == []


def test_the_lock_holds_every_dependency_at_a_version_that_pyproject_allows() -> None:
    text = (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8")
    locked = {pin: Version(version) for pin, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        wanted = Requirement(text)
        if wanted.name != "pgonce":
            assert wanted.name in locked, f"{wanted.name} is not in requirements/lock.txt: make lock"
            assert wanted.specifier.contains(locked[wanted.name]), f"{text} is locked otherwise: make lock"


def test_the_package_ships_its_types() -> None:
    assert (PACKAGE / "py.typed").exists()
