"""Runs the quickstart of a page as a reader would: python tools/quickstart.py README.md BIN

BIN is the folder of the environment in which pgonce is installed. The blocks up to the end of the section "Quickstart"
are run in their order, in an empty folder, with the embedded server: python
that begins with ``# name.py`` is written to that
file, other python is run; in console blocks ``$ `` is followed by a command and the lines below it are what it prints
(``...`` stands for anything). tests/edge/test_docs.py reads all pages in the same way, from the checkout.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK = re.compile(r"^(<!-- skip: next -->\n)?```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PATIENCE = 60
"""Seconds in which a command must print what the page says: a worker may be at it."""


def fits(printed: str, expected: str) -> bool:
    """Whether ``printed`` is ``expected``, in which ``...`` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), printed, re.DOTALL) is not None


def run(command: str) -> tuple[int, str]:
    """The exit code and what the command prints."""
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1; {command}"], stdout=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
    )
    # the page names a database, here there is none
    lines = done.stdout.splitlines(keepends=True)
    return done.returncode, "".join(line for line in lines if not line.startswith("embedded PostgreSQL in "))


def check(command: str, expected: str) -> None:
    """Run it once; about webhooks again and again: a server may not listen yet, an event not be handled."""
    deadline = time.monotonic() + PATIENCE
    while True:
        code, printed = run(command)
        if fits(printed, expected) and (expected or code == 0):
            print(f"ok  $ {command}")
            return
        if time.monotonic() > deadline or "pgonce webhook" not in command:
            sys.exit(f"$ {command}\nended with {code} and printed:\n{printed}not:\n{expected}")
        time.sleep(0.2)


def main(page: Path, binaries: Path) -> None:
    """Run the blocks of the section in their order."""
    before, after = page.read_text("utf-8").split("\n## Quickstart\n")
    section = before + after.split("\n## ")[0]
    os.environ["PATH"] = os.pathsep.join((str(binaries), os.environ["PATH"]))
    for name in [name for name in os.environ if name.startswith(("PGONCE_", "DATABASE_URL", "PYTHONPATH"))]:
        del os.environ[name]
    servers = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            for skipped, language, text in BLOCK.findall(section):
                if skipped:
                    continue
                if file := re.match(r"# (\w+\.py)\n", text):
                    Path(file[1]).write_text(text, "utf-8")
                elif language == "python":
                    subprocess.run([binaries / "python", "-c", text], check=True, timeout=PATIENCE)
                    print("ok  python")
                else:
                    for command, expected in COMMAND.findall(text):
                        if "pgonce serve" in command:
                            servers.append(subprocess.Popen(["bash", "-c", command], start_new_session=True))
                        else:
                            check(command, expected)
        finally:
            for server in servers:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
