"""The process group of a command and its children, and a guard process that ends it if this process is killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pgonce.errors import InvalidArgument

# If this process is killed, nothing stops the command any more, and after the window it would run beside its successor.
# So a small Python program forks a guard process and then becomes the command by exec. The guard reads from a pipe that
# only this process holds open. A byte means that the guard may exit; the end of the pipe means that this process has
# ended, and the guard stops the group. The alternatives do not work: the kernel's PR_SET_PDEATHSIG reaches the command
# but not its children, and preexec_fn may deadlock where there are threads. The guard is not a child of the command,
# because a command may wait for all of its children.
_GUARDED = """
import errno, os, signal, sys, time
alive, grace, path, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]
group = os.getpid()

def guard():
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for each in range(3):
        os.dup2(null, each)
    if os.read(alive, 1):
        return
    os.killpg(group, signal.SIGTERM)
    over = time.monotonic() + grace
    while time.monotonic() < over:
        os.killpg(group, 0)
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)

def leave_guard():
    if os.fork():
        try:
            failed = os.wait()[1]
        except ChildProcessError:  # its status is unknown, so a guard may be missing
            failed = 1
        if failed:
            raise BlockingIOError(11, "there is no process left for its guard")
        return
    code = 1
    try:
        if os.fork() == 0:
            guard()
        code = 0
    finally:
        os._exit(code)

try:
    leave_guard()
    os.close(alive)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would inherit that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(path, command)
    except OSError as error:
        with open(path, "rb") as script:
            is_binary = b"\\0" in script.read(512)
        if error.errno != errno.ENOEXEC or is_binary:
            raise
        os.execv("/bin/sh", ["sh", path, *command[1:]])  # a script without "#!", run as shells and cron do
except OSError as error:
    print(f"pgonce: {command[0]}: {error.strerror}", file=sys.stderr)
    sys.exit(126)
"""

STATUS_UNKNOWN = 256
"""In place of an exit status: the command has ended, but other code in this process has read its status. A failure."""


def require_posix() -> None:
    """Raise InvalidArgument where there are no process groups, as on Windows."""
    if not hasattr(os, "killpg"):
        raise InvalidArgument("`pgonce exec` needs Linux or macOS: here, make it a job of your app, `pgonce job run`")


class CannotExecute(Exception):
    """A command that cannot be executed; ``code`` is the exit code that shells use for it."""

    def __init__(self, reason: str, code: int) -> None:
        super().__init__(reason)
        self.code = code


def find_command(name: str) -> str:
    """The path of the file that a shell would execute for ``name``.

    Raises:
        CannotExecute: there is no such file (127), or it cannot be executed (126).
    """
    if path := shutil.which(name):
        return path
    is_path = os.sep in name
    folders = [""] if is_path else os.environ.get("PATH", os.defpath).split(os.pathsep)
    for candidate in (Path(folder, name) for folder in folders):
        if candidate.is_dir() and is_path:
            raise CannotExecute("is a directory", 126)
        if candidate.is_file():
            raise CannotExecute("permission denied", 126)
    raise CannotExecute("not found", 127)


class Group:
    """A running command and its children, except those that have moved to another process group.

    Args:
        path: the file to execute.
        command: the command's name, and its arguments.
        env: its environment.
        grace: seconds between SIGTERM and SIGKILL if this process is killed.
    """

    def __init__(self, path: str, command: Sequence[str], env: Mapping[str, str], grace: float) -> None:
        import fcntl  # POSIX

        reading, self._alive = os.pipe()
        # a descriptor of at least 3: if this process was started without a stderr, 2 is free, and the pipe would become
        # the command's stderr
        guarding = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, 3)
        # a session of its own: so the whole group can be stopped, and a Ctrl-C reaches it once, sent from here
        self.leader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDED, str(guarding), str(grace), path, *command],
            env=env,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=[guarding],
        )
        os.close(reading)
        os.close(guarding)

    def has_ended(self, seconds: float) -> bool:
        """Whether the command has ended, or ends within ``seconds``. Its children may still be running."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while not self._reap():
            if (left := deadline - time.monotonic()) <= 0:
                return False
            pause = min(pause * 2, left, 0.05)
            time.sleep(pause)
        return True

    def _reap(self) -> bool:
        # Not Popen.wait: if other code in this process has reaped the command, it reports exit status 0.
        if self.leader.returncode is None:
            try:
                pid, status = os.waitpid(self.leader.pid, os.WNOHANG)
            except ChildProcessError:
                self.leader.returncode = STATUS_UNKNOWN
            else:
                if pid:
                    self.leader.returncode = os.waitstatus_to_exitcode(status)
        return self.leader.returncode is not None

    def is_empty(self, seconds: float) -> bool:
        """Whether all processes of the group have ended. If not, wait ``seconds`` before returning."""
        if not self._is_at_work():
            return True
        time.sleep(seconds)
        return False

    def _is_at_work(self) -> bool:
        try:
            self._kill(0)
        except ProcessLookupError:
            return False
        # killpg also finds zombies. They stay for ever in a container whose first process does not reap orphans.
        states = [state for state, group in _processes() if group == self.leader.pid]
        return not states or any(state not in "ZX" for state in states)

    def signal(self, number: int) -> bool:
        """Send a signal to the group. False if the remaining processes belong to another user (sudo)."""
        with suppress(ProcessLookupError):
            return self._kill(number)
        return True

    def _kill(self, number: int) -> bool:
        try:
            os.killpg(self.leader.pid, number)
        except PermissionError:
            return False
        return True

    def release(self) -> None:
        """Let the guard exit. Processes that the command has left running may stay."""
        with suppress(OSError):  # the guard was killed
            os.write(self._alive, b".")
        os.close(self._alive)


def _processes() -> Iterator[tuple[str, int]]:
    """State and group of every process; empty on systems without /proc."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _parent, group, *_ = each.read_text(errors="replace").rpartition(")")[2].split()
            yield state, int(group)
