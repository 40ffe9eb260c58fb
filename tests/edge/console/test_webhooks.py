"""Webhooks in the console: from a customer's id to a replay that succeeds, in a real browser; and hostile content."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from playwright.sync_api import Page

import pgonce
from pgonce.webhooks.worker import Worker
from tests.conftest import wait_until
from tests.edge.console.conftest import Open, problems

Connection = psycopg.Connection[Any]

HOSTILE = "<script>document.title='x'</script><img src=x onerror=alert(1)>\u202e\"'&"
BIG = "x" * 5_000_000


def put(conn: Connection, event: str, event_type: str, payload: dict[str, Any], **columns: Any) -> None:
    columns = {"stripe_event_id": event, "event_type": event_type, "payload": json.dumps(payload), **columns}
    names, marks = ", ".join(columns), ", ".join(["%s"] * len(columns))
    conn.execute(f"insert into webhook_events ({names}) values ({marks})".encode(), list(columns.values()))


def about(event: str, customer: str, **content: Any) -> dict[str, Any]:
    return {"id": event, "created": 1790000000, "data": {"object": {"id": f"in_{customer}", "object": "invoice",
            "customer": customer, "customer_email": "who@shop.example", **content}}}  # fmt: skip


@pytest.fixture(scope="module")
def repaired() -> threading.Event:
    return threading.Event()


@pytest.fixture(scope="module")
def shop(conn: Connection, url: str, repaired: threading.Event) -> Iterator[None]:
    """A worker whose handler fails until it is repaired, and an invoice that it has failed on."""
    app = pgonce.App()

    @app.webhook("invoice.paid")
    def sync_invoice(event: pgonce.Event, tx: Connection) -> None:
        if not repaired.is_set():
            raise KeyError("discounts")

    conn.execute("create table if not exists done (event text)")
    bodies = [json.dumps({**about(f"evt_paid{n}", f"cus_paid{n}"), "type": "invoice.paid"}) for n in range(3)]
    with Worker(app, url, poll=0.05, max_attempts=1):
        conn.execute(
            "select pgonce_queue_webhooks(%s, '{invoice.paid,invoice.paid,invoice.paid}', %s)",
            [[f"evt_paid{n}" for n in range(3)], bodies],
        )
        dead = "select count(*) = 3 from webhook_events where event_type = 'invoice.paid' and status = 'failed'"
        wait_until(lambda: (conn.execute(dead.encode()).fetchone() or [0])[0], "the dead letters")
        yield


def test_a_failed_event_is_found_by_its_customer_understood_replayed_and_succeeds(
    open_page: Open, conn: Connection, shop: None, repaired: threading.Event
) -> None:
    page = open_page("/")
    page.fill("#q", "cus_paid1")
    page.press("#q", "Enter")
    page.wait_for_url("**/webhooks?customer=cus_paid1")
    page.click("tbody th a")
    page.wait_for_selector("h1:has-text('invoice.paid')")
    why = page.inner_text(".why")
    assert "A dead letter" in why
    assert "KeyError: 'discounts'" in why
    assert "2 other events failed at this line" in why
    assert "sync_invoice" in page.inner_text(".frame")
    assert 'raise KeyError("discounts")' in page.inner_text("pre .at")
    page.click("text=Replay all 3")
    page.wait_for_selector("h1:has-text('Replay 3 events?')")
    said = page.inner_text(".ask")
    assert "No effect happens twice." in said
    assert "They will probably fail again." in said  # the worker still has the code that failed
    assert [
        row[0] for row in conn.execute("select distinct status from webhook_events where event_type = 'invoice.paid'")
    ] == ["failed"]
    repaired.set()
    page.fill("[name=why]", "mended in 2")
    page.click("text=Replay 3 events >> nth=-1")
    page.wait_for_selector("#state:has-text('Done')", timeout=60_000)  # by refreshes alone
    page.reload()
    assert "3 of 3 have an outcome" in (page.text_content("#progress") or "")
    assert page.locator("tbody .st:has-text('Succeeded')").count() == 6  # the result, and now
    page.click("tbody th a >> nth=1")
    assert "mended in 2" in page.inner_text("#life")
    assert "Replayed by ops" in page.inner_text("#life")
    assert page.locator(".why").count() == 0
    audit = "select actor, action, before, after, reason from pgonce_audit where action = 'replay'"
    assert conn.execute(audit.encode()).fetchall() == [("ops", "replay", "3 failed", "queued", "mended in 2")]


def test_a_replay_of_what_has_succeeded_asks_for_its_number_without_javascript_too(
    open_page: Open, conn: Connection
) -> None:
    for number in range(2):
        put(
            conn,
            f"evt_again{number}",
            "again",
            about(f"evt_again{number}", "cus_again"),
            status="succeeded",
            lease=None,
        )
    # Somebody has a handler for them, so no worker ignores them, and nobody handles them: they stay queued.
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, handlers)"
        " values (gen_random_uuid(), 'events', 'elsewhere', 1, '0', '{again}')"
    )
    page = open_page("/webhooks?customer=cus_again", java_script_enabled=False)
    for box in page.locator("tbody [type=checkbox]").all():
        box.check()
    page.click("text=Replay selected")
    assert "2 events have succeeded before: their effects happen again." in page.inner_text(".ask")
    page.fill("[name=confirm]", "3")
    page.click("text=Replay 2 events >> nth=-1")
    assert "Type the number of events, 2, to confirm" in page.inner_text("main")
    page.go_back()
    page.fill("[name=confirm]", "2")
    page.click("text=Replay 2 events >> nth=-1")
    page.wait_for_selector("#said:has-text('2 queued')")
    page.click("text=Stop it")
    assert "Stop asked: not yet stopped" in page.inner_text("#state")


@pytest.mark.parametrize(("at_once", "shown"), [(None, False), (7, True)])
def test_a_replay_of_the_command_line_is_shown_and_downloaded_whole(
    open_page: Open, console: str, conn: Connection, at_once: int | None, shown: bool
) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, queued, payload)"
        " select 'evt_many' || n, 'many', 'failed', true, '{}' from generate_series(1, 10050) n"
    )
    plan = "select pgonce_plan_replay('{\"type\": \"many\"}', 'ops', null, 1000000, %s)"
    [number] = conn.execute(plan, [at_once]).fetchone() or [0]
    conn.execute("select pgonce_start_replay(%s)", [number])
    page = open_page(f"/webhooks/replay?id={number}")
    assert ("At most 7 are queued at a time." in page.inner_text("#said")) is shown
    assert ("At most" in page.inner_text("#said")) is shown
    found = page.request.get(f"{console}/webhooks/replay/table?id={number}").text()
    assert found.count("evt_many") == 10050
    conn.execute("delete from pgonce_replays where id = %s", [number])
    conn.execute("delete from webhook_events where event_type = 'many'")


def test_a_reader_sees_no_action_and_is_refused_by_the_database(
    open_page: Open, conn: Connection, console: str
) -> None:
    put(conn, "evt_reader", "reader", about("evt_reader", "cus_reader"), status="failed", lease=None, queued=True)
    page = open_page("/webhook?id=evt_reader", "support")
    assert page.locator("button:has-text('Replay')").count() == 0
    page.goto(f"{console}/webhooks?customer=cus_reader")
    assert page.locator("[type=checkbox]").count() == 0
    token = page.get_attribute("[name=csrf] >> nth=0", "value") or ""
    cookies = {each["name"]: each["value"] for each in page.context.cookies()}
    headers = {"sec-fetch-site": "same-origin"}
    sent = {"csrf": token, "id": "evt_reader"}
    refused = httpx.post(f"{console}/webhooks/plan", data=sent, cookies=cookies, headers=headers, timeout=30)
    assert refused.status_code == 403
    assert "only an operator may do this" in refused.text
    assert conn.execute("select count(*) from pgonce_replays where who = 'support'").fetchone() == (0,)


@pytest.fixture(scope="module")
def hostile(conn: Connection) -> None:
    """Events whose every text is markup, one of 5 MB, and one with names that an address must escape."""
    trace = f'Traceback (most recent call last):\n  File "/srv/{HOSTILE}.py", line 7, in {HOSTILE}\n    {HOSTILE}\n'
    names = {"status": "failed", "queued": True, "lease": None, "error_message": f"{trace}{HOSTILE}Error: {HOSTILE}"}
    for number in range(3):
        payload = about(f"evt_{HOSTILE}{number}", f"cus_{HOSTILE}", **{HOSTILE: [HOSTILE, number]})
        payload["account"] = payload["api_version"] = HOSTILE
        put(conn, f"evt_{HOSTILE}{number}", f"type.{HOSTILE}", payload, **names)
    put(
        conn,
        "evt_big",
        "big",
        about("evt_big", "cus_big", text=BIG, lines=[HOSTILE] * 1000),
        status="succeeded",
        lease=None,
    )
    put(conn, "evt /.%#?&=+ü", "odd/.%#?", about("evt_odd", "cus_odd"), status="succeeded", lease=None)
    put(conn, "evt_old", "old", {"id": "evt_old"}, status="succeeded", lease=None)


def is_plain_text(page: Page) -> bool:
    """Nothing in the page was made by the content of an event."""
    return bool(page.evaluate("!document.querySelector('main script, main img') && document.title !== 'x'"))


def test_pages_full_of_markup_are_text_accessible_and_fit_a_telephone(
    open_page: Open, console: str, conn: Connection, hostile: None
) -> None:
    page = open_page("/webhooks", bypass_csp=True)  # axe is injected
    event = httpx.QueryParams({"id": f"evt_{HOSTILE}1"})
    paths = ["/webhooks", f"/webhook?{event}", f"/webhook/payload?{event}", "/webhook?id=evt_nobody"]
    paths += [f"/webhooks?{httpx.QueryParams({'customer': f'cus_{HOSTILE}'})}", "/find?q=nothing", "/webhooks/replays"]
    plan = "select pgonce_plan_replay(%s, 'ops', %s)"
    number = conn.execute(plan, [json.dumps({"type": "type.*"}), HOSTILE]).fetchone()
    paths.append(f"/webhooks/replay?id={number and number[0]}")
    found = {}
    for path in paths:
        page.goto(console + path)
        assert is_plain_text(page), path
        for scheme, width in (("light", 1440), ("dark", 1440), ("light", 360)):
            page.set_viewport_size({"width": width, "height": 800})
            if problem := problems(page, scheme):
                found[path, scheme, width] = problem
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
    assert found == {}


def test_signs_that_turn_the_text_are_shown_and_odd_names_lead_to_their_event(
    open_page: Open, console: str, hostile: None
) -> None:
    page = open_page("/webhooks?customer=" + "cus_%3Cscript%3E", "ops")
    page.goto(f"{console}/webhooks?type=type.*")
    assert "\u202e" not in page.inner_text("body") + page.title()
    assert "\\u202e" in page.inner_text("tbody th >> nth=0")
    page.goto(f"{console}/webhooks?type=odd*")
    page.click("tbody th a")
    assert page.inner_text("h1") == "odd/.%#?"


def test_a_payload_of_5_mb_is_read_in_parts_searched_and_downloaded_whole(
    open_page: Open, console: str, conn: Connection, hostile: None
) -> None:
    page = open_page("/webhook?id=evt_big")
    assert len(page.content()) < 100_000
    page.click("summary:has-text('As stored')")
    page.click("text=/The rest, .* MB/")
    assert len(page.content()) < 100_000
    page.fill("main [name=find]", "customer_EMAIL")
    page.click("main button:has-text('Find')")
    assert '"customer_email": "who@shop.example"' in page.inner_text("pre")
    with page.expect_download() as download:
        page.click("text=Download all of it")
    stored = json.loads(download.value.path().read_text("utf-8"))
    assert stored["data"]["object"]["text"] == BIG
    assert download.value.suggested_filename == "evt_big.json"


def test_masked_keys_are_hidden_from_readers_in_the_page_the_json_and_the_download(
    open_page: Open, console: str, hostile: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGONCE_MASK", "customer_email")
    pages = [
        f"{console}{path}?id=evt_big" for path in ("/webhook", "/webhook.json", "/webhook/payload", "/webhook/raw")
    ]
    for name, is_there in (("support", False), ("ops", True)):
        page = open_page("/", name)
        cookies = {each["name"]: each["value"] for each in page.context.cookies()}
        for address in pages:
            answer = httpx.get(address, cookies=cookies, timeout=60)
            assert answer.status_code == 200
            # the page's first part may end before it: 5 MB stand in between
            assert "who@shop.example" not in answer.text or is_there, address
        raw = httpx.get(pages[3], cookies=cookies, timeout=60)
        assert ("who@shop.example" in raw.text) == is_there
        assert len(raw.content) > len(BIG)


def test_who_may_not_see_an_e_mail_address_may_not_look_for_one(
    open_page: Open, console: str, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = {"id": "cus_mail", "object": "customer", "email": "ada@shop.example"}
    put(conn, "evt_mail", "customer.created", {"id": "evt_mail", "data": {"object": customer}})
    monkeypatch.setenv("PGONCE_MASK", "*.email")
    for name, status in (("support", 404), ("ops", 303)):
        cookies = {each["name"]: each["value"] for each in open_page("/", name).context.cookies()}
        answer = httpx.get(f"{console}/find?q=ada@shop.example", cookies=cookies, timeout=60)
        assert answer.status_code == status
        assert ("customer=cus_mail" in answer.headers.get("location", "")) == (name == "ops")


def test_new_events_announce_themselves_and_do_not_shift_the_list(open_page: Open, conn: Connection) -> None:
    put(conn, "evt_first", "announce", {}, status="failed", lease=None, queued=True)
    page = open_page("/webhooks?type=announce")
    page.check("tbody [type=checkbox]")
    put(conn, "evt_second", "announce", {}, status="succeeded", lease=None)
    conn.execute(
        "update webhook_events set status = 'succeeded', error_message = null where stripe_event_id = 'evt_first'"
    )
    page.wait_for_selector("text=1 new event. Show it", timeout=60_000)
    page.wait_for_selector("tbody .st:has-text('Succeeded')")  # the state of the row has changed
    assert page.locator("tbody tr").count() == 1
    assert page.is_checked("tbody [type=checkbox]")
    page.click("text=1 new event. Show it")
    page.wait_for_selector("text=evt_second")
    assert re.findall(r"evt_\w+", page.inner_text("tbody")) == ["evt_second", "evt_first"]


def test_filters_stand_in_the_address_and_each_can_be_dropped(open_page: Open, console: str, hostile: None) -> None:
    page = open_page("/webhooks?type=old&state=succeeded&since=day")
    assert page.locator("tbody tr").count() == 1
    page.click("#states >> text=Dead letters")
    page.wait_for_url("**state=dead**")
    assert "No event matches. Drop a filter above" in page.inner_text("main")
    page.click("text=/State: Dead letters/")
    assert page.locator("tbody tr").count() == 1
    assert page.input_value("[name=type] >> nth=0") == "old"
    data = page.request.get(f"{console}/webhooks.json?type=old").json()
    assert [each["stripe_event_id"] for each in data["events"]["events"]] == ["evt_old"]
    for address in ("/webhooks?state=odd", "/webhooks?since=yesterdayish", "/webhooks?before=x"):
        assert page.request.get(console + address).status == 400


def test_long_names_without_a_space_leave_every_column_in_the_window(open_page: Open, conn: Connection) -> None:
    name = "a_name_that_a_program_has_made." + "x" * 170
    put(conn, f"evt_{name}", name, {}, status="failed", lease=None, queued=True, error_message=f"ValueError: {name}")
    conn.execute("select start_job_run(%s)", [name])
    conn.execute("select pgonce_expect_job(%s, '1 day')", [name])
    conn.execute(
        "insert into pgonce_processes (id, does, host, pid, version, app, release)"
        " values (gen_random_uuid(), 'events', %s, 7, '1', %s, %s)",
        [name] * 3,
    )
    page = open_page("/")
    base = page.url.rstrip("/")
    for width in (1440, 360):
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("/", "/webhooks?state=dead", "/jobs", f"/job?name={name}"):
            page.goto(base + path)
            inside = (
                "[...document.querySelectorAll('main table')].every(t => t.getBoundingClientRect().right <= innerWidth)"
            )
            assert page.evaluate(f"document.documentElement.scrollWidth <= innerWidth && {inside}"), (path, width)
