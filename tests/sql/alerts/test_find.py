"""pgonce_find_alerts and pgonce_collect_alerts find every end of a run, and read no other rows."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.race import value

Connection = psycopg.Connection[Any]


def look(conn: Connection) -> None:
    conn.execute("select pgonce_collect_alerts('{channel}')")


def told(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("select kind, subject from pgonce_alerts order by created_at, kind, subject").fetchall()


def test_a_long_run_is_told_however_many_of_other_keys_ran_meanwhile(conn: Connection) -> None:
    conn.execute("select start_job_run('per_tenant', p_key => 'big')")
    conn.execute("update cron_job_runs set started_at = now() - interval '6 hours'")
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at)"
        " select 'per_tenant', n::text, 'succeeded', at, at from generate_series(1, 40) n,"
        " lateral (select now() - interval '5 hours' + n * interval '1 minute' as at) t"
    )
    look(conn)
    conn.execute("select fail_job_run(id, 'out of memory') from cron_job_runs where key = 'big'")
    look(conn)
    look(conn)
    assert told(conn) == [("run_failed", "per_tenant/big")]


def fail_tick(conn: Connection, minute: int, backoff: str = "1 minute") -> Any:
    """A run for a tick that fails and has three retries."""
    tick = "date_trunc('hour', now()) + %s * interval '1 minute'"
    run = value(conn, f"select start_job_run('j', '{{}}', '1 h', '', {tick}, 3, %s)", minute, backoff)
    assert value(conn, "select fail_job_run(%s, 'broken')", run)
    return run


def retry(conn: Connection, run: Any) -> Any:
    conn.execute("update pgonce_job_retries set due_at = now() where run_id = %s", [run])
    return value(conn, "select pgonce_retry_job_run(%s)", run)


def test_a_job_whose_retries_give_way_to_newer_ticks_is_told_like_one_without_retries(conn: Connection) -> None:
    before = None
    for minute in range(5):
        run = fail_tick(conn, minute)
        look(conn)
        if before:
            assert retry(conn, before) is None
        again = retry(conn, run)
        look(conn)
        conn.execute("select fail_job_run(%s, 'broken')", [again])
        look(conn)
        before = again
    look(conn)
    failures = [("run_failed", "j"), ("run_failed", "j"), ("failed_in_a_row", "j")]
    assert told(conn) == failures, "four are over, the fifth waits for its retry"


def test_a_failure_is_none_while_its_retry_waits_or_runs_or_when_it_has_succeeded(conn: Connection) -> None:
    run = fail_tick(conn, 0)
    look(conn)
    again = retry(conn, run)
    look(conn)
    conn.execute("select complete_job_run(%s)", [again])
    look(conn)
    assert told(conn) == []
    conn.execute("update cron_job_runs set started_at = started_at - interval '200 days'")
    conn.execute("select complete_job_run(start_job_run('j'))")
    everything = "select kind from pgonce_find_alerts('-infinity', '{}')"
    assert value(conn, "select purge_job_runs(p_limit => 1)") == 1
    assert conn.execute(everything).fetchall() == [], "the failure goes before its retry does"


def test_a_failure_that_becomes_final_hours_after_it_is_told(conn: Connection) -> None:
    hours_ago = (
        "update cron_job_runs set started_at = started_at - interval '5 hours',"
        " completed_at = now() - interval '5 hours' where id = %s"
    )
    replaced = fail_tick(conn, 0, "5 hours")
    conn.execute(hours_ago, [replaced])
    look(conn)
    conn.execute("select complete_job_run(start_job_run('j', p_scheduled_for => now() - interval '4 hours'))")
    assert retry(conn, replaced) is None
    look(conn)
    assert told(conn) == [("run_failed", "j"), ("recovered", "j")]

    conn.execute("truncate pgonce_alerts, cron_job_runs")
    forgotten = fail_tick(conn, 0, "5 hours")
    conn.execute(hours_ago, [forgotten])
    look(conn)
    assert told(conn) == []
    conn.execute("update pgonce_job_retries set due_at = now() - interval '1 hour'")
    look(conn)
    assert told(conn) == [("run_failed", "j")]


def test_a_look_reads_no_more_than_the_runs_that_it_is_about(conn: Connection) -> None:
    """For a job with few runs, which the statistics do not contain, the whole table must not be read by time."""
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at)"
        " select 'job_' || n % 50, n, 'succeeded', now() - interval '1 day' - n * interval '1 second'"
        " from generate_series(1, 20000) n"
    )
    conn.execute("vacuum analyze cron_job_runs")
    conn.execute("select start_job_run('rare', p_key => n::text) from generate_series(1, 20) n")
    conn.execute("update cron_job_runs set started_at = now() - interval '2 minutes' where job_name = 'rare'")
    read = (
        "select sum(pg_stat_get_xact_tuples_returned(oid)) from pg_class"
        " where relkind in ('r', 'i') and relname ~ 'cron_(job_)?runs'"
    )
    for plan in ("force_custom_plan", "force_generic_plan"):
        conn.execute(f"set plan_cache_mode = {plan}".encode())
        with conn.transaction():
            before = value(conn, read)
            conn.execute("select from pgonce_find_alerts(now() - interval '1 hour', '{}')")
            assert value(conn, read) - before < 1000


def failing_keys(conn: Connection, job: str, keys: int, *, first: int = 1, error: str = "boom") -> None:
    """Make a run for each of these keys that has just failed, all within one hour."""
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at, duration_ms, error_message)"
        " select %s, 'key ' || n, 'failed', at, at, 0, %s from generate_series(%s::int, %s::int) n,"
        " lateral (select date_bin('1 hour', now(), '2000-01-01Z') + n * interval '1 ms' as at) t",
        [job, error, first, first + keys - 1],
    )


def test_three_thousand_failing_keys_of_one_job_are_one_alert_with_the_count_and_the_newest(conn: Connection) -> None:
    failing_keys(conn, "per_tenant", 3000, error="Traceback\nValueError: boom")
    look(conn)
    [(kind, subject, message, detail)] = conn.execute(
        "select kind, subject, message, detail from pgonce_alerts"
    ).fetchall()
    assert (kind, subject) == ("run_failed", "per_tenant")
    assert message.startswith("3,000 runs of job per_tenant failed since ")
    assert message.endswith(
        "; the newest: per_tenant/key 3000: ValueError: boom. Next: `pgonce job ls --job per_tenant --status failed`"
    )
    assert detail["events"] == 3000
    assert [example["subject"] for example in detail["examples"]] == [f"per_tenant/key {n}" for n in (3000, 2999, 2998)]


def test_keys_that_fail_one_after_another_are_told_singly_and_then_once_for_each_digit_of_their_count(
    conn: Connection,
) -> None:
    for number in range(1, 13):
        failing_keys(conn, "j", 1, first=number)
        look(conn)
        conn.execute("select pgonce_alert_delivered(id) from pgonce_alerts where delivered_at is null")
    look(conn)
    heads = [message.partition(" since")[0].partition(":")[0] for (message,) in messages(conn)]
    assert heads == ["job j/key 1 failed", "job j/key 2 failed", "job j/key 3 failed", "4 runs of job j failed",
                     "10 runs of job j failed"]  # fmt: skip


def test_an_alert_with_a_count_that_nobody_has_claimed_is_kept_up_to_date_and_replaced(conn: Connection) -> None:
    failing_keys(conn, "j", 5)
    look(conn)
    failing_keys(conn, "j", 2, first=6)
    look(conn)
    [(message,)] = messages(conn)
    assert message.startswith("7 runs")
    failing_keys(conn, "j", 90, first=8)
    look(conn)
    [(message,)] = messages(conn)
    assert message.startswith("97 runs")
    conn.execute("select pgonce_claim_alerts('channel')")
    failing_keys(conn, "j", 1, first=98)
    look(conn)
    assert messages(conn) == [(message,)], "what a worker is delivering stays as it is"
    conn.execute("delete from cron_job_runs where key ~ '[0-9][0-9]'")
    look(conn)
    assert messages(conn) == [(message,)], "a count that shrinks is no news"
    conn.execute("delete from cron_job_runs where key ~ '[4-9]'")
    look(conn)
    assert messages(conn) == [(message,)]


def messages(conn: Connection) -> list[tuple[str]]:
    return conn.execute("select message from pgonce_alerts order by created_at").fetchall()


@pytest.mark.parametrize(
    ("what", "kind", "subject"),
    [
        ("insert into seed_checkpoints (seed_name, status) select 's' || n, 'failed' from generate_series(1, 40) n",
         "import_failed", "imports"),
        (("insert into seed_checkpoints (seed_name, last_updated_at)"
         " select 's' || n, now() - interval '20 minutes' from generate_series(1, 40) n"), "import_stalled", "imports"),
        (("insert into webhook_events (stripe_event_id, event_type, status, queued)"
         " select 'evt_' || n, 'a.b', 'failed', true from generate_series(1, 40) n"), "dead_webhook", "a.b"),
        (("insert into webhook_events (stripe_event_id, event_type, status)"
         " select 'evt_' || n, 'a.b', 'failed' from generate_series(1, 40) n"), "webhook_failed", "a.b"),
        (("insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick)"
         " select 'j', n::text, '0 3 * * *', 'UTC', now() - interval '6 minutes' from generate_series(1, 40) n"),
         "did_not_run", "j"),
    ],
)  # fmt: skip
def test_of_every_kind_many_within_an_hour_are_one_alert(conn: Connection, what: str, kind: str, subject: str) -> None:
    conn.execute(what.encode())
    look(conn)
    assert told(conn) == [(kind, subject)]
    assert messages(conn)[0][0].startswith("40 ")


def test_a_handler_that_asks_for_the_next_delivery_has_not_failed_until_there_is_none(conn: Connection) -> None:
    claim = "select pgonce_postpone_webhook(id, lease, '1 minute') from claim_webhook('evt_1', 'a.b', '{}')"
    assert value(conn, claim) is True
    look(conn)
    assert told(conn) == []
    conn.execute("update webhook_events set received_at = now() - interval '72 hours 1 minute'")
    look(conn)
    assert told(conn) == [("dead_webhook", "a.b")]


def test_jobs_whose_names_and_keys_run_together_are_told_apart(conn: Connection) -> None:
    """No alert at all was stored."""
    jobs = "values ('import', 'eu/de'), ('import/eu', 'de')"
    conn.execute(
        "insert into pgonce_job_schedules (job_name, key, cron, timezone, next_tick)"
        f" select *, '0 3 * * *', 'UTC', now() - interval '6 minutes' from ({jobs}) j".encode()
    )
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at)"
        " select j.*, 'failed', at, at from generate_series(0, 60) n,"
        f" lateral (select now() - n * interval '1 hour' as at) t, ({jobs}) j".encode()
    )
    conn.execute(
        "select pgonce_expect_job('long', null, p_key => k, p_within => '1 s') from unnest('{eu,eu#1}'::text[]) k"
    )
    conn.execute("select start_job_run('long', p_key => 'eu#1')")  # both are expected of it
    conn.execute("update cron_job_runs set started_at = started_at - interval '1 hour' where job_name = 'long'")
    look(conn)
    found = set(conn.execute("select kind, detail ->> 'job_name' from pgonce_alerts").fetchall())
    assert found >= {(kind, job) for kind in ("did_not_run", "failed_in_a_row") for job in ("import", "import/eu")}
    assert ("ran_long", "long") in found


def test_a_flapping_job_makes_a_few_alerts_an_hour_and_not_one_for_each_run(conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at)"
        " select 'flaps', case n % 2 when 0 then 'failed' else 'succeeded' end, at, at from generate_series(1, 60) n,"
        " lateral (select date_bin('1 hour', now(), '2000-01-01Z') - n * interval '59 seconds' as at) t"
    )
    look(conn)
    assert sorted(told(conn)) == [("recovered", "flaps"), ("run_failed", "flaps")]


def test_a_job_that_fails_every_minute_for_days_is_told_once_a_day(conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms, error_message)"
        " select 'minutely', 'failed', at, at, 0, 'boom' from generate_series(1, 5000) n,"
        " lateral (select now() - n * interval '1 minute' as at) t"
    )
    conn.execute(
        "insert into pgonce_alert_channels (channel, looked_at)"
        " select 'channel', date_trunc('day', now() at time zone 'UTC') at time zone 'UTC'"
    )
    look(conn)
    look(conn)
    [(message,)] = messages(conn)
    assert message.startswith("job minutely is still failing: boom")


def test_the_hours_of_a_count_are_the_same_in_every_time_zone(conn: Connection) -> None:
    failing_keys(conn, "j", 9)
    keys = set()
    for zone in ("UTC", "Asia/Kolkata", "Australia/Eucla"):
        conn.execute(f"set timezone = '{zone}'".encode())
        keys |= set(conn.execute("select dedupe_key, message from pgonce_find_alerts(now(), '{}')").fetchall())
    assert len(keys) == 1


def test_an_end_of_a_failure_is_delivered_after_the_failure_that_was_refused(conn: Connection, session: Any) -> None:
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, created_at)"
        " select 'channel', kind, 'job', n, '', now() - n * interval '1 s'"
        " from unnest('{recovered,run_failed}'::text[]) with ordinality k (kind, n)"
    )
    claim = "select kind, id, attempt from pgonce_claim_alerts('channel')"
    other = session(autocommit=False)
    [(_, failed, attempt)] = other.execute(claim).fetchall()
    assert conn.execute(claim).fetchall() == [], "another worker is delivering the failure"
    other.commit()
    conn.execute("select pgonce_alert_failed(%s, %s, 'HTTP 500')", [failed, attempt])
    assert conn.execute(claim).fetchall() == [], "the failure will be sent again"
    conn.execute("update pgonce_alerts set next_attempt_at = now() where id = %s", [failed])
    assert conn.execute(claim).fetchall() == [("run_failed", failed, 2)]
    conn.execute("select pgonce_alert_delivered(%s)", [failed])
    assert [kind for kind, *_ in conn.execute(claim).fetchall()] == ["recovered"]


def test_the_subject_with_the_newest_alert_is_delivered_first_and_its_own_alerts_in_order(conn: Connection) -> None:
    for number, subject in enumerate(["a", "a", "b", "a", "b", "c"]):
        conn.execute(
            "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, created_at)"
            " values ('channel', 'k', %s, %s, '', now() - %s * interval '1 minute')",
            [subject, str(number), 60 - number],
        )
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message) values ('other', 'k', 'a', '0', '')"
    )
    claimed = [
        value(conn, "select subject || created_at::text from pgonce_claim_alerts('channel')")[0] for _ in range(6)
    ]
    assert claimed == ["c", "b", "b", "a", "a", "a"]
    order = conn.execute(
        "select array_agg(dedupe_key order by created_at) = array_agg(dedupe_key order by next_attempt_at)"
        " from pgonce_alerts where channel = 'channel' group by subject"
    ).fetchall()
    assert order == [(True,)] * 3


def test_no_value_of_a_row_is_in_an_alert(conn: Connection) -> None:
    errors = [
        (
            'psycopg.errors.UniqueViolation: duplicate key value violates unique constraint "t_pkey"\n'
            "DETAIL:  Key (email)=(secret) already exists."
        ),
        (
            'psycopg.errors.InvalidTextRepresentation: invalid input syntax for type integer: "secret"\n'
            'CONTEXT:  COPY t, line 3, column n: "secret"'
        ),
    ]
    for number, error in enumerate(errors):
        text = (
            f'Traceback (most recent call last):\n  File "/srv/shop/app.py", line 3, in load\n    secret()\n{error}\n'
        )
        conn.execute("select fail_job_run(start_job_run(%s), %s)", [f"job {number}", text])
        conn.execute("select update_checkpoint(%s, %s)", [f"seed {number}", '{"email": "secret"}'])
        conn.execute("select fail_seed(%s, %s)", [f"seed {number}", text])
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, status, error_message, payload)"
            " values (%s, %s, 'failed', %s, '{\"id\": \"secret\"}')",
            [f"evt_{number}", f"type.{number}", text],
        )
    look(conn)
    stored = conn.execute("select a::text from pgonce_alerts a").fetchall()
    assert len(stored) == 6
    assert "secret" not in str(stored)
    assert str(stored).count("(shop/app.py:3 in load)") == 6


@pytest.mark.parametrize("ended", [False, True])
def test_a_run_that_takes_longer_than_expected_is_told_once_whatever_is_usual(conn: Connection, ended: bool) -> None:
    conn.execute("select pgonce_expect_job('j', null, p_within => '20 minutes')")
    conn.execute("select pgonce_expect_job('j', null, p_key => 'slow', p_within => '2 hours')")
    for key, took in (("", 19), ("quick", 21), ("slow", 100), ("slow#2", 100), ("late", 30)):
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, started_at, completed_at, duration_ms)"
            " select 'j', k, case when %(ended)s then 'succeeded' else 'running' end, now() - m * interval '1 min',"
            " case when %(ended)s then now() end, case when %(ended)s then m * 60000 end"
            " from (values (%(key)s, %(took)s)) v (k, m)",
            {"ended": ended, "key": key, "took": took},
        )
    look(conn)
    look(conn)
    assert told(conn) == [("ran_long", "j/late"), ("ran_long", "j/quick")]
    [(message,)] = conn.execute("select message from pgonce_alerts where subject = 'j/late'").fetchall()
    assert message.startswith("job j/late takes longer than expected: 30 min, and not less than 20 min. Next: ")


def test_what_is_expected_takes_the_place_of_what_is_usual(conn: Connection) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, status, started_at, completed_at, duration_ms)"
        " select 'j', 'succeeded', at, at + interval '1 min', 60000 from generate_series(1, 6) n,"
        " lateral (select now() - interval '10 hours' + n * interval '1 hour' as at) t"
    )
    conn.execute("insert into cron_job_runs (job_name, started_at) values ('j', now() - interval '50 min')")
    for within, kinds in (("1 hour", []), (None, ["ran_long"])):
        if within:
            conn.execute("select pgonce_expect_job('j', '1 day', p_within => %s)", [within])
        else:
            conn.execute("select pgonce_forget_job_expectation('j')")
        look(conn)
        assert [kind for kind, _ in told(conn)] == kinds


def test_after_the_clock_was_set_back_what_fails_is_told(conn: Connection) -> None:
    collect = "select pgonce_collect_alerts('{channel}', '15 seconds')"
    assert value(conn, collect) == 0
    conn.execute("update pgonce_alert_channels set looked_at = looked_at + interval '1 day'")
    conn.execute("select fail_job_run(start_job_run('j'), 'boom')")
    assert value(conn, collect) == 1
    assert value(conn, "select bool_and(looked_at <= now()) from pgonce_alert_channels") is True


@pytest.mark.parametrize("expected_key", ["", "k"])
def test_a_run_that_some_client_gave_an_infinite_time_keeps_no_alert_back(conn: Connection, expected_key: str) -> None:
    """As the end of a run that is at work, for example: then nothing was told of any job any more."""
    conn.execute("select fail_job_run(start_job_run('broken'), 'boom')")
    conn.execute("select pgonce_expect_job('odd', '1 hour', '1 minute', %s, '1 minute')", [expected_key])
    conn.execute("update pgonce_job_expectations set since = now() - interval '2 hours'")
    blocked = "'00000000-0000-0000-0000-000000000000'"
    for status in ("running", "succeeded", "failed", "skipped"):
        for began, ended in (("now()", "'infinity'"), ("'infinity'", "now()"), ("now()", "'-infinity'")):
            conn.execute(
                "insert into cron_job_runs (id, job_name, key, status, started_at, completed_at, blocked_by)"
                f" values (case when '{status}' = 'running' and {ended} = '-infinity' then {blocked}::uuid"
                f" else gen_random_uuid() end, 'odd', %s, '{status}', {began}, {ended},"
                f" case when '{status}' = 'skipped' then {blocked}::uuid end)".encode(),
                ["k" if status != "running" else f"{began} {ended}"],
            )
    ids = conn.execute("select array_agg(id) from cron_job_runs").fetchone() or ()
    found = conn.execute("select kind, subject from pgonce_find_alerts(now() - interval '1 day', %s)", ids).fetchall()
    assert ("run_failed", "broken") in found
    conn.execute("select pgonce_collect_alerts('{c}')")
