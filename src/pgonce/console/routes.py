"""The console's pages put together: routes, middleware, static files."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import Error
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from pgonce.console.errors import failed
from pgonce.console.gate import Gate
from pgonce.console.pages import alerts, audit, imports, job, jobs, login, now, replays, runs, webhook, webhooks
from pgonce.console.security import Headed
from pgonce.console.shell import ShellCache
from pgonce.console.templating import Templates
from pgonce.errors import PgonceError

PAGES = (now, webhooks, webhook, replays, jobs, job, runs, imports, alerts, audit, login)
"""Each has ``routes``. To add a page: a module here, its templates under templates/, and a line in the navigation of
templates/base.html."""

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "LICENSE": "text/plain"}


def build(console: Any) -> Starlette:
    """The ASGI app behind ``Console``."""
    routes: list[BaseRoute] = [Route("/static/{name}", static)]
    for each in PAGES:
        routes += each.routes
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Headed), Middleware(Gate, console=console)],
        exception_handlers={PgonceError: failed, Error: failed, HTTPException: failed},
    )
    app.router.redirect_slashes = False
    app.state.console = console
    app.state.templates = Templates(console)
    app.state.shell = ShellCache()
    app.state.hours = (float("-inf"), ())  # of the first page: when they were read, and what
    app.state.retries = set()  # of rejected rows: a task that nothing refers to may be collected
    app.state.checking = asyncio.Semaphore(2)  # passwords: scrypt needs 32 MB and a core for each
    return app


async def static(request: Request) -> Response:
    """A file of ours. Its address holds its digest, so a browser may keep it for ever."""
    name = request.path_params["name"]
    body = request.app.state.templates.statics.get(name)
    if body is None:
        raise HTTPException(404)
    kept = {"cache-control": "public, max-age=31536000, immutable" if "v" in request.query_params else "no-cache"}
    return Response(body, headers=kept, media_type=TYPES[name.rpartition(".")[2]])
