"""The reaper of an embedded server: a small process that stops the server after its last user has ended.

Every user holds a shared lock on ``users.lock``; the reaper waits for the exclusive one. The kernel releases
the locks of a process however it ends, kill -9 included. So nothing has to be cleaned up, and there is not a list of
pids that could become outdated. This file is run by path, with ``-I -S`` and only the standard library: it runs as long
as the server, and must work even if the package is upgraded or removed meanwhile.

``<data_dir>/`` holds ``start.lock`` (exclusive: one starter at a time), ``users.lock`` (shared: a user;
exclusive: the reaper, while it stops the server), ``reaper.lock`` (exclusive: a reaper is running),
``reaper.log`` and the cluster ``pg/``. The locks are flock(2): they belong to the open file, so a forked child
is a user like its parent.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

SHARED, EXCLUSIVE, EXCLUSIVE_NOW = 1, 2, 2 | 4
"""flock(2)'s LOCK_SH, LOCK_EX and LOCK_EX | LOCK_NB, the same on Linux and macOS."""


class Postmaster(NamedTuple):
    """The content of ``postmaster.pid``. The file stays after a crash: `listening` says whether the server runs."""

    pgdata: Path
    pid: int
    port: int
    socket_dir: Path
    status: str
    """``starting``, ``ready`` or ``stopping``."""

    def listening(self) -> bool:
        """Whether a process serves the socket. Another process may reuse a pid, but not a socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(str(self.socket_dir / f".s.PGSQL.{self.port}"))
            except BlockingIOError:  # its queue is full: a server is running, and busy
                return True
            except OSError:
                return False
            return True

    def remove_stale_locks(self) -> bool:
        """Remove the lock files of a server whose pid now belongs to another process. Return whether that was so.

        Pids are reused after a reboot and in a restarted container, and a killed server stays a zombie in a container
        whose first process does not reap orphans. PostgreSQL takes any such process for the old server and refuses to
        start. A postmaster is different: it has a command line, and its working directory is the cluster. Needs /proc.
        """
        process = Path(f"/proc/{self.pid}")
        try:
            if (process / "cmdline").read_bytes() and (process / "cwd").samefile(self.pgdata):
                return False
        except OSError:  # it has ended, or there is no /proc, or its entry cannot be read
            return False
        (self.socket_dir / f".s.PGSQL.{self.port}.lock").unlink(missing_ok=True)
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        return True


def postmaster(pgdata: Path) -> Postmaster | None:
    """The server that owns the cluster in ``pgdata``, or owned it until a crash; None after an orderly stop."""
    try:
        lines = os.fsdecode((pgdata / "postmaster.pid").read_bytes()).splitlines()
    except FileNotFoundError:
        return None
    # pid, data directory, start time, port, socket directory, host, shared memory, status; the last ones are
    # added while the server starts
    lines += [""] * (8 - len(lines))
    return Postmaster(
        pgdata=pgdata,
        pid=int(lines[0] or 0),
        port=int(lines[3] or 0),
        socket_dir=pgdata / lines[4],
        status=lines[7].strip() or "starting",
    )


def lock(path: Path, how: int, until: ExitStack) -> int:
    """Open ``path`` and lock it; ``until`` closes it. It is never unlocked, because a forked child shares the lock.

    ``how``: of `EXCLUSIVE`, `SHARED` and `EXCLUSIVE_NOW`, which raises BlockingIOError where it would wait.
    """
    import fcntl  # POSIX

    number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until.callback(os.close, number)
    fcntl.flock(number, how)
    return number


def environment() -> dict[str, str]:
    """The environment for a process that outlives its parent: without the caller's PGPORT and secrets."""
    loader = {name: os.environ.get(name) for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")}
    given = {name: value for name, value in loader.items() if value}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", **given}


def ensure(data_dir: Path) -> None:
    """Start a reaper if none is running. The caller must hold the shared lock, otherwise the reaper ends at once.

    Raises OSError if it cannot be started.
    """
    with ExitStack() as meanwhile:
        try:
            own = lock(data_dir / "reaper.lock", EXCLUSIVE_NOW, meanwhile)
        except BlockingIOError:
            return
        log = meanwhile.enter_context((data_dir / "reaper.log").open("ab"))
        # The reaper inherits its lock as standard input, so the lock is never free and a second reaper cannot start.
        # data_dir is passed only to be shown by `ps`
        command = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(data_dir)]
        try:
            subprocess.run(command, stdin=own, stdout=log, stderr=log, cwd=data_dir, env=environment(), check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise ChildProcessError(0, f"its reaper does not start: {error}") from error


def stop(pgdata: Path) -> None:
    """Stop the server and return when it has ended.

    First a fast shutdown (SIGINT: sessions are disconnected, everything is written); after a minute an immediate one
    (SIGQUIT: the server recovers at its next start). Signals instead of ``pg_ctl stop``: the wheel may have been
    uninstalled.
    """
    for how, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10)):
        server = postmaster(pgdata)
        if server is None or not server.listening():
            return
        deadline = time.monotonic() + seconds
        with suppress(ProcessLookupError):  # killed meanwhile; its postmaster.pid stays
            os.kill(server.pid, how)
            while time.monotonic() < deadline:
                if postmaster(pgdata) is None:
                    if server.socket_dir != pgdata:  # a temporary directory, because the path was too long for a socket
                        with suppress(OSError):
                            server.socket_dir.rmdir()
                    return
                os.kill(server.pid, 0)
                time.sleep(0.02)
    sys.stderr.write(f"the server in {pgdata.absolute()} does not stop\n")


def wait_and_stop() -> None:
    """Wait until nobody uses the server, stop it, and end.

    Standard input is the locked ``reaper.lock``. The working directory is the data directory, even after it was moved
    or deleted. A new data directory at the old path has its own locks and its own reaper.
    """
    import fcntl

    with Path("users.lock").open() as users:
        fcntl.flock(users, EXCLUSIVE)
        with suppress(FileNotFoundError):
            there = Path("pg").stat()
            if os.geteuid() == 0:  # the server's user can write postmaster.pid: root must not signal its pid
                os.setgroups([])
                os.setgid(there.st_gid)
                os.setuid(there.st_uid)
            stop(Path("pg"))
        # reaper.lock must be released before users.lock: the next starter waits for users.lock and must then find
        # reaper.lock free. If this process is killed here, the kernel closes the files in the same order, because 0 is
        # the lowest number.
        os.close(0)


if __name__ == "__main__":
    # The parent ends at once, so that the calling program does not have to wait for a child. The reaper has its own
    # session, so Ctrl-C or a closed terminal does not end it.
    if os.fork() == 0:
        os.setsid()
        wait_and_stop()
