"""The calls of ``sql/api/webhooks_receive.sql``: whether a delivery could be recorded now."""

from __future__ import annotations

from pgonce.core.call import Call, value


def check_inbox(lock_timeout: str = "1s") -> Call[bool]:
    """Write a row to the inbox and take it back; raises what would keep a delivery from being recorded."""
    return Call("pgonce_check_inbox", {"p_lock_timeout": lock_timeout}, value)
