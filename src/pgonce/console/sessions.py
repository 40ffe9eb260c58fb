"""The calls of ``sql/api/console_access.sql`` and ``console_audit.sql``, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from pgonce.console.auth import User
from pgonce.core.call import Call, Row, clean, row_as, row_or_none, rows_as, value


@dataclass(frozen=True, slots=True)
class Session:
    """The session of a browser that has logged in."""

    id: UUID
    name: str
    role: str
    credential: str


@dataclass(frozen=True, slots=True)
class LoginAttempt:
    """Whether an attempt to log in may be made."""

    allowed: bool
    tries_left: int
    """Attempts left after this one."""
    wait: timedelta
    """Until the next attempt, if this one may not be made."""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """Something that a person did."""

    id: int
    at: datetime
    actor: str
    source: str
    address: str
    session: UUID | None
    action: str
    noun: str
    object: str
    before: str | None
    after: str | None
    reason: str | None
    refused: bool
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditChoices:
    """The people and actions that the audit has."""

    actors: Sequence[str]
    actions: Sequence[str]


def begin_login(name: str, address: str) -> Call[LoginAttempt]:
    """Count an attempt to log in, before the password is looked at."""
    args = {"p_name": clean(name, 200) or " ", "p_address": address}
    return Call("pgonce_console_begin_login", args, row_as(LoginAttempt))


def open_session(hashed: bytes, user: User, address: str, counted_address: str) -> Call[UUID]:
    """Open the session of a person who has logged in; ``counted_address``: the one that ``begin_login`` was given."""
    args = {
        "p_token_hash": hashed,
        "p_name": user.name,
        "p_role": user.role,
        "p_credential": user.credential,
        "p_address": address,
        "p_counted_address": counted_address,
    }
    return Call("pgonce_console_open_session", args, value)


def use_session(hashed: bytes) -> Call[Session | None]:
    """The session of a browser."""
    return Call("pgonce_console_use_session", {"p_token_hash": hashed}, row_or_none(Session))


def end_session(hashed: bytes, reason: str | None = None) -> Call[bool]:
    """Log a browser out."""
    return Call("pgonce_console_end_session", {"p_token_hash": hashed, "p_reason": reason}, value)


def identify(source: str, name: str, role: str, address: str) -> Call[UUID]:
    """The session of a user that somebody else vouches for."""
    args = {"p_source": source, "p_name": clean(name, 200), "p_role": role, "p_address": address}
    return Call("pgonce_console_identify", args, value)


def write_audit(
    action: str,
    noun: str,
    object: str,  # noqa: A002 -- the column's name
    *,
    after: str | None = None,
    actor: str | None = None,
    source: str = "console",
    address: str = "",
    refused: bool = False,
) -> Call[int]:
    """Record what a person did. An action's SQL function does it itself; this is for what has no row to change."""
    texts = {"p_object": object, "p_after": after, "p_actor": actor}
    args = {
        "p_action": action,
        "p_noun": noun,
        **{name: None if text is None else clean(text, 1000) for name, text in texts.items()},
        "p_source": source,
        "p_address": address,
        "p_refused": refused,
    }
    return Call("pgonce_audit_write", args, value)


def list_audit(
    *,
    object: str | None = None,  # noqa: A002 -- the column's name
    actor: str | None = None,
    action: str | None = None,
    before: tuple[datetime, int] | None = None,
    limit: int = 50,
) -> Call[list[AuditLine]]:
    """What people have done, newest first; ``before``: time and id of the last line of the page before."""
    args = {
        "p_object": object,
        "p_actor": actor,
        "p_action": action,
        "p_before": before[0] if before else None,
        "p_before_id": before[1] if before else None,
        "p_limit": limit,
    }
    return Call("pgonce_console_audit", args, rows_as(AuditLine))


def find_pause(noun: str, name: str, since: datetime | None) -> Call[AuditLine | None]:
    """Who paused what is paused ``since``; None: it is not, or it was paused in SQL.

    ``noun``: job or import, because a job may have the name of an import.
    """
    pauses = list_audit(object=name, action="pause")

    def read(rows: Sequence[Row]) -> AuditLine | None:
        made = (line for line in pauses.read(rows) if line.noun == noun and not line.refused)
        return next((line for line in made if since and line.at >= since), None)

    return Call(pauses.function, pauses.args, read)


def audit_choices() -> Call[AuditChoices]:
    """The people and actions to choose from."""
    return Call("pgonce_console_audit_choices", {}, row_as(AuditChoices))
