"""A diagnosis: what is the matter with a row that is not final, how we know, and what to do.

The functions in ``sql/api/webhooks_diagnose.sql``, ``jobs_diagnose.sql`` and ``seeds_diagnose.sql`` make it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with one row."""

    kind: str
    """A stable name, such as "dead" or "no_worker"."""
    needs_person: bool
    """Nothing happens by itself."""
    cause: str
    evidence: str
    action: str
    command: str | None
    """What does it; it may be pasted into a shell."""


def command_line(command: str, value: str, options: str = "") -> str:
    """``pgonce COMMAND VALUE OPTIONS``, as it may be pasted into a shell; pgonce_command makes the same in SQL.

    A value that begins with a dash follows "--", after which there are no options.
    """
    word = shlex.quote(value)
    return f"pgonce {command}{options} -- {word}" if value.startswith("-") else f"pgonce {command} {word}{options}"
