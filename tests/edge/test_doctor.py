"""``pgonce doctor`` on real databases: it finds what is wrong, and every command that it names works."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgonce import doctor
from pgonce.core.database import open_pool
from pgonce.core.execute import call
from pgonce.doctor import Finding
from pgonce.errors import SchemaError
from pgonce.webhooks.calls_receive import count_webhooks
from tests.edge.command import pgonce
from tests.edge.test_named_commands import wrong

Connection = psycopg.Connection[Any]

AREAS = [
    "database", "pooler", "secrets", "schema", "connections", "webhooks", "refused", "jobs", "imports", "processes",
    "alerts", "retention", "disk",
]  # fmt: skip


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", "whsec_one,whsec_two")


def examined(url: str) -> tuple[int, list[Finding]]:
    """The exit code and the findings of ``pgonce doctor``."""
    code, out, _ = pgonce(url, "doctor", "--json")
    return code, [Finding(**each) for each in json.loads(out)]


def found(url: str, area: str, schema: str = "public") -> list[Finding]:
    with pytest.MonkeyPatch.context() as patch:
        if area != "schema":  # to compare it takes half a second of CPU time
            patch.setattr(doctor, "_schema", lambda *_: [])
        return [each for each in doctor.examine(url, schema) if each.area == area]


def test_a_healthy_installation_has_a_good_word_for_each_area_and_exit_code_0(database: str, conn: Connection) -> None:
    conn.execute("insert into pgonce_alert_channels (channel, looked_at) values ('c', now())")
    code, out, _ = pgonce(database, "doctor")
    assert code == 0, out
    lines = out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == AREAS
    assert {line.split()[0] for line in lines[:-1]} == {"✔"}
    assert lines[-1] == "all is well"


WRONG: list[tuple[str, list[tuple[str, str, str]]]] = [
    ("warning", [
        (("insert into webhook_events (stripe_event_id, event_type, status, queued, error_message)"
         " select 'evt_' || n, 'a.b', 'failed', true, 'KeyError: ''x''' from generate_series(1, 14) n"),
         "webhooks", "14 dead letters of one cause"),
        ("insert into cron_job_runs (job_name, heartbeat_at) values ('j', now() - interval '16 minutes')",
         "jobs", "1 run has sent no heartbeat for its window"),
        ("select pgonce_count_refused_deliveries('{signature}', '{1}')",
         "refused", '1 delivery in 24 hours, mostly for "signature"'),
        ("insert into seed_checkpoints (seed_name, status) values ('broken', 'failed')",
         "imports", "import broken has failed or stalled"),
        ("select", "alerts", "nobody is alerted when something fails"),
        (("insert into webhook_events (stripe_event_id, event_type, status, received_at)"
         " values ('e', 'a', 'succeeded', now() - interval '100 days')"),
         "retention", "are overdue for deletion"),
        ("insert into cron_job_runs (job_name, status, started_at) values ('j', 'skipped', '2020-01-01')",
         "retention", "are overdue for deletion"),
        (("insert into pgonce_processes (id, does, host, pid, version, capacity)"
         " select gen_random_uuid(), 'events', 'web', n, '0', 98 from generate_series(1, 4) n"),
         "connections", "and the services that run may open 400"),
        ("grant create on schema public to anon", "schema", "role anon may create objects"),
    ]),
    ("failure", [
        (("insert into webhook_events (stripe_event_id, event_type, queued, next_attempt_at, lease)"
         " values ('evt_1', 'a.b', true, now() - interval '6 minutes', null)"),
         "webhooks", "1 events have been due for over 5 minutes"),
        (("insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
         " values ('it''s late', '0 3 * * *', 'UTC', now() - interval '6 minutes')"),
         "jobs", "1 tick did not run within 7 days, among them of job it's late"),
        ("select pgonce_count_refused_deliveries('{signature,time}', '{200,12}')",
         "refused", '212 deliveries in 24 hours, mostly for "signature"'),
        (("insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, created_at, last_error)"
         " values ('c', 'k', 's', 'd', 'm', now() - interval '1 hour', 'HTTP 404')"),
         "alerts", "HTTP 404"),
        (("insert into cron_job_runs (job_name, status, started_at, completed_at, scheduled_for)"
         " select 'twice', 'succeeded', now() - n * interval '1 minute', now(), null from generate_series(1, 3) n"),
         "jobs", "2 runs overlapped an earlier one within 7 days, among them of job twice"),
        (("insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
         " values ('nightly', '0 3 * * *', 'UTC', now() + interval '1 hour')"),
         "processes", "jobs are scheduled, and no worker runs them"),
        ("grant select on webhook_events to anon", "schema", "role anon may SELECT table"),
    ]),
    ("warning", [
        ("insert into seed_checkpoints (seed_name, last_updated_at) values ('a b', now() - interval '1 hour')",
         "imports", "import a b has failed or stalled"),
        (("insert into pgonce_processes (id, does, host, pid, version, app, release, handlers, started_at)"
         " select gen_random_uuid(), 'events', 'web-' || n, 1, '0', 'shop', 'r' || n,"
         " case n when 1 then '{invoice.paid,payout.*}' else '{payout.*}' end::text[], now() + n * interval '1 second'"
         " from generate_series(1, 2) n"),
         "processes", ("1 process is of another release than the newest start of shop; "
         "the newest release no longer has invoice.paid")),
    ]),
    ("failure", [
        ("insert into pgonce_alert_channels (channel, looked_at) values ('c', now() - interval '1 hour')",
         "alerts", "no worker has looked for 10 minutes"),
    ]),
    ("failure", [("drop function purge_job_runs", "schema", "purge_job_runs")]),
]  # fmt: skip
"""What is wrong together, the area in which it is found, and what is said."""


@pytest.mark.parametrize(("state", "faults"), WRONG)
def test_what_is_wrong_is_found_and_the_command_to_run_runs(
    database: str, conn: Connection, state: str, faults: list[tuple[str, str, str]]
) -> None:
    for statement, _, _ in faults:
        conn.execute(statement.encode())
    code, findings = examined(database)
    assert code == (1 if state == "failure" else 0)
    for _, area, says in faults:
        one = next(each for each in findings if each.area == area and says in each.finding)
        assert one.state == state
        assert one.action
        if one.action.startswith("pgonce "):
            assert wrong(one.action.removeprefix("pgonce ")) is None
            if "worker" not in one.action:  # runs until it is stopped
                assert pgonce(database, *shlex.split(one.action)[1:])[0] == 0
        elif area == "schema":
            conn.execute(one.action.encode())
            assert says not in str(found(database, area)), "the statement closes it"


def test_a_live_run_that_has_its_heartbeats_apart_is_not_silent(database: str, conn: Connection) -> None:
    conn.execute(
        "with run as ("
        " insert into cron_job_runs (job_name, heartbeat_at) values ('j', now() - interval '16 minutes') returning id)"
        " insert into pgonce_job_heartbeats (run_id) select id from run"
    )
    assert not [each for each in found(database, "jobs") if each.state != "ok"]


@pytest.mark.parametrize(
    ("does", "before", "now", "lost"),
    [
        ("events", ["invoice.paid", "payout.*"], ["payout.*"], "invoice.paid"),
        ("events", ["payout.*"], ["payout.paid"], "payout.*"),
        ("events", ["invoice.paid", "payout.*"], ["*"], None),
        ("events", ["invoice.paid"], ["invoice.paid", "payout.*"], None),
        ("jobs", ["nightly", "hourly"], ["hourly"], "nightly"),
        ("jobs", ["nightly"], ["nigh*"], "nightly"),
        ("jobs", ["nightly"], ["nightly"], None),
    ],
)
def test_what_the_newest_release_no_longer_handles_or_runs_is_named(
    database: str, conn: Connection, does: str, before: list[str], now: list[str], lost: str | None
) -> None:
    column = {"events": "handlers", "jobs": "jobs"}[does]
    for names, app, started, seen in (
        (before, "shop", "3 hours", "2 hours"),  # has stopped since
        (now, "shop", "1 hour", "0"),
        (["other"], "blog", "1 minute", "0"),
    ):
        conn.execute(
            f"insert into pgonce_processes (id, does, host, pid, version, app, {column}, started_at, last_seen_at)"
            " values (gen_random_uuid(), %s, 'h', 1, '0', %s, %s, now() - %s::interval, now() - %s::interval)".encode(),
            [does, app, names, started, seen],
        )
    said = [each.finding for each in found(database, "processes") if "no longer has" in each.finding]
    assert said == ([] if lost is None else [f"the newest release no longer has {lost}"])


def test_what_is_right_is_not_found(database: str, conn: Connection) -> None:
    for statement in (
        "insert into webhook_events (stripe_event_id, event_type, status) values ('evt_1', 'a.b', 'failed')",
        (
            "insert into webhook_events (stripe_event_id, event_type, queued, next_attempt_at, lease)"
            " values ('evt_2', 'a.b', true, now() + interval '1 hour', null)"
        ),
        "select start_job_run('j')",
        "insert into seed_checkpoints (seed_name, last_updated_at, paused_at) values ('s', '2020-01-01', now())",
        "insert into cron_job_runs (job_name, status, started_at) values ('old', 'succeeded', '2020-01-01')",
        "select pgonce_count_refused_deliveries('{header}', '{200}')",
    ):
        conn.execute(statement.encode())
    assert [each for each in doctor.examine(database) if each.state != "ok" and each.area != "alerts"] == []


def test_a_process_with_several_services_is_counted_once(database: str, conn: Connection) -> None:
    for services, says in [(["receives", "events", "jobs"], "1 process runs"), (["alerts"], "2 processes run")]:
        conn.execute(
            "insert into pgonce_processes (id, process, does, host, pid, version)"
            " select gen_random_uuid(), %s, unnest(%s::text[]), 'web', 1, '0'",
            [uuid4(), services],
        )
        [one] = found(database, "processes")
        assert (one.state, one.finding) == ("ok", says)


def test_json_has_every_finding(database: str, conn: Connection) -> None:
    conn.execute("insert into seed_checkpoints (seed_name, status) values ('broken', 'failed')")
    code, out, _ = pgonce(database, "doctor", "--json")
    assert code == 0
    [imports] = [each for each in json.loads(out) if each["area"] == "imports"]
    assert imports == {
        "area": "imports", "state": "warning", "finding": "import broken has failed or stalled",
        "action": "pgonce seed show broken",
    }  # fmt: skip


def test_a_database_that_cannot_be_reached_is_a_failure_with_its_reason(database: str) -> None:
    code, out, err = pgonce("postgresql://127.0.0.1:1/none", "doctor")
    assert (code, err) == (1, "")
    assert out.startswith("✗ database")
    assert "onnection refused" in out
    assert re.search(r"\n1 failure +exit code 1\n$", out)


def test_a_database_without_pgonce_is_a_failure_that_names_migrate(empty_database: str) -> None:
    [schema, *more] = [each for each in doctor.examine(empty_database) if each.area == "schema"]
    assert (schema.state, schema.action) == ("failure", "pgonce migrate")
    assert "not installed" in schema.finding
    assert all(each.state == "failure" for each in more)


def test_a_table_that_was_changed_names_what_prints_it_as_it_was(database: str, conn: Connection) -> None:
    conn.execute("alter table webhook_events alter lease drop default")
    conn.execute("alter table cron_job_runs set unlogged")
    assert {each.action for each in doctor.examine(database) if each.area == "schema"} == {
        "pgonce sql", "alter table public.cron_job_runs set logged",
    }  # fmt: skip


@pytest.mark.parametrize(("given", "state"), [("whsec_x", "ok"), ("sk_live_x", "failure"), ("", "failure")])
def test_secrets_that_can_sign_nothing_are_a_failure_and_are_not_shown(
    database: str, monkeypatch: pytest.MonkeyPatch, given: str, state: str
) -> None:
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", given)
    [one] = found(database, "secrets")
    assert one.state == state
    assert "whsec_x" not in str(one)


def test_nothing_is_said_of_secrets_where_there_are_none(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGONCE_WEBHOOK_SECRET")
    assert found(database, "secrets") == []


@pytest.mark.parametrize(("seconds", "state"), [(1, None), (-10, "warning"), (10, "warning"), (3600, "failure")])
def test_a_clock_that_is_off_is_found(conn: Connection, seconds: int, state: str | None) -> None:
    clock = datetime.now(UTC) + timedelta(seconds=seconds)
    rows = conn.execute("select state from pgonce_examine(%s) where area = 'clock'", [clock]).fetchall()
    assert rows == ([] if state is None else [(state,)])


def test_a_role_that_sees_no_row_is_told_so(database: str, conn: Connection, role: str) -> None:
    conn.execute(f"grant select on all tables in schema public to {role}".encode())
    conn.execute(f"grant execute on all functions in schema public to {role}".encode())
    url = make_conninfo(database, user=role)
    assert found(url, "rls") == []
    for table in ("webhook_events", "cron_job_runs", "seed_checkpoints"):
        conn.execute(f"alter table {table} enable row level security".encode())
    [one] = found(url, "rls")
    assert (one.state, f"every row from role {role}" in one.finding) == ("failure", True)
    conn.execute(f"grant service_role to {role}".encode())
    assert found(url, "rls") == []


@pytest.mark.parametrize(
    ("setting", "area"), [("row_security = off", "rls"), ("session_replication_role = replica", "triggers")]
)
@pytest.mark.parametrize(
    "scope",
    [
        "alter role {role}",
        "alter database {base}",
        "alter role {role} in database {base}",
        "alter role {role} set role = service_role; alter role {role}",
    ],
)
def test_a_setting_that_breaks_the_role_is_named_with_the_command_that_ends_it(
    database: str, conn: Connection, role: str, setting: str, area: str, scope: str
) -> None:
    conn.execute(f"grant service_role to {role}".encode())
    conn.execute("alter table webhook_events enable row level security")
    url = make_conninfo(database, user=role)
    conn.execute(f"{scope.format(role=role, base=conn.info.dbname)} set {setting}".encode())
    [one] = found(url, area)
    assert one.state == "failure"
    if area == "rls":
        with pytest.raises(SchemaError, match="row_security is off"), open_pool(url) as pool:
            call(pool, count_webhooks(["evt_1"]), "public")
    conn.execute(str(one.action).encode())
    assert found(url, area) == []


def test_a_setting_in_the_url_is_to_be_taken_out_of_it(database: str) -> None:
    url = make_conninfo(database, options="-c session_replication_role=replica")
    [one] = found(url, "triggers")
    assert one.action == "take session_replication_role out of the database URL and PGOPTIONS"


def test_the_line_about_disk_has_the_growth_of_a_day(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, payload, received_at)"
        " select 'evt_' || n, 'a.b', 'succeeded', '{}', now() - n * interval '1 minute' from generate_series(1, 3000) n"
    )
    conn.execute("vacuum analyze webhook_events")
    [disk] = found(database, "disk")
    assert (disk.state, disk.action) == ("ok", None)
    assert "webhook_events grows by about" in disk.finding


def test_a_role_that_may_not_create_a_schema_still_gets_the_rest(database: str, conn: Connection) -> None:
    role = f"reader_{uuid4().hex[:8]}"
    conn.execute(f"create role {role} login noinherit in role service_role".encode())
    try:
        denied = doctor.examine(make_conninfo(database, user=role))[-1]
        conn.execute(f"drop role {role}; create role {role} login in role service_role".encode())
        states = {each.area: each.state for each in doctor.examine(make_conninfo(database, user=role))}
    finally:
        conn.execute(f"drop role {role}".encode())
    assert (denied.state, denied.action) == (
        "failure",
        "make this role a member of service_role that inherits its rights",
    )
    assert states["schema"] == "warning"
    assert states["retention"] == "ok"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_has_no_ticks_gets_the_words(database: str, encoding: str) -> None:
    code, out, err = pgonce(database, "doctor", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "")
    assert "PostgreSQL" in out


def test_a_read_only_database_is_examined_but_not_compared(database: str, conn: Connection) -> None:
    conn.execute(f"alter database {conn.info.dbname} set default_transaction_read_only = on".encode())
    [one] = found(database, "database")
    assert (one.state, "accepts no writes" in one.finding) == ("failure", True)
    states = {each.area: each.state for each in doctor.examine(make_conninfo(database, target_session_attrs="any"))}
    assert states["schema"] == "warning"
    assert set(AREAS) <= set(states)
