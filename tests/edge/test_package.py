"""What is published: the wheel and its page, the locks, and what the documents tell people to type."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import pgonce

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as `make dist` builds it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_page_of_the_package_is_the_readme_with_links_and_a_classifier_for_each_python(
    wheel: zipfile.ZipFile,
) -> None:
    name = next(each for each in wheel.namelist() if each.endswith(".dist-info/METADATA"))
    page = HeaderParser().parsestr(wheel.read(name).decode())
    assert page["Description-Content-Type"] == "text/markdown"
    assert str(page.get_payload()).strip() == (ROOT / "README.md").read_text("utf-8").strip()
    assert len(page.get_all("Project-URL") or []) >= 3
    classifiers = page.get_all("Classifier") or []
    for minor in range(11, 15):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert page["Version"] == pgonce.__version__


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {each.split("/")[0] for each in wheel.namelist()} == {"pgonce", f"pgonce-{pgonce.__version__}.dist-info"}
    shipped = {each for each in wheel.namelist() if each.startswith("pgonce/")}
    there = {
        str(each.relative_to(ROOT / "src")) for each in (ROOT / "src").rglob("*") if each.is_file()
        and "__pycache__" not in each.parts
    }  # fmt: skip
    assert shipped == there


def test_the_version_is_written_once_and_said_by_the_command_and_the_module() -> None:
    script = str(Path(sys.executable).with_name("pgonce"))
    for command in ([script], [sys.executable, "-m", "pgonce"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(f"version {pgonce.__version__}")
    files = [*ROOT.glob("*.toml"), *(ROOT / "src").rglob("*.py")]
    written = [
        path.name for path in files if re.search(r'^\s*(__)?version(__)? = "', path.read_text("utf-8"), re.MULTILINE)
    ]
    assert written == ["__init__.py"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_every_file_by_its_hash_and_no_index(lock: Path) -> None:
    text = lock.read_text("utf-8")
    for entry in text.replace("\\\n", " ").splitlines():
        assert re.fullmatch(r"[\w.\[\]-]+==\S+( ; [^#]+?)?( +--hash=sha256:[0-9a-f]{64})+", entry.strip()), entry
    assert "://" not in text


def test_the_parts_of_the_lock_have_its_versions() -> None:
    def pins(path: Path) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", path.read_text("utf-8"), re.MULTILINE))

    whole = pins(ROOT / "requirements" / "lock.txt")
    assert [(path.name, pins(path) - whole) for path in LOCKS if pins(path) - whole] == []


PASSWORD = re.compile(
    r"""--database-url[ =](?!URL)\S|--password[ =]\S|:[^\s/:@"'<>{}]+@\S+  # given as an argument, or in a URL
        |["' ]\$\{?(PGONCE_)?DATABASE_URL\}?["' ]?$|psql[^|]*\$\{?(PGONCE_)?DATABASE_URL""",
    re.VERBOSE,
)


def test_no_document_puts_a_password_on_a_command_line() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md")]
    found = []
    for page in pages:
        for block in re.findall(r"```(?:console|sh|bash|shell)\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
            found += [f"{page.name}: {line}" for line in block.splitlines() if PASSWORD.search(line)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        '$ psql -f x.sql "$DATABASE_URL"',
        "$ pgonce migrate --database-url postgresql://me:s3cret@host/db",
        "$ psql postgresql://me:s3cret@host/db",
        "$ pgonce migrate --database-url $DATABASE_URL",
    ],
)
def test_the_test_above_finds_passwords(line: str) -> None:
    assert PASSWORD.search(line)


def test_an_environment_that_cannot_be_installed_says_so_in_one_line(tmp_path: Path) -> None:
    # a new Python, for which the embedded server has no package yet: pip fails, and nothing is installed after it
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    answers = 'case "$*" in *--require-hashes*) exit 1 ;; *--version) echo Python 9.9.9 ;; esac'
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n{answers}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "tools/venv.sh", tmp_path / "venv", "run"],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "PYTHON": "python3"}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "for Python 9.9.9? If not, name another Python: make PYTHON=python3.14"
    )
    assert "--editable" not in (tmp_path / "calls").read_text()
