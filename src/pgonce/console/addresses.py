"""Addresses: of the console's pages, and of logs and traces elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request

LINKS = {"PGONCE_LINK_LOGS": "Logs", "PGONCE_LINK_TRACES": "Traces"}
"""Environment variables with templates of addresses, such as "https://logs.example/?run={run_id}", and their names."""


def url(request: Request, path: str, **query: Any) -> str:
    """The address of a page, with the prefix under which the console is mounted: ``url(request, "/job", name=n)``.

    Names belong into the query: there any sign can be in them. None is left out.
    """
    given = {name: str(value) for name, value in query.items() if value is not None}
    return f"{request.scope.get('root_path', '')}{path}{'?' + urlencode(given) if given else ''}"


def link(template: str, values: Mapping[str, object]) -> str | None:
    """The address that a template makes; None if it is no address of http, or names a value that there is not."""
    if not template.startswith(("https://", "http://")):
        return None
    try:
        return template.format_map({name: quote(str(value), safe="") for name, value in values.items()})
    except (KeyError, ValueError, IndexError, AttributeError):
        return None


def links(values: Mapping[str, object], environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Where the logs and the traces of a run or an event are: the first template of each whose values there are."""
    found = []
    for variable, name in LINKS.items():
        made = (link(template, values) for template in environment.get(variable, "").split())
        found += [(name, address) for address in made if address is not None][:1]
    return found
