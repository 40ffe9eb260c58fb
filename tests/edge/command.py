"""Runs ``pgonce`` as a user does: as a process with an exit code and output."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.conftest import wait_until
from tests.forked import PGONCE, Forked

COMMAND = [str(PGONCE)]
SECRET = "whsec_command"
SECONDS = 300
"""How long a command may take."""


def counted(inserted: int = 0, *, updated: int = 0, skipped: int = 0, rejected: int = 0) -> str:
    """The line in which an import prints the counts of its rows."""
    seen = inserted + updated + skipped + rejected
    return f"{seen:,} seen = {inserted:,} inserted + {updated:,} updated + {skipped:,} skipped + {rejected:,} rejected"


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PGONCE_", "STRIPE_"))}
    return kept | {"DATABASE_URL": url, "PGONCE_WEBHOOK_SECRET": SECRET, **more}


def pgonce(url: str, *arguments: str, cwd: Path | None = None, **more: str) -> tuple[int, str, str]:
    """The exit code, standard output and standard error."""
    return run(arguments, environment(url, **more), cwd or Path.cwd())


def run(arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> tuple[int, str, str]:
    """Run ``pgonce`` to its end."""
    with Forked(
        [*COMMAND, *arguments], env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out, err


def shell(line: str, environment: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """The exit code of a command line and what it prints. Bash runs it if it is more than ``pgonce`` with its words."""
    plain = re.fullmatch(r"pgonce( [^|<>;&$`*?~\\#(){}!\n]*)?", line)
    command = [*COMMAND, *shlex.split(line)[1:]] if plain else ["bash", "-c", f"exec 2>&1; {line}"]
    with Forked(
        command, env=environment, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            out = process.communicate(timeout=SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, out


def on_a_terminal(columns: int, url: str, *arguments: str) -> list[str]:
    """The lines that the command prints on a terminal this wide, without colours."""
    ours, its = pty.openpty()
    more = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(url, **more), stdin=its, stdout=its, stderr=its)
    os.close(its)
    said = b""
    with suppress(OSError):  # on Linux the error means that no process holds the other end
        while chunk := os.read(ours, 65536):
            said += chunk
    os.close(ours)
    assert process.wait(60) == 0, said
    return re.sub(r"\x1b\[[\d;]*m", "", said.decode()).splitlines()


@dataclass(frozen=True)
class Running:
    """A long-lived command."""

    process: subprocess.Popen[str]
    log: Path

    def printed(self, text: str) -> bool:
        """Whether it has printed this; fails the test if it has ended instead."""
        said = self.log.read_text("utf-8")
        assert text in said or self.process.poll() is None, said
        return text in said

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.process.poll() is not None

    @property
    def started(self) -> bool:
        """Whether ``pgonce worker`` has printed that it is running."""
        return "worker started" in self.log.read_text("utf-8")

    @property
    def port(self) -> int:
        """The port that ``pgonce serve`` listens on; waits until it does."""
        wait_until(lambda: self.printed("Uvicorn running on"), "the server to listen")
        found = re.search(r"running on http://127.0.0.1:(\d+)", self.log.read_text("utf-8"))
        assert found
        return int(found[1])


@contextmanager
def running(url: str, *arguments: str, cwd: Path, **more: str) -> Iterator[Running]:
    """Start the command; end it by its process id."""
    log = cwd / f"{uuid4().hex}.log"
    with log.open("wb") as output:
        process = Forked([*COMMAND, *arguments], env=environment(url, **more), cwd=cwd, stderr=output)
    try:
        yield Running(process, log)
    finally:
        process.kill()
        process.wait(20)
