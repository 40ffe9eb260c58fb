"""Keys of payloads that readers do not see."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from pgonce.console.auth import Identity

MASK = "•••••• (masked)"


def mask_patterns(user: Identity) -> list[str]:
    """What ``user`` does not see: the patterns in PGONCE_MASK, separated by commas; for an operator nothing.

    A pattern is a key (email) or a glob of a path (*.name, data.*.phone).
    """
    if user.operator:
        return []
    return [each.strip() for each in os.environ.get("PGONCE_MASK", "").split(",") if each.strip()]


def is_masked(path: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the value at this path, or a value around it, is masked."""
    return any(_matches(path[:end], patterns) for end in range(1, len(path) + 1))


def _matches(path: Sequence[str], patterns: Sequence[str]) -> bool:
    dotted = ".".join(path)
    last = path[-1] if path else ""
    return any(
        fnmatchcase(last, each) or fnmatchcase(dotted, each) or fnmatchcase(dotted, f"*.{each}") for each in patterns
    )


def masked(text: str, patterns: Sequence[str]) -> tuple[str, int]:
    """JSON text with `MASK` in place of each masked value, and how many there are. All other signs stay as they are."""
    if not patterns:
        return text, 0
    walk = _Walk(patterns)
    for match in _TOKEN.finditer(text):
        walk.take(match[0], text[match.end() : match.end() + 1])
    return "".join(walk.out), walk.hidden


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\s+|"', re.DOTALL)


class _Walk:
    """Goes through JSON text sign by sign: numbers keep their digits, keys their order, white space its place."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.out: list[str] = []
        self.hidden = 0
        self._patterns = patterns
        self._open: list[tuple[str, str]] = []  # each open bracket, and the key before it
        self._key = ""
        self._at_key = False
        self._skipped = -1  # how many brackets were open where the value began that is left out; -1: none is

    def take(self, sign: str, following: str) -> None:
        """The next sign, and the character after it."""
        if sign in {"{", "["}:
            self._put(sign)
            self._open.append((sign, self._key))
            self._key, self._at_key = "", sign == "{"
        elif sign in {"}", "]"}:
            self._close(sign)
        elif sign == ",":
            self._next()
        elif sign == ":":
            self._value()
        elif self._skipped < 0:
            self.out.append(sign)
            if self._at_key and sign.startswith('"'):
                self._key, self._at_key = _text(sign), False
        elif self._skipped == len(self._open) and sign.isspace() and following in {"}", "]"}:
            self.out.append(sign)

    def _put(self, sign: str) -> None:
        if self._skipped < 0:
            self.out.append(sign)

    def _close(self, sign: str) -> None:
        if self._open:
            self._open.pop()
        if len(self._open) < self._skipped:  # the end of what is around the value that was left out
            self._skipped = -1
        self._put(sign)
        self._at_key = False

    def _next(self) -> None:
        if self._skipped == len(self._open):
            self._skipped = -1
        self._put(",")
        self._at_key = bool(self._open) and self._open[-1][0] == "{"
        self._key = ""

    def _value(self) -> None:
        self._put(":")
        if self._skipped < 0 and _matches([key for _, key in self._open if key] + [self._key], self._patterns):
            self.out.append(f' "{MASK}"')
            self.hidden += 1
            self._skipped = len(self._open)


def _text(literal: str) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal
