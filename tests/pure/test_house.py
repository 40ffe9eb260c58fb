"""The house stands as CONTRIBUTING.md draws it: imports go down, files are short, nothing is stale."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "pgonce"

# From the ground up. A module imports from lower floors only, never from its neighbours on the same floor;
# the files of one package (protocol/, _async/, ...) are one room and may import each other.
FLOORS = (
    ("errors", "sql"),
    ("protocol", "_keeper"),
    ("app", "embedded", "gathering", "sources"),
    ("_async", "_sync"),
    ("database", "schema", "http", "clock", "roster", "service", "hands"),
    ("recorder", "worker", "schedules", "performing"),
    ("endpoint", "receiver", "scheduler", "reconcile", "retention", "alerts", "metrics", "demo"),
    ("console",),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
LONGEST = 300
UNKNOWN = "say on which floor {!r} stands (FLOORS in tests/pure/test_house.py)"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = ("src", "tests", "tools", "examples", "bench", "docs", "requirements", ".ci", ".github")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    """errors.py -> errors, protocol/jobs.py -> protocol."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_generated(path: Path) -> bool:
    return path.suffix == ".py" and path.read_text(encoding="utf-8").startswith("# Generated from ")


def rooms_imported(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """(line, room) of every import of pgonce in the file, those inside functions and for types too.

    `import pgonce` and what is no room of the house (`from pgonce import App`) are the room "__init__".
    """
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
            parts = target.split(".")
            if parts[0] == "pgonce":
                is_room = len(parts) > 1 and (parts[1] in FLOOR or _exists(parts[1]))
                yield node.lineno, parts[1] if is_room else "__init__"


def _exists(room: str) -> bool:
    return (PACKAGE / f"{room}.py").exists() or (PACKAGE / room).is_dir()


def wrong_imports(path: Path, source: str) -> list[str]:
    here = room(path)
    found = []
    for line, there in rooms_imported(path, source):
        where = f"{name(path)}:{line}"
        if there == here:
            continue
        if there == "__init__":
            found.append(f"{where} imports pgonce itself: import from the module that defines it")
        elif there not in FLOOR:
            found.append(f"{where}: {UNKNOWN.format(there)}")
        elif FLOOR[there] == FLOOR[here]:
            found.append(f"{where} imports {there!r}, its neighbour on the same floor")
        elif FLOOR[there] > FLOOR[here]:
            found.append(f"{where} imports {there!r}, which stands above {here!r}")
    return found


@pytest.mark.parametrize("path", [path for path in MODULES if room(path) != "__init__"], ids=name)
def test_imports_go_down_only(path: Path) -> None:
    assert room(path) in FLOOR, UNKNOWN.format(room(path))
    assert wrong_imports(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("errors.py", "from pgonce.protocol import jobs", "imports 'protocol', which stands above 'errors'"),
        ("protocol/jobs.py", "from ..app import App", "imports 'app', which stands above 'protocol'"),
        ("app.py", "from . import worker", "imports 'worker', which stands above 'app'"),
        ("receiver.py", "import pgonce.jobs.scheduler", "imports 'scheduler', its neighbour on the same floor"),
        (
            "_async/jobs.py",
            "from pgonce._sync import jobs",
            "imports '_sync', its neighbour on the same floor",
        ),
        ("receiver.py", "def f():\n    from .alerts import send", "imports 'alerts', its neighbour"),
        ("worker.py", "import pgonce", "imports pgonce itself"),
        ("worker.py", "from pgonce import App", "imports pgonce itself"),
    ],
)
def test_an_import_that_goes_up_sideways_or_round_is_found(module: str, source: str, wrong: str) -> None:
    [found] = wrong_imports(PACKAGE / module, source)
    assert wrong in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli/main.py", "from pgonce import worker, console\nfrom .jobs import show\nimport pgonce.errors"),
        (
            "_async/jobs.py",
            "from . import lease\nfrom .lease import Lease\nfrom ..protocol import jobs\nimport psycopg",
        ),
    ],
)
def test_an_import_that_goes_down_or_stays_in_its_room_is_allowed(module: str, source: str) -> None:
    assert wrong_imports(PACKAGE / module, source) == []


def test_the_package_itself_only_re_exports() -> None:
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        match node:
            case ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id="__all__" | "__version__")]):
                ast.literal_eval(node.value)
            case _:
                pytest.fail(f"src/pgonce/__init__.py:{node.lineno} is code: move it to the module it belongs to")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name(path)} has no docstring"


def test_no_file_is_longer_than_300_lines() -> None:
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


def test_the_generated_files_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "unasync.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_lock_holds_every_dependency_at_a_version_that_pyproject_allows() -> None:
    locked = {}
    for line in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines():
        pin, _, version = line.partition(";")[0].strip().partition("==")
        locked[pin] = Version(version)
    for text in chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        wanted = Requirement(text)
        if wanted.name != "pgonce":
            assert wanted.name in locked, f"{wanted.name} is not in requirements/lock.txt: make lock"
            assert wanted.specifier.contains(locked[wanted.name]), f"{text} is locked otherwise: make lock"


def test_the_package_says_the_version_that_pyproject_says() -> None:
    text = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    said = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert said is None or said[1] == PROJECT["version"]


def test_the_package_ships_its_types() -> None:
    assert (PACKAGE / "py.typed").exists()
