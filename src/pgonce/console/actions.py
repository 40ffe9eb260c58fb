"""How a page acts: one SQL function, which looks up the session's role, changes the rows, and writes the audit."""

from __future__ import annotations

from typing import Any, TypeVar

from starlette.requests import Request

from pgonce.console.respond import who
from pgonce.console.sessions import write_audit
from pgonce.core.call import Call
from pgonce.core.execute_async import call
from pgonce.errors import Forbidden

T = TypeVar("T")


async def run(console: Any, wanted: Call[T]) -> T:
    """Run a SQL function in a transaction of its own."""
    return await call(await console.pool(), wanted, console.schema)


async def act(request: Request, wanted: Call[T], *, noun: str, object: str = "") -> T:  # noqa: A002 -- the audit's column
    """Run an action: a ``pgonce_console_…`` function that takes ``who(request).session`` as p_session.

    The function checks the session's role, and writes the audit in its own transaction. A refusal because of the role
    is written to the audit, too.

    ``noun`` and ``object`` are for the audit of a refusal: webhook, run, job, import or alert, and its id or name.

    Raises:
        Forbidden: the session is a reader's, or has ended.
        PgonceError: what the function refused.
    """
    console = request.app.state.console
    try:
        return await run(console, wanted)
    except Forbidden:
        user = who(request)
        verb = wanted.function.removeprefix("pgonce_console_").partition("_")[0]
        refused = write_audit(
            verb, noun, object, after=f"not done; {user.name} is a {user.role}", actor=user.name,
            address=request.state.address, refused=True,
        )  # fmt: skip
        await run(console, refused)
        raise
