"""The functions use indexes in a table of 50,000 finished rows.

An EXPLAIN of copies of their queries could differ from the functions. PostgreSQL counts the scans of the current
transaction, so the functions themselves are called, and must not have read the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]

ROWS = 50_000

# of the few running rows: the planner may use either
RUNNING = ("pgonce_cron_job_runs_one_running", "idx_cron_runs_status")

# call: the index that must have found the rows, or several of which one must have
LOOKUPS = {
    "insert_webhook_if_new('evt_25000', 'x', '{}')": "webhook_events_stripe_event_id_key",
    "insert_webhook_if_new('evt_new', 'x', '{}')": "webhook_events_stripe_event_id_key",
    "receive_webhook('{\"id\": \"evt_25000\", \"type\": \"x\"}')": "webhook_events_stripe_event_id_key",
    "pgonce_queue_webhooks('{evt_25000,evt_new,evt_25001}', '{x,x,x}', array['{}', '{}', '{}'])":
        "webhook_events_stripe_event_id_key",
    "complete_webhook(EVENT)": "webhook_events_pkey",
    "fail_webhook(EVENT, 'why')": "webhook_events_pkey",
    "ignore_webhook(EVENT, 'why')": "webhook_events_pkey",
    "pgonce_find_old_rows('webhook_events', now() - interval '90 days', 10000)": "idx_webhook_events_received",
    "purge_webhook_events(p_limit => 100)": "idx_webhook_events_received",
    "start_job_run('job_1')": RUNNING,
    "start_job_run('new')": RUNNING,
    "start_job_run('running')": RUNNING,
    "start_job_run('dead')": RUNNING,
    "start_job_run('job_1', p_scheduled_for => '2026-01-01')": "pgonce_cron_job_runs_one_tick",
    "pgonce_start_job_runs('{job_1,new,running,dead}', '{null,null,null,null}', '{1h,1h,1h,1h}', array['', '', '', ''],"
    " '{null,2026-01-01,null,null}')": RUNNING,
    "pgonce_complete_job_runs(array[RUN, RUN]::uuid[], '{1,2}', '{3,4}')": "cron_job_runs_pkey",
    "beat_job_run(RUN)": "cron_job_runs_pkey",
    "complete_job_run(RUN)": "cron_job_runs_pkey",
    "fail_job_run(RUN, 'why')": "cron_job_runs_pkey",
    "pgonce_find_old_rows('cron_job_runs', now() - interval '180 days', 10000)": "idx_cron_runs_started",
    "purge_job_runs(p_limit => 100)": "idx_cron_runs_started",
}  # fmt: skip


@pytest.fixture(scope="module")
def full(shared: Connection) -> Connection:
    """50,000 finished events and runs over 400 days, one live event and run, and statistics that are up to date."""
    shared.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at, lease)"
        " select 'evt_' || n, 'x', 'succeeded', now() - n * interval '400 days' / %(rows)s, null"
        " from generate_series(1, %(rows)s) n",
        {"rows": ROWS},
    )
    shared.execute(
        "insert into cron_job_runs (job_name, status, started_at, scheduled_for)"
        " select 'job_' || n %% 50, 'succeeded', now() - n * interval '400 days' / %(rows)s,"
        " now() - n * interval '1 hour' from generate_series(1, %(rows)s) n",
        {"rows": ROWS},
    )
    shared.execute(
        "select start_job_run('running'), start_job_run('dead'), insert_webhook_if_new('evt_mine', 'x', '{}')"
    )
    shared.execute("update cron_job_runs set heartbeat_at = now() - interval '1 hour' where job_name = 'dead'")
    shared.execute("vacuum analyze webhook_events, cron_job_runs")
    # the plan was made for an empty inbox, where one page is cheaper than the index; in a burst the table is read in
    # full
    shared.execute("reindex index idx_webhook_events_status")
    return shared


@pytest.fixture(params=["auto", "force_generic_plan"])
def planned(full: Connection, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A transaction that is rolled back; PL/pgSQL changes to the generic plan after five calls."""
    with full.transaction(force_rollback=True):
        full.execute(f"set local plan_cache_mode = {request.param}".encode())
        full.execute("discard plans")
        yield full


def scans(conn: Connection, call: str) -> tuple[set[str], set[str]]:
    """Call the function; returns the tables that it read in full, and the indexes that it used."""
    # counted since the last flush, which may be several transactions ago: only differences are meaningful
    tables = "select relname, seq_scan from pg_stat_xact_user_tables where schemaname = 'public'"
    indexes = """select relname, pg_stat_get_xact_numscans(oid) from pg_class
      where relkind = 'i' and relnamespace = 'public'::regnamespace"""
    before = [dict(conn.execute(query.encode()).fetchall()) for query in (tables, indexes)]
    conn.execute(f"select * from {call}".encode())
    after = [dict(conn.execute(query.encode()).fetchall()) for query in (tables, indexes)]
    read, used = (
        {name for name in now if now[name] > was.get(name, 0)} for was, now in zip(before, after, strict=True)
    )
    return read, used


@pytest.mark.parametrize("call, index", LOOKUPS.items())
def test_a_call_is_an_index_lookup(planned: Connection, call: str, index: str | tuple[str, ...]) -> None:
    event = value(planned, "select format('%L, %L', id, lease) from webhook_events where stripe_event_id = 'evt_mine'")
    run = value(planned, "select format('%L', id) from cron_job_runs where job_name = 'running'")
    tables, indexes = scans(planned, call.replace("EVENT", event).replace("RUN", run))
    empty = {"pgonce_webhook_attempts", "pgonce_job_days", "pgonce_job_schedules", "pgonce_job_heartbeats"}
    assert tables - empty == set()
    assert indexes & ({index} if isinstance(index, str) else set(index))


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("call", ["beat_job_run", "pgonce_report_job_run", "complete_job_run"])
def test_a_run_is_found_by_its_id_and_not_among_the_dead_entries_of_those_that_have_ended(
    conn: Connection, call: str, plan: str
) -> None:
    conn.execute(f"set plan_cache_mode = {plan}".encode())
    for _ in range(50):
        conn.execute("select complete_job_run(start_job_run('job'))")
    with conn.transaction():
        run = value(conn, "select format('%L', start_job_run('job'))")
        assert scans(conn, f"{call}({run})")[1] - {"pgonce_job_heartbeats_pkey"} == {"cron_job_runs_pkey"}


GROWN = [
    "pgonce_queue_webhooks(array['evt_25000', format('evt_%s', clock_timestamp())], '{x,x}', array['{}', '{}'])",
    "claim_webhook('evt_25000', 'x', '{}')",
    "insert_webhook_if_new('evt_25000', 'x', '{}')",
    'receive_webhook(\'{"id": "evt_25000", "type": "x"}\')',
    "pgonce_claim_webhooks()",
    "pgonce_complete_webhooks(IDS, LEASES)",
    "pgonce_mark_webhook(IDS[1], LEASES[1])",
    "pgonce_fail_committed_webhook(IDS[1], LEASES[1], 'why')",
    "pgonce_ignore_unhandled_webhooks()",
    "pgonce_take_back_webhooks('^x$')",
    "pgonce_postpone_webhook(IDS[1], LEASES[1], '1 minute')",
    "pgonce_renew_webhook(IDS[1], LEASES[1])",
    "pgonce_replay_webhooks(array['evt_1'], '{processing}', LEASES[1:1])",
    "pgonce_list_webhooks(p_object_id => 'in_1')",
    "pgonce_list_webhooks(p_customer_id => 'cus_1')",
    "pgonce_list_webhooks(p_status => 'ignored', p_event_type => 'rare')",
    "pgonce_release_webhooks(IDS, LEASES)",
    "complete_webhook(IDS[1], LEASES[1])",
    "fail_webhook(IDS[1], LEASES[1], 'why')",
    "ignore_webhook(IDS[1], LEASES[1], 'why')",
    "pgonce_webhook_statuses(IDS, LEASES)",
    "pgonce_twin_of_webhook(IDS[1])",
    "pgonce_order_webhook(IDS[1], LEASES[1], 'key')",
    "pgonce_coalesce_webhooks(IDS[1], 'key', 'x')",
    "pgonce_pull_next_webhook('key')",
    "pgonce_replay_webhook('evt_1')",
]


@pytest.mark.parametrize(("few", "is_analyzed"), [(40, False), (8, True)])
def test_a_plan_that_was_made_while_the_table_was_empty_is_good_for_a_full_one(
    conn: Connection, session: Callable[..., Connection], few: int, is_analyzed: bool
) -> None:
    insert = (
        "insert into webhook_events"
        " (stripe_event_id, event_type, queued, lease_expires_at, next_attempt_at, lease, status)"
        " select 'evt_' || n, 'x', true, null, case when n < 100 then now() end, null,"
        " case when n < 100 then 'processing' else 'succeeded' end from generate_series(%s::int, %s) n"
    )
    mine = "select array_agg(id)::text, array_agg(lease)::text from pgonce_claim_webhooks(3)"
    sessions = {call: session(options="-c plan_cache_mode=force_generic_plan") for call in GROWN}  # each with its plans
    conn.execute("alter table webhook_events set (autovacuum_enabled = off)")  # it would end all plans

    def called(call: str) -> set[str]:
        one = sessions[call]
        with one.transaction(force_rollback=True):
            [(ids, leases)] = one.execute(mine.encode()).fetchall()
            return scans(one, call.replace("IDS", f"('{ids}'::uuid[])").replace("LEASES", f"('{leases}'::uuid[])"))[0]

    conn.execute(insert.encode(), [1, few])
    if is_analyzed:  # then the planner knows that the table is small
        conn.execute("analyze webhook_events")
    for call in GROWN:  # once each: what they write and roll back makes the table larger
        called(call)
    assert value(conn, "select pg_relation_size('webhook_events') / 8192") < 10  # where an index does not pay
    conn.execute(insert.encode(), [100, ROWS])
    # pgonce_processes has a row for each process
    assert {call: read for call in GROWN if (read := called(call) - {"pgonce_processes"})} == {}


GROWN_RUNS = [
    "start_job_run('a')",
    "start_job_run('busy')",
    "start_job_run('a', p_scheduled_for => '2026-01-01')",
    "beat_job_run(RUN)",
    "pgonce_report_job_run(RUN)",
    "pgonce_fence_job_run(RUN, 0)",
    "complete_job_run(RUN)",
    "fail_job_run(RUN, 'why')",
    "pgonce_interrupt_job_run(RUN, 'why')",
    "pgonce_explain_job_run_end(RUN)",
    "pgonce_note_lost_job_run(RUN)",
    "pgonce_abandon_job_runs()",
    "pgonce_keep_heartbeats_apart(RUN)",
]


def test_a_plan_that_was_made_for_few_runs_is_good_for_many(
    conn: Connection, session: Callable[..., Connection]
) -> None:
    insert = (
        "insert into cron_job_runs (job_name, status, completed_at)"
        " select 'job_' || n, 'succeeded', now() from generate_series(%s::int, %s) n"
    )
    sessions = {call: session(options="-c plan_cache_mode=force_generic_plan") for call in GROWN_RUNS}
    conn.execute("alter table cron_job_runs set (autovacuum_enabled = off)")
    run = value(conn, "select format('%L', start_job_run('busy', p_window => '1 hour'))")
    conn.execute(insert.encode(), [1, 8])
    conn.execute("analyze cron_job_runs")

    def called(call: str) -> set[str]:
        one = sessions[call]
        with one.transaction(force_rollback=True):
            return scans(one, call.replace("RUN", run))[0]

    for call in GROWN_RUNS:
        called(call)
    conn.execute(insert.encode(), [100, ROWS])
    assert {call: read for call in GROWN_RUNS if "cron_job_runs" in (read := called(call))} == {}


def test_many_runs_are_found_one_by_one_with_plans_that_were_made_while_the_table_was_empty(
    conn: Connection, database: str
) -> None:
    def both() -> tuple[set[str], set[str], int]:
        """Tables read in full, indexes used, and how many rows were read from the indexes of running runs."""
        began = value(conn, "select max(started_at) from cron_job_runs")
        tables: set[str] = set()
        indexes: set[str] = set()
        entries = 0
        for call in (
            "pgonce_start_job_runs('{a,busy}', '{null,null}', '{1h,1h}', array['', ''], '{null,null}')",
            "pgonce_complete_job_runs(ID, '{1}', '{1}')",
        ):
            run = value(
                conn, "select format('{%%s}', id) from cron_job_runs where started_at > %s and job_name = 'a'", began
            )
            before = [value(conn, query) for query in returned]
            read, used = scans(conn, call.replace("ID", f"'{run}'"))
            entries += sum(value(conn, query) for query in returned) - sum(before)
            tables, indexes = tables | read, indexes | used
        return tables, indexes, entries

    returned = [f"select pg_stat_get_xact_tuples_returned('{index}'::regclass)" for index in RUNNING]
    conn.execute("select start_job_run('busy', p_window => '1 hour')")
    for _ in range(8):
        with conn.transaction(force_rollback=True):
            both()
    with psycopg.connect(database, autocommit=True) as other:
        other.execute(
            "insert into cron_job_runs (job_name, status)"
            " select 'job_' || n, case when n > 1000 then 'succeeded' else 'running' end"
            f" from generate_series(1, {ROWS}) n"
        )
    with conn.transaction(force_rollback=True):
        tables, indexes, entries = both()
    assert (tables, indexes) == (
        set(),
        {"cron_job_runs_pkey", "pgonce_cron_job_runs_one_running", "pgonce_job_pauses_pkey"},
    )
    assert entries < 10


def test_a_claim_reads_what_it_claims_and_not_all_that_wait(conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events"
        " (stripe_event_id, event_type, queued, lease_expires_at, next_attempt_at, lease, status)"
        " select 'evt_' || n, 'x', true, null, case when n < 4000 then now() - random() * interval '1 hour' end, null,"
        " case when n < 4000 then 'processing' else 'succeeded' end from generate_series(1, %s) n",
        [ROWS],
    )
    conn.execute("vacuum analyze webhook_events")
    due, status = (
        f"select pg_stat_get_xact_tuples_returned('{index}'::regclass)"
        for index in ("pgonce_webhook_events_due", "idx_webhook_events_status")
    )
    with conn.transaction():
        before = value(conn, due), value(conn, status)
        assert scans(conn, "pgonce_claim_webhooks(10)")[0] == set()
        assert (value(conn, due) - before[0], value(conn, status) - before[1]) == (10, 0)


@pytest.mark.parametrize(
    "call, index",
    [
        ("purge_webhook_events('500 days')", "idx_webhook_events_received"),
        ("purge_job_runs('500 days')", "idx_cron_runs_started"),
    ],
)
def test_a_purge_that_finds_nothing_reads_nothing(planned: Connection, call: str, index: str) -> None:
    read = f"select pg_stat_get_xact_tuples_returned('{index}'::regclass)"
    before = value(planned, read)
    assert value(planned, f"select {call}") == 0
    assert value(planned, read) - before < 10


def test_the_lookups_of_this_test_would_see_a_table_read_from_end_to_end(full: Connection) -> None:
    with full.transaction(force_rollback=True):
        full.execute("drop index pgonce_cron_job_runs_one_running, idx_cron_runs_job_name, idx_cron_runs_status")
        full.execute("drop index pgonce_cron_job_runs_one_tick")
        assert scans(full, "start_job_run('job_1')")[0] == {"cron_job_runs"}
