"""What a page's module needs: its routes, its answer as a page or as JSON, its form, and where it sends the browser."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from pgonce.console.addresses import url
from pgonce.console.auth import Identity
from pgonce.console.reads import Endpoint, cancelled_with_client
from pgonce.console.templating import Templates
from pgonce.core.call import clean
from pgonce.errors import InvalidArgument

LONGEST_FORM = 262_144
"""Bytes of a form."""
MOST_FIELDS = 2000
CSV_PAGE = 5000
"""Rows of a CSV file that are read at once, in a transaction of their own."""


def page(path: str, endpoint: Endpoint, *, json_path: str | None = None) -> list[Route]:
    """The routes of a page: ``path``, and the same with ``.json``, which answers with what the page shows."""
    reads = cancelled_with_client(endpoint)
    return [Route(path, reads), Route(json_path or f"{path}.json", reads)]


def file(path: str, endpoint: Endpoint) -> list[Route]:
    """The route of a file to save."""
    return [Route(path, cancelled_with_client(endpoint))]


def action(path: str, endpoint: Endpoint) -> list[Route]:
    """The route of an action: a POST, which ends with ``go``."""
    return [Route(path, endpoint, methods=["POST"])]


async def respond(request: Request, template: str, result: Any, *, status: int = 200, **more: Any) -> Response:
    """``result`` as JSON if the path ends with .json, else the page ``template``, in which it is called ``page``.

    ``more`` are further names for the template; they are not in the JSON.
    """
    if is_json(request):
        return Response(dump(result), status, media_type="application/json")
    templates: Templates = request.app.state.templates
    return await templates.respond(request, template, status, page=result, **more)


def is_json(request: Request) -> bool:
    """Whether the request is for data, not for a page."""
    return str(request.scope["path"]).endswith(".json")


def dump(result: Any) -> bytes:
    """``result`` as JSON: times in ISO 8601, lengths of time in seconds."""
    try:
        return json.dumps(result, ensure_ascii=False, default=_as_json).encode("utf-8", "replace")
    except RecursionError:
        return b'"nested too deeply to be shown"'


def _as_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return dict(value) if isinstance(value, Mapping) else str(value)


Rows = Iterable[Sequence[object]]


async def csv_file(request: Request, name: str, headings: Sequence[str], pages: AsyncIterator[Rows]) -> Response:
    """A CSV file to save, with all rows of ``pages``. A cell that a spreadsheet would execute gets an apostrophe.

    The first page is read before the answer begins, so that its error is a page. An error after that breaks the answer
    off: a browser says that the download has failed, instead of keeping a file that lacks rows.
    """
    try:
        first = await anext(pages)  # with a default it is a SystemError in Python 3.11 where nothing comes
    except StopAsyncIteration:
        first = ()

    async def body() -> AsyncIterator[bytes]:
        yield _lines([headings, *first])
        async for rows in pages:
            if await request.is_disconnected():
                return
            yield _lines(rows)

    headers = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(body(), headers=headers, media_type="text/csv")


def _lines(rows: Rows) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t", "\r"} else text


def who(request: Request) -> Identity:
    """Who sends the request."""
    user: Identity = request.state.user
    return user


def go(request: Request, path: str, **query: Any) -> Response:
    """Send the browser to a page of the console, after an action (303)."""
    return RedirectResponse(url(request, path, **query), 303)


class Form:
    """The fields of a form, or of a query."""

    def __init__(self, pairs: list[tuple[str, str]], typed: list[tuple[str, str]] | None = None) -> None:
        # what PostgreSQL cannot hold, such as NUL, must not be an error of each page that searches for it
        self._pairs = [(name, clean(text, LONGEST_FORM)) for name, text in pairs]
        self.typed = typed or []
        """The fields of a form without those of its address."""

    def get(self, name: str, default: str = "") -> str:
        """The field's last value, without the space around it."""
        found = [text for key, text in self._pairs if key == name]
        return found[-1].strip() if found else default

    def all(self, name: str) -> list[str]:
        """All values of the field, such as those of checked boxes."""
        return [text for key, text in self._pairs if key == name]


async def form(request: Request) -> Form:
    """The form that was sent. The fields of its address come before its own.

    Names are in the address, because a browser would change a line break in a field to CR LF.

    Raises:
        InvalidArgument: it is larger than `LONGEST_FORM`, has more than `MOST_FIELDS` fields, or is not a form.
    """
    known: Form | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise InvalidArgument("this is not a form: send application/x-www-form-urlencoded")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise InvalidArgument(f"the form is larger than {LONGEST_FORM:,} bytes")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="replace")
    except ValueError:
        raise InvalidArgument("the form cannot be read") from None
    named = [each for each in request.query_params.multi_items() if each[0] != "csrf"]
    found = request.state.form = Form(named + pairs, pairs)
    return found


def query(request: Request) -> Form:
    """The fields of the address."""
    return Form(list(request.query_params.multi_items()))
