"""What somebody tries who may not act: every action, each method, another's token, a session that has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psycopg
import pytest
from starlette.routing import Route

import pgonce
from pgonce.console.routes import build
from tests.edge.console.conftest import PASSWORDS, USERS, served

Connection = psycopg.Connection[Any]
LogIn = Callable[[str], tuple[httpx.Client, str]]
BROWSER = {"sec-fetch-site": "same-origin"}
OWN = {"/login", "/logout", "/zone"}
"""What everybody may post: it concerns nobody else."""
ACTIONS = sorted({
    route.path for route in build(pgonce.Console(users="")).routes
    if isinstance(route, Route) and route.methods and "POST" in route.methods and route.path not in OWN
})  # fmt: skip
ROWS = """
insert into webhook_events (stripe_event_id, event_type, status, queued, next_attempt_at, lease) values
  ('evt_1', 'x', 'failed', true, null, null);
insert into cron_job_runs (id, job_name) values ('11111111-1111-1111-1111-111111111111', 'job');
insert into seed_checkpoints (seed_name, status, paused_at) values ('people', 'failed', null);
insert into pgonce_seed_rejects (seed_name, row_number, error) values ('people', 1, 'x');
insert into pgonce_alerts (id, channel, kind, subject, dedupe_key, message) values
  ('22222222-2222-2222-2222-222222222222', 'c', 'run_failed', 'job', 'k', 'm');
insert into pgonce_replays (status, who, filter, plan) values ('planned', 'support', '{}', '{"events": 1}');
"""
FIELDS = {
    "why": "why", "name": "job", "every": "1 day", "until": "1h", "for": "1 hour", "confirm": "1", "state": "dead",
    "id": "evt_1",
}  # fmt: skip
IDS = {
    "/run/stop": "11111111-1111-1111-1111-111111111111", "/run/end": "11111111-1111-1111-1111-111111111111",
    "/alerts/mute": "22222222-2222-2222-2222-222222222222", "/alerts/unmute": "22222222-2222-2222-2222-222222222222",
    "/webhooks/start": "1", "/webhooks/stop": "1", "/webhooks/replay/start": "1", "/webhooks/replay/stop": "1",
}  # fmt: skip
STATE = """
select (select count(*) from pgonce_audit where not refused and action not in ('login', 'logout')),
  array(select e::text from (select status, ignored_reason, next_attempt_at from webhook_events) e),
  array(select r::text from (select status, stop_requested_at from cron_job_runs) r),
  array(select s::text from (select status, paused_at from seed_checkpoints) s),
  (select count(*) from pgonce_alert_mutes), array(select p::text from (select status from pgonce_replays) p),
  (select count(*) from pgonce_job_requests), (select count(*) from pgonce_job_pauses),
  (select count(*) from pgonce_job_expectations)
"""


@pytest.fixture(scope="module")
def rows(conn: Connection) -> Connection:
    conn.execute(ROWS.encode())
    return conn


@pytest.fixture(scope="module")
def app(url: str) -> Iterator[httpx.Client]:
    """A console whose app has the import, so that only the role is in the way."""
    shop = pgonce.App()

    @shop.seed("people", into="people", key=("id",))
    def people(_: object) -> Iterator[tuple[dict[str, object], int]]:
        yield {"id": 1}, 1

    console = pgonce.Console(shop, url=url, users=USERS)
    with served(console, console.stop) as client:
        yield client


@pytest.fixture
def log_in(app: httpx.Client) -> Iterator[LogIn]:
    """Opens a browser in which this person is logged in; with the token of its forms."""
    with ExitStack() as stack:

        def log_in(name: str) -> tuple[httpx.Client, str]:
            browser = stack.enter_context(httpx.Client(base_url=app.base_url, headers=BROWSER, timeout=30))
            sent = {"csrf": token(browser.get("/login")), "name": name, "password": PASSWORDS[name]}
            assert browser.post("/login", data=sent).status_code == 303
            return browser, token(browser.get("/audit"))

        yield log_in


def token(page: httpx.Response) -> str:
    return page.text.split('name="csrf" value="')[1].split('"')[0]


def form(path: str, csrf: str) -> dict[str, str]:
    name = {"name": "people"} if path.startswith("/import") else {}
    number = {"id": IDS[path]} if path in IDS else {}
    found = {**FIELDS, **name, **number, "csrf": csrf}
    if path == "/webhooks/plan":
        del found["until"]  # of a filter it is a time
    return found


def test_there_are_actions() -> None:
    assert {"/run/end", "/job/pause", "/import/pause", "/alerts/mute", "/webhook/ignore"} <= set(ACTIONS)


@pytest.mark.parametrize("path", ACTIONS)
def test_a_reader_can_do_nothing_and_each_attempt_is_in_the_audit(log_in: LogIn, rows: Connection, path: str) -> None:
    before = rows.execute(STATE.encode()).fetchone()
    count = "select count(*) from pgonce_audit where refused and actor = 'support'"
    [refused] = rows.execute(count.encode()).fetchall()
    reader, csrf = log_in("support")
    answer = reader.post(path, data=form(path, csrf))
    assert (answer.status_code, "is a reader" in answer.text) == (403, True), answer.text[-600:]
    assert rows.execute(STATE.encode()).fetchone() == before
    assert rows.execute(count.encode()).fetchone() == (refused[0] + 1,)


@pytest.mark.parametrize("path", ACTIONS)
def test_no_other_method_acts_for_an_operator(log_in: LogIn, rows: Connection, path: str) -> None:
    before = rows.execute(STATE.encode()).fetchone()
    operator, csrf = log_in("ops")
    given = form(path, csrf)
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"):
        data = None if method in {"GET", "HEAD"} else given
        assert operator.request(method, path, params=given, data=data).status_code != 303
    assert rows.execute(STATE.encode()).fetchone() == before


@pytest.mark.parametrize("path", ACTIONS)
def test_a_form_without_its_own_token_or_from_elsewhere_does_not_act(
    log_in: LogIn, rows: Connection, path: str
) -> None:
    before = rows.execute(STATE.encode()).fetchone()
    operator, csrf = log_in("ops")
    _, other = log_in("ops")  # another browser of the same person
    good = form(path, csrf)
    tries: list[tuple[dict[str, str], dict[str, str]]] = [
        ({**good, "csrf": other}, BROWSER), ({**good, "csrf": ""}, BROWSER), (good, {"sec-fetch-site": "cross-site"}),
        (good, {"sec-fetch-site": "same-site"}),
    ]  # fmt: skip
    for sent, headers in tries:
        assert operator.post(path, data=sent, headers=headers).status_code == 403
    # a token counts in the form only: addresses stand in logs
    bare = {name: value for name, value in good.items() if name != "csrf"}
    assert operator.post(path, params={"csrf": csrf}, data=bare).status_code == 403
    del operator.headers["sec-fetch-site"]
    for origin in ("null", "https://evil.example", f"{operator.base_url}".replace("://", "://evil.")):
        assert operator.post(path, data=good, headers={"origin": origin}).status_code == 403
    assert operator.post(path, data=good).status_code == 403
    operator.headers.update(BROWSER)
    assert operator.post(path, json=good).status_code == 400
    assert rows.execute(STATE.encode()).fetchone() == before


def test_a_replayed_form_and_an_old_cookie_do_nothing_after_the_logout(log_in: LogIn, rows: Connection) -> None:
    before = rows.execute(STATE.encode()).fetchone()
    operator, csrf = log_in("ops")
    cookies = dict(operator.cookies)
    assert operator.post("/logout", data={"csrf": csrf}).status_code == 303
    operator.cookies.clear()
    operator.cookies.update(cookies)
    for path in ACTIONS:
        assert operator.post(path, data=form(path, csrf)).status_code == 401
    assert rows.execute(STATE.encode()).fetchone() == before


def test_a_session_that_has_expired_cannot_act(log_in: LogIn, rows: Connection) -> None:
    operator, csrf = log_in("ops")
    rows.execute("update pgonce_console_sessions set expires_at = now() - interval '1 second'")
    before = rows.execute(STATE.encode()).fetchone()
    for path in ACTIONS:
        assert operator.post(path, data=form(path, csrf)).status_code == 401
    assert rows.execute(STATE.encode()).fetchone() == before


def test_an_operator_ignores_a_dead_letter_with_a_reason(log_in: LogIn, rows: Connection) -> None:
    operator, csrf = log_in("ops")
    assert 'href="/webhook/ignore?id=evt_1"' in operator.get("/webhook?id=evt_1").text
    assert "Ignore this x?" in operator.get("/webhook/ignore?id=evt_1").text
    done = operator.post("/webhook/ignore", data={"csrf": csrf, "id": "evt_1", "why": "a test"})
    assert done.headers["location"] == "/webhook?id=evt_1&said=ignored"
    assert "It is ignored" in operator.get(done.headers["location"]).text
    assert "by ops: a test" in operator.get("/webhook?id=evt_1").text
    again = operator.post("/webhook/ignore", data={"csrf": csrf, "id": "evt_1", "why": "a test"})
    assert again.headers["location"].endswith("not-ignored")
    assert 'href="/webhook/ignore' not in operator.get("/webhook?id=evt_1").text
