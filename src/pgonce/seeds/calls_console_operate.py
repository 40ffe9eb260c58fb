"""The calls of ``sql/api/console_operate.sql`` for imports: an operator's actions, each with its line in the audit."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pgonce.core.call import Call, clean, value


def _args(session: UUID, name: str, reason: str) -> dict[str, Any]:
    return {"p_session": session, "p_seed_name": name, "p_reason": clean(reason, 1000)}


def pause_seed(session: UUID, name: str, reason: str = "") -> Call[bool]:
    """Request the runner to stop after its batch. False: that was requested already."""
    return Call("pgonce_console_pause_seed", _args(session, name, reason), value)


def resume_seed(session: UUID, name: str, reason: str = "") -> Call[bool]:
    """Undo the pause. False: it was not paused."""
    return Call("pgonce_console_resume_seed", _args(session, name, reason), value)


def reset_seed(session: UUID, name: str) -> Call[bool]:
    """Delete checkpoint and rejects; the rows stay. False: it has never run. LeaseLost: a runner imports it."""
    return Call("pgonce_console_reset_seed", _args(session, name, ""), value)


def retry_seed_rejects(session: UUID, name: str, reason: str = "") -> Call[int]:
    """Record a retry of the rejected rows, which the caller does; how many there are."""
    return Call("pgonce_console_retry_seed_rejects", _args(session, name, reason), value)
