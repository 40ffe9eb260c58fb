"""A form that came after its session: nothing is done, and nothing that was typed is lost."""

from __future__ import annotations

import json
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from pgonce.console.respond import Form
from pgonce.console.security import split

_NOT_TYPED = {"csrf", "password"}


def target(given: str) -> str:
    """An address of the console's own, without its prefix; "/" in place of any other, and of the login itself."""
    here = given.startswith("/") and not given.startswith(("//", "/\\")) and given.isprintable()
    return given if here and not given.startswith(("/login", "/logout")) else "/"


def refuse(request: Request, address: str, sent: Form, status: int, *, login: bool) -> Response:
    """The page that says that nothing was done, shows what was sent, and offers to send it again.

    ``address`` is where the form was sent, without the console's prefix; ``login``: a name and a password come first.
    """
    typed = [(name, text) for name, text in sent.typed if name not in _NOT_TYPED]
    came_from = split(request.headers.get("referer", ""))
    page, query = came_from.path.removeprefix(request.scope["root_path"]), came_from.query
    return show(request, address, typed, target(f"{page}?{query}" if query else page), status, login=login)


def show(
    request: Request, address: str, typed: Sequence[tuple[str, str]], page: str, status: int = 200, *, login: bool,
    name: str = "", wrong: str = "",
) -> Response:  # fmt: skip
    """The page of ``refuse``; after a login it has one button, which sends the form."""
    answer: Response = request.app.state.templates.render(
        request, "login/again.html", status, address=target(address), typed=typed, carried=json.dumps(typed),
        target=page, login=login, name=name, wrong=wrong, nobody=status == 401,
        cookieless=status == 403 and request.state.new_cookie is not None,
    )  # fmt: skip
    return answer


def carried(sent: Form) -> list[tuple[str, str]]:
    """The fields that went through the login."""
    try:
        found = json.loads(sent.get("typed"))
        return [(str(name), str(text)) for name, text in found if name not in _NOT_TYPED]
    except (ValueError, TypeError, RecursionError):
        return []
