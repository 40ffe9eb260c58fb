"""Middleware before every page: who sends the request, whether it is a form of ours, and the browser's cookie."""

from __future__ import annotations

import hashlib
import inspect
import time
from contextlib import suppress
from typing import Any, Literal
from uuid import UUID

from psycopg.errors import ReadOnlySqlTransaction
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgonce.console import respond, resubmission, security, sessions
from pgonce.console.actions import run
from pgonce.console.addresses import url
from pgonce.console.auth import Identity, form_token, new_token, read_role, token_hash
from pgonce.console.errors import failed
from pgonce.console.templating import Templates
from pgonce.core.call import clean
from pgonce.core.processes import person
from pgonce.errors import DatabaseUnavailable, PgonceError

COOKIE = "pgonce_console"
OPEN_PATHS = {"/login"}
"""Paths for people who are not logged in; static files are open, too."""
NOTHING_TYPED = {"/login", "/logout", "/zone"}
"""Forms that are not kept when they come too late."""
CACHED_SECONDS = 60.0
NO_SESSION = UUID(int=0)
"""No row has this id, so the database refuses each action."""


class Gate:
    """Lets a request through to the pages, with ``request.state.user``; or answers it."""

    def __init__(self, app: ASGIApp, console: Any) -> None:
        self._app = app
        self._console = console
        self._known: dict[tuple[str, str, str, str], tuple[float, UUID]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = security.Place(scope, self._console.proxies)
        if place.prefix:
            _go_below(scope, place.prefix)
        request = Request(scope, receive, send)
        cookie = _cookie_name(scope, place.host)
        token = request.cookies.get(cookie, "")
        fresh = not 20 <= len(token) <= 200
        if fresh:
            token = new_token()
        state = request.state
        state.place, state.address, state.token, state.form_token = place, place.address, token, form_token(token)
        state.new_cookie = token if fresh else None

        started = False

        async def with_cookie(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start" and state.new_cookie is not None:
                MutableHeaders(scope=message).append(
                    "set-cookie", _cookie(scope, cookie, state.new_cookie, place.secure)
                )
            await send(message)

        try:
            answer = await self._admit(request, place, cookie, token)
            if answer is None:
                await self._app(scope, receive, with_cookie)
        except Exception as error:
            if started:
                raise
            answer = await failed(request, error)
        if answer is not None:
            await answer(scope, receive, with_cookie)

    async def _admit(self, request: Request, place: security.Place, cookie: str, token: str) -> Response | None:
        """None: the request may go on."""
        path = request.scope["path"].removeprefix(request.scope["root_path"])
        if path.startswith("/static/"):
            return None
        if self._console.is_open and not place.is_local:
            return _plain(403, "This console has no users, so it answers only this machine, at localhost. "
                               "Set PGONCE_CONSOLE_USERS, or mount it with user=.\n")  # fmt: skip
        sent, outdated = None, False
        if request.method not in security.SAFE:
            security.check_origin(request.headers, place.host)
            sent = await respond.form(request)
            try:
                security.check_form_token(sent.get("csrf"), request.state.form_token)
            except security.CrossSite:
                if path in NOTHING_TYPED or not sent.get("csrf"):
                    raise
                outdated = True  # of before a login in another tab
        request.state.user = user = await self._identify(request, place, token)
        if sent is not None and path not in NOTHING_TYPED and (outdated or user is None):
            login = user is None and bool(self._console.users)
            return resubmission.refuse(request, _target(request), sent, 403 if user else 401, login=login)
        if user is not None or path in OPEN_PATHS:
            return None
        if respond.is_json(request) or sent is not None:
            return _plain(401, "Log in first.\n")
        if not self._console.users:
            return _plain(403, "Nobody is logged in, or this user may not see the console.\n")
        if request.headers.get("sec-fetch-site") == "cross-site" and cookie not in request.cookies:
            # After a link on another site the browser withholds the cookie (SameSite=Strict). A page of ours that leads
            # to the same address makes it send the cookie.
            templates: Templates = request.app.state.templates
            return templates.render(request, "login/follow.html", target=_target(request))
        return RedirectResponse(url(request, "/login", next=_target(request)), 303)

    async def _identify(self, request: Request, place: security.Place, token: str) -> Identity | None:
        console = self._console
        if console.user_of is not None:
            found = console.user_of(request.scope)
            if inspect.isawaitable(found):
                found = await found
            if not found:
                return None
            if (
                not isinstance(found, tuple | list)
                or len(found) != 2
                or not all(isinstance(each, str) for each in found)
            ):
                raise PgonceError(
                    f'the function user must return (name, "reader" or "operator") or None, not {_shape(found)}'
                )
            name, role = found
            return await self._vouched("host", name, role, place.address)
        if console.user_header is not None and place.through_proxy:
            if name := security.header(request.scope, console.user_header):
                role = "operator" if name in console.operators else "reader"
                return await self._vouched("proxy", name, role, place.address)
            return None
        if console.users:
            return await self._logged_in(token)
        return await self._vouched("local", person(), "operator", place.address) if console.is_open else None

    async def _vouched(self, source: Literal["host", "proxy", "local"], name: str, role: str, address: str) -> Identity:
        """The identity of a user whom the host, a proxy or the operating system has authenticated.

        Its session is written to the database once a minute. A standby or a server with a full disk cannot store it, so
        there everybody is a reader.
        """
        name = clean(name, 200)
        key = (source, name, read_role(role), address)
        until, session = self._known.get(key, (0.0, None))
        if session is None or time.monotonic() > until:
            if len(self._known) > 1000:
                self._known.clear()
            try:
                session = await run(self._console, sessions.identify(source, name, role, address))
            except DatabaseUnavailable as error:
                if not isinstance(error.__cause__, ReadOnlySqlTransaction):
                    raise
                return Identity(name, "reader", source, NO_SESSION)
            self._known[key] = (time.monotonic() + CACHED_SECONDS, session)
        return Identity(name, read_role(role), source, session)

    async def _logged_in(self, token: str) -> Identity | None:
        found = await run(self._console, sessions.use_session(token_hash(token)))
        if found is None:
            return None
        user = self._console.users.get(found.name)
        if user is None or user.credential != found.credential:
            with suppress(PgonceError):
                await run(self._console, sessions.end_session(token_hash(token), "the password or role was changed"))
            return None
        return Identity(user.name, user.role, "password", found.id)


def _go_below(scope: Scope, prefix: str) -> None:
    """Put a proxy's prefix before the addresses of the pages, also if the proxy has left it in the path."""
    root = scope["root_path"]
    path = scope["path"].removeprefix(root)
    if root != prefix and not root.startswith(f"{prefix}/"):
        root = prefix + root
        pages = {route.path.split("/")[1].partition(".")[0] for route in scope["app"].routes}
        # a prefix such as /jobs is taken for stripped, because the path of a page begins with it, too
        if (path == prefix or path.startswith(f"{prefix}/")) and prefix.split("/")[1] not in pages:
            path = path.removeprefix(prefix) or "/"
    scope["root_path"], scope["path"] = root, root + path


def _target(request: Request) -> str:
    path: str = request.scope["path"].removeprefix(request.scope["root_path"])
    return f"{path}?{request.url.query}" if request.url.query else path


def _cookie_name(scope: Scope, host: str) -> str:
    """The name of the cookie at this address, because a browser sends a cookie to all ports of a host.

    With one name for all, a login at localhost:8002 would end the session at localhost:8001. The prefix counts, too: a
    cookie of / is also sent to /console.
    """
    address = f"{host.lower()}{scope.get('root_path', '')}"
    return f"{COOKIE}_{hashlib.sha256(address.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _cookie(scope: Scope, name: str, token: str, secure: bool) -> str:
    path = scope.get("root_path") or "/"
    return f"{name}={token}; Path={path}; HttpOnly; SameSite=Strict{'; Secure' if secure else ''}"


def _shape(found: Any) -> str:
    """What was returned, without its values."""
    if not isinstance(found, tuple | list):
        return type(found).__name__
    return f"({', '.join(type(each).__name__ for each in found)})"


def _plain(status: int, text: str) -> Response:
    return Response(text, status, media_type="text/plain")
