"""Ends a forked child of this process that leaves the user's function, before it goes on with its parent's work."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress


class ends_forked_child:  # noqa: N801 -- a function to its callers; contextlib's generators cost more for each event
    """If a forked child leaves the block, end it, as Python's multiprocessing does.

    In the child only the thread of the function goes on. It would commit on its parent's connection, and then wait for
    work for ever, so a parent that waits for its child would hang. The exit code is 0, or that of `sys.exit`, or 1
    after an error, which is printed.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if os.getpid() != self._pid:
            _end(error)


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
