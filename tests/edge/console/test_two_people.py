"""Two people act on one thing: the second is told, and nothing is said to be done that was not."""

from __future__ import annotations

from typing import Any

import psycopg
from playwright.sync_api import Page, expect

from tests.edge.console.conftest import Open

Connection = psycopg.Connection[Any]


def both(open_page: Open, path: str) -> tuple[Page, Page]:
    """The same page, as each of them has it before the other one acts."""
    return open_page(path), open_page(path)


def test_a_job_that_somebody_else_has_paused_and_resumed(conn: Connection, open_page: Open) -> None:
    conn.execute("insert into cron_job_runs (job_name, status, completed_at) values ('shared', 'succeeded', now())")
    first, second = both(open_page, "/job?name=shared")
    for page, why, said in (
        (first, "a release", "The job is paused."),
        (second, "a disk", "The job was paused already"),
    ):
        page.fill("form[action*=pause] [name=why]", why)
        page.click("button:text('Pause its starts')")
        expect(page.locator("[role=status]")).to_contain_text(said)
    assert conn.execute("select reason from pgonce_job_pauses").fetchall() == [("a disk",)]
    first, second = both(open_page, "/job?name=shared")
    for page, said in ((first, "The job is resumed."), (second, "It was not paused.")):
        page.click("form[action*=resume] button")
        expect(page.locator("[role=status]")).to_contain_text(said)


def test_an_expectation_that_somebody_else_has_dropped(conn: Connection, open_page: Open) -> None:
    conn.execute("select pgonce_expect_job('expected', '1 day')")
    for page, said in zip(
        both(open_page, "/job?name=expected"),
        ("The expectation is changed.", "Nothing was expected of it"),
        strict=True,
    ):
        page.click("summary:text('Change expectations')")
        page.click("button[name=never]")
        if said.startswith("The"):  # the job is known by its expectation only
            conn.execute("insert into cron_job_runs (job_name) values ('expected')")
            page.goto(page.url)
        expect(page.locator("[role=status]")).to_contain_text(said)


def test_an_import_that_somebody_else_has_paused_and_resumed(conn: Connection, open_page: Open) -> None:
    conn.execute("insert into seed_checkpoints (seed_name) values ('shared')")
    first, second = both(open_page, "/import?name=shared")
    for page, said in ((first, "The pause is asked."), (second, "It was paused already")):
        page.click("form[action*=pause] button")
        expect(page.locator("[role=status]")).to_contain_text(said)
    first, second = both(open_page, "/import?name=shared")
    for page, said in ((first, "The pause is withdrawn."), (second, "It was not paused any more.")):
        page.click("form[action*=resume] button")
        expect(page.locator("[role=status]")).to_contain_text(said)
    audit = conn.execute("select action from pgonce_audit where noun = 'import' order by id").fetchall()
    assert audit == [("pause",), ("resume",)]


def test_an_alert_that_somebody_else_has_muted(conn: Connection, open_page: Open) -> None:
    [alert] = conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message)"
        " values ('c', 'deliveries_refused', 'signature', 'k', 'm') returning id"
    ).fetchone() or [None]
    first, second = both(open_page, f"/alerts/mute?id={alert}")
    for page, why in ((first, "known"), (second, "being mended")):
        page.fill("[name=why]", why)
        page.click("button:has-text('Mute')")
    expect(first.locator("[role=status]")).to_have_count(0)
    expect(second.locator("[role=status]")).to_contain_text("It was muted already")
    first, second = both(open_page, "/alerts")
    for page in (first, second):
        page.click("text=Unmute")
    expect(first.locator("[role=status]")).to_have_count(0)
    expect(second.locator("[role=status]")).to_contain_text("It was not muted any more.")
