"""Log lines as JSON, for programs that collect them: ``PGONCE_LOG=json``. Only the commands set up logging."""

from __future__ import annotations

import json
import logging
import os
import traceback
from datetime import UTC, datetime

from pgonce.core.telemetry import current_ids
from pgonce.errors import InvalidArgument

IDS = ("event_id", "event_type", "run_id", "job", "import")


class JsonFormatter(logging.Formatter):
    """One object in a line: time, level, logger, message, and the ids of what the thread or task is at work on."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **current_ids(),
            **{name: getattr(record, name) for name in IDS if hasattr(record, name)},
        }
        if record.exc_info and record.exc_info[0] is not None:
            kind, error, trace = record.exc_info
            line["error"] = f"{kind.__module__}.{kind.__qualname__}"
            if record.exc_text == " ":  # a failure of the application's: its text and its lines may hold a payload
                frames = traceback.extract_tb(trace)
                line["frames"] = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
            else:
                line["traceback"] = "".join(traceback.format_exception(kind, error, trace))
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """The message, and the traceback if it may be shown."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, without the empty line where a traceback was left out."""
        return super().format(record).rstrip()


def is_json() -> bool:
    """Whether PGONCE_LOG asks for JSON.

    Raises:
        InvalidArgument: it is neither ``json`` nor ``text``.
    """
    given = os.environ.get("PGONCE_LOG", "text").strip().lower() or "text"
    if given not in {"json", "text"}:
        raise InvalidArgument(f"PGONCE_LOG is {given!r}: set it to json or text")
    return given == "json"


def configure() -> None:
    """Set up the logging of a command: lines on stderr, as JSON if PGONCE_LOG says so."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if is_json() else TextFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
