"""The audit: who, from where, in the action's own transaction; and its pages, which leave no row out."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgonce.console.sessions import list_audit
from pgonce.core.execute import execute
from tests.sql.race import value

Connection = psycopg.Connection[Any]


@pytest.fixture
def database(swept_database: str) -> str:
    return swept_database


@pytest.fixture(autouse=True)
def _empty(conn: Connection) -> None:
    conn.execute("truncate pgonce_console_sessions, pgonce_audit, pgonce_alerts, pgonce_alert_mutes")


def test_a_session_says_who_and_from_where(conn: Connection) -> None:
    for source, shown in (("cli", "cli"), ("host", "console"), ("local", "console")):
        session = value(conn, "select pgonce_console_identify(%s, 'eva', 'operator', 'box')", source)
        conn.execute("select pgonce_audit_write('stop', 'run', '7', p_session => %s, p_actor => 'forged')", [session])
        last = conn.execute("select actor, source, address, session from pgonce_audit order by id desc limit 1")
        assert last.fetchone() == ("eva", shown, "box", session)


def test_an_action_without_anybody_is_refused(conn: Connection) -> None:
    for arguments in ("'stop', 'run', '7'", "'', 'run', '7', p_actor => 'x'", "'stop', '', '7', p_actor => 'x'"):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select pgonce_audit_write({arguments})".encode())
        assert caught.value.sqlstate == "22023"


def test_rows_of_the_same_moment_are_on_one_page_only(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_audit (at, actor, source, action, noun, object)"
        " select '2026-11-26', 'eva', 'cli', 'stop', 'run', n from generate_series(1, 25) n"
    )
    seen: list[int] = []
    before = None
    while page := execute(conn, list_audit(before=before, limit=10), "public"):
        seen += [line.id for line in page]
        before = (page[-1].at, page[-1].id)
    assert len(seen) == len(set(seen)) == 25
    assert seen == sorted(seen, reverse=True)


def test_the_filters_find_by_object_person_and_action(conn: Connection) -> None:
    for actor, action, what in (("eva", "stop", "a"), ("tom", "stop", "b"), ("tom", "replay", "evt_1")):
        conn.execute("select pgonce_audit_write(%s, 'run', %s, p_actor => %s)", [action, what, actor])

    def objects(**wanted: str) -> list[str]:
        return [line.object for line in execute(conn, list_audit(**wanted), "public")]  # type: ignore[arg-type]

    assert objects(object="evt_1") == ["evt_1"]
    assert objects(actor="tom") == ["evt_1", "b"]
    assert objects(actor="tom", action="stop") == ["b"]
    assert objects(object="%") == []
    choices = conn.execute("select * from pgonce_console_audit_choices()").fetchone()
    assert choices == (["eva", "tom"], ["replay", "stop"])


ALERT = (
    "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail)"
    " values ('c', %s, %s, %s, 'm', %s) returning id"
)


def test_a_mute_holds_the_alert_back_and_is_audited_and_undone(conn: Connection) -> None:
    operator = value(conn, "select pgonce_console_identify('host', 'eva', 'operator', '')")
    alert = value(conn, ALERT, "deliveries_refused", "signature", "k", "{}")
    mute = "select pgonce_console_mute_alert(%s, %s, %s, 'mended')"
    assert value(conn, mute, operator, alert, "1 hour") is True
    assert value(conn, mute, operator, alert, "2 hours") is False
    until = value(conn, "select muted_until from pgonce_alert_mutes")
    assert conn.execute("select * from pgonce_claim_alerts('c')").fetchall() == []
    line = conn.execute("select muted_until, muted_by, mute_reason, open from pgonce_console_alerts()").fetchone()
    assert line == (until, "eva", "mended", True)
    for length in ("0", "32 days", None):
        with pytest.raises(psycopg.Error):
            conn.execute(mute, [operator, alert, length])
    assert value(conn, "select pgonce_console_unmute_alert(%s, %s)", operator, alert) is True
    assert value(conn, "select pgonce_console_unmute_alert(%s, %s)", operator, alert) is False
    assert len(conn.execute("select * from pgonce_claim_alerts('c')").fetchall()) == 1
    done = conn.execute("select action, left(before, 11), left(after, 11) from pgonce_audit order by id").fetchall()
    assert done == [
        ("mute", "delivered", "muted until"), ("mute", "muted until", "muted until"), ("unmute", "muted", "delivered"),
    ]  # fmt: skip


def test_after_the_clock_was_set_back_a_mute_is_as_long_as_it_was_meant(conn: Connection) -> None:
    operator = value(conn, "select pgonce_console_identify('host', 'eva', 'operator', '')")
    alert = value(conn, ALERT, "deliveries_refused", "signature", "k", "{}")
    conn.execute("select pgonce_console_mute_alert(%s, %s, '1 hour', 'mended')", [operator, alert])
    conn.execute(
        "update pgonce_alert_mutes set muted_at = muted_at + interval '3 hours',"
        " muted_until = muted_until + interval '3 hours'"
    )
    conn.execute("update pgonce_alerts set next_attempt_at = next_attempt_at + interval '3 hours'")
    collect = "select pgonce_collect_alerts('{c}')"
    for _ in range(2):
        conn.execute(collect)
        assert conn.execute("select * from pgonce_claim_alerts('c')").fetchall() == []
        ends = "select muted_until - clock_timestamp() between '59 minutes' and '1 hour' from pgonce_alert_mutes"
        assert value(conn, ends) is True
    conn.execute("update pgonce_alert_mutes set muted_until = clock_timestamp()")
    assert len(conn.execute("select * from pgonce_claim_alerts('c')").fetchall()) == 1


def test_a_page_has_as_many_alerts_however_many_channels_there_are(conn: Connection) -> None:
    conn.execute("insert into pgonce_alert_channels (channel) select 'page_' || n from generate_series(1, 6) n")
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message)"
        " select channel, 'job_failed', 'j' || n, 'j' || n, 'm' from generate_series(1, 12) n, pgonce_alert_channels"
        " where channel like 'page%' order by n, channel"
    )
    page = "select subject, channels, created_at from pgonce_console_alerts(%s, 5)"
    shown: list[tuple[str, int]] = []
    before = None
    while found := conn.execute(page, [before]).fetchall():
        shown += [row[:2] for row in found]
        before = found[-1][2]
    assert shown == [(f"j{number}", 6) for number in range(12, 0, -1)]
    conn.execute("delete from pgonce_alert_channels where channel like 'page%'")


def test_a_reader_cannot_mute_and_leaves_no_trace(conn: Connection) -> None:
    reader = value(conn, "select pgonce_console_identify('host', 'eva', 'reader', '')")
    alert = value(conn, ALERT, "deliveries_refused", "signature", "k", "{}")
    for call in ("mute_alert(%s, %s, '1 hour', 'x')", "unmute_alert(%s, %s)"):
        with pytest.raises(psycopg.Error) as caught:
            conn.execute(f"select pgonce_console_{call}".encode(), [reader, alert])
        assert caught.value.sqlstate == "PT403"
    assert value(conn, "select count(*) from pgonce_alert_mutes") == 0


def test_what_has_closed_by_the_end_of_a_mute_is_not_delivered(conn: Connection) -> None:
    operator = value(conn, "select pgonce_console_identify('host', 'eva', 'operator', '')")
    conn.execute("insert into webhook_events (stripe_event_id, event_type, status) values ('evt_1', 'open', 'failed')")
    for kind in ("open", "closed"):
        alert = value(conn, ALERT, "dead_webhook", kind, kind, f'{{"event_type": "{kind}"}}')
        conn.execute("select pgonce_console_mute_alert(%s, %s, '1 hour', '')", [operator, alert])
    conn.execute("update pgonce_alert_mutes set muted_until = clock_timestamp()")
    conn.execute("update pgonce_alerts set next_attempt_at = clock_timestamp()")
    conn.execute("select pgonce_collect_alerts('{c}')")
    claim = "select subject from pgonce_claim_alerts('c')"
    claimed = [row[0] for _ in range(3) for row in conn.execute(claim)]
    assert "open" in claimed
    assert "closed" not in claimed


OPEN = {
    # what makes the cause: (kind, subject, detail), what ends it
    "select start_job_run('j')": (
        ("ran_long", "j", '{"job_name": "j", "run_id": "RUN"}'),
        "update cron_job_runs set status = 'succeeded', completed_at = now()",
    ),
    "insert into cron_job_runs (job_name, status) values ('j', 'failed')": (
        ("run_failed", "j", '{"job_name": "j", "key": ""}'),
        "insert into cron_job_runs (job_name, status, started_at) values ('j', 'succeeded', now() + interval '1 s')",
    ),
    "insert into webhook_events (stripe_event_id, event_type, status) values ('e', 't', 'failed')": (
        ("dead_webhook", "t", '{"stripe_event_id": "e"}'),
        "update webhook_events set status = 'succeeded'",
    ),
    "select fail_seed((update_checkpoint('s', '{}')).seed_name, 'why')": (
        ("import_failed", "s", '{"seed_name": "s"}'),
        "select complete_seed('s')",
    ),
    "select 1": (
        ("did_not_run", "j", '{"job_name": "j", "key": ""}'),
        "insert into cron_job_runs (job_name, status, started_at) values ('j', 'succeeded', now() + interval '1 s')",
    ),
}


@pytest.mark.parametrize("cause", OPEN)
def test_an_alert_is_open_until_its_cause_is_gone(conn: Connection, cause: str) -> None:
    conn.execute(cause.encode())
    (kind, subject, detail), end = OPEN[cause]
    run = value(conn, "select id from cron_job_runs limit 1")
    conn.execute(ALERT, [kind, subject, "k", detail.replace("RUN", str(run))])
    assert value(conn, "select open from pgonce_console_alerts()") is True
    assert value(conn, "select open_alerts from pgonce_console_shell()") == 1
    conn.execute(end.encode())
    assert value(conn, "select open from pgonce_console_alerts()") is False
