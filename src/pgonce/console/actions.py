"""How a page acts: one SQL function, which looks up the session's role, changes the rows, and writes the audit."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from pgonce.console.respond import who
from pgonce.console.sessions import write_audit
from pgonce.core.call import Call
from pgonce.core.execute_async import call as run_call
from pgonce.errors import Forbidden

T = TypeVar("T")


async def act(request: Request, call: Call[T], *, noun: str, object: str = "") -> T:  # noqa: A002 -- the audit's column
    """Run an action: a ``pgonce_console_…`` function that takes ``who(request).session`` as p_session.

    The function checks the session's role, and writes the audit in its own transaction. A refusal because of the role
    is written to the audit, too.

    ``noun`` and ``object`` are for the audit of a refusal: webhook, run, job, import or alert, and its id or name.

    Raises:
        Forbidden: the session is a reader's, or has ended.
        PgonceError: what the function refused.
    """
    console = request.app.state.console
    pool = await console.pool()
    try:
        return await run_call(pool, call, console.schema)
    except Forbidden:
        user = who(request)
        verb = call.function.removeprefix("pgonce_console_").partition("_")[0]
        refused = write_audit(
            verb, noun, object, after=f"not done; {user.name} is a {user.role}", actor=user.name,
            address=request.state.address, refused=True,
        )  # fmt: skip
        await run_call(pool, refused, console.schema)
        raise
