"""The addresses of pages."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request


def url(request: Request, path: str, **query: Any) -> str:
    """The address of a page, with the prefix under which the console is mounted: ``url(request, "/job", name=n)``.

    Names belong into the query: there any sign can be in them. None is left out.
    """
    given = {name: str(value) for name, value in query.items() if value is not None}
    return f"{request.scope.get('root_path', '')}{path}{'?' + urlencode(given) if given else ''}"
