"""Real processes to kill, suspend and signal, and what they print, line by line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import wait_until
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[2]
PGONCE = (sys.executable, "-c", "from pgonce.cli import main; main(prog_name='pgonce')")
"""The command ``pgonce``, of this environment."""


class Child:
    """A process and its lines, standard output and error together."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        self.lines: list[str] = []
        kept = {key: value for key, value in os.environ.items() if key not in SETTINGS}
        self.process = Forked(
            command, cwd=cwd, env={**kept, "PYTHONUNBUFFERED": "1", **env}, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(self.process.stdout)

    @property
    def said(self) -> str:
        """Everything that it has printed so far."""
        return "".join(self.lines)

    def until(self, pattern: str, seconds: float = 60) -> re.Match[str]:
        """Wait until it has printed this."""

        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.said)
            assert found or self.process.poll() is None, f"it ended without saying {pattern!r}: {self.said}"
            return found

        found = wait_until(look, f"the process says {pattern!r}", seconds)
        assert isinstance(found, re.Match)
        return found

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, to this process alone."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Send SIGSTOP, and wait until the process is suspended."""
        self.signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def end(self, seconds: float = 60) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.end()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()


SETTINGS = {"DATABASE_URL", "PGONCE_DATABASE_URL", "PGONCE_APP", "PGONCE_SCHEMA", "PGONCE_WEBHOOK_SECRET"}
"""Environment variables of whoever runs the tests, which the processes must not get."""

Start = Callable[..., Child]


@contextmanager
def children(url: str) -> Iterator[Start]:
    """Starts processes on a database; those that still run at the end are killed."""
    started: list[Child] = []

    def start(*command: str, database: str = url, cwd: Path = ROOT, **env: str) -> Child:
        env = {"DATABASE_URL": database, "PGONCE_APP": "tests.faults.webhooks.shop", **env}
        started.append(Child(command, env, cwd))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.kill()
