"""The interleavings of webhook_events, each forced with real sessions: duplicates, batches, takeover."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest
from psycopg import errors

from tests.sql.race import IMPATIENT, Connection, Open, together, value, waiting


@pytest.fixture
def database(swept_database: str) -> str:
    """One database for the module, emptied after each test."""
    return swept_database


def deliver(conn: Connection, event: str = "evt") -> UUID | str | None:
    """One delivery through insert_webhook_if_new: the id, None, or PT409."""
    try:
        return value(conn, "select id from insert_webhook_if_new(%s, 'x', '{}')", event)
    except errors.Error as error:
        return error.sqlstate


def queue(conn: Connection, *events: str) -> dict[str, str]:
    batch = [list(events), ["x"] * len(events), ["{}"] * len(events)]
    return dict(
        conn.execute("select stripe_event_id, outcome from pgonce_queue_webhooks(%s, %s, %s)", batch).fetchall()
    )


def expire(conn: Connection) -> None:
    conn.execute("update webhook_events set lease_expires_at = clock_timestamp() - interval '1 hour'")


def lease(conn: Connection, event: str = "evt") -> tuple[UUID, UUID]:
    row = conn.execute("select id, lease from webhook_events where stripe_event_id = %s", [event]).fetchone()
    assert row
    return row


def test_of_200_deliveries_of_one_new_event_exactly_one_handles_it(conn: Connection, session: Open) -> None:
    answers = together([session() for _ in range(200)], deliver)
    claims = [answer for answer in answers if isinstance(answer, UUID)]
    assert len(claims) == 1
    assert sorted(map(str, answers)) == sorted([str(claims[0]), *["PT409"] * 199])
    assert conn.execute("select id, attempts from webhook_events").fetchall() == [(claims[0], 1)]


@pytest.mark.parametrize("ended", ["expired", "failed"])
def test_of_24_deliveries_exactly_one_takes_over_what_the_last_client_left(
    conn: Connection, session: Open, ended: str
) -> None:
    sessions = [session() for _ in range(24)]
    deliver(conn)
    for attempt in range(2, 7):
        dead = lease(conn)
        if ended == "expired":
            expire(conn)
        else:
            assert value(conn, "select fail_webhook(%s, %s, 'why')", *dead)
        answers = together(sessions, deliver)
        assert sorted(map(str, answers)) == sorted([str(dead[0]), *["PT409"] * 23])
        assert value(conn, "select attempts from webhook_events") == attempt
        for verb in ("complete_webhook(%s, %s)", "fail_webhook(%s, %s, 'late')", "ignore_webhook(%s, %s, 'late')"):
            assert value(conn, f"select {verb}", *dead) is False, "the zombie is told"


@pytest.mark.parametrize(
    "verb", ["complete_webhook(%s, %s)", "fail_webhook(%s, %s, 'a')", "ignore_webhook(%s, %s, 'a')"]
)
def test_an_end_that_is_repeated_after_a_lost_answer_is_true_again(conn: Connection, verb: str) -> None:
    deliver(conn)
    mine = lease(conn)
    for _ in range(2):
        assert value(conn, f"select {verb}", *mine) is True


@pytest.mark.parametrize("expired", [False, True])
def test_a_duplicate_does_not_wait_while_a_handler_holds_the_row(
    conn: Connection, session: Open, expired: bool
) -> None:
    deliver(conn, "direct")
    queue(conn, "queued")
    conn.execute("update webhook_events set lease = gen_random_uuid() where stripe_event_id = 'queued'")
    if expired:
        expire(conn)
    handler, duplicate = session(autocommit=False), session(options=IMPATIENT)
    for event in ("direct", "queued"):  # the effect is written, the transaction not yet committed
        assert value(handler, "select complete_webhook(%s, %s)", *lease(conn, event))
    assert deliver(duplicate, "direct") == "PT409"
    assert deliver(duplicate, "queued") is None
    assert queue(duplicate, "direct", "queued") == {"direct": "busy", "queued": "queued"}
    handler.commit()
    assert queue(duplicate, "direct", "queued") == {"direct": "done", "queued": "done"}
    assert deliver(duplicate, "direct") is None


@pytest.mark.parametrize("commits", [True, False])
def test_a_zombies_end_waits_for_a_takeover_in_progress_and_obeys_it(
    conn: Connection, session: Open, commits: bool
) -> None:
    zombie, successor = session(autocommit=False), session(autocommit=False)
    deliver(conn)
    mine = lease(conn)
    expire(conn)
    assert deliver(successor) == mine[0]
    with waiting(conn, zombie, lambda: value(zombie, "select complete_webhook(%s, %s)", *mine)) as end:
        successor.commit() if commits else successor.rollback()
    assert end.result() is not commits


@pytest.mark.parametrize("commits", [True, False])
def test_a_delivery_waits_for_an_uncommitted_first_receipt(conn: Connection, session: Open, commits: bool) -> None:
    first, second = session(autocommit=False), session()
    deliver(first)
    with waiting(conn, second, lambda: deliver(second)) as answer:
        first.commit() if commits else first.rollback()
    assert answer.result() == ("PT409" if commits else lease(conn)[0])


def test_two_batches_with_the_same_events_in_opposite_order_do_not_deadlock(conn: Connection, session: Open) -> None:
    sessions = [session(), session()]
    backwards = sessions[0].info.backend_pid
    for batch in range(30):
        events = [f"evt_{batch}_{number:03}" for number in range(60)]

        def record(other: Connection, events: list[str] = events) -> dict[str, str]:
            return queue(other, *(reversed(events) if other.info.backend_pid == backwards else events))

        assert together(sessions, record) == [dict.fromkeys(events, "queued")] * 2
    assert value(conn, "select count(*) from webhook_events") == 30 * 60


def test_a_batch_takes_its_events_in_the_order_of_their_ids(conn: Connection, session: Open) -> None:
    first, second = session(autocommit=False), session()
    queue(first, "evt_m")
    with waiting(conn, second, lambda: queue(second, "evt_z", "evt_m", "evt_a")) as batch:
        # it waits for evt_m: it has locked the events that sort before evt_m, and none after it
        other = session(autocommit=False, options=IMPATIENT)
        assert queue(other, "evt_z") == {"evt_z": "queued"}
        other.rollback()
        with waiting(conn, other, lambda: queue(other, "evt_a")) as third:
            first.commit()
        assert third.result() == {"evt_a": "queued"}
        other.rollback()
    assert batch.result() == {"evt_a": "queued", "evt_m": "queued", "evt_z": "queued"}


def test_a_duplicate_inside_a_batch_is_recorded_once(conn: Connection) -> None:
    query = "select stripe_event_id, outcome from pgonce_queue_webhooks('{e,f,e}', '{x,x,x}', '{\"{}\",\"{}\",\"{}\"}')"
    for _ in range(2):
        assert sorted(conn.execute(query.encode()).fetchall()) == [("e", "queued"), ("f", "queued")]


def claim(conn: Connection, limit: int, types: str | None = None) -> list[str]:
    found = conn.execute("select stripe_event_id from pgonce_claim_webhooks(%s, p_types => %s)", [limit, types])
    return [event for (event,) in found]


def test_a_claim_waits_for_the_one_before_it_and_locks_none_of_its_events(conn: Connection, session: Open) -> None:
    for event in ("evt_1", "evt_2", "evt_3"):
        queue(conn, event)
    first, second, marking = session(autocommit=False), session(autocommit=False), session(options=IMPATIENT)
    assert claim(first, 2) == ["evt_1", "evt_2"]
    with waiting(conn, second, lambda: claim(second, 2)) as claimed:
        first.commit()
    assert claimed.result() == ["evt_3"]
    assert value(marking, "select pgonce_mark_webhook(%s, %s)", *lease(conn, "evt_1")), "while the second is open"


def test_a_claim_that_is_not_committed_stops_neither_its_own_types_nor_others(conn: Connection, session: Open) -> None:
    queue(conn, "evt_1", "evt_2", "evt_3")
    first, second, other = session(autocommit=False), session(), session(autocommit=False)
    assert claim(first, 1) == ["evt_1"]
    assert claim(second, 1) == ["evt_2"], "after a while"
    assert claim(other, 1, "x") == ["evt_3"]
    turns = "select count(distinct (classid, objid)) from pg_locks where locktype = 'advisory' and granted"
    assert value(conn, turns) == 2, "other types have their own turn"


def test_the_end_of_an_attempt_does_not_wait_for_ever_for_a_locked_row(conn: Connection, session: Open) -> None:
    """As after PREPARE TRANSACTION in a handler: nobody may commit or roll it back for hours."""
    verbs = ["fail_webhook(%s, %s, 'a')", "ignore_webhook(%s, %s, 'a')", "pgonce_postpone_webhook(%s, %s, '1 s')"]
    for name in ("1", "2", "3", "4"):
        deliver(conn, name)
    ends = [(session(), verb, lease(conn, name)) for name, verb in zip("123", verbs, strict=True)]
    mine = lease(conn, "4")
    assert value(conn, "select complete_webhook(%s, %s)", *mine) is True
    ends.append((session(), "pgonce_fail_committed_webhook(%s, %s, 'a')", mine))
    holder = session(autocommit=False)
    holder.execute("select from webhook_events for update")
    with ThreadPoolExecutor(4) as pool:
        tried = [pool.submit(value, each, f"select {verb}", *mine) for each, verb, mine in ends]
        assert [type(each.exception(60)) for each in tried] == [errors.LockNotAvailable] * 4


def test_a_replay_leaves_out_what_was_erased_after_it_began(conn: Connection, session: Open) -> None:
    """A policy makes the replay wait between its snapshot and its row lock."""
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, payload)"
        """ values ('evt', 'x', 'succeeded', '{"data": {"object": {"customer": "cus_1"}}}')"""
    )
    _, seen = lease(conn)
    conn.execute("alter table webhook_events enable row level security")
    conn.execute(
        "create policy waits on webhook_events as restrictive for select to service_role"
        " using (pg_advisory_xact_lock_shared(7)::text = '')"
    )
    conn.execute("select pg_advisory_lock(7)")
    replayer = session()
    replayer.execute("set role service_role")  # no policy binds a superuser
    replay = f"select pgonce_replay_webhooks(array['evt'], array['succeeded'], array['{seen}'::uuid])"
    try:
        with waiting(conn, replayer, lambda: value(replayer, replay)) as replayed:
            assert value(conn, "select erased from pgonce_erase_webhooks('cus_1')") == 1
            conn.execute("select pg_advisory_unlock(7)")
        assert replayed.result() is None
        assert value(conn, "select status from webhook_events") == "succeeded"
    finally:
        conn.execute("select pg_advisory_unlock_all()")
        conn.execute("drop policy waits on webhook_events")
        conn.execute("alter table webhook_events disable row level security")
