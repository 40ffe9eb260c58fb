"""Where POSIX is missing, as on Windows: everything can be imported, and what needs POSIX says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil  # what other systems than Linux ask; it answers here as well, if it is imported as on Linux
import pytest

from pgonce.core import process

assert psutil

# What Windows lacks. The libraries that pgonce imports decide by sys.platform, and are imported before.
PRELUDE = """
import asyncio, importlib, os, pkgutil, select, signal, socket, subprocess, sys
import click, psycopg, psycopg_pool, rich.progress, rich.table, orjson, uvicorn, starlette.applications
for name in sorted(sys.argv[1].split()):
    if name in sys.modules:
        del sys.modules[name]
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in sys.argv[1].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
for module, names in ((os, "register_at_fork fork geteuid getuid setuid getgid killpg setsid getpgid wait WNOHANG"
                           " getxattr setxattr mkfifo sysconf nice"),
                      (signal, "SIGHUP SIGKILL SIGCHLD SIGQUIT SIGPIPE SIGXFSZ SIGUSR1 SIGALRM alarm pthread_sigmask"),
                      (socket, "AF_UNIX"), (select, "poll")):
    for name in names.split():
        vars(module).pop(name, None)
"""
MISSING = "fcntl pwd grp termios resource tty pty"


def without_posix(program: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.endswith("DATABASE_URL")} | more
    command = [sys.executable, "-c", PRELUDE + program, MISSING]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=600, check=False)


def test_every_module_can_be_imported_without_posix() -> None:
    done = without_posix("""
import django.conf, pgonce
apps = ["django.contrib." + each for each in ("admin", "auth", "contenttypes", "messages", "sessions")]
django.conf.settings.configure(INSTALLED_APPS=[*apps, "pgonce.integrations.django"])
django.setup()
names = [each.name for each in pkgutil.walk_packages(pgonce.__path__, "pgonce.")]
for name in names:
    if name != "pgonce.__main__":
        importlib.import_module(name)
assert not set(sys.argv[1].split()) & set(sys.modules)
print(len(names))
""")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_the_library_works_without_posix_where_a_database_is_named(database: str) -> None:
    # on Windows over TCP; psycopg opens its own sockets
    done = without_posix(
        "from pgonce.cli import main\nmain(['job', 'ls', '--json'])", DATABASE_URL=database, PGONCE_DATA_DIR="/nowhere"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["migrate"], "set DATABASE_URL (the embedded server needs Linux or macOS)"),
        (["exec", "nightly", "--database-url", "postgresql://127.0.0.1:1/x", "--", "true"], "needs Linux or macOS"),
    ],
)
def test_what_needs_posix_says_so_in_one_line(command: list[str], says: str) -> None:
    done = without_posix(f"from pgonce.cli import main\nmain({command!r})")
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_python_has_its_own_time_zone_database() -> None:
    # distroless and slim images and Windows have no time zone data of the system
    program = "from pgonce.jobs.cron import *\nfrom zoneinfo import ZoneInfo\nprint(ZoneInfo('America/New_York'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=dict(os.environ) | {"PYTHONTZPATH": ""},
        text=True, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout == "America/New_York\n", done.stderr


def started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_process_is_gone_when_it_has_ended_and_not_before(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    here = process.identity()
    assert {"boot", "namespace", "pid", "started"} == set(here)
    assert not process.is_gone(here)
    program = (
        "import psutil, sys; from pgonce.core import process; sys.platform = sys.argv[1];"
        "print(process.identity()); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, platform], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    theirs = eval(child.stdout.readline())
    assert not process.is_gone(theirs)
    child.kill()
    if theirs["boot"] != here["boot"]:
        child.communicate()
        pytest.skip("uuid.getnode() finds no network card here, as in a bare root, so each process has a random one")
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_gone(theirs), "a zombie has ended"
    child.communicate()
    assert process.is_gone(theirs)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize(
    "change",
    [{"boot": "another"}, {"namespace": "pid:[1]"}, {"pid": "x"}, {"pid": None}, {"pid": 0}, {"pid": -1}],
)
def test_what_cannot_be_known_is_not_gone(
    monkeypatch: pytest.MonkeyPatch, platform: str, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert not process.is_gone({**process.identity(), **change})
    assert not process.is_gone({})


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting /proc and becoming another user needs root")
def test_a_live_process_of_another_user_is_not_gone_under_hidepid(tmp_path: Path) -> None:
    # a mount namespace whose /proc hides the processes of other users from users other than root
    program = (
        "import os, sys\n"
        "from pgonce.core import process\n"
        "process.identity()\n"  # loads what this user may read
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "there = {**process.identity(), 'pid': int(sys.argv[1]), 'started': int(sys.argv[2])}\n"
        "print(os.path.exists('/proc/' + sys.argv[1]), process.is_gone(there))\n"
        "print(process.is_gone({**there, 'pid': 2**22 + 1}))\n"
    )
    live = started("sleep", "60")
    try:
        arguments = [str(live.pid), str(process._started(live.pid))]
        script = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, text=True, capture_output=True, timeout=300, check=False)
        if "cannot change root filesystem propagation" in done.stderr:
            pytest.skip("/ is not a mount point here, as in a chroot")
        if "permission denied" in done.stderr.lower() or "not permitted" in done.stderr.lower():
            pytest.skip("this container may not mount /proc")
        assert done.stdout.split() == ["False", "False", "True"], done.stderr
    finally:
        live.kill()
        live.communicate()
