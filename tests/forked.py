"""Starts Python programs by a fork of a process that has imported pgonce: 0.06 s of CPU time instead of 0.3 s.

The program is a child of this process, with its own arguments, environment, folder, descriptors and exit code. Its
limits and its mask are those of ``fork_server.py``. Where a variable differs that is read before a program begins, by
the C library, Python or an import, and outside of Linux, the program is started as usual.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fork_server import SYS_CLONE

PGONCE = Path(sys.executable).with_name("pgonce")


class Forked(subprocess.Popen[str]):
    """A ``subprocess.Popen`` for texts, of ``pgonce`` or of ``python`` with ``-c`` or ``-m``."""

    def __init__(self, command: Any, **options: Any) -> None:
        super().__init__([str(word) for word in command], text=True, **options)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        # these names since Python 3.11: executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        # creationflags, shell, then the two ends of each of the three pipes
        cwd, env, ends = rest[4], {**(os.environ if rest[5] is None else rest[5])}, rest[9:15]
        if not _can_be_forked(args, env):
            super()._execute_child(args, *rest)  # type: ignore[misc] # typeshed leaves it out
            return
        theirs = [own if end == -1 else end for end, own in zip((ends[0], ends[3], ends[5]), range(3), strict=True)]
        request = json.dumps({"arguments": args, "environment": env, "folder": str(cwd or Path.cwd())}).encode()
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(_server())
            socket.send_fds(server, [len(request).to_bytes(4, "big")], theirs)
            server.sendall(request)
            self.pid = int(server.recv(20))
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined] # typeshed leaves it out


def _can_be_forked(args: list[str], env: dict[str, str]) -> bool:
    def read_before(variables: Any) -> dict[str, str]:
        early = re.compile("LC_.*|LANG.*|LD_.*|TZ|PYTHON(?!UNBUFFERED$).*|.*_proxy", re.IGNORECASE)
        return {name: value for name, value in variables.items() if early.fullmatch(name)}

    named = args[0] == str(PGONCE) or (args[0] == sys.executable and args[1] in {"-c", "-m"})
    possible = sys.platform == "linux" and platform.machine() in SYS_CLONE
    return possible and named and read_before(env) == read_before(os.environ)


@functools.cache
def _server() -> str:
    """The address of a running ``fork_server.py``, which ends with this process."""
    address = f"\0pgonce-fork-server-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        program = [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(listener.fileno())]
        _started.append(subprocess.Popen(program, pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL))
    return address


_started: list[subprocess.Popen[bytes]] = []
