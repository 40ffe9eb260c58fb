"""Globs of event types, as regular expressions for the database."""

from __future__ import annotations

import re
from collections.abc import Sequence

_GLOB = re.compile(r"\*|\?|\[[^\]]+\]|[^*?\[]+|\[")


def any_of(patterns: Sequence[str]) -> str:
    """A regular expression that PostgreSQL and Python read alike, for what any of these globs matches."""

    def part(match: re.Match[str]) -> str:
        text = match[0]
        if len(text) > 1 and text.startswith("["):
            return text.replace("[!", "[^", 1)
        return {"*": ".*", "?": "."}.get(text) or re.escape(text)

    return "^(" + "|".join(_GLOB.sub(part, pattern) for pattern in patterns) + ")$"
