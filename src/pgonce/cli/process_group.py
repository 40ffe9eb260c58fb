"""The session of a command and its children, and a guard that ends it if this process is killed or suspended."""

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
# only this process holds open. "+" means that this process is at work, and "." that the guard may exit. The end of the
# pipe means that this process has ended, and silence that it is suspended (Ctrl-Z, SIGSTOP) and sends no heartbeats:
# the guard stops the session. The alternatives do not work: the kernel's PR_SET_PDEATHSIG reaches the command but not
# its children, and preexec_fn may deadlock where there are threads. The guard is not a child of the command, because a
# command may wait for all of its children.
_GUARDED = """
import errno, os, select, signal, sys, time
alive, path, command = int(sys.argv[1]), sys.argv[5], sys.argv[6:]
if not sys.argv[4]:
    os.environ.pop("LC_CTYPE", None)
grace, silence = map(float, sys.argv[2:4])
session = os.getpid()

def groups():
    found = {session}
    for each in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        try:
            with open("/proc/" + each + "/stat", errors="replace") as stat:
                group, its_session = stat.read().rpartition(")")[2].split()[2:4]
        except OSError:
            continue
        if int(its_session) == session:
            found.add(int(group))
    return found

def kill(number):
    left = False
    for each in sorted(groups(), key=session.__ne__):  # the command itself first
        try:
            os.killpg(each, number)
            left = True
        except OSError:
            pass
    return left

def guard():
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for each in range(3):
        os.dup2(null, each)
    # the command's files: whoever reads from one waits for its end
    for each in map(int, os.listdir("/dev/fd") if os.path.isdir("/dev/fd") else ()):
        if each > 2 and each != alive:
            try:
                os.close(each)
            except OSError:
                pass
    patience = grace
    while True:
        if not select.select([alive], [], [], silence)[0]:
            patience = min(grace, silence / 3)
            break
        signs = os.read(alive, 4096)
        if b"." in signs:
            return
        if not signs:
            break
    kill(signal.SIGTERM)
    over = time.monotonic() + patience
    while time.monotonic() < over and kill(0):
        time.sleep(0.05)
    kill(signal.SIGKILL)

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
    missing = error.errno == errno.ENOENT  # the command is there, but not what its first line names
    print(f"pgonce: {command[0]}: {'its interpreter was not found' if missing else error.strerror}", file=sys.stderr)
    sys.exit(127 if missing else 126)
"""

STATUS_UNKNOWN = 256
"""Stands for an exit status that other code in this process has already read. It counts as a failure."""


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
    shell = "; a line for a shell is run by: sh -c '...'" if any(sign in name for sign in " |&;<>$") else ""
    raise CannotExecute(f"not found{shell}", 127)


class Group:
    """A running command and its children, except those that have moved to another session.

    Not only its process group: timeout(1), GNU parallel and the jobs of "set -m" have groups of their own. (On systems
    without /proc it is only the process group.)

    Args:
        path: the file to execute.
        command: the command's name, and its arguments.
        env: its environment.
        grace: seconds between SIGTERM and SIGKILL if this process is killed.
        silence: seconds after which the guard stops the command if this process has not called ``report`` meanwhile.
            A third of them at most is its grace then.
    """

    def __init__(self, path: str, command: Sequence[str], env: Mapping[str, str], grace: float, silence: float) -> None:
        import fcntl  # POSIX

        self._silence = silence
        self._reported = time.monotonic()
        reading, self._alive = os.pipe()
        # a descriptor of at least 3: if this process was started without a stderr, 2 is free, and the pipe would become
        # the command's stderr
        guarding = fcntl.fcntl(reading, fcntl.F_DUPFD, 3)
        # a session of its own: so the whole group can be stopped, and a Ctrl-C reaches it once, sent from here
        figures = str(guarding), str(grace), str(silence)
        locale = "" if _has_set_locale() else env.get("LC_CTYPE", "")
        self.leader = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARDED, *figures, locale, path, *command],
            env=env,
            stderr=subprocess.PIPE,
            start_new_session=True,
            close_fds=False,  # those of the shell: 9>lock, <(sort a). Our own are not inheritable.
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
        """Whether all processes of the session have ended. If not, wait ``seconds`` before returning."""
        if not self._is_at_work():
            return True
        time.sleep(seconds)
        return False

    def _is_at_work(self) -> bool:
        if found := list(self._members()):
            # Zombies have ended. They stay for ever in a container whose first process does not reap orphans.
            return any(state not in "ZX" for state, _ in found)
        try:
            os.killpg(self.leader.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def signal(self, number: int) -> bool:
        """Send a signal to the processes of the session. False if some of them belong to another user (sudo)."""
        reached = True
        own = self.leader.pid
        # The command itself first: a shell whose child ended before it might run its next line, and succeed.
        for group in (own, *{group for _, group in self._members()} - {own}):
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                reached = False
        return reached

    def _members(self) -> Iterator[tuple[str, int]]:
        """State and process group of each process of the session."""
        return ((state, group) for state, group, session in _processes() if session == self.leader.pid)

    def report(self) -> None:
        """Tell the guard that this process is at work; to be called often."""
        now = time.monotonic()
        if now - self._reported > self._silence / 8:
            self._reported = now
            with suppress(OSError):  # the guard was killed, or has stopped the command while this process was suspended
                os.write(self._alive, b"+")

    def release(self) -> None:
        """Let the guard exit. Processes that the command has left running may stay."""
        with suppress(OSError):  # the guard was killed
            os.write(self._alive, b".")
        os.close(self._alive)


def _has_set_locale() -> bool:
    """Whether Python has set LC_CTYPE, as it does where no locale is set, such as in cron.

    With it a command would behave otherwise than without pgonce: grep takes text in Latin-1 as binary.
    """
    with suppress(OSError):  # there is no /proc
        return not any(each.startswith(b"LC_CTYPE=") for each in Path("/proc/self/environ").read_bytes().split(b"\0"))
    return False


def _processes() -> Iterator[tuple[str, int, int]]:
    """State, group and session of every process; empty on systems without /proc."""
    for each in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, _parent, group, session, *_ = each.read_text(errors="replace").rpartition(")")[2].split()
            yield state, int(group), int(session)
