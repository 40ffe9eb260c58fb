"""Refused deliveries are counted by minute and reason and alerted, and so are missing deliveries.

Readiness, watermarks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]
Session = Callable[..., Connection]


def count(conn: Connection, **reasons: int) -> None:
    conn.execute("select pgonce_count_refused_deliveries(%s, %s)", [list(reasons), list(reasons.values())])


def alerts(conn: Connection) -> list[tuple[str, str]]:
    find = "select kind, subject from pgonce_find_alerts(now() - interval '1 day', '{}')"
    return conn.execute(find.encode()).fetchall()


def test_counts_of_one_minute_and_reason_add_up_in_one_row(conn: Connection) -> None:
    for _ in range(3):
        count(conn, signature=100, time=1)
    listed = conn.execute("select reason, deliveries from pgonce_list_refused_deliveries()").fetchall()
    assert listed == [("signature", 300), ("time", 3)]
    assert value(conn, "select count(*) from pgonce_refused_deliveries") <= 4  # the minute may end in between


@pytest.mark.parametrize(
    ("reasons", "deliveries"),
    [
        (["rain"], [1]),
        (["signature"], [0]),
        (["signature"], [-1]),
        (["signature"], [1, 2]),
        ([None], [1]),
        (["time"], [None]),
    ],
)
def test_other_reasons_and_numbers_are_refused(conn: Connection, reasons: list[Any], deliveries: list[Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute("select pgonce_count_refused_deliveries(%s::text[], %s::bigint[])", [reasons, deliveries])


def test_old_counts_are_deleted(conn: Connection) -> None:
    conn.execute("insert into pgonce_refused_deliveries values (now() - interval '91 days', 'size', 1)")
    count(conn, signature=1)
    assert value(conn, "select string_agg(reason, ',') from pgonce_refused_deliveries") == "signature"


def test_three_refused_deliveries_of_one_hour_are_one_alert_and_two_are_none(conn: Connection) -> None:
    conn.execute(
        "insert into pgonce_refused_deliveries"
        " select date_bin('1 hour', now(), '2000-01-01 00:00:00Z') + n * interval '1 minute', 'signature', 1"
        " from generate_series(0, 1) n"
    )
    assert alerts(conn) == []
    conn.execute("update pgonce_refused_deliveries set deliveries = deliveries + 99")
    assert alerts(conn) == [("deliveries_refused", "signature")]
    for _ in range(3):
        conn.execute("select pgonce_collect_alerts('{channel}')")
        conn.execute("update pgonce_refused_deliveries set deliveries = deliveries + 1")
    [(message,)] = conn.execute("select message from pgonce_alerts").fetchall()
    assert "secret" in message
    assert "pgonce webhook refused" in message


@pytest.mark.parametrize(("reason", "said"), [("path", "another path"), ("database", "refuses to store")])
def test_what_is_sent_elsewhere_or_cannot_be_stored_is_an_alert(conn: Connection, reason: str, said: str) -> None:
    count(conn, **{reason: 3})
    assert alerts(conn) == [("deliveries_refused", reason)]
    conn.execute("select pgonce_collect_alerts('{channel}')")
    assert said in value(conn, "select message from pgonce_alerts")


def test_what_scanners_send_is_counted_and_no_alert(conn: Connection) -> None:
    count(conn, header=5000, test=20)
    assert alerts(conn) == []


def deliver(conn: Connection, *days_ago: float) -> None:
    for number, days in enumerate(days_ago):
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
            " values (%s, 'a', 'succeeded', now() - %s * interval '1 day')",
            [f"evt_{number}_{days}", days],
        )


@pytest.mark.parametrize(
    ("days_ago", "silent"),
    [
        ([], False),
        ([5], False),  # one delivery: no gap is usual
        ([2.2, 2.1, 2.0], True),
        ([1.3, 1.2, 0.9], False),  # not yet a day
        ([9, 6, 3], False),  # three days are usual here
        ([60, 57, 16], False),
        ([20, 19, 18, 16.1], True),
        ([100, 20, 19, 18, 16.1], True),  # a gap of before the last four weeks does not count
    ],
)
def test_silence_is_five_times_the_longest_gap_and_at_least_a_day(
    conn: Connection, days_ago: list[float], silent: bool
) -> None:
    deliver(conn, *days_ago)
    assert alerts(conn) == ([("deliveries_silent", "stripe")] if silent else [])


def test_each_sender_is_silent_by_itself_whatever_the_others_send(conn: Connection) -> None:
    deliver(conn, *(number / 10 for number in range(50)))
    columns = "stripe_event_id, event_type, received_at"
    other = f"insert into webhook_events ({columns}) values (%s, %s, now() - %s * interval '1 day')"
    for days in (3, 2.9):
        conn.execute(other.encode(), [f"github:{days}", "github.push", days])
    for days in (20, 15, 10):  # five days are usual there
        conn.execute(other.encode(), [f"shopify:{days}", f"shopify.orders.{days}", days])
    conn.execute(other.encode(), ["clerk:1", "clerk.user.created", 9])  # one delivery: no gap is usual
    assert alerts(conn) == [("deliveries_silent", "github")]
    conn.execute("select pgonce_collect_alerts('{channel}')")
    is_open = "select pgonce_alert_is_open(kind, subject, detail, created_at) from pgonce_alerts"
    assert "no delivery from github since" in value(conn, "select message from pgonce_alerts")
    deliver(conn, -0.001)
    assert value(conn, is_open) is True
    conn.execute(other.encode(), ["github:new", "github.issues.opened", 0])
    assert value(conn, is_open) is False
    assert alerts(conn) == []


@pytest.mark.parametrize(("weekend", "silent"), [(1, True), (3, False)])
def test_a_busy_sender_is_silent_after_five_of_its_longest_gaps_too(
    conn: Connection, weekend: int, silent: bool
) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
        " select 'evt_' || n, 'type_' || n %% 3, 'succeeded',"
        " now() - interval '12 days' - n * interval '1 minute' - n / 11000 * %s * interval '1 day'"
        " from generate_series(1, 20001) n",
        [weekend],
    )
    assert alerts(conn) == ([("deliveries_silent", "stripe")] if silent else [])


def test_what_a_comparison_finds_is_no_delivery(conn: Connection) -> None:
    deliver(conn, 3, 2.9)
    conn.execute("select pgonce_queue_webhooks('{evt_found}', '{x}', '{\"{}\"}', p_deliveries => 0)")
    assert alerts(conn) == [("deliveries_silent", "stripe")]
    conn.execute("select pgonce_queue_webhooks('{evt_found}', '{x}', '{\"{}\"}')")
    assert value(conn, "select deliveries from webhook_events where stripe_event_id = 'evt_found'") == 1
    assert alerts(conn) == []


def test_one_silence_is_one_alert(conn: Connection) -> None:
    deliver(conn, 3, 2.9)
    for _ in range(3):
        conn.execute("select pgonce_collect_alerts('{channel}')")
    assert value(conn, "select count(*) from pgonce_alerts") == 1


# Readiness ----------------------------------------------------------------------------------------------------------


def test_the_inbox_is_ready_and_nothing_is_left_in_it(conn: Connection) -> None:
    assert value(conn, "select pgonce_check_inbox()") is True
    assert value(conn, "select count(*) from webhook_events") == 0


def test_a_locked_table_is_not_ready(conn: Connection, session: Session) -> None:
    other = session(autocommit=False)
    other.execute("lock table webhook_events in share mode")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        conn.execute("select pgonce_check_inbox('100 ms')")


def test_a_read_only_session_is_not_ready(conn: Connection) -> None:
    conn.execute("set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        conn.execute("select pgonce_check_inbox()")


@pytest.mark.parametrize(
    "damage", ["drop table webhook_events", "alter table webhook_events add column x int not null"]
)
def test_a_table_that_cannot_be_written_is_not_ready(conn: Connection, damage: str) -> None:
    conn.execute(damage.encode())
    with pytest.raises(psycopg.Error):
        conn.execute("select pgonce_check_inbox()")


@pytest.mark.parametrize("wait", ["0", "-1 s", "2 minutes"])
def test_the_time_for_the_lock_is_bounded(conn: Connection, wait: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute("select pgonce_check_inbox(%s)", [wait])


# Watermarks ---------------------------------------------------------------------------------------------------------


def test_a_watermark_only_moves_forward(conn: Connection) -> None:
    get = "select position from pgonce_get_watermark('x')"
    assert conn.execute(get.encode()).fetchall() == []
    assert value(conn, "select pgonce_set_watermark('x', '2026-01-02 00:00Z')") is True
    assert value(conn, "select pgonce_set_watermark('x', '2026-01-01 00:00Z')") is False
    assert value(conn, f"select position = '2026-01-02 00:00Z' from ({get}) w") is True


def test_a_watermark_knows_whether_a_standby_was_promoted_since(conn: Connection) -> None:
    conn.execute("select pgonce_set_watermark('x', now())")
    assert value(conn, "select same_timeline from pgonce_get_watermark('x')") is True
    conn.execute("update pgonce_watermarks set timeline = '00000000'")
    assert value(conn, "select same_timeline from pgonce_get_watermark('x')") is False


def test_a_watermark_is_not_an_import(conn: Connection) -> None:
    conn.execute("select pgonce_set_watermark('x', now() - interval '20 minutes')")
    assert alerts(conn) == []
    assert value(conn, "select count(*) from seed_checkpoints") == 0


@pytest.mark.parametrize("arguments", ["'', now()", "null, now()", "'x', null", "'x', 'infinity'"])
def test_a_watermark_needs_a_name_and_a_time(conn: Connection, arguments: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute(f"select pgonce_set_watermark({arguments})".encode())


def test_only_what_can_be_an_account_of_stripe_s_is_asked_for(conn: Connection) -> None:
    accounts = ["acct_2", "acct_1", "org_1/acct_3", "acct_1", None, "", {"login": "octo"}, ["a"], "a b", "acct_4\n"]
    for number, account in enumerate(accounts):
        payload = json.dumps({"account": account})
        conn.execute("select pgonce_queue_webhooks(array[%s], '{x}', array[%s])", [f"evt_{number}", payload])
    conn.execute("select pgonce_queue_webhooks('{github:1}', '{x}', array[%s])", [json.dumps({"account": "octo"})])
    found = conn.execute("select * from pgonce_list_webhook_accounts()").fetchall()
    assert found == [("acct_1",), ("acct_2",), ("org_1/acct_3",)]


@pytest.mark.parametrize(
    ("livemode", "after", "asked"),
    [(True, None, []), (None, None, []), (False, None, ["acct_1"]), (True, "customer.created", ["acct_1"])],
)
def test_an_account_that_has_disconnected_is_not_asked_for(
    conn: Connection, livemode: bool | None, after: str | None, asked: list[str]
) -> None:
    types = ["customer.created", "account.application.deauthorized", *([after] if after else [])]
    for number, event_type in enumerate(types):
        payload = json.dumps({"account": "acct_1", "livemode": livemode})
        conn.execute(
            "select pgonce_queue_webhooks(array[%s], array[%s], array[%s])", [f"evt_{number}", event_type, payload]
        )
    found = conn.execute("select * from pgonce_list_webhook_accounts()").fetchall()
    assert found == [(account,) for account in asked]
