"""Ends a forked child of this process that leaves the user's function, before it goes on with its parent's work."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def ends_forked_child() -> Iterator[None]:
    """If a forked child leaves the block, end it, as Python's multiprocessing does.

    In the child only the thread of the function goes on. It would wait for work for ever, so a parent that waits for
    its child would hang. The exit code is 0, or that of `sys.exit`, or 1 after an error, which is printed.
    """
    pid = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != pid:
            _end(error)
        raise
    if os.getpid() != pid:
        _end(None)


def _end(error: BaseException | None) -> None:
    code: object = 0
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
    elif error is not None:
        code = "".join(traceback.format_exception(error)).rstrip()
    with suppress(Exception):  # a closed or full stderr: the exit code is left
        if not isinstance(code, int):
            sys.stderr.write(f"{code}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code & 0xFF if isinstance(code, int) else 1)
