"""A trigger or constraint of the user's that refuses to have one of many events changed or deleted stops no other."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]

FUNCTION = """create function keep() returns trigger language plpgsql as
$$ begin if old.stripe_event_id like '%-kept' then {} end if; return coalesce(new, old); end $$;"""
TRIGGER = "create trigger keep {} on webhook_events for each row execute function keep()"
DEFERRED = """create constraint trigger keep after {} on webhook_events deferrable initially deferred
for each row execute function keep()"""
RAISES = FUNCTION.format("raise 'kept by the application';")
REFUSALS = {
    "before": RAISES + TRIGGER.format("before {0}"),
    "after": RAISES + TRIGGER.format("after {0}"),
    "deferred": RAISES + DEFERRED,
    "missing table": FUNCTION.format("insert into no_such_table values (1);") + TRIGGER.format("after {0}"),
    "no row": FUNCTION.format("return null;") + TRIGGER.format("before {0}"),
}
EVENTS = ("evt_0", "evt_1-kept", "evt_2", "evt_3-kept", "evt_4")
KEPT = ["evt_1-kept", "evt_3-kept"]

QUEUED = """select pgonce_queue_webhooks('{evt_0,evt_1-kept,evt_2,evt_3-kept,evt_4}', array_fill('x'::text, '{5}'),
array_fill('{}'::text, '{5}'))"""
IGNORED = "select pgonce_ignore_unhandled_webhooks()"
EXPIRED = """update webhook_events set queued = false, next_attempt_at = null, lease = gen_random_uuid(), attempts = 1,
lease_expires_at = clock_timestamp() - interval '1 second'"""
PREPARE = {
    "ignore": [],
    "take back": [IGNORED],
    "adopt": [EXPIRED],
    "release": ["select from pgonce_claim_webhooks()"],
    "replay": [IGNORED],
}
CHANGE = {
    "ignore": IGNORED,
    "take back": "select pgonce_take_back_webhooks('x')",
    "adopt": "select pgonce_adopt_webhooks()",
    "release": """select pgonce_release_webhooks(array_agg(id), array_agg(lease)) from webhook_events
where lease is not null""",
    "replay": """select count(*) from (select array_agg(stripe_event_id) e, array_agg(status) s, array_agg(lease) l
from webhook_events where status <> 'processing') n cross join pgonce_replay_webhooks(n.e, n.s, n.l)""",
}
CHANGED = {
    "ignore": "status = 'ignored' and ignored_reason = 'no handler for x'",
    "take back": "status = 'processing' and attempts = 0 and ignored_reason is null",
    "adopt": "queued and lease is null and next_attempt_at is not null",
    "release": "lease is null and attempts = 0",
    "replay": "status = 'processing' and attempts = 0 and ignored_reason is null",
}


def queue(conn: Connection, *statements: str) -> None:
    for statement in (QUEUED, *statements):
        conn.execute(statement.encode())


def refuse(conn: Connection, refusal: str, what: str = "update") -> None:
    conn.execute(REFUSALS[refusal].replace("{0}", what).replace("{}", what).encode())


def events(conn: Connection, condition: str) -> list[str]:
    found = conn.execute(f"select stripe_event_id from webhook_events where {condition} order by 1".encode())
    return [row[0] for row in found.fetchall()]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("change", CHANGE)
def test_the_others_are_changed_and_the_refused_ones_are_left_out_for_five_minutes(
    conn: Connection, change: str, refusal: str
) -> None:
    queue(conn, *PREPARE[change])
    refuse(conn, refusal)
    assert value(conn, CHANGE[change]) == 3
    assert events(conn, f"not ({CHANGED[change]})") == KEPT
    errors = conn.execute("select what, error from pgonce_webhook_attempts where what = 'failed'").fetchall()
    assert len(errors) == 2
    lines = [
        row[0]
        for row in conn.execute("select pgonce_error_line(error) from pgonce_webhook_attempts where what = 'failed'")
    ]
    assert all(line.startswith("the database refuses to ") for line in lines)
    left_out = "select count(*) from pgonce_webhook_leases where expires_at > clock_timestamp() + interval '4 minutes'"
    assert value(conn, left_out) == 2

    assert value(conn, CHANGE[change]) == 0, "the others are done, and these wait or are refused again"
    conn.execute("drop trigger keep on webhook_events")
    conn.execute("update pgonce_webhook_leases set expires_at = clock_timestamp()")
    assert value(conn, CHANGE[change]) == 2
    assert events(conn, CHANGED[change]) == sorted(EVENTS)


@pytest.mark.parametrize("change", ["ignore", "take back", "adopt"])
def test_refused_events_do_not_come_before_all_others_at_each_call(conn: Connection, change: str) -> None:
    queue(conn, *PREPARE[change])
    conn.execute(
        "update webhook_events set received_at = now() - interval '1 hour', next_attempt_at = next_attempt_at"
        " - interval '1 hour' where stripe_event_id like '%-kept'"
    )
    refuse(conn, "before")
    few = CHANGE[change].replace("()", "(2)").replace("('x')", "('x', 2)")
    assert sum(value(conn, few) for _ in range(3)) == 3


@pytest.mark.parametrize("change", CHANGE)
def test_an_error_that_is_not_the_rows_is_raised(conn: Connection, change: str) -> None:
    queue(conn, *PREPARE[change])
    conn.execute((FUNCTION.format("raise lock_not_available;") + TRIGGER.format("before update")).encode())
    with pytest.raises(psycopg.errors.LockNotAvailable):
        value(conn, CHANGE[change])


def test_the_refused_replay_of_one_event_is_an_error(conn: Connection) -> None:
    queue(conn, *PREPARE["replay"])
    refuse(conn, "before")
    with pytest.raises(psycopg.Error, match="refuses to queue this event: kept by the application") as raised:
        conn.execute("select pgonce_replay_webhook('evt_1-kept')")
    assert raised.value.sqlstate == "PT503"
    assert value(conn, "select pgonce_replay_webhook('evt_0')") is True


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("prepare", ["replay", "adopt"])
def test_a_replay_of_many_goes_on_without_the_refused_ones(conn: Connection, prepare: str, refusal: str) -> None:
    queue(conn, *PREPARE[prepare])
    refuse(conn, refusal)
    number = value(conn, "select pgonce_plan_replay(jsonb_build_object('ids', %s::text[]), 'ann')", list(EVENTS))
    assert value(conn, "select pgonce_start_replay(%s)", number) is True
    states = "select state, count(*) from pgonce_replay_items group by state order by state"
    assert conn.execute(states.encode()).fetchall() == [("changed", 2), ("queued", 3)]


REFERENCED = """create table payments (event uuid references webhook_events deferrable initially {});
insert into payments select id from webhook_events where stripe_event_id like '%-kept'"""
DELETES = REFUSALS | {f"foreign key, {when}": REFERENCED.format(when) for when in ("immediate", "deferred")}


@pytest.mark.parametrize("refusal", DELETES)
def test_old_events_that_are_not_refused_are_deleted(conn: Connection, refusal: str) -> None:
    queue(conn, *PREPARE["replay"], "update webhook_events set received_at = received_at - interval '100 days'")
    conn.execute(DELETES[refusal].replace("{0}", "delete").replace("{}", "delete").encode())
    assert value(conn, "select purge_webhook_events()") == 3
    assert events(conn, "true") == KEPT
    if refusal == "no row":
        assert value(conn, "select purge_webhook_events()") == 0
        return
    with pytest.raises(psycopg.Error, match="2 old rows of webhook_events"):
        conn.execute("select purge_webhook_events()")


ENDS = [
    "complete_webhook(id, lease)",
    "pgonce_mark_webhook(id, lease)",
    "pgonce_complete_webhooks(array[id], array[lease])",
    "ignore_webhook(id, lease, '')",
    "fail_webhook(id, lease, '', 1)",
]


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("end", ENDS)
def test_an_event_ends_although_the_next_one_of_its_object_is_refused(conn: Connection, end: str, refusal: str) -> None:
    queue(
        conn, "update webhook_events set order_key = 'k'", "delete from webhook_events where stripe_event_id > 'evt_2'"
    )
    assert conn.execute("select id, lease from pgonce_claim_webhooks()").rowcount == 1, "the next one waits"
    refuse(conn, refusal)
    conn.execute(f"select {end} from webhook_events where stripe_event_id = 'evt_0'".encode())
    assert events(conn, "next_attempt_at is null") == ["evt_0"]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_handler_coalesces_the_events_that_are_not_refused(conn: Connection, refusal: str) -> None:
    queue(conn, "update webhook_events set order_key = 'k'")
    [(claimed,)] = conn.execute("select id from pgonce_claim_webhooks()").fetchall()
    refuse(conn, refusal)
    assert value(conn, "select pgonce_coalesce_webhooks(%s, 'k', 'x')", claimed) == 2
    assert events(conn, "status = 'processing'") == ["evt_0", *KEPT]
    assert value(conn, "select count(*) from pgonce_webhook_attempts where error like '%refuses to ignore%'") == 2


@pytest.mark.parametrize("initially", ["immediate", "deferred"])
def test_the_constraints_of_a_handler_stay_as_they_are_while_the_next_event_is_written(
    conn: Connection, initially: str
) -> None:
    queue(conn, "update webhook_events set order_key = 'k'")
    conn.execute((FUNCTION.format("null;") + DEFERRED.format("update")).encode())
    conn.execute(f"create table orders (id int unique, of int references orders (id) deferrable initially {initially})")
    [(claimed, lease)] = conn.execute("select id, lease from pgonce_claim_webhooks()").fetchall()
    with conn.transaction():
        conn.execute("select pgonce_mark_webhook(%s, %s)", [claimed, lease])
        conn.execute("select pgonce_coalesce_webhooks(%s, 'k', 'x')", [claimed])
        if initially == "deferred":
            conn.execute("insert into orders values (2, 1)")
            conn.execute("insert into orders values (1, null)")
            return
        with pytest.raises(psycopg.errors.ForeignKeyViolation), conn.transaction():
            conn.execute("insert into orders values (2, 1)")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_redelivery_is_done_although_a_trigger_keeps_ended_events_as_they_are(conn: Connection, refusal: str) -> None:
    queue(conn, "update webhook_events set status = 'succeeded', next_attempt_at = null")
    refuse(conn, refusal)
    again = conn.execute(QUEUED.encode()).fetchall()
    assert sorted(row[0][1] for row in again) == ["done"] * 5
