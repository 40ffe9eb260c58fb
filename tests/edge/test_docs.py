"""The examples in the documentation are run, and its diagrams are compared with the SQL.

In order, with one database and folder per page: `python` blocks (one that begins with `# name.py` is written to that
file, so that others can import it), `sql` blocks, and `console` blocks: after `$ ` there is a command, and the other
lines are its output (`...` stands for anything). `pgonce serve` runs until the end of its page, on a free port
instead of the default one. `<!-- skip: next -->` marks what needs a network, Stripe or an hour."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from sybil import Document, Example
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from pgonce.alerts.alerts import Alerts
from pgonce.core import embedded
from tests.conftest import wait_until
from tests.edge.command import shell
from tests.sql import transitions

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")} - set(DECISIONS))
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)]*)\)")
SPECIFICATION = Path(__file__).with_name("typescript") / "specification.md"
evaluate = PythonEvaluator()


def run_python(example: Example) -> None:
    if name := re.match(r"# (\w+\.py)\n", example.parsed):
        Path(name[1]).write_text(example.parsed, "utf-8")
    else:
        evaluate(example)


def run_sql(example: Example) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as conn:
        conn.execute(example.parsed.encode())


class Console:
    """Runs the commands of a page, each in a shell of its own; a server runs until the end of the page."""

    def __init__(self) -> None:
        self.servers: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def run(self, example: Example) -> None:
        for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", example.parsed, re.MULTILINE):
            if "pgonce serve" in command:
                self._serve(f"{command} --port {self.port}")
            elif "pgonce webhook send" in command:
                _check(f"{command} --to http://127.0.0.1:{self.port}/webhooks/stripe", expected)
            elif command.startswith("pgonce webhook ls"):  # a worker may still be handling it
                wait_until(partial(_prints, command, expected), f"$ {command}\nto print\n{expected}")
            else:
                _check(command, expected)

    def _serve(self, command: str) -> None:
        with Path("serve.log").open("wb") as log:
            started = subprocess.Popen(["bash", "-c", command], stdout=log, stderr=log, start_new_session=True)
        self.servers.append(started)
        wait_until(self._answers, f"$ {command}")

    def _answers(self) -> bool:
        with socket.socket() as trial:
            return trial.connect_ex(("127.0.0.1", self.port)) == 0

    def close(self) -> None:
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def _fits(printed: str, expected: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), printed, re.DOTALL) is not None


def _prints(command: str, expected: str) -> bool:
    return _fits(shell(command, os.environ, Path.cwd())[1], expected)


def _check(command: str, expected: str) -> None:
    code, printed = shell(command, os.environ, Path.cwd())
    assert _fits(printed, expected), f"$ {command}\nprinted:\n{printed}not:\n{expected}"
    assert expected or code == 0, f"$ {command}\nended with {code}"


@pytest.fixture
def reader(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the page assumes: a migrated database, an empty folder, and the commands on PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in os.environ if name.startswith("PGONCE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database)
    path = (str(Path(sys.executable).parent), str(embedded.bin_dir()), os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
@pytest.mark.usefixtures("reader")
def test_every_example_runs_as_the_page_says(page: Path) -> None:
    console = Console()
    parsers = (
        SkipParser(),
        CodeBlockParser("python", run_python),
        CodeBlockParser("sql", run_sql),
        CodeBlockParser("console", console.run),
    )
    try:
        for example in Document.parse(str(page), *parsers).examples():
            example.evaluate()
    finally:
        console.close()


def blocks(page: Path, language: str) -> list[str]:
    """The text of every block in this language."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return found


def test_the_readme_shows_the_specification_s_three_patterns_unchanged() -> None:
    wanted = [re.sub(r"^// In.*\n", "", block) for block in blocks(SPECIFICATION, "typescript")]
    assert len(wanted) == 3
    assert blocks(ROOT / "README.md", "typescript")[-3:] == wanted


def test_the_page_on_supabase_shows_the_function_that_is_tested() -> None:
    function = (ROOT / "examples" / "typescript" / "handle_checkout.sql").read_text("utf-8")
    code = re.sub(r"\A(--.*\n)+", "", function)
    assert code in blocks(ROOT / "docs" / "supabase.md", "sql")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "mermaid")], ids=name)
def test_a_diagram_draws_only_moves_that_the_sql_files_have(page: Path) -> None:
    cells = [
        cell
        for noun in ("webhooks_inbox", "webhooks_claim", "webhooks_replay", "jobs_guard", "seeds_checkpoint")
        for cell in transitions.read(noun)
    ]
    # the arrows of queued rows (q) are in the other diagram
    known = {(cell.state.removesuffix("q"), cell.to.removesuffix("q"), cell.verb) for cell in cells}
    drawn = re.findall(r"^ +(\w+) --> (\w+): (\w+)$", "".join(blocks(page, "mermaid")), re.MULTILINE)
    moves = {(start.removesuffix("q"), end.removesuffix("q"), verb) for start, end, verb in drawn if verb != "time"}
    assert len(moves) > 3
    assert moves - known == set()


def test_the_reference_has_every_function_of_the_database_with_its_comment(conn: psycopg.Connection) -> None:
    reference = (ROOT / "docs" / "sql.md").read_text("utf-8")
    functions = conn.execute(
        "select proname, obj_description(oid, 'pg_proc') from pg_proc"
        " where pronamespace = 'public'::regnamespace and prorettype <> 'trigger'::regtype"
    ).fetchall()
    assert len(functions) > 20
    for name, comment in functions:
        text = re.escape(comment.removeprefix("pgonce: "))
        described = re.compile(rf"### {name}\n\n```text\n{name}\(.*?```\n\n{text}\n", re.DOTALL | re.IGNORECASE)
        assert described.search(reference), f"docs/sql.md does not say what {name} says: make generate"


def test_the_readme_s_grant_lets_a_role_that_is_not_the_owner_at_the_functions(
    conn: psycopg.Connection, role: str
) -> None:
    [block] = [block for block in blocks(ROOT / "README.md", "sql") if "grant service_role" in block]
    grant = block.splitlines()[1]
    begin = b"select start_job_run('j') is not null"
    with conn.transaction(force_rollback=True):
        conn.execute(f"set local role {role}".encode())
        with pytest.raises(errors.InsufficientPrivilege), conn.transaction():
            conn.execute(begin)
        conn.execute("reset role")
        conn.execute(grant.replace("to shop;", f"to {role};").encode())
        conn.execute(f"set local role {role}".encode())
        assert conn.execute(begin).fetchone() == (True,)


def test_the_retention_in_sql_deletes_what_is_old_however_many_rows(conn: psycopg.Connection) -> None:
    at_once, scheduled = [block for block in blocks(ROOT / "docs" / "jobs.md", "sql") if "purge_" in block]
    assert " ".join(at_once.rstrip(";\n").split()) in " ".join(scheduled.split())
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, payload, status, received_at)"
        " select 'evt_' || n, 'a', '{}', 'succeeded', now() - interval '91 days' from generate_series(1, 10001) as n"
    )
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at)"
        " select 'j', 'succeeded', now() - interval '181 days', now() from generate_series(1, 10002) as n"
    )
    conn.execute(at_once.encode())
    assert conn.execute("select count(*) from webhook_events").fetchone() == (0,)
    assert conn.execute("select count(*) from cron_job_runs").fetchone() == (1,)  # a job's last run stays


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what apprise imports
def test_the_alert_addresses_are_of_a_shape_that_is_accepted(database: str) -> None:
    channels = re.findall(r"--alert (\S+:\S+)", (ROOT / "docs" / "alerts.md").read_text("utf-8"))
    assert len(channels) > 1
    Alerts(database, channels)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DECISIONS], ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        path = page.parent / target if target else page
        assert path.exists(), f"{name(page)} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{name(page)} links to {target}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = {ROOT / "README.md"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        targets = {(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text("utf-8"))}
        ahead |= {target for target in targets if target.suffix == ".md"} - reached
    assert sorted(map(name, {*PAGES, *DECISIONS} - reached)) == []
