"""The environment variables that pgonce reads, and those that look as if they were meant for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_OURS = "PGONCE_"
_NAMES = (
    "ACTOR", "ALERTS", "APP", "CONSOLE_OPERATORS", "CONSOLE_PROXIES", "CONSOLE_USERS", "CONSOLE_USER_HEADER",
    "DATABASE_URL", "DATA_DIR", "IDEMPOTENCY_KEY", "LINK_LOGS", "LINK_TRACES", "LOG", "MASK", "RELEASE", "RUN_ID",
    "SCHEDULED_FOR", "SCHEMA", "TEST_DATABASE_URL", "WEBHOOK_SECRET",
)  # fmt: skip
VARIABLES = frozenset(_OURS + name for name in _NAMES)
"""Variables that pgonce reads, and those that ``pgonce exec`` sets for its command."""

DATABASE_URL_MISSING = "PGONCE_DATABASE_URL_MISSING"
"""Why there is no URL: a command that needs one says so, and does not start the embedded server instead."""

DATABASE_URL_FROM = "PGONCE_DATABASE_URL_FROM"
"""The variable from which PGONCE_DATABASE_URL was taken, because pyproject.toml names it."""

# Kubernetes sets these for each Service; one may be called pgonce-receiver.
_OF_A_SERVICE = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")


def doubts(names: Iterable[str]) -> list[str]:
    """A line for each variable that looks like one of pgonce's and is none, such as PGONCE_ALERT or PGONE_APP."""
    lines = []
    for name in sorted({*names} - VARIABLES - {DATABASE_URL_MISSING, DATABASE_URL_FROM}):
        capital = name.upper()
        if not capital.startswith(_OURS):
            close = get_close_matches(capital, VARIABLES, n=1, cutoff=0.92)
            lines += [f"pgonce reads no variable {name}: did you mean {close[0]}?" for _ in close]
        elif not _OF_A_SERVICE.search(capital):
            close = get_close_matches(capital.removeprefix(_OURS), _NAMES, n=1)
            meant = f"did you mean {_OURS}{close[0]}?" if close else "take it out"
            lines.append(f"pgonce reads no variable {name}: {meant}")
    return lines
