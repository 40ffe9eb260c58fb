"""The adapters of own statements: psycopg's defaults, whatever the application has registered."""

from __future__ import annotations

import json
from typing import Any

from psycopg.adapt import AdaptersMap
from psycopg.postgres import register_default_adapters, register_default_types
from psycopg.types import TypesRegistry
from psycopg.types.array import register_all_arrays
from psycopg.types.json import set_json_dumps, set_json_loads


def _loads(text: str | bytes) -> Any:
    """The value; the text itself if it is nested deeper than Python reads, which PostgreSQL stores all the same."""
    try:
        return json.loads(text)
    except RecursionError:
        return text if isinstance(text, str) else bytes(text).decode("utf-8", "replace")


def _shipped() -> AdaptersMap:
    types = TypesRegistry()
    register_default_types(types)
    adapters = AdaptersMap(types=types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    # set_json_loads without a context changes the default loader itself, which this map would share
    set_json_loads(_loads, adapters)
    set_json_dumps(json.dumps, adapters)
    return adapters


ADAPTERS = _shipped()
"""Independent of ``psycopg.adapters``, where an application may register loaders and dumpers for all connections."""
