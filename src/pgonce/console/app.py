"""``pgonce.Console``: the console as an ASGI app, alone or under any prefix of another one.

Nothing of starlette is imported before the first request, because ``import pgonce`` must work without it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from pgonce.app import App
from pgonce.console.auth import User, UserOf, read_users
from pgonce.console.hosts import is_loopback, networks
from pgonce.core import database
from pgonce.core.lifespan import Receive, Scope, Send, follow_lifespan
from pgonce.errors import InvalidArgument, PgonceError

if TYPE_CHECKING:
    from pgonce.console.shell import Shell
    from pgonce.console.templating import Templates

CONNECTIONS = 4
"""Connections to the database. A page needs one for some milliseconds."""


class Console:
    """The console, an ASGI app: ``api.mount("/console", pgonce.Console(app, user=...))``.

    Somebody must say who may use it: the users in PGONCE_CONSOLE_USERS, ``user``, or a proxy. Without any of them it
    answers only requests that come from this machine to localhost, and not through a proxy.

    Args:
        app: its name stands beside the brand; its schedules show the starts to come, and its imports can be retried.
        url: the database; the default is what ``database.find`` finds.
        schema: where ``pgonce migrate`` put the tables.
        user: called with the ASGI scope of each request, plain or async; returns (name, role), where the role is
            "reader" or "operator", or None if nobody is logged in to the application.
        users: users with passwords, as PGONCE_CONSOLE_USERS has them; None: those of PGONCE_CONSOLE_USERS.
        proxies: addresses or networks of the proxies whose X-Forwarded-For, -Proto, -Host and -Prefix count.
        user_header: the header in which these proxies put the name of the user.
        operators: which of the names in ``user_header`` are operators; the others are readers.
        prefix: the path of the console, where it is not mounted but called by hand.

    Raises:
        InvalidArgument: a user, an address or the prefix cannot be read, or ``user_header`` is given without a proxy.
    """

    def __init__(
        self,
        app: App | None = None,
        *,
        url: str | None = None,
        schema: str = "public",
        user: UserOf | None = None,
        users: str | None = None,
        proxies: Sequence[str] = (),
        user_header: str | None = None,
        operators: Collection[str] = (),
        prefix: str = "",
    ) -> None:
        if user_header is not None and not proxies:
            raise InvalidArgument("a user header needs the address of the proxy that sets it: anybody could send it")
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise InvalidArgument(f"the prefix {prefix!r} must begin with a slash and not end with one")
        self.schema = schema
        self.user_of = user
        self.users: dict[str, User] = read_users(os.environ.get("PGONCE_CONSOLE_USERS", "") if users is None else users)
        self.proxies = networks(proxies)
        self.user_header = user_header
        self.operators = frozenset(operators)
        self.prefix = prefix
        self.app = app
        self.name = app.name.partition(":")[0] if app else ""
        self._url = url
        self._asgi: Any = None
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] | None = None
        self._opening: asyncio.Lock | None = None

    def __repr__(self) -> str:
        return f"<pgonce.Console, {self.access}>"

    @property
    def is_open(self) -> bool:
        """Whether no users are configured. Then only this machine may use it."""
        return self.user_of is None and self.user_header is None and not self.users

    @property
    def access(self) -> str:
        """Who may use it, in words."""
        said = []
        if self.user_of is not None:
            said.append("users of the application")
        if self.user_header is not None:
            said.append(f"users that {', '.join(map(str, self.proxies))} names in {self.user_header}")
        if self.users:
            said.append("1 user with a password" if len(self.users) == 1 else f"{len(self.users)} users with passwords")
        return " and ".join(said) or "this machine only, without a password"

    def check_host(self, host: str) -> None:
        """Refuse to listen where others could reach a console that asks nobody for a password.

        Raises:
            InvalidArgument: ``host`` is not this machine's own address, and nobody says who may use the console.
        """
        if self.is_open and not is_loopback(host):
            raise InvalidArgument(
                f"without users the console listens on 127.0.0.1 only, not on {host}: set PGONCE_CONSOLE_USERS "
                "(hashes by `pgonce console hash`), or name a proxy with --proxy and --user-header"
            )

    def check_installed(self) -> None:
        """Build the pages, so that what is missing is found now.

        Raises:
            PgonceError: a package of the extra "console" is not installed.
        """
        self._built()

    async def pool(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        """The connections to the database, opened at the first request.

        Raises:
            DatabaseUnavailable: the database cannot be reached.
        """
        if self._pool is None:
            self._opening = self._opening or asyncio.Lock()
            async with self._opening:
                if self._pool is None:
                    url = await asyncio.to_thread(database.find, self._url)
                    self._pool = await database.open_async_pool(url, CONNECTIONS)
        return self._pool

    async def stop(self) -> None:
        """Close the connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @asynccontextmanager
    async def lifespan(self, _app: Any = None) -> AsyncIterator[None]:
        """Close the connections with the application that mounts it: ``FastAPI(lifespan=console.lifespan)``."""
        try:
            yield
        finally:
            await self.stop()

    async def shell(self, request: Any) -> Shell:
        """What the frame of a page shows."""
        shell: Shell = await self._built().state.shell.get(request)
        return shell

    @property
    def templates(self) -> Templates:
        """The templates."""
        templates: Templates = self._built().state.templates
        return templates

    def _built(self) -> Any:
        if self._asgi is None:
            try:
                from pgonce.console.routes import build
            except ImportError as error:
                raise PgonceError(f"{error.name} is not installed: pip install 'pgonce[console]'") from error
            self._asgi = build(self)
        return self._asgi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's lifespan."""
        if scope["type"] == "lifespan":
            await follow_lifespan(receive, send, self._start, self.stop)
        elif scope["type"] == "http":
            await self._built()(_below(scope, self.prefix), receive, send)
        else:
            raise RuntimeError(f"the console speaks http, not {scope['type']}")

    async def _start(self) -> None:
        self._built()
        await self.pool()


class Beside:
    """Two ASGI apps in one server: the console below its prefix, and another one everywhere else.

    ``app``, the other one, gets the lifespan.
    """

    def __init__(self, app: Any, console: Console, prefix: str) -> None:
        self._app, self._console, self._prefix = app, console, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's lifespan."""
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
            if path == self._prefix or path.startswith(f"{self._prefix}/"):
                await self._console(scope, receive, send)
                return
        await self._app(scope, receive, send)
        if scope["type"] == "lifespan":
            await self._console.stop()


def _below(scope: Scope, prefix: str) -> Scope:
    """The scope with the console's prefix in ``root_path`` and at the start of ``path``.

    Servers and frameworks differ in whether ``path`` contains ``root_path``.
    """
    root = scope.get("root_path", "").rstrip("/")
    path = scope["path"]
    if root and (path == root or path.startswith(f"{root}/")):
        path = path.removeprefix(root)
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        path = path.removeprefix(prefix)
        root += prefix
    # A page prints its own address, and a browser takes //evil.example for another host, also with a backslash or tab.
    path = "/" + path.lstrip("/\\\t\r\n")
    return {**scope, "root_path": root, "path": root + path, "raw_path": None}
