"""What a page says when it cannot be shown: what happened, and what to do."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import psycopg
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pgonce.console import respond
from pgonce.console.reads import TooMuch
from pgonce.console.security import CrossSite
from pgonce.errors import DatabaseUnavailable, Forbidden, InvalidArgument, LeaseLost, NotFound, PgonceError

log = logging.getLogger("pgonce")

KINDS: tuple[tuple[type[Exception], int, str], ...] = (
    (CrossSite, 403, "Not sent from here"),
    (Forbidden, 403, "Not allowed"),
    (NotFound, 404, "Not found"),
    (TooMuch, 503, "Too much to search"),
    (DatabaseUnavailable, 503, "The database cannot be reached"),
    (LeaseLost, 409, "Somebody else was faster"),
    (InvalidArgument, 400, "Not understood"),
    (PgonceError, 500, "Not possible"),
    (psycopg.Error, 500, "The database refused"),
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened."""

    status: int
    title: str
    message: str


def failure(error: Exception) -> Failure:
    """What a page says of ``error``."""
    if isinstance(error, HTTPException):
        said = {404: "There is no such page.", 405: "This address takes another method."}
        return Failure(error.status_code, "Not found" if error.status_code == 404 else "Not possible",
                       said.get(error.status_code, str(error.detail)))  # fmt: skip
    for kind, status, title in KINDS:
        if isinstance(error, kind):
            text = str(error.diag.message_primary if isinstance(error, psycopg.Error) else error)
            return Failure(status, title, text[:1].upper() + text[1:] + ("" if text.endswith(".") else "."))
    return Failure(500, "An error in the console", "It has been logged. The rest of the console works.")


async def failed(request: Request, error: Exception) -> Response:
    """The page, or JSON, for ``error``. One that nobody expected is logged with its traceback."""
    found = failure(error)
    if not isinstance(error, HTTPException | PgonceError | psycopg.Error):
        log.error("unexpected error in the console at %r", request.scope["path"], exc_info=error)
    if respond.is_json(request):
        body = json.dumps({"error": found.message, "status": found.status})
        return Response(body, found.status, media_type="application/json")
    templates = request.app.state.templates if "app" in request.scope else None
    if templates is None:
        return Response(f"{found.title}. {found.message}\n", found.status, media_type="text/plain")
    try:
        # Without the database there is no frame: to ask for it would take as long as the page itself has waited.
        if getattr(request.state, "user", None) is not None and not isinstance(error, DatabaseUnavailable):
            answer: Response = await templates.respond(request, "error.html", found.status, failure=found)
            return answer
    except (PgonceError, psycopg.Error):  # the database is what is missing
        pass
    bare: Response = templates.render(request, "error.html", found.status, failure=found, shell=None, clock=None)
    return bare
