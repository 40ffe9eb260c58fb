"""Forks for each connection: `forked.py` sends the arguments, the environment, the folder and three descriptors."""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import platform
import runpy
import signal
import socket
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import TextIO

CLONE_PARENT = 0x8000  # see clone(2)
SYS_CLONE = {"x86_64": 56, "aarch64": 220}
"""The number of the system call, by architecture."""


def fork_sibling() -> int:
    """As ``os.fork``, but the new process is a child of this one's parent, which can wait for it.

    What the C library does at a fork besides concerns other threads, and this process has none.
    """
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = ctypes.PyDLL(None).syscall(SYS_CLONE[platform.machine()], CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid


def serve(listener: socket.socket) -> list[str]:
    """Fork until the parent has ended. Returns in the forked process: the arguments of its program."""
    parent = os.getppid()
    listener.settimeout(1)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(None)
            size, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
            request = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
            if (pid := fork_sibling()) > 0:
                connection.sendall(b"%d" % pid)
        if not pid:
            listener.close()
            become(request["environment"], request["folder"], descriptors)
            arguments: list[str] = request["arguments"]
            return arguments
        for each in descriptors:
            os.close(each)
    sys.exit()


def become(environment: dict[str, str], folder: str, descriptors: list[int]) -> None:
    """Give this process what a new one gets from the one that starts it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
        os.close(each)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), "utf-8")
    unbuffered = "PYTHONUNBUFFERED" in environment
    sys.stdout = text(1, "strict", line_buffering=os.isatty(1), write_through=unbuffered)
    sys.stderr = text(2, "backslashreplace", line_buffering=True, write_through=unbuffered)


def text(number: int, errors: str, *, line_buffering: bool, write_through: bool) -> TextIO:
    """The descriptor as Python opens it at its start."""
    raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=line_buffering, write_through=write_through)


def run(arguments: list[str]) -> None:
    """Run the program as ``python`` does."""
    program, *rest = arguments
    if program == sys.executable:
        option, what, *rest = rest
        sys.argv = [option, *rest]
        sys.path[0] = "" if option == "-c" else os.getcwd()  # noqa: PTH109 -- as Python does
        if option == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
            return
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)
        return
    sys.argv = arguments
    sys.path[0] = str(Path(program).parent)
    sys.exit(pgonce.cli.main())


if __name__ == "__main__":
    import pgonce.cli

    for module in pkgutil.iter_modules(pgonce.cli.__path__, "pgonce.cli."):
        importlib.import_module(module.name)
    for name in ("django.test", "django.db.backends.postgresql.base"):  # the largest of what tests' programs import
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # otherwise a collection in a forked process copies all pages
    run(serve(socket.socket(fileno=int(sys.argv[1]))))
