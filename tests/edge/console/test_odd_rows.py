"""Pages with few rows, with many, with long ones, and with old ones."""

from __future__ import annotations

from typing import Any

import psycopg
from playwright.sync_api import expect

from tests.edge.console.conftest import Open

Connection = psycopg.Connection[Any]


def test_a_sum_above_a_list_says_that_it_is_of_this_page(conn: Connection, open_page: Open) -> None:
    conn.execute("insert into cron_job_runs (job_name, status, completed_at) values ('job 1', 'succeeded', now())")
    page = open_page("/jobs")
    assert "24:00. 1 run." in page.inner_text(".head")
    conn.execute(
        "insert into cron_job_runs (job_name, status, completed_at)"
        " select 'job ' || n, 'succeeded', now() from generate_series(2, 25) n"
    )
    page.reload()
    assert "24:00. On this page: 20 runs." in page.inner_text(".head")
    page.click("text=/^The jobs after/")
    assert "24:00. On this page: 5 runs." in page.inner_text(".head")
    page.goto(page.url.partition("?")[0] + "?find=job 25")
    assert "24:00. On this page: 1 run." in page.inner_text(".head")
    conn.execute("insert into pgonce_alert_channels (channel, looked_at) values ('c', now())")
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, created_at)"
        " select 'c', 'deliveries_refused', 'r' || n, 'k' || n, 'm', now() - n * interval '1 s'"
        " from generate_series(1, 60) n"
    )
    page.goto(page.url.replace("/jobs", "/alerts").partition("?")[0])
    assert "On this page: 50 open, none muted." in page.inner_text(".head")
    page.click("text=/^Older than/")
    assert "On this page: 10 open, none muted." in page.inner_text(".head")
    conn.execute("delete from pgonce_alerts where dedupe_key <> 'k1'")
    page.goto(page.url.partition("?")[0])
    assert "\n1 open, none muted." in page.inner_text(".head")


def test_a_job_that_has_never_run_has_no_empty_table(conn: Connection, open_page: Open) -> None:
    conn.execute("select pgonce_expect_job('never', '1 hour')")
    page = open_page("/job?name=never")
    assert "Last 0 runs" not in page.inner_text("main")
    expect(page.locator("h2:text('Recent runs') >> xpath=../../p")).to_have_text("No run yet.")
    expect(page.locator("text=All runs")).to_have_count(0)


def test_a_long_scope_is_folded_and_a_short_one_is_not(conn: Connection, open_page: Open) -> None:
    base = None
    for numbers, folds in ((3, 0), (300, 1)):
        [run] = conn.execute(
            "insert into cron_job_runs (job_name, status, completed_at, scope) values ('scoped', 'succeeded', now(),"
            " jsonb_build_object('ids', (select jsonb_agg(n) from generate_series(1, %s) n))) returning id",
            [numbers],
        ).fetchone() or [None]
        page = open_page(f"/run?id={run}")
        expect(page.locator("#scope")).to_have_count(folds)
        base = base or page.evaluate("document.documentElement.scrollHeight")
        assert page.evaluate("document.documentElement.scrollHeight") <= base + 100


def test_a_long_error_is_a_few_lines_in_a_list_and_whole_on_its_page(conn: Connection, open_page: Open) -> None:
    error = "ValueError: " + "a long story, " * 30 + "its end"
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, queued, lease, error_message)"
        " values ('evt_long', 'long.story', 'failed', true, null, %s)",
        [error],
    )
    page = open_page("/webhooks?type=long.story")
    for table in page.locator("main table").all():
        assert "a long story" in table.inner_text()
        assert "its end" not in table.inner_text()
        assert "…" in table.inner_text()
    page.goto(page.url.partition("/webhooks")[0] + "/webhook?id=evt_long")
    assert "its end" in page.inner_text("main")


def test_the_time_of_another_year_lies_beside_what_happened_then(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, payload)"
        " values ('evt_old', 'old', 'succeeded', jsonb_build_object('created', 1700000000))"
    )
    page = open_page("/webhook?id=evt_old")
    for width in (1440, 380):
        page.set_viewport_size({"width": width, "height": 800})
        time = page.locator("#life li:first-child time")
        assert time.evaluate("each => each.scrollWidth <= each.clientWidth"), width


def test_late_events_are_found_by_the_first_page_s_button(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, queued, lease, next_attempt_at)"
        " values ('evt_due', 'late.one', 'failed', true, null, now() - interval '40 minutes')"
    )
    page = open_page("/")
    assert "1 event is due, the oldest for 40 min; 1 of them failed before." in page.inner_text("#q-late")
    page.click("#q-late >> text=See the events")
    row = page.locator("tbody tr", has_text="evt_due")
    expect(row).to_contain_text("Due since")
    expect(row).not_to_contain_text("Next attempt")
    conn.execute("delete from webhook_events where stripe_event_id = 'evt_due'")


def test_a_list_that_ends_before_its_rows_do_says_so(conn: Connection, open_page: Open) -> None:
    conn.execute(
        "insert into seed_checkpoints (seed_name, status, rows_seen, rows_rejected)"
        " values ('many', 'failed', 12001, 12001)"
    )
    conn.execute(
        "insert into pgonce_seed_partitions (seed_name, partition, status)"
        " select 'many', 'p' || n, case when n > 58 then 'failed' else 'complete' end from generate_series(1, 60) n"
    )
    conn.execute(
        'insert into pgonce_seed_rejects (seed_name, row_number, error, reason, "row")'
        " select 'many', n, 'x', case when n in (1, 12001) then 'rare' else 'frequent' end, '{}'"
        " from generate_series(1, 12001) n"
    )
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, completed_at)"
        " select 'seed_runner', 'many', 'failed', now() from generate_series(1, 25)"
    )
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, completed_at)"
        " select 'keyed', 'k' || n, 'succeeded', now() from generate_series(1, 120) n"
    )
    page = open_page("/import?name=many")
    said = page.inner_text("main")
    assert "12,001 rows; counted here are the first 10,000" in said
    assert "58 of 60 complete; 50 are shown" in said
    assert page.inner_text("#partitions tr >> nth=0").startswith("p59")  # what is not complete comes first
    assert "The newest 20." in said
    assert page.inner_text("#resumes tr a >> nth=0") != "20"  # of 25
    page.click("text=rare")
    assert "the 10,000 from here on were searched" in page.inner_text("main")
    page.goto(page.url.partition("/import")[0] + "/job?name=keyed")
    assert "the first 100 keys" in page.inner_text("nav[aria-label=Keys]")
