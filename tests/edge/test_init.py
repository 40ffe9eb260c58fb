"""``pgonce init``: what it writes runs at once, by the commands that it prints; and the settings that commands read."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from click.testing import CliRunner

from pgonce.cli import configuration, init
from pgonce.testing import deliver, event
from tests.conftest import wait_until
from tests.edge import command
from tests.edge.command import COMMAND

Connection = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]
SCAFFOLD = ROOT / "src" / "pgonce" / "cli" / "scaffold"


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PGONCE_", "DATABASE_", "DJANGO_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"PATH": path, **more}


def shell(folder: Path, line: str, **more: str) -> tuple[int, str]:
    return command.shell(line, environment(**more), folder)


@contextmanager
def started(folder: Path, command: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(**more), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


SERVERS = {
    "pgonce serve": "--port {}",
    "uvicorn shop:api": "--port {}",
    "flask --app shop run --port 8000": "--port {}",
    "python shop.py runserver": "--noreload {}",
}
RUNNING = ("pgonce worker", "python shop.py pgonce worker")


@pytest.mark.parametrize("kind", ["plain", "fastapi", "flask", "django"])
def test_what_init_writes_handles_an_event_after_the_commands_that_it_prints(
    empty_database: str, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n', "utf-8")
    code, said = shell(tmp_path, f"pgonce init {kind}")
    assert code == 0, said
    commands = re.findall(r"^  (.+)$", said, re.MULTILINE)
    assert len(commands) >= 4
    sending = commands.pop()
    assert "pgonce webhook send" in sending
    with (tmp_path / ".env").open("a", encoding="utf-8") as file:  # as the comment in it says
        file.write(f"DATABASE_URL={empty_database}\n")
    port = free_port()
    with ExitStack() as stack, psycopg.connect(empty_database, autocommit=True) as conn:
        for command in commands:
            if command in SERVERS:
                line = f"{command.replace('--port 8000', '')} {SERVERS[command].format(port)}"
                stack.enter_context(started(tmp_path, line))
            elif command in RUNNING:
                stack.enter_context(started(tmp_path, command))
            else:
                code, said = shell(tmp_path, command)
                assert code == 0, f"$ {command}\n{said}"
        log = tmp_path / "server.log"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def answers() -> bool:
                try:
                    return client.get("/").status_code < 500
                except httpx.TransportError:
                    return False

            wait_until(answers, f"the server:\n{log.read_text('utf-8')}")
            made = event("checkout.session.completed", id="cs_1")
            assert deliver(client, made, secret="whsec_test").status_code == 200, log.read_text("utf-8")
            code, said = shell(tmp_path, f"{sending} --to http://127.0.0.1:{port}/webhooks/stripe")
            assert code == 0, said

        def purchases() -> list[Any]:
            try:
                return conn.execute("select session from purchases").fetchall()
            except psycopg.errors.UndefinedTable:  # Django's handler creates it
                return []

        wait_until(lambda: len(purchases()) == 2, "the events to be handled")
        assert ("cs_1",) in purchases()
        if "daily_totals" in (tmp_path / "shop.py").read_text("utf-8"):
            scheduled = "select count(*) from pgonce_job_schedules where job_name = 'daily_totals'"
            wait_until(lambda: conn.execute(scheduled).fetchone() == (1,), "the job to be scheduled")


@pytest.mark.parametrize(
    ("kind", "web"), [("fastapi", "TestClient(shop.api)"), ("flask", "nullcontext(shop.site.test_client())")]
)
def test_what_init_writes_is_tested_with_the_fixture_s_database(
    empty_database: str, tmp_path: Path, kind: str, web: str
) -> None:
    assert shell(tmp_path, f"pgonce init {kind}")[0] == 0
    with (tmp_path / ".env").open("a", encoding="utf-8") as file:  # the developer's: no test may use it
        file.write("DATABASE_URL=postgresql://127.0.0.1:1/none\nPGONCE_WEBHOOK_SECRET=whsec_mine\n")
    client = "from fastapi.testclient import TestClient" if kind == "fastapi" else "from contextlib import nullcontext"
    (tmp_path / "test_shop.py").write_text(
        f"""
import psycopg, pytest, shop
{client}
from pgonce.testing import deliver, drain, event, run

@pytest.fixture(scope="session")
def pgonce_setup():
    def setup(url):
        with psycopg.connect(url) as conn:
            conn.execute("create table purchases (session text primary key)")
            conn.execute("create table totals (at timestamptz default now(), purchases bigint)")
    return setup

@pytest.mark.parametrize("times", range(2))
def test_a_purchase(pgonce_db, times):
    with {web} as client:
        for _ in range(2):
            assert deliver(client, event("checkout.session.completed", id="cs_1", event_id="evt_1")).status_code == 200
    drain(shop.app)
    assert run(shop.app, "daily_totals").rows_processed == 1
    with psycopg.connect(pgonce_db) as conn:
        assert conn.execute("select purchases from totals").fetchall() == [(1,)]
""",
        "utf-8",
    )
    done, said = shell(tmp_path, "python -m pytest -q -p no:cacheprovider", PGONCE_TEST_DATABASE_URL=empty_database)
    assert (done, "2 passed" in said) == (0, True), said


def test_supabase_s_commands_begin_with_its_project_and_set_the_secrets(tmp_path: Path) -> None:
    code, said = shell(tmp_path, "pgonce init supabase")
    assert (code, "next:\n  supabase init\n  pgonce sql --supabase\n" in said) == (0, True)
    assert "supabase secrets set STRIPE_API_KEY=sk_... STRIPE_WEBHOOK_SECRET=whsec_..." in said
    assert shell(tmp_path, "pgonce sql --supabase")[0] == 0
    (tmp_path / "supabase" / "config.toml").touch()
    (tmp_path / "supabase" / "functions" / "stripe-webhook" / "index.ts").unlink()
    assert "supabase init" not in shell(tmp_path, "pgonce init supabase")[1]


def test_what_is_not_installed_is_the_first_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init, "find_spec", lambda name: None if name == "fastapi" else object())
    said = CliRunner().invoke(init.init, ["fastapi"]).output
    assert "next:\n  pip install fastapi\n  pgonce migrate\n" in said


@pytest.mark.parametrize("kind", sorted(path.stem for path in SCAFFOLD.glob("*.txt")))
def test_the_written_file_has_at_most_40_lines_and_overwrites_nothing(tmp_path: Path, kind: str) -> None:
    (tmp_path / ".env").write_text("MINE=1\n", "utf-8")
    (tmp_path / ".gitignore").write_text("build\n.env\n", "utf-8")
    assert shell(tmp_path, f"pgonce init {kind}")[0] == 0
    assert (tmp_path / ".env").read_text("utf-8") == "MINE=1\n"
    if kind != "supabase":
        assert (tmp_path / ".gitignore").read_text("utf-8") == "build\n.env\n.pgonce/\n"
    assert len((SCAFFOLD / f"{kind}.txt").read_text("utf-8").splitlines()) <= 40
    code, said = shell(tmp_path, f"pgonce init {kind}")
    assert (code, "exists already" in said) == (1, True)


THERE = ['pyproject.toml has [tool.pgonce] already: write app = "shop:app" there']


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        (b"", [], b'[tool.pgonce]\napp = "shop:app"\n'),
        (b"# [tool.pgonce]", [], b'# [tool.pgonce]\n\n[tool.pgonce]\napp = "shop:app"\n'),
        (b'[a]\r\nb = "\xc3\xa9"\r\n', [], b'[a]\r\nb = "\xc3\xa9"\r\n\r\n[tool.pgonce]\r\napp = "shop:app"\r\n'),
        (b'[tool]\npgonce = {app = "shop:app"}\n', [], None),
        (b"[tool.pgonce]\n", THERE, None),
        (
            b'[tool.pgonce]\napp = "a:b"',
            ['pyproject.toml has [tool.pgonce] already: write app = "shop:app" there'],
            None,
        ),
    ],
)
def test_init_adds_a_section_to_any_pyproject_and_says_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, said: list[str], after: bytes | None
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_bytes(before)
    lines = CliRunner().invoke(init.init, ["plain"]).output.splitlines()
    assert lines[1 : lines.index("next:")] == said
    assert Path("pyproject.toml").read_bytes() == (before if after is None else after)
    configuration.section(Path("pyproject.toml"))


def test_init_says_that_an_env_file_lacks_the_secret_and_reads_no_encoding_into_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGONCE_WEBHOOK_SECRET", raising=False)
    Path(".env").touch()
    Path(".gitignore").write_bytes(b"caf\xe9\r\n.env")
    lines = CliRunner().invoke(init.init, ["flask"]).output.splitlines()
    assert lines[1] == ".env exists already: write PGONCE_WEBHOOK_SECRET=whsec_test there"
    assert Path(".gitignore").read_bytes() == b"caf\xe9\r\n.env\r\n.pgonce/\r\n"


def test_init_that_cannot_write_says_so_in_one_line_and_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").mkdir()
    code, said = shell(tmp_path, "pgonce init")
    assert (code, said) == (1, "pgonce: .gitignore cannot be read: Is a directory\n")
    (tmp_path / ".gitignore").rmdir()
    (tmp_path / ".gitignore").symlink_to("none/.gitignore")
    code, said = shell(tmp_path, "pgonce init")
    assert (code, said) == (1, "pgonce: .gitignore cannot be written: No such file or directory\n")
    (tmp_path / ".gitignore").unlink()
    assert shell(tmp_path, "pgonce init")[0] == 0


def test_a_folder_that_is_gone_or_that_this_user_may_not_enter_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    code, said = shell(tmp_path / "gone", 'rmdir "$PWD"; pgonce --version')
    assert (code, said) == (1, "pgonce: the current folder was deleted: change to another one\n")

    def stat(path: object, *args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.stat", stat)
    configuration.load(tmp_path)


def test_the_edge_function_is_the_tested_example() -> None:
    example = ROOT / "examples" / "supabase" / "functions" / "stripe-webhook" / "index.ts"
    assert (SCAFFOLD / "supabase.txt").read_text("utf-8") == example.read_text("utf-8")


# The settings


@pytest.fixture
def project(tmp_path: Path, database: str) -> Path:
    (tmp_path / "shop.py").write_text("import pgonce\napp = pgonce.App()\n@app.job('j')\ndef j(run): pass\n", "utf-8")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pgonce]\napp = "shop:app"\nschema = "public"\ndatabase-url-env = "SHOP_DATABASE"\n', "utf-8"
    )
    (tmp_path / ".env").write_text(f"export SHOP_DATABASE='{database}'  # quoted\n", "utf-8")
    (tmp_path / "below").mkdir()
    return tmp_path


def test_a_command_finds_app_and_database_in_the_files(project: Path) -> None:
    assert shell(project, "pgonce job run j") == (0, "j: succeeded, 0 processed, 0 skipped\n")
    assert shell(project / "below", "pgonce job ls")[0] == 0


def test_the_environment_comes_before_the_files(project: Path) -> None:
    code, said = shell(project, "pgonce job run j", PGONCE_APP="nowhere:app")
    assert (code, "nowhere" in said) == (1, True)
    code, said = shell(project, "pgonce job ls", PGONCE_DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (code, "efused" in said) == (1, True)


def test_a_variable_that_is_named_and_not_set_is_an_error_and_no_embedded_server(project: Path) -> None:
    (project / ".env").unlink()
    code, said = shell(project, "pgonce job ls")
    assert (code, "says that SHOP_DATABASE has the database's URL, and it is not set" in said) == (1, True)
    assert not (project / ".pgonce").exists()
    assert shell(project, "pgonce sql")[0] == 0, "it needs no database"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool.pgonce]\nap = 'x'\n", "has no key 'ap': use app, schema, database-url-env"),
        ("[tool.pgonce]\napp = 3\n", "app of [tool.pgonce] must be text, not 3"),
        ("[tool.pgonce\n", "cannot be read"),
        ("[tool]\npgonce = 3\n", "tool.pgonce must be a table, not 3: write [tool.pgonce]"),
    ],
)
def test_a_section_that_cannot_be_read_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text, "utf-8")
    code, said = shell(tmp_path, "pgonce job ls")
    assert (code, said.count("\n"), says in said) == (1, 1, True), said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("DATABASE_URL=x".encode("utf-16"), ".env cannot be read: it is not UTF-8 text: save it as UTF-8"),
        ("DATABASE_URL=x".encode("utf-16-le"), ".env cannot be read: it has NUL characters"),
        ("NAME=café".encode("latin-1"), ".env cannot be read: it is not UTF-8 text"),
        (
            b"A=1\n\nDATABASE_URL: postgresql://me:secret@h/d\n",
            ".env, line 3, cannot be read: write NAME=value, and close",
        ),
        (b'A=1\nPGONCE_WEBHOOK_SECRET="secret\nB=2\n', ".env, line 2, cannot be read: "),
    ],
)
def test_an_env_file_that_cannot_be_read_is_one_line_and_no_embedded_server(
    tmp_path: Path, text: bytes, says: str
) -> None:
    (tmp_path / ".env").write_bytes(text)
    code, said = shell(tmp_path, "pgonce job ls")
    assert (code, said.count("\n"), says in said, "secret" in said) == (1, 1, True, False), said
    assert not (tmp_path / ".pgonce").exists()


def test_a_line_for_another_program_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfPGONCE_APP=shop:app\r\nother: 1\r\n")
    code, said = shell(tmp_path, "pgonce job run j")
    assert (code, "no module 'shop'" in said) == (1, True), said


def test_a_project_without_the_section_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n", "utf-8")
    subprocess.run([*COMMAND, "--version"], cwd=tmp_path, env=environment(), check=True, capture_output=True)


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_shells_complete_the_commands(name: str, tmp_path: Path) -> None:
    code, script = shell(tmp_path, "pgonce", _PGONCE_COMPLETE=f"{name}_source")
    assert (code, "_PGONCE_COMPLETE" in script) == (0, True)
    words = {"bash": {"COMP_WORDS": "pgonce web", "COMP_CWORD": "1"}}.get(name)
    if words:
        assert "webhook" in shell(tmp_path, "pgonce", _PGONCE_COMPLETE="bash_complete", **words)[1]
