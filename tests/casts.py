"""Implicit casts that a database may have: with them, some operators and functions are not unique any more.

Those to text were made by hand when PostgreSQL 8.3 took them away, and databases have kept them since. The others are
made for ORMs that send every parameter as text.
"""

from __future__ import annotations

_TO_TEXT = [
    "smallint", "integer", "bigint", "oid", "real", "double precision", "numeric", "date", "time", "timetz",
    "timestamp", "timestamptz", "interval", "uuid",
]  # fmt: skip
_FROM_TEXT = ["jsonb", "uuid", "integer"]
_PAIRS = [(each, "text") for each in _TO_TEXT] + [(a, b) for a in ("text", "varchar") for b in _FROM_TEXT]
IMPLICIT = "".join(f"create cast ({a} as {b}) with inout as implicit;" for a, b in _PAIRS).encode()
