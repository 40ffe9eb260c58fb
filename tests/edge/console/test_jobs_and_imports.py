"""Jobs, runs and imports in a real browser, with real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from playwright.sync_api import Page, expect
from psycopg.types.json import Jsonb

import pgonce
from pgonce import Seeds
from pgonce.console.text import visible
from pgonce.core import database
from tests.conftest import wait_until
from tests.edge.command import environment
from tests.edge.console.conftest import USERS, Open, problems, served
from tests.forked import Forked

Connection = psycopg.Connection[Any]

HANGS = """
import sys, time
from pgonce import Jobs, database
from pgonce.errors import LeaseLost
with database.open_pool(database.find()) as pool:
    try:
        with Jobs(pool).run("hangs", window="9 seconds") as run:
            run.progress(18, 41)
            print("started", flush=True)
            sys.stdin.readline()
            with run.transaction() as tx:
                tx.execute("create table written ()")
    except LeaseLost:
        print("refused", flush=True)
"""

IMPORTS = """
import sys
from pgonce import Seeds, database
def source(cursor):
    for n in range((cursor or 0) + 1, 401):
        if n % 50 == 0:
            sys.stdin.readline()
        yield {"n": n}, n
with database.open_pool(database.find()) as pool:
    print(Seeds(pool).run("numbers", source, into="numbers", key=["n"], batch_size=10, total=400).outcome, flush=True)
"""


@contextmanager
def process(script: str, url: str) -> Iterator[subprocess.Popen[str]]:
    started = Forked(
        [sys.executable, "-c", script], env=environment(url), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def go_on(started: subprocess.Popen[str]) -> None:
    assert started.stdin
    started.stdin.write("\n")
    started.stdin.flush()


def one(conn: Connection, query: str, *arguments: Any) -> Any:
    row = conn.execute(query.encode(), arguments).fetchone()
    return row and row[0]


def test_the_host_of_a_hanging_run_is_found_and_the_run_is_ended(url: str, conn: Connection, open_page: Open) -> None:
    with process(HANGS, url) as hanging:
        assert hanging.stdout
        assert hanging.stdout.readline() == "started\n"
        page = open_page("/jobs")
        page.click("td >> text=Running")
        expect(page.locator("#facts")).to_contain_text(f"Process{hanging.pid}")
        expect(page.locator("dl.why")).to_contain_text("Its last heartbeat was")
        page.click("text=Stop …")
        page.fill("[name=why]", "blocks the close")
        page.click("button:text('Stop the run')")
        expect(page.locator("#stop")).to_contain_text("Asked by ops")
        expect(page.locator("#stop")).to_contain_text("“blocks the close”")
        run = one(conn, "select id from cron_job_runs where job_name = 'hangs'")
        asked = "select heartbeat_at > stop_requested_at from cron_job_runs where id = %s"
        wait_until(lambda: one(conn, asked, run), "its next heartbeat")
        page.reload()
        expect(page.locator("#stop")).to_contain_text("Learned, with a heartbeat")
        expect(page.locator("#stop")).to_contain_text("not yet")
        page.click("text=End the run …")
        page.click("button:text('End the run')")
        assert page.evaluate("document.querySelector('[name=why]').validity.valueMissing")
        page.fill("[name=why]", "it does not stop")
        page.click("button:text('End the run')")
        expect(page.locator("#stop")).to_contain_text("Ended by ops")
        assert (
            one(conn, "select error_message from cron_job_runs where id = %s", run) == "ended by hand: it does not stop"
        )
        go_on(hanging)
        assert hanging.stdout.readline() == "refused\n"
    assert one(conn, "select to_regclass('written')") is None
    lines = conn.execute("select action, actor, reason from pgonce_audit where object = %s order by id", [str(run)])
    assert lines.fetchall() == [("stop", "ops", "blocks the close"), ("end", "ops", "it does not stop")]


def width(page: Page) -> float:
    drawn = page.locator("#progress rect.b-run, #progress rect.b").first.get_attribute("width") or "0"
    return float(drawn.rstrip("%"))


def test_an_import_is_paused_and_resumed_while_its_bar_moves(url: str, conn: Connection, open_page: Open) -> None:
    conn.execute("create table numbers (n int primary key)")
    with process(IMPORTS, url) as importing:
        seen = "select rows_seen from seed_checkpoints where seed_name = 'numbers'"
        wait_until(lambda: one(conn, seen), "the first batch")
        page = open_page("/import?name=numbers")
        first = width(page)
        go_on(importing)
        wait_until(lambda: width(page) > first, "the bar to move by itself")
        page.fill("[name=why]", "lunch rush")
        page.click("button:text('Pause')")
        expect(page.locator("#pause-life")).to_contain_text("not yet")
        go_on(importing)
        assert importing.stdout
        assert importing.stdout.readline() == "paused\n"
        page.reload()
        expect(page.locator("#state")).to_contain_text("Paused")
        expect(page.locator("#pause-life")).not_to_contain_text("not yet")
    page.click("button:text('Resume')")
    assert one(conn, "select paused_at from seed_checkpoints where seed_name = 'numbers'") is None
    with process(IMPORTS, url) as importing:
        for _ in range(8):
            go_on(importing)
        assert importing.stdout
        assert importing.stdout.readline() == "complete\n"
    page.reload()
    expect(page.locator("#left")).to_have_text("Complete")
    expect(page.locator("#sum")).to_contain_text("Equal")
    expect(page.locator("#resumes tr")).to_have_count(2)


def test_a_reader_sees_no_action_and_is_refused_one_by_the_database(conn: Connection, open_page: Open) -> None:
    run = one(conn, "insert into cron_job_runs (job_name) values ('guarded') returning id")
    page = open_page(f"/run?id={run}", "support")
    assert page.locator("text=End the run").count() == 0
    token = page.locator(".who [name=csrf]").get_attribute("value") or ""
    answer = page.request.post(
        page.url.partition("/run")[0] + "/run/end", form={"csrf": token, "id": str(run), "why": "x"},
        headers={"sec-fetch-site": "same-origin"}, max_redirects=0,
    )  # fmt: skip
    assert answer.status == 403
    assert "Support is a reader: only an operator may do this." in answer.text()
    assert one(conn, "select status from cron_job_runs where id = %s", run) == "running"
    assert one(conn, "select refused from pgonce_audit where object = %s", str(run)) is True


def test_rejected_rows_are_retried_by_a_console_that_has_the_import(
    url: str, conn: Connection, open_page: Open
) -> None:
    app = pgonce.App()
    conn.execute("create table prices (sku text primary key, price int check (price > 0))")

    @app.seed("prices", into="prices", key=("sku",), max_rejects=9)
    def prices(_: object) -> Iterator[tuple[dict[str, object], int]]:
        yield {"sku": "mug", "price": 5}, 1
        yield {"sku": "tea", "price": -1}, 2

    with database.open_pool(url) as pool:
        Seeds(pool).run(app.get_seed("prices"))
    console = pgonce.Console(app, url=url, users=USERS)
    with served(console, console.stop) as client:
        page = open_page("/import?name=prices", base=str(client.base_url).rstrip("/"))
        expect(page.locator("main")).to_contain_text("23514")
        page.click("tbody th a:text('prices_price_check')")
        expect(page.locator("td:text('-1')")).to_be_visible()
        expect(page.locator(".head")).to_contain_text("prices_price_check")
        page.go_back()
        conn.execute("insert into cron_job_runs (job_name, key) values ('seed_runner', 'prices')")
        page.click("text=Retry 1 row …")
        expect(page.locator("button:text('Retry 1 row')")).to_be_disabled()
        page.eval_on_selector("button:text('Retry 1 row')", "button => { button.disabled = false; button.click(); }")
        expect(page.locator(".err")).to_contain_text("nothing was retried")
        conn.execute("delete from cron_job_runs where job_name = 'seed_runner' and status = 'running'")
        page.reload()
        conn.execute("alter table prices drop constraint prices_price_check")
        page.click("text=Retry 1 row …")
        page.fill("[name=why]", "the check was wrong")
        page.click("button:text('Retry 1 row')")
        wait_until(lambda: one(conn, "select count(*) from prices") == 2, "the retry")
    assert one(conn, "select reason from pgonce_audit where object = 'prices'") == "the check was wrong"


HOSTILE = "<script>alert(1)</script> a/b.c % # ? \u202e&amp; "
NAME = f" {HOSTILE}\n\r\n\r"


def test_any_name_can_be_followed_from_the_lanes_to_its_run(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, completed_at, error_message, scope) "
        "values (%s, %s, 'failed', now(), %s, %s)",
        [NAME, NAME, f"ValueError: {HOSTILE}", Jsonb({HOSTILE: HOSTILE})],
    )
    page = open_page("/jobs")
    page.click(".lane a:text('alert(1)')")
    assert (page.locator("h1").text_content() or "").split() == visible(f"{NAME} {NAME}").split()
    page.click("#runs a >> nth=0")
    expect(page.locator("pre").first).to_contain_text("<script>")
    page.click(".crumb a >> nth=1")
    expect(page.locator("h1")).to_contain_text("<script>")
    page.fill("[name=why] >> nth=-1", HOSTILE)
    page.click("text=Pause its starts")
    expect(page.locator("dl.why")).to_contain_text("By whomops")
    assert one(conn, "select job_name from pgonce_job_pauses") == NAME
    page.click("text=Resume its starts")
    assert one(conn, "select count(*) from pgonce_job_pauses") == 0
    page.goto(f"{page.url.partition('?')[0]}?{urlencode({'name': NAME, 'key': NAME})}")
    page.click("button:text('Run now')")
    expect(page.locator("#requests")).to_be_visible()
    assert one(conn, "select array[job_name, key] from pgonce_job_requests") == [NAME, NAME]
    page.click("#expect summary")
    page.click("button:text('Expect')")
    expect(page.locator("#expectations")).to_be_visible()
    assert one(conn, "select array[job_name, key] from pgonce_job_expectations") == [NAME, NAME]


def test_a_page_stays_small_whatever_a_run_or_row_says(conn: Connection, open_page: Open) -> None:
    page = open_page("/jobs")
    base = page.url.partition("/jobs")[0]
    large = "<&'" * 1_700_000
    run = one(
        conn, "insert into cron_job_runs (job_name, status, completed_at, error_message, scope) "
        "values ('large', 'failed', now(), %s, %s) returning id", f"ValueError: {large}", Jsonb({"x": large}),
    )  # fmt: skip
    deep = one(
        conn, "insert into cron_job_runs (job_name, status, completed_at, scope) "
        "values ('deep', 'failed', now(), (repeat('[', 4000) || repeat(']', 4000))::jsonb) returning id",
    )  # fmt: skip
    reject = one(
        conn, 'insert into pgonce_seed_rejects (seed_name, row_number, error, reason, "row") '
        "values ('large', 1, 'x', 'y', %s) returning id", Jsonb({f"c{n}": large[:10_000] for n in range(50)}),
    )  # fmt: skip
    for path in (
        f"/run?id={run}",
        f"/run?id={deep}",
        f"/run.json?id={deep}",
        "/job?name=large",
        f"/import/rejects?name=large&like={reject}",
    ):
        answer = page.request.get(base + path)
        assert answer.status == 200, path
        assert len(answer.body()) < 250_000, path  # every sign here takes five as HTML


def test_the_page_of_a_run_that_went_well_says_what_it_did(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, completed_at, duration_ms, rows_processed, rows_skipped)"
        " values ('well', 'succeeded', now(), 87000, 12345, 1)"
    )
    run = one(conn, "select id::text from cron_job_runs where job_name = 'well'")
    page = open_page(f"/run?id={run}")
    assert "Processed 12,345 rows and skipped 1 in 87 s." in page.inner_text("main")


def test_without_scripts_a_job_is_requested_and_expected(conn: Connection, open_page: Open) -> None:
    conn.execute("insert into cron_job_runs (job_name, status, completed_at) values ('plain', 'succeeded', now())")
    page = open_page("/job?name=plain", java_script_enabled=False)
    page.click("text=Run now >> nth=-1")
    expect(page.locator("#requests")).to_contain_text("Waits for a worker that has the job")
    page.click("summary:text('Change expectations')")
    page.fill("[name=every]", "2 hours")
    page.click("button:text('Expect')")
    expect(page.locator("#expectations")).to_contain_text("Runs every 2 hours")
    assert one(conn, "select every::text from pgonce_job_expectations where job_name = 'plain'") == "02:00:00"


def test_a_job_shows_whether_its_runs_take_less_than_expected(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms)"
        " select 'timed', 'succeeded', at, at + n * interval '7 min', n * 420000 from generate_series(1, 3) n,"
        " lateral (select now() - interval '4 hours' + n * interval '1 hour' as at) t"
    )
    page = open_page("/job?name=timed")
    page.click("summary:text('Change expectations')")
    page.fill("[name=every]", "")
    page.fill("[name=within]", "90 minutes")
    page.click("button:text('Expect')")
    expect(page.locator("#expectations")).to_have_text(
        re.compile(r"\s*Takes less than 90 minutes\s*Kept by 3 of 3 runs\s*")
    )
    page.click("summary:text('Change expectations')")
    assert page.input_value("[name=within]") == "90 minutes"
    page.fill("[name=within]", "20 min")
    page.click("button:text('Expect')")
    expect(page.locator("#expectations")).to_contain_text("Missed: 21 min. Kept by 2 of 3 runs")
    conn.execute("insert into cron_job_runs (job_name, started_at) values ('timed', now() - interval '30 min')")
    page.reload()
    expect(page.locator("#expectations")).to_contain_text("Missed: 30 min so far. Kept by 2 of 4 runs")
    assert one(conn, "select kind from pgonce_diagnose_run((select max(id::text)::uuid from cron_job_runs"
                     " where job_name = 'timed' and status = 'running'))") == "slow"  # fmt: skip


@pytest.fixture(scope="module")
def sample(conn: Connection) -> dict[str, str]:
    """Something on each page; its path."""
    blocker = one(conn, "insert into cron_job_runs (job_name, process, progress_done, progress_total, progress_at) "
                        "values ('sample', 'w:1', 3, 9, now()) returning id")  # fmt: skip
    conn.execute("select start_job_run('sample'), pgonce_stop_job_run(%s)", [blocker])
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms) select 'sample', "
        "'succeeded', now() - n * interval '1 hour', now(), 60000 + n from generate_series(1, 30) n"
    )
    conn.execute(
        "insert into seed_checkpoints (seed_name, rows_seen, rows_inserted, rows_rejected, rows_total) "
        "values ('sampled', 10, 9, 1, 20)"
    )
    conn.execute("select pgonce_note_batch('sampled', '', n, n) from generate_series(1, 9) n")
    reject = one(
        conn, 'insert into pgonce_seed_rejects (seed_name, row_number, error, reason, column_name, "row") '
        "values ('sampled', 1, 'x', '<script>', 'price', %s) returning id",
        Jsonb({"price": "<script>alert(1)</script>", "=1+1": None}),
    )  # fmt: skip
    return {
        "jobs": "/jobs", "week": "/jobs?days=7", "job": "/job?name=sample", "runs": "/job/runs?name=sample",
        "run": f"/run?id={blocker}", "end": f"/run/end?id={blocker}", "imports": "/imports",
        "import": "/import?name=sampled", "proof": "/import/proof?name=sampled",
        "rejects": f"/import/rejects?name=sampled&like={reject}",
    }  # fmt: skip


def test_no_page_has_a_serious_fault_for_people_with_disabilities(sample: dict[str, str], open_page: Open) -> None:
    page = open_page("/jobs", bypass_csp=True)
    base = page.url.partition("/jobs")[0]
    for name, path in sample.items():
        answer = page.goto(base + path)
        assert answer
        assert answer.status == 200, name
        assert len(answer.body()) < 100_000, name
        assert problems(page) == [], name
        assert problems(page, "dark") == [], name
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 360, name
        page.set_viewport_size({"width": 1440, "height": 900})


def test_on_a_telephone_no_label_lacks_its_value_and_no_short_name_is_broken(conn: Connection, open_page: Open) -> None:
    conn.execute("insert into seed_checkpoints (seed_name, rows_seen, rows_inserted, rows_total, last_updated_at) "
                 "values ('catalog_prices', 233000, 233000, 1204300, now() + interval '1 hour')")  # fmt: skip
    conn.execute("insert into pgonce_job_schedules (job_name, cron, timezone, next_tick) "
                 "values ('new', '@daily', 'UTC', now() + interval '1 hour')")  # fmt: skip
    page = open_page("/imports", viewport={"width": 360, "height": 800})
    row = page.locator("main tr", has_text="catalog_prices")
    row.locator("[data-l=Progress] div").evaluate("each => { each.textContent = '19 %, 8.4 to 9.6 min left' }")
    for text in ("catalog_prices", "233,000", "1,204,300"):
        lines = row.get_by_text(text).first.evaluate(
            """(each, text) => { const node = each.firstChild, at = node.data.indexOf(text)
               const range = document.createRange()
               range.setStart(node, at); range.setEnd(node, at + text.length)
               return range.getClientRects().length }""",
            text,
        )
        assert lines == 1, text
    page.goto(page.url.replace("/imports", "/"))
    row = page.locator("#jobs tr", has_text="new")
    assert row.locator("td[data-l=Started]").is_hidden()


def test_each_page_is_data_under_its_name_with_json(sample: dict[str, str], open_page: Open) -> None:
    page = open_page("/jobs")
    base = page.url.partition("/jobs")[0]
    for name in ("jobs", "job", "run", "imports", "import"):
        path, _, query = sample[name].partition("?")
        answer = page.request.get(f"{base}{path}.json?{query}")
        assert answer.status == 200, name
        assert answer.json(), name
    found = page.request.get(f"{base}/import/rejects.csv?name=sampled").text()
    assert "'=1+1" in found or "=1+1" not in re.findall(r"(?m)^=", found)
    assert "<script>alert(1)</script>" in found


def test_what_does_not_exist_is_not_found(open_page: Open) -> None:
    page = open_page("/jobs")
    base = page.url.partition("/jobs")[0]
    for path, status in (
        ("/job?name=nobody", 404), (f"/import?name={quote('a/b%')}", 404), ("/run?id=x", 400),
        ("/run?id=00000000-0000-4000-8000-000000000000", 404), ("/jobs?after=%00", 200),
        ("/import/rejects?name=x&like=y", 400), ("/job/runs?name=x&before=2026-01-01&before_id=1", 400),
    ):  # fmt: skip
        assert page.request.get(base + path).status == status, path


def test_a_day_or_time_that_cannot_be_read_is_said_and_is_not_today(open_page: Open) -> None:
    page = open_page("/jobs?day=")
    base = page.url.partition("/jobs")[0]
    for path in (
        "/jobs?day=2026-02-30", "/jobs?day=yesterday", "/jobs?day=0001-01-01", "/jobs?days=30",
        "/job/runs?name=x&before=soon", "/imports?before=soon&before_name=x",
    ):  # fmt: skip
        page.goto(base + path)
        asked = path.rpartition("=")[2] if "before_name" not in path else "soon"
        expect(page.locator("main")).to_contain_text("ays is 1 or 7" if asked == "30" else f"annot read '{asked}'")


def test_what_is_wrong_with_all_jobs_stands_on_their_first_page_and_not_in_a_search(
    conn: Connection, open_page: Open
) -> None:
    conn.execute("insert into cron_job_runs (job_name, status, completed_at) values ('in trouble', 'failed', now())")
    page = open_page("/jobs")
    base = page.url.partition("/jobs")[0]
    troubles = {query: page.request.get(f"{base}/jobs.json?{query}").json()["troubles"]
                for query in ("", "days=7", "find=other", "after=a&after_key=", "day=2020-01-01")}  # fmt: skip
    assert all("in trouble" in {each["job_name"] for each in troubles[query]} for query in ("", "days=7"))
    assert [query for query, found in troubles.items() if found is None] == list(troubles)[2:]
    expect(page.locator("h2:text('Not as it should be')")).to_be_visible()
    page.goto(f"{base}/jobs?find=trouble")
    expect(page.locator("#lanes-table")).to_contain_text("in trouble")
    expect(page.locator("h2:text('Not as it should be')")).to_have_count(0)
