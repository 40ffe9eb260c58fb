"""The processes that the demo starts. They end with the demo, and the output of one that fails is shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pgonce.errors import PgonceError

PGONCE = (sys.executable, "-c", "from pgonce.cli import main; main(prog_name='pgonce')")
"""The command line of this very installation, whatever is on PATH."""
PATIENCE = 60.0
"""Seconds after which any wait counts as failed. On two cores the longest takes five."""


class DemoFailed(PgonceError):
    """The demo cannot continue: one of its processes failed, or a condition was not met in time."""


def until(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll ``holds`` until it is true.

    Raises:
        DemoFailed: it was not true within ``seconds``; the message names ``what``.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:.0f} s in vain until {what}: is this machine very busy? Try again")
        time.sleep(0.005)


class Child:
    """A running process. Its output is written to a file; if ``loud``, its stderr is that of the demo."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path, *, loud: bool
    ) -> None:
        self.name = name
        self._log = log
        self._loud = loud
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=said,
                stderr=None if loud else said,
                # a session of its own: Ctrl-C reaches the demo only, which then kills its processes
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)

    def wait(self, seconds: float | None = PATIENCE) -> int:
        """Wait until the process ends, and return its exit code. ``seconds=None``: without a limit.

        Raises:
            DemoFailed: it did not end in time.
        """
        if seconds is not None:
            until(lambda: self.exit_code is not None, f"`{self.name}` ends", seconds)
        return self._process.wait()

    def failed(self) -> DemoFailed:
        """The error for a process that ended unexpectedly, with the last lines of its output."""
        said = self._log.read_text(errors="replace").strip().splitlines()[-5:]
        if self._loud:
            said.append("(its output is above)")
        return DemoFailed("\n  ".join([f"`{self.name}` ended with exit code {self.exit_code}", *said]))


class Children:
    """All processes of one demo. At the end of the block those that still run are killed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PGONCE_")}
        self._environment = {**ours, **environment}
        self._started: list[Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix="pgonce-demo-")

    def start(self, *arguments: str, loud: bool = False) -> Child:
        """Start ``pgonce`` with these arguments."""
        return self._start(" ".join(("pgonce", *arguments)), (*PGONCE, *arguments), loud=loud)

    def run(self, *arguments: str) -> None:
        """Run ``pgonce`` with these arguments, and wait until it ends.

        Raises:
            DemoFailed: it failed, or did not end in time.
        """
        self._succeed(self.start(*arguments))

    def run_module(self, module: str) -> None:
        """Run ``python -m module``, and wait until it ends. Raises what ``run`` raises."""
        self._succeed(self._start(f"python -m {module}", (sys.executable, "-m", module), loud=False))

    def _start(self, name: str, command: Sequence[str], *, loud: bool) -> Child:
        log = Path(self._folder.name) / f"{len(self._started)}.log"
        child = Child(name, command, self._environment, log, loud=loud)
        self._started.append(child)
        return child

    @staticmethod
    def _succeed(child: Child) -> None:
        if child.wait() != 0:
            raise child.failed()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._started:
            if child.exit_code is None:
                child.kill()
        self._folder.cleanup()
