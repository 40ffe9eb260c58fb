"""The logger of pgonce. What a filter, a handler or a record factory of the application's raises does not leave it.

Python's own logger passes on what a filter raises, for example a LookupError outside of a request. Then an error that
was logged ended a thread of the worker, and the failure of its event was not recorded.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any


class Logger(logging.Logger):
    """A logger that raises nothing."""

    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802 -- the name in logging
        """The record; a plain one if the application's factory raises."""
        try:
            return super().makeRecord(*args, **options)
        except Exception as error:  # noqa: BLE001 -- whatever the application's code raises
            _report(error)
            return logging.LogRecord(*args[:7])

    def handle(self, record: logging.LogRecord) -> None:
        """Pass the record to the handlers."""
        try:
            super().handle(record)
        except Exception as error:  # noqa: BLE001 -- as above
            _report(error)


def _report(error: Exception) -> None:
    if logging.raiseExceptions and sys.stderr:  # as logging does with the errors of its handlers
        with suppress(OSError, ValueError):  # a closed stderr
            sys.stderr.write(f"pgonce: a log line is lost or incomplete: the logging raised {type(error).__name__}\n")


logging.getLogger("pgonce").__class__ = Logger  # the application may have made it already, with its handlers
