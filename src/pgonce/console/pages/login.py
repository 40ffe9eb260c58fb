"""Logging in and out, and the viewer's time zone."""

from __future__ import annotations

import asyncio
from zoneinfo import available_timezones

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pgonce.console import respond, resubmission, sessions
from pgonce.console.actions import run
from pgonce.console.auth import form_token, is_password, new_token, token_hash
from pgonce.console.templating import ZONE_COOKIE, duration, plural, read_zone

LONGEST_NAME = 200


async def show(request: Request) -> Response:
    target = resubmission.target(respond.query(request).get("next"))
    if request.state.user is not None:
        return respond.go(request, target)
    return _form(request, target)


async def log_in(request: Request) -> Response:
    """Compare the password, within the limits of the database, and open a session."""
    console, place = request.app.state.console, request.state.place
    sent = await respond.form(request)
    name, target = sent.get("name"), resubmission.target(sent.get("next"))
    if not 0 < len(name) <= LONGEST_NAME:  # each attempt leaves a row with the name, also in the audit
        wrong = f"Write a name of at most {LONGEST_NAME} signs, and a password."
        return _form(request, target, wrong=wrong, status=422)
    attempt = await run(console, sessions.begin_login(name, place.account_address))
    if not attempt.allowed:
        wait = duration(attempt.wait)
        return _form(request, target, name, f"Too many attempts. The next one is possible in {wait}.", 429)
    user = console.users.get(name)
    async with request.app.state.checking:
        right = await asyncio.to_thread(is_password, (sent.all("password") or [""])[-1], user, console.users.values())
    if not right or user is None:
        said = f"wrong password, {plural(attempt.tries_left, 'try', 'tries')} left"
        refused = sessions.write_audit(
            "login", "session", "", after=said, actor=name, address=place.address, refused=True
        )
        await run(console, refused)
        left = plural(attempt.tries_left, "try is", "tries are")
        return _form(request, target, name, f"Name or password is wrong. {left} left, then 15 min of rest.", 401)
    await run(console, sessions.end_session(token_hash(request.state.token), "another login"))
    token = new_token()  # another one than before the login: somebody may have planted that
    await run(console, sessions.open_session(token_hash(token), user, place.address, place.account_address))
    request.state.new_cookie = token
    if sent.get("again"):
        request.state.form_token = form_token(token)
        return resubmission.show(request, sent.get("again"), resubmission.carried(sent), target, login=False)
    return respond.go(request, target)


async def log_out(request: Request) -> Response:
    console = request.app.state.console
    await run(console, sessions.end_session(token_hash(request.state.token)))
    request.state.new_cookie = new_token()
    return respond.go(request, "/login" if console.users else "/")


async def choose_zone(request: Request) -> Response:
    target = resubmission.target(respond.query(request).get("next"))
    zones = sorted(await asyncio.to_thread(available_timezones))
    return await respond.respond(request, "login/zone.html", None, target=target, zones=zones)


async def set_zone(request: Request) -> Response:
    """Remember the time zone in this browser."""
    sent = await respond.form(request)
    answer: RedirectResponse = respond.go(request, resubmission.target(sent.get("next")))  # type: ignore[assignment]
    path = request.scope.get("root_path") or "/"
    zone = read_zone(sent.get("zone")).key
    answer.set_cookie(
        ZONE_COOKIE, zone, max_age=400 * 86400, path=path, samesite="lax", secure=request.state.place.secure
    )
    return answer


def _form(request: Request, target: str, name: str = "", wrong: str = "", status: int = 200) -> Response:
    sent: respond.Form | None = getattr(request.state, "form", None)
    if sent and sent.get("again"):  # what was typed before the session was over goes through each attempt
        fields = resubmission.carried(sent)
        return resubmission.show(request, sent.get("again"), fields, target, status, login=True, name=name, wrong=wrong)
    answer: Response = request.app.state.templates.render(
        request, "login/login.html", status, target=target, name=name, wrong=wrong
    )
    return answer


routes = [
    *respond.page("/login", show, json_path="/login/state.json"),
    *respond.action("/login", log_in),
    *respond.action("/logout", log_out),
    *respond.page("/zone", choose_zone, json_path="/zone/state.json"),
    *respond.action("/zone", set_zone),
]
