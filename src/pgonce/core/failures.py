"""Reports exceptions of handlers and jobs to the log and to tools that collect errors, without the exceptions' texts.

The text of an exception may contain a payload, a card number or a row. So a log line names its class and its place.
The log record's ``exc_info``, which Sentry and similar tools read, has the class and the frames, but no text. The
traceback with its text is in the database, and a function registered with ``on_error`` gets the exception itself.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import psycopg

from pgonce.errors import PgonceError, first_line

F = TypeVar("F", bound=Callable[[BaseException, str], object])
T = TypeVar("T")
ErrorHook: TypeAlias = Callable[[BaseException, Any], object]
"""Called with the error, and the event or run that failed."""

OURS = str(Path(__file__).parents[1]) + os.sep
"""The folder of pgonce's own code."""
LIBRARIES = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""The folders of Python's library and of installed packages."""

log = logging.getLogger("pgonce")
_hooks: list[Callable[[BaseException, str], object]] = []


def on_error(function: F) -> F:
    """Call ``function(error, what)`` with every exception of a handler or job, in the thread where it was raised.

    ``what`` names the event or job, such as "event evt_1OxABC". What ``function`` raises is logged.
    """
    _hooks.append(function)
    return function


@contextmanager
def hooked(function: Callable[[BaseException, str], object]) -> Iterator[None]:
    """``on_error`` for the time of a block."""
    _hooks.append(function)
    try:
        yield
    finally:
        _hooks.remove(function)


def log_errors(action: Callable[..., T], *arguments: Any) -> T | None:
    """What ``action`` returns; None if it raises. The exception is logged: the thread that calls this goes on.

    ``action`` is pgonce's own, and no handler or job. So the text is logged, too.
    """
    try:
        return action(*arguments)
    except (PgonceError, psycopg.Error) as error:
        log.warning("%s", first_line(error))
    except Exception:
        log.exception("unexpected error in a thread of pgonce; it goes on")
    return None


def is_success(ended: SystemExit) -> bool:
    """Whether the exit code of the process would be 0. It is 1 for what is neither None nor a number."""
    return ended.code is None or (isinstance(ended.code, int) and ended.code == 0)


def log_failure(
    what: str,
    error: BaseException,
    ids: Mapping[str, str] | None = None,
    subject: object = None,
    hook: ErrorHook | None = None,
) -> None:
    """Log at ERROR that ``what`` failed, and call the hooks.

    ``what`` names the event or job in words; ``ids`` become attributes of the log record; ``hook`` gets ``subject``.
    """
    kind, place = type(error), find_place(error)
    hidden = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
    shown = hidden("its text is in the database").with_traceback(error.__traceback__)
    own = f": {str(error).splitlines()[0]}" if isinstance(error, PgonceError) and str(error) else ""
    where = f"{own} ({place})" if place else own
    record = log.makeRecord(
        log.name, logging.ERROR, __file__, 0, "%s failed: %s%s", (what, kind.__name__, where),
        (hidden, shown, error.__traceback__), "log_failure",
    )  # fmt: skip
    record.__dict__.update(ids or {})
    # A formatter prints this instead of a traceback: a traceback quotes lines of code, and these may hold values.
    record.exc_text = " "
    if log.isEnabledFor(logging.ERROR):
        log.handle(record)
    calls: list[tuple[ErrorHook, object]] = [(each, what) for each in _hooks]
    for function, about in [*calls, *([(hook, what if subject is None else subject)] if hook else [])]:
        try:
            function(error, about)
        except BaseException as broken:  # without a traceback, which would show the error it was given
            if isinstance(broken, KeyboardInterrupt):
                raise
            log.error("a function that on_error registered raised %s", type(broken).__name__)  # noqa: TRY400


def traceback_of(error: BaseException) -> str:
    """The traceback with the error's text, to be stored: in the database, it is for those who may read payloads."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:  # noqa: BLE001 -- Python reads attributes that a class may compute, and fail
        found = "".join(traceback.format_tb(error.__traceback__))
        return f"{found}{type(error).__qualname__}, which cannot be printed: {type(broken).__qualname__}"


def find_place(error: BaseException) -> str | None:
    """Where it was raised, as "sync_invoice, billing.py:88": the innermost line of the application's own code."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        compiled = frame.filename.endswith(".pyx")  # psycopg's, named by a relative path
        if not compiled and not frame.filename.startswith((OURS, *LIBRARIES, "<", sys.prefix)):
            return f"{frame.name}, {Path(frame.filename).name}:{frame.lineno}"
    return None
