"""Wrong arguments: every function names the argument that it refuses, and writes nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]

NOBODY = "'00000000-0000-0000-0000-000000000000'"

# SQLSTATE: the calls that raise it. 22023 is pgonce's, for an argument that it refuses, and PT404 for an unknown name;
# 22P02, 22P05 and 22003 are PostgreSQL's, for text that is not jsonb, not a uuid or not an integer.
REFUSED = {
    "22023": """
        insert_webhook_if_new('', 'x', '{}')
        insert_webhook_if_new(null, 'x', '{}')
        insert_webhook_if_new('e', '', '{}')
        insert_webhook_if_new('e', null, '{}')
        insert_webhook_if_new('e', 'x', null)
        insert_webhook_if_new('e', 'x', 'null')
        insert_webhook_if_new('e', 'x', '[]')
        insert_webhook_if_new('e', 'x', '"text"')
        insert_webhook_if_new('e', 'x', '7')
        insert_webhook_if_new(repeat('e', 256), 'x', '{}')
        claim_webhook('', 'x', '{}')
        claim_webhook('e', '', '{}')
        claim_webhook('e', 'x', null)
        claim_webhook('e', 'x', '')
        claim_webhook('e', 'x', 'not JSON')
        claim_webhook('e', 'x', '{"a": }')
        claim_webhook('e', 'x', '[1]')
        claim_webhook('e', 'x', '{}', p_lease_for => '0')
        claim_webhook('e', 'x', '{}', p_lease_for => '-1 second')
        claim_webhook('e', 'x', '{}', p_lease_for => null)
        claim_webhook('e', 'x', '{}', p_lease_for => '300000 years')
        receive_webhook(null)
        receive_webhook('')
        receive_webhook('not JSON')
        receive_webhook('[]')
        receive_webhook('{}')
        receive_webhook('{"id": "e"}')
        receive_webhook('{"id": "", "type": "x"}')
        receive_webhook('{"id": null, "type": "x"}')
        receive_webhook('{"type": "x"}')
        start_job_run('')
        start_job_run(null)
        start_job_run('j', p_window => '0')
        start_job_run('j', p_window => '-1 minute')
        start_job_run('j', p_window => null)
        start_job_run('j', p_window => '101 years')
        start_job_run('j', p_window => '300000 years')
        start_job_run('j', p_key => null)
        start_job_run('j', p_retries => -1)
        start_job_run('j', p_retries => null)
        start_job_run('j', p_backoff => '0')
        start_job_run('j', p_backoff => '25 hours')
        start_job_run('j', p_backoff => null)
        pgonce_start_job_runs('{j,""}', '{null,null}', '{1h,1h}', array['', ''], '{null,null}')
        pgonce_start_job_runs('{j}', '{null}', '{0}', array[''], '{null}')
        pgonce_start_job_runs('[0:1]={i,j}', '{null,null}', '{1h,1h}', array['', ''], '{null,null}')
        pgonce_start_job_runs('{i,j}', '{null,null}', '[0:1]={1h,1h}', array['', ''], '{null,null}')
        pgonce_complete_job_runs(array[gen_random_uuid()], '{-1}', '{0}')
        pgonce_complete_job_runs(format('[0:0]={%s}', gen_random_uuid())::uuid[], '{1}', '{0}')
        complete_job_run(RUN, -1)
        complete_job_run(RUN, 0, -1)
        update_checkpoint('', '{"n": 1}')
        update_checkpoint(null, '{"n": 1}')
        update_checkpoint('s', null)
        update_checkpoint('s', 'null')
        update_checkpoint('s', '{"n": 1}', -1)
        update_checkpoint('s', '{"n": 1}', 0, -1)
        update_checkpoint('s', '{"n": 1}', null)
        update_checkpoint('s', '{"n": 1}', 0, null)
        pgonce_advance_seed('', RUN, 0, '{"n": 1}')
        pgonce_advance_seed('', RUN, 1, '{"n": 1}')
        pgonce_advance_seed('s', RUN, null, '{"n": 1}')
        pgonce_advance_seed('s', RUN, -1, '{"n": 1}')
        pgonce_advance_seed('s', RUN, 0, null)
        pgonce_advance_seed('s', RUN, 0, '{"n": 1}', -1)
        pgonce_advance_seed('s', RUN, 0, '{"n": 1}', 0, -1)
        complete_seed('')
        complete_seed(null)
        fail_seed('', 'why')
        fail_seed(null, 'why')
        purge_webhook_events('0')
        purge_webhook_events('-1 day')
        purge_webhook_events(null)
        purge_webhook_events('1 day', 0)
        purge_webhook_events('1 day', -1)
        purge_webhook_events('1 day', null)
        purge_job_runs('0')
        purge_job_runs('-1 day')
        purge_job_runs(null)
        purge_job_runs('1 day', 0)
        purge_job_runs('1 day', null)
        pgonce_purge_audit('0')
        pgonce_purge_audit('1 day', 0)
    """,
    "22P02": """
        insert_webhook_if_new('e', 'x', 'not JSON')
        update_checkpoint('s', 'not JSON')
        start_job_run('j', 'not JSON')
        complete_job_run('not a uuid')
        beat_job_run('')
    """,
    "22P05": r"""
        insert_webhook_if_new('e', 'x', '{"a": "\u0000"}')
        update_checkpoint('s', '{"a": "\u0000"}')
    """,
    "PT404": """
        beat_job_run(NOBODY)
        beat_job_run(null)
        complete_job_run(NOBODY)
        complete_job_run(null)
        fail_job_run(NOBODY, 'why')
        fail_job_run(null, 'why')
        pgonce_advance_seed('s', NOBODY, 0, '{"n": 1}')
        pgonce_advance_seed('s', null, 0, '{"n": 1}')
    """,
}
CALLS = [(state, call.strip()) for state, calls in REFUSED.items() for call in calls.strip().splitlines()]


def everything(conn: Connection) -> list[Any]:
    tables = ("webhook_events", "cron_job_runs", "seed_checkpoints")
    return [conn.execute(f"select * from {table} order by id".encode()).fetchall() for table in tables]


@pytest.fixture(scope="module")
def run(shared: Connection) -> str:
    """A live run, as an SQL literal."""
    return f"'{value(shared, 'select start_job_run($$alive$$)')}'"


@pytest.mark.parametrize("sqlstate, call", CALLS, ids=[call for _, call in CALLS])
def test_a_wrong_argument_is_refused_and_nothing_is_written(
    shared: Connection, run: str, sqlstate: str, call: str
) -> None:
    before = everything(shared)
    with pytest.raises(psycopg.Error) as refused:
        shared.execute(f"select * from {call.replace('RUN', run).replace('NOBODY', NOBODY)}".encode())
    assert refused.value.sqlstate == sqlstate
    assert everything(shared) == before
    assert "\n" not in (refused.value.diag.message_primary or "\n"), "the message is one clear line"
