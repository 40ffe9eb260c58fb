"""Names in the arguments of a command: with commas between them, in double quotes where a name has commas or blanks."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ITEM = re.compile(r'(?:\s*"(?:[^"]|"")*")?[^,]*')
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


def items(text: str) -> list[str]:
    """What stands between the commas of ``text``, except those in the quotes with which an item begins."""
    found, end = list[str](), -1
    while end < len(text):
        item = _ITEM.match(text, end + 1)
        found.append(item[0] if item else "")
        end += 1 + len(found[-1])
    return found


def name_of(item: str) -> str:
    """The name that is written so: without the blanks around it, or as it stands in its quotes."""
    item = item.strip()
    return item[1:-1].replace('""', '"') if _QUOTED.fullmatch(item) else item


def written(names: Iterable[str]) -> str:
    """The same names as an argument, before the shell's own quotes."""
    return ",".join(
        '"' + name.replace('"', '""') + '"' if name != name.strip() or "," in name or name[:1] == '"' else name
        for name in names
    )
