"""The console's frame in a real browser: logins, refreshes, keys, themes, widths, no JavaScript, a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Page, Request

import pgonce
from tests.conftest import wait_until
from tests.edge.console.conftest import USERS, Open, log_in, problems, served

Connection = psycopg.Connection[Any]

HOSTILE = '<script>document.title="x"</script>\u202e'
PAGES = ("/", "/webhooks", "/jobs", "/imports", "/alerts", "/audit", "/zone", "/nothing")


@pytest.fixture(scope="module", autouse=True)
def _rows(conn: Connection) -> None:
    """A day with dead letters, a running job, a worker, alerts, and names that nobody should give."""
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, queued, lease, received_at, error_message)"
        " select 'evt_' || n, %s, case n %% 9 when 0 then 'failed' else 'succeeded' end, true, null,"
        " now() - n * interval '20 min', case n %% 9 when 0 then 'KeyError: ' || %s end from generate_series(1, 60) n",
        [f"invoice.{HOSTILE}", HOSTILE],
    )
    conn.execute("select start_job_run(%s)", [f"ledger/100%?#. {HOSTILE}"])
    conn.execute("insert into seed_checkpoints (seed_name, status) values (%s, 'failed')", [f"people:{HOSTILE}"])
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, app, release)"
        " values (gen_random_uuid(), 'events', %s, 7, '1', %s, %s)",
        [HOSTILE] * 3,
    )
    conn.execute("insert into pgonce_alert_channels (channel, looked_at) values ('c', now())")
    conn.execute("select pgonce_collect_alerts('{c}')")
    conn.execute("select pgonce_audit_write(%s, 'run', %s, p_reason => %s, p_actor => %s)", [HOSTILE] * 4)


def refresh(page: Page) -> None:
    """Refresh now, and not at the next time."""
    page.evaluate("htmx.trigger(document.body, 'pgonce:refresh')")


def test_the_first_page_says_what_is_stuck_and_leads_there(open_page: Open) -> None:
    page = open_page("/")
    assert page.inner_text("#q-stuck .say").startswith("6 events")
    assert page.title().startswith("● 6 dead, ")
    assert "icon-bad" in (page.get_attribute("#icon", "href") or "")
    assert "See the cause" in page.inner_text("#q-stuck .do")


@pytest.mark.long
def test_each_page_is_accessible_and_fits_a_telephone(open_page: Open) -> None:
    page = open_page("/", bypass_csp=True)  # axe is injected
    base = page.url.rstrip("/")
    found = {}
    for path in PAGES:
        page.goto(base + path)
        for scheme, width in (("light", 1440), ("dark", 1440), ("light", 360)):
            page.set_viewport_size({"width": width, "height": 800})
            if problem := problems(page, scheme):
                found[path, scheme, width] = problem
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    assert found == {}


def test_names_and_errors_full_of_markup_are_text(open_page: Open) -> None:
    page = open_page("/")
    base = page.url.rstrip("/")
    for path in ("/", "/alerts", "/audit"):
        page.goto(base + path)
        assert page.locator("main script").count() == 0
        assert HOSTILE[:8] in page.inner_text("main")
        assert not page.title().startswith("x")


def test_a_refresh_takes_nothing_from_the_viewer(open_page: Open, conn: Connection) -> None:
    page = open_page("/")
    page.click("summary")
    page.fill("#q", "typed")
    page.evaluate("scrollTo(0, 300)")
    before = page.inner_text("#refresh")
    conn.execute("insert into webhook_events (stripe_event_id, event_type, status) values ('evt_new', 'x', 'failed')")
    wait_until(lambda: page.inner_text("#q-stuck .say").startswith("7 events"), "the sentence is new")
    assert page.inner_text("#refresh") != before
    assert page.title().startswith("● 7 dead, ")
    assert page.input_value("#q") == "typed"
    assert page.evaluate("[document.activeElement.id, document.querySelector('details').open, scrollY]") == [
        "q", True, 300,
    ]  # fmt: skip
    conn.execute("delete from webhook_events where stripe_event_id = 'evt_new'")


def test_the_refresh_pauses_while_text_is_selected_and_on_request(open_page: Open) -> None:
    page = open_page("/")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('h1'))")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    wait_until(lambda: page.inner_text("#pace") == "paused while text is selected", "it pauses")
    page.evaluate("getSelection().removeAllRanges()")
    page.click("#pause")
    assert page.inner_text("#pause") == "Resume"
    asked.clear()
    page.click("#pause")
    wait_until(lambda: bool(asked), "it asks again")


def test_after_a_logout_elsewhere_the_page_says_so_and_stays(open_page: Open, conn: Connection) -> None:
    page = open_page("/")
    conn.execute("delete from pgonce_console_sessions")
    refresh(page)
    wait_until(lambda: "Logged out" in page.inner_text(".foot"), "it says so")
    assert page.inner_text("h1") == "Now"


def test_three_refreshes_that_fail_are_said(open_page: Open) -> None:
    page = open_page("/")
    page.route("**/*", lambda route: route.fulfill(status=503, body="<p id='four' class='live'>broken</p>"))
    for _ in range(3):
        with page.expect_response(lambda answer: answer.status == 503):
            refresh(page)
    wait_until(lambda: page.inner_text("#refresh").startswith("Not updated since "), "it says so")
    assert page.locator("#four li").count() == 4


def test_a_refresh_that_gets_no_answer_is_said(open_page: Open) -> None:
    page = open_page("/")
    page.clock.install()
    page.reload()
    page.route("**/*", lambda _: None)  # as a database that hangs
    with page.expect_request("**/*"):
        page.clock.fast_forward(5_000)
    assert page.inner_text("#refresh").startswith("Updated ")
    page.clock.fast_forward(20_000)
    assert page.inner_text("#refresh").startswith("Not updated since ")
    page.unroute("**/*")


def test_the_keys_find_move_and_help(open_page: Open) -> None:
    page = open_page("/audit")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.goto(page.url.replace("/audit", "/"))
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.closest('tbody').id") == "jobs"


def test_times_are_in_the_viewers_zone_and_another_can_be_chosen(open_page: Open) -> None:
    page = open_page("/")
    assert page.inner_text("#zone") == "Europe/Berlin"
    page.click(".zone a")
    page.fill("[name=zone]", "Asia/Tokyo")
    page.click("text=Use it")
    assert page.inner_text("#zone") == "Asia/Tokyo"
    assert page.inner_text("h1") == "Now"


def test_without_javascript_an_operator_logs_in_mutes_an_alert_and_logs_out(open_page: Open, conn: Connection) -> None:
    page = open_page("/alerts", java_script_enabled=False)
    page.click("text=Mute … >> nth=0")
    page.fill("[name=why]", "it is being mended")
    page.click("button:has-text('Mute')")
    assert page.url.endswith("/alerts")
    assert "by ops: it is being mended" in page.inner_text("main")
    page.goto(page.url.replace("/alerts", "/audit"))
    assert "it is being mended" in page.inner_text("main")
    page.goto(page.url.replace("/audit", "/alerts"))
    page.click("text=Unmute")
    assert conn.execute("select count(*) from pgonce_alert_mutes").fetchone() == (0,)
    page.click("text=Log out")
    assert page.inner_text("h1") == "Log in"
    page.go_back()
    page.reload()
    assert page.inner_text("h1") == "Log in"


def test_a_reader_gets_the_same_pages_without_the_actions(open_page: Open) -> None:
    page = open_page("/alerts", "support")
    assert "support, reader" in page.inner_text(".who")
    assert page.locator("main button, main .btn").count() == 0
    page.goto(page.url.replace("/alerts", "/alerts/mute?id=x"))
    assert "Not understood" in page.inner_text("h1")


@pytest.fixture(scope="module")
def prefixed(url: str) -> Iterator[str]:
    """The address of a console that a proxy shows under /ops/tools, with the path cut off."""
    app = pgonce.Console(url=url, users=USERS, proxies=["127.0.0.1"])

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith("/ops/tools"):
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b"outside of the prefix"})
                return
            path = scope["path"].removeprefix("/ops/tools") or "/"
            headers = [*scope["headers"], (b"x-forwarded-prefix", b"/ops/tools"), (b"x-forwarded-for", b"192.0.2.4")]
            scope = {**scope, "path": path, "headers": headers}
        await app(scope, receive, send)

    with served(proxy, app.stop) as client:
        yield str(client.base_url).rstrip("/")


def test_behind_a_proxy_with_a_prefix_every_address_is_below_it(chromium: Browser, prefixed: str) -> None:
    context = chromium.new_context(timezone_id="Europe/Berlin")
    page = context.new_page()
    outside: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith(f"{prefixed}/ops/tools"):
            outside.append(request.url)

    page.on("request", note)
    page.goto(f"{prefixed}/ops/tools/alerts")
    log_in(page, "ops")
    page.wait_for_selector("#zone >> text=Europe/Berlin")  # the page loads itself again, once, in the viewer's zone
    assert page.url == f"{prefixed}/ops/tools/alerts"
    for link in page.locator("header a, footer a").all():
        assert (link.get_attribute("href") or "").startswith(("/ops/tools/", "#"))
    page.goto(f"{prefixed}/ops/tools/")
    with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true"):
        refresh(page)
    page.click("text=Log out")
    assert page.url == f"{prefixed}/ops/tools/login"
    assert outside == []
    assert re.match(r"/ops/tools", next(cookie["path"] for cookie in context.cookies()))
    context.close()
