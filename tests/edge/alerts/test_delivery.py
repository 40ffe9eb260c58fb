"""Alerts on a real database, delivered to a real server.

Each channel gets each alert once, even if another is broken.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgonce.alerts.alerts import Alerts
from pgonce.alerts.calls import Alert, channel_name
from pgonce.alerts.delivery import sender
from pgonce.core.database import open_pool
from pgonce.core.migrate import migrate
from pgonce.errors import InvalidArgument, PgonceError
from tests.conftest import wait_until
from tests.edge.command import pgonce
from tests.edge.serving import serving
from tests.faults.proxy import proxy
from tests.forked import PGONCE, Forked
from tests.sql import transitions

Connection = psycopg.Connection[Any]
SECRET = "xoxb-very-secret"
# of a module that apprise imports
apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


class Channel:
    """A server that accepts alerts, or answers with a given status at a given time, and keeps the requests in order."""

    def __init__(self) -> None:
        self.status = 200
        self.answers = threading.Event()
        self.answers.set()
        self.asked: list[tuple[str, str, dict[str, Any], str | None]] = []
        asked = self.asked
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked.append((self.command, self.path, json.loads(body or b"{}"), self.headers.get("Authorization")))
                channel.answers.wait()
                self.send_response(channel.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 -- the library's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/{SECRET}"

    def told(self) -> list[dict[str, Any]]:
        return [body for method, _, body, _ in self.asked if method == "POST"]

    def kinds(self) -> Counter[tuple[str, str]]:
        return Counter((body["kind"], body["subject"]) for body in self.told())


@pytest.fixture
def channel() -> Iterator[Channel]:
    with listening() as made:
        yield made


@contextmanager
def listening() -> Iterator[Channel]:
    made = Channel()
    with serving(made.server):
        try:
            yield made
        finally:
            made.answers.set()


@pytest.fixture
def look(database: str) -> Callable[..., None]:
    """One round of looking for alerts and sending them to these channels, in this thread."""

    def once(*channels: str, ping: str | None = None) -> None:
        alerts = Alerts(database, channels, ping=ping, every=0)
        with open_pool(database, 1) as alerts._pool:
            alerts._look()
            for thread in alerts._threads.values():
                thread.join()

    return once


def runs(
    conn: Connection, job: str, statuses: str, *, first: str = "2 hours", error: str = "boom", key: str = ""
) -> None:
    """Insert ended runs of a minute each, one every two minutes: s succeeded, f failed, k was skipped."""
    for number, status in enumerate(statuses):
        conn.execute(
            "insert into cron_job_runs (job_name, key, status, started_at, completed_at, duration_ms, error_message)"
            " select %s, %s, %s, at, at + interval '1 minute', 60000, %s"
            " from (select clock_timestamp() - %s::interval + %s * interval '2 minutes' as at) t",
            [job, key, {"s": "succeeded", "f": "failed"}[status], error if status == "f" else None, first, number],
        )


def everything_at_once(conn: Connection) -> set[tuple[str, str]]:
    """Make one alert of each kind, and for each something similar that must not be alerted.

    Return what must be delivered.
    """
    runs(conn, "once", "sf", error="Traceback\nValueError: boom")
    runs(conn, "often", "sfffff")
    runs(conn, "mended", "sfs")
    runs(conn, "fine", "sss")
    runs(conn, "keyed", "f", key="a")
    runs(conn, "keyed", "s", key="b", first="90 minutes")
    conn.execute("insert into cron_job_runs (job_name, status, completed_at) values ('silent', 'failed', now())")
    conn.execute("select fail_job_run(start_job_run('retried', p_retries => 1), 'not yet')")
    conn.execute("select pgonce_stop_job_run(id) from start_job_run('stopped') id")
    conn.execute("select fail_job_run(id, 'on request') from cron_job_runs where job_name = 'stopped'")
    for job, skips in (("blocked", 4), ("bumped", 2)):
        conn.execute("select start_job_run(%s)", [job])
        for _ in range(skips):
            conn.execute("select start_job_run(%s)", [job])
    for job, running in (("slow", "10 minutes"), ("usual", "2 minutes"), ("new", "10 minutes")):
        runs(conn, job, "sss" if job == "new" else "s" * 6)
        conn.execute("select start_job_run(%s)", [job])
        conn.execute(
            "update cron_job_runs set started_at = started_at - %s::interval"
            " where job_name = %s and status = 'running'",
            [running, job],
        )
    conn.execute(
        "insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
        " values ('late', '0 3 * * *', 'UTC', now() - interval '6 minutes'), ('soon', '0 3 * * *', 'UTC', now())"
    )
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, queued, processed_at, error_message,"
        " next_attempt_at)"
        " select id, type, 'failed', true, date_trunc('hour', now()), 'no such customer', due from (values"
        " ('evt_1', 'invoice.paid', null), ('evt_2', 'invoice.paid', null),"
        " ('evt_3', 'charge.failed', now())) e (id, type, due)"
    )
    conn.execute(  # a direct client's: the next delivery retries the first one, and no longer the others
        "insert into webhook_events (stripe_event_id, event_type, status, received_at, processed_at, error_message)"
        " values ('evt_4', 'plan.created', 'failed', now(), now(), 'no such plan'),"
        " ('evt_5', 'plan.deleted', 'failed', now() - interval '73 hours', now() - interval '30 hours', 'no such plan')"
        ", ('github:6', 'github.push', 'failed', now(), now(), 'no such branch')"
    )
    conn.execute("select fail_seed('broken', 'disk full')")
    conn.execute(
        "insert into seed_checkpoints (seed_name, last_updated_at, paused_at) values"
        " ('stuck', now() - interval '20 minutes', null), ('paused', now() - interval '20 minutes', now()),"
        " ('at_work', now() - interval '20 minutes', null), ('young', now(), null)"
    )
    conn.execute("select start_job_run('seed_runner', p_key => 'at_work')")
    runs(conn, "seed_runner", "f", key="broken")
    return {
        ("run_failed", "silent"),
        ("run_failed", "once"), ("run_failed", "often"), ("failed_in_a_row", "often"), ("run_failed", "mended"),
        ("recovered", "mended"), ("run_failed", "keyed/a"), ("skipped_in_a_row", "blocked"), ("ran_long", "slow"),
        ("did_not_run", "late"), ("dead_webhook", "invoice.paid"), ("import_failed", "broken"),
        ("import_stalled", "stuck"), ("webhook_failed", "plan.created"), ("dead_webhook", "plan.deleted"),
        ("dead_webhook", "github.push"),
    }  # fmt: skip


def test_each_kind_is_told_to_each_channel_once_by_two_loops_at_once(
    database: str, conn: Connection, channel: Channel
) -> None:
    expected = everything_at_once(conn)
    channels = [channel.url, "json+" + channel.url.replace("hook", "second")]
    loops = [Alerts(database, channels, every=0.02) for _ in range(2)]
    try:
        for each in loops:
            each.start()
        due = b"select count(*) > 0 and bool_and(delivered_at is not null) from pgonce_alerts"
        wait_until(lambda: conn.execute(due).fetchone() == (True,), "everything to be delivered")
        looked = conn.execute("select max(looked_at) from pgonce_alert_channels").fetchone()
        later = b"select min(looked_at) > %s from pgonce_alert_channels"
        wait_until(lambda: conn.execute(later, looked).fetchone() == (True,), "another look")
    finally:
        for each in loops:
            each.stop()
    for folder in ("hook", "second"):
        bodies = [body for _, path, body, _ in channel.asked if path == f"/{folder}/{SECRET}"]
        told = Counter((body["kind"], body["subject"]) for body in bodies)
        assert set(told) == expected
        # of failures in a row, the first two are alerted one by one, the third as a series, and the next ones not at
        # all
        assert {each: n for each, n in told.items() if n > 1} == {("run_failed", "often"): 2}
        assert len({body["id"] for body in bodies}) == len(bodies)
        messages = {
            body["kind"] + " " + body["subject"]: body["message"].replace(str(body["detail"].get("run_id")), "ID")
            for body in bodies
        }
        assert messages["run_failed once"] == "job once failed: ValueError: boom. Next: `pgonce job show ID`"
        assert messages["run_failed silent"] == "job silent failed: no reason given. Next: `pgonce job show ID`"
        assert messages["import_failed broken"] == "import broken failed: disk full. Next: `pgonce seed show broken`"
        assert messages["webhook_failed plan.created"] == (
            "event evt_4 of type plan.created failed, and the sender's next delivery retries it: no such plan."
            " Next: `pgonce webhook show evt_4`"
        )
        assert messages["dead_webhook plan.deleted"].startswith(
            "event evt_5 of type plan.deleted is a dead letter: nothing retries it: no such plan."
        )
        [dead] = [body for body in bodies if body["subject"] == "invoice.paid"]
        assert (dead["detail"]["events"], dead["detail"]["examples"][0]["stripe_event_id"]) == (2, "evt_1")
        assert dead["message"].startswith("2 events of type invoice.paid are dead letters: nothing retries them since ")
        assert dead["message"].endswith(" Next: `pgonce webhook ls --status dead --type invoice.paid`")


@pytest.mark.long
def test_every_command_that_an_alert_names_runs(database: str, conn: Connection) -> None:
    everything_at_once(conn)
    runs(conn, "-it's a job; echo", "f" * 9, first="55 minutes")
    conn.execute("select fail_seed('-of ' || n, 'x') from generate_series(1, 9) n")
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status) values ('-e v', '--it''s', 'failed')"
    )
    conn.execute("select pgonce_count_refused_deliveries('{signature}', '{200}')")
    found = conn.execute("select kind, message, detail from pgonce_find_alerts(now() - interval '1 day', '{}')")
    kinds = set()
    for kind, message, detail in found.fetchall():
        named = re.findall(r"`(.*?)`", message)
        assert named == [detail["command"]], "one command, the same for programs"
        command = shlex.split(named[0])
        assert command[0] == "pgonce"
        assert pgonce(database, *command[1:])[0] == 0, named[0]
        kinds.add(kind)
    assert kinds == KINDS - {"deliveries_silent"}, "its command is that of deliveries_refused"


def test_the_documentation_lists_every_kind_of_alert() -> None:
    page = Path(__file__).parents[3] / "docs" / "alerts.md"
    assert set(re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE)) == KINDS


def test_a_command_names_the_schema_where_it_is_not_public(empty_database: str) -> None:
    migrate(empty_database, "ops team")
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute("""select "ops team".fail_seed('-broken', 'disk full')""")
        row = conn.execute("""select detail from "ops team".pgonce_find_alerts(now(), '{}')""").fetchone()
    assert row is not None
    command = shlex.split(row[0]["command"])
    assert command[3:] == ["--schema", "ops team", "--", "-broken"]
    assert pgonce(empty_database, *command[1:])[0] == 0


def test_a_run_that_outlives_several_looks_is_told_when_it_fails(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    conn.execute("select start_job_run('long')")
    conn.execute("update cron_job_runs set started_at = started_at - interval '3 days'")
    for _ in range(2):
        look(channel.url)
    conn.execute("select fail_job_run(id, 'at last') from cron_job_runs")
    look(channel.url)
    assert channel.kinds() == {("run_failed", "long"): 1}


def test_a_run_whose_process_has_died_is_told_also_where_no_process_starts_jobs(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    """As with `pgonce worker --no-schedule`, and jobs that cron starts."""
    conn.execute("select start_job_run('nightly')")
    conn.execute("update cron_job_runs set heartbeat_at = heartbeat_at - interval '16 minutes'")
    for _ in range(2):
        look(channel.url)
    assert channel.kinds() == {("run_failed", "nightly"): 1}


def test_a_streak_that_lasts_is_told_once_a_day(conn: Connection, channel: Channel, look: Callable[..., None]) -> None:
    runs(conn, "j", "sfff", first="27 hours")
    runs(conn, "j", "f", first="10 minutes")
    look(channel.url)
    assert channel.kinds() == {("failed_in_a_row", "j"): 1}
    assert channel.told()[0]["message"] == (
        f"job j is still failing: boom. Next: `pgonce job show {channel.told()[0]['detail']['run_id']}`"
    )


def test_a_look_of_another_worker_a_moment_ago_is_enough(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    look(channel.url)
    runs(conn, "j", "f", first="5 minutes")
    looked = conn.execute(
        "select pgonce_collect_alerts(array_agg(channel), '1 hour') from pgonce_alert_channels"
    ).fetchone()
    assert looked == (0,)
    look(channel.url)
    assert channel.kinds() == {("run_failed", "j"): 1}


def test_a_retry_that_nobody_makes_is_told_as_a_failure(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    conn.execute("select fail_job_run(start_job_run('j', p_retries => 3), 'no')")
    look(channel.url)
    assert channel.told() == []
    conn.execute("update pgonce_job_retries set due_at = due_at - interval '1 hour'")
    look(channel.url)
    assert channel.kinds() == {("run_failed", "j"): 1}


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "HTTP 500"), (404, "HTTP 404"), (302, "HTTP 302"), (None, "Connection refused")]
)
def test_a_broken_channel_is_tried_again_later_and_stops_no_other(
    conn: Connection, channel: Channel, look: Callable[..., None], caplog: pytest.LogCaptureFixture,
    status: int | None, reason: str,
) -> None:  # fmt: skip
    runs(conn, "j", "f")
    waiting = (
        "select attempts, last_error, next_attempt_at > clock_timestamp() from pgonce_alerts where delivered_at is null"
    )
    with listening() as broken, caplog.at_level(logging.DEBUG):
        url, broken.status = broken.url, status or 200
        if status is None:
            with socket.create_server(("127.0.0.1", 0)) as closed:
                url = f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}"
        look(url, channel.url)
        assert channel.kinds() == {("run_failed", "j"): 1}
        assert conn.execute(waiting).fetchall() == [(1, reason, True)]
        look(url, channel.url)
        assert conn.execute(waiting).fetchall() == [(1, reason, True)], "not before its time"
        back = "update pgonce_alerts set next_attempt_at = clock_timestamp() where delivered_at is null"
        conn.execute(back)
        look(url, channel.url)
        assert conn.execute(waiting).fetchall() == [(2, reason, True)]
        assert f"alert channel {channel_name(url)} did not accept run_failed of j: {reason}" in caplog.text
        assert SECRET not in caplog.text
        if status is not None:
            broken.status = 200
            conn.execute(back)
            look(url, channel.url)
            assert conn.execute(waiting).fetchall() == []
            assert len({body["id"] for body in broken.told()}) == 1, "every attempt has the same id"


def test_neither_a_slow_channel_nor_a_slow_ping_holds_up_another_channel_or_the_next_look(
    database: str, conn: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    for job in "abc":
        runs(conn, job, "f")
    with listening() as slow, listening() as pinged:
        slow.answers.clear()
        pinged.answers.clear()
        with Alerts(database, [slow.url, channel.url], ping=pinged.url, every=0.02):
            wait_until(lambda: len(slow.asked) == len(pinged.asked) == 1, "both to be asked")
            wait_until(lambda: len(channel.told()) == 3, "the alerts of the channel behind the slow one")
            pinged.answers.set()
            wait_until(lambda: len(pinged.asked) == 3, "pings of later looks")
            assert len(slow.asked) == 1, "one at a time"
            assert caplog.text == "", "nobody has waited until the slow ones were given up"
            slow.answers.set()
            wait_until(lambda: len(slow.told()) == 3, "the alerts of the slow channel")
    assert slow.kinds() == channel.kinds() == {("run_failed", job): 1 for job in "abc"}


SLACK = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@apprise
def test_the_webhook_of_a_chat_is_sent_what_the_chat_reads(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON of pgonce's, it was refused with 400 for 30 days."""
    import apprise as library

    sent: list[Any] = []

    def notify(_: object, **what: Any) -> bool:
        sent.append((what["title"], what["body"]))
        return True

    monkeypatch.setattr(library.plugins.N_MGR["slack"], "notify", notify)
    alert = Alert(uuid4(), 1, "run_failed", "j", "job j failed", {}, datetime.now(UTC))
    sender(SLACK, "alert URL 1")(alert)
    assert sent == [("pgonce: run_failed j", f"job j failed\n{alert.id}")]


@apprise
@pytest.mark.parametrize("url", ["tgram://123456789:abcdefg_hijklmnop/12315544/", "mailtos://me:pass@example.com"])
def test_a_channel_that_reads_html_shows_the_text_as_it_is(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    import apprise as library

    sent: list[tuple[str, str]] = []

    def send(_: object, body: str, body_format: str, **_rest: Any) -> bool:
        sent.append((body, body_format))
        return True

    monkeypatch.setattr(library.plugins.N_MGR[url.partition(":")[0]], "send", send)
    message = "KeyError at shop.py:8 in <module>, over 2 & under 4"
    sender(url, "alert URL 1")(Alert(uuid4(), 1, "run_failed", "j", message, {}, datetime.now(UTC)))
    [(body, body_format)] = sent
    assert message in (html.unescape(body) if body_format == "html" else body), (body, body_format)
    assert body_format == "text" or "in <module>" not in body


def test_a_user_and_password_in_the_url_go_into_a_header(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    runs(conn, "j", "f")
    look(channel.url.replace("http://", "http://me:p%40ss@"))
    assert [(path, login) for _, path, _, login in channel.asked] == [(f"/hook/{SECRET}", "Basic bWU6cEBzcw==")]


@apprise
def test_a_url_of_another_scheme_goes_through_apprise(
    conn: Connection, channel: Channel, look: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    runs(conn, "j", "f")
    url = channel.url.replace("http://", "json://")
    channel.status = 500
    with caplog.at_level(logging.INFO):
        look(url)
    assert conn.execute("select last_error from pgonce_alerts").fetchall() == [("apprise could not deliver it",)]
    assert SECRET not in caplog.text
    channel.status = 200
    conn.execute("update pgonce_alerts set next_attempt_at = clock_timestamp()")
    look(url)
    assert channel.told()[-1]["title"] == "pgonce: run_failed j"
    assert channel.told()[-1]["message"].startswith("job j failed: boom")


def test_what_is_not_ascii_in_a_url_is_percent_encoded(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    runs(conn, "j", "f")
    look(channel.url + "/büro?für=é%20", ping=channel.url + "/büro")
    encoded = f"/hook/{SECRET}/b%C3%BCro"
    assert Counter((method, path) for method, path, *_ in channel.asked) == {
        ("GET", encoded): 1,
        ("POST", encoded + "?f%C3%BCr=%C3%A9%20"): 1,
    }


NO_HOST = [f"http:///{SECRET}", f"http://h:{SECRET}/", f"https://h..example/{SECRET}", f"http://h/{SECRET}\udcfc"]


@apprise
@pytest.mark.parametrize("url", [*NO_HOST, f"http://{'h' * 64}.example/{SECRET}", f"nothing://{SECRET}", SECRET])
def test_a_url_that_cannot_be_read_is_refused_without_being_quoted(
    database: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    says = "cannot be read" if url.startswith("http") else "^apprise does not accept alert URL 2: see "
    with pytest.raises(InvalidArgument, match=says) as refused:
        Alerts(database, ["http://localhost/", url])
    assert "alert URL 2" in str(refused.value)
    assert SECRET not in str(refused.value) + caplog.text


@pytest.mark.parametrize("url", NO_HOST)
def test_a_ping_url_that_cannot_be_read_is_refused_without_being_quoted(database: str, url: str) -> None:
    with pytest.raises(InvalidArgument, match="the ping URL") as refused:
        Alerts(database, ping=url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["slack://a/b/c", SLACK, "https://acme.webhook.office.com/webhookb2/a@b/IncomingWebhook/c/d"]
)
def test_without_apprise_one_line_says_what_to_install(
    database: str, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(PgonceError, match=r"^alert URL 1 needs apprise, .* pip install 'pgonce\[alerts\]'$"):
        Alerts(database, [url])
    Alerts(database, ["json+" + SLACK, "https://discord.com.example/hook"])


def test_a_worker_tells_and_pings_and_no_output_of_it_holds_a_url(
    database: str, conn: Connection, channel: Channel, tmp_path: Path
) -> None:
    (tmp_path / "only_jobs.py").write_text("import pgonce\napp = pgonce.App()\n")
    runs(conn, "j", "f")
    command: list[str | Path] = [PGONCE, "worker", "--app", "only_jobs", "--database-url", database]
    command += ["--ping", channel.url.replace("hook", "ping"), "--alert", channel.url]
    with Forked(command, cwd=tmp_path, stderr=subprocess.PIPE) as worker:
        try:
            wait_until(channel.told, "the alert")
        finally:
            worker.send_signal(signal.SIGTERM)
        _, printed = worker.communicate(timeout=30)
        assert worker.returncode == 0
    assert [line in printed.splitlines() for line in ("jobs      none is scheduled", "alerts    127.0.0.1")] == [
        True
    ] * 2
    assert SECRET not in printed
    assert ("GET", f"/ping/{SECRET}", {}, None) in channel.asked


def test_a_ping_that_fails_in_an_unforeseen_way_stops_no_alert(
    database: str, conn: Connection, channel: Channel, tmp_path: Path
) -> None:
    (tmp_path / "only_jobs.py").write_text("import pgonce\napp = pgonce.App()\n")
    runs(conn, "j", "f")
    command: list[str | Path] = [PGONCE, "worker", "--app", "only_jobs", "--database-url", database]
    command += ["--ping", f"http://ping.example/{SECRET}", "--alert", channel.url]
    # Python's resolver refuses this name of a proxy with a UnicodeError, from 3.13 on with a UnicodeEncodeError
    env = os.environ | {"http_proxy": "http://proxy..example:1", "no_proxy": "127.0.0.1"}
    with Forked(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE) as worker:
        try:
            wait_until(channel.told, "the alert")
        finally:
            worker.send_signal(signal.SIGTERM)
        _, printed = worker.communicate(timeout=30)
    assert re.search(r"the ping fails: Unicode(Encode)?Error", printed)
    assert SECRET not in printed


def test_a_thread_that_the_system_refuses_does_not_keep_the_alerts_from_ending(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("pgonce alerts "):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    alerts = Alerts(database, ["http://127.0.0.1:1/"]).start()
    wait_until(lambda: "unexpected error in a thread of pgonce" in caplog.text, "the refusal")
    assert alerts.stop(30)


def test_no_ping_goes_out_when_the_database_cannot_be_asked(
    conn: Connection, channel: Channel, look: Callable[..., None]
) -> None:
    look(ping=channel.url)
    conn.execute("drop function pgonce_collect_alerts")
    with pytest.raises(PgonceError, match="pgonce migrate"):
        look(ping=channel.url)
    assert [method for method, *_ in channel.asked] == ["GET"]


def test_the_first_look_after_an_outage_connects_and_waits_for_no_back_off(
    database: str, conn: Connection, channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with proxy(database) as network, Alerts(network.url, [channel.url], every=0.02):
        wait_until(lambda: conn.execute("select looked_at from pgonce_alert_channels").fetchone(), "the first look")
        network.down()
        # 5 minutes is the default
        wait_until(lambda: "reconnection attempt in pool 'pgonce' failed" in caplog.text, "the pool has given up", 60)
        runs(conn, "j", "f", first="5 minutes")
        network.up()
        wait_until(channel.told, "the alert", 60)


KINDS = {
    "run_failed", "failed_in_a_row", "recovered", "skipped_in_a_row", "did_not_run", "ran_long", "dead_webhook",
    "webhook_failed", "import_failed", "import_stalled", "deliveries_refused", "deliveries_silent",
}  # fmt: skip
STATES = {"absent", "due", "claimed", "waiting", "set_back", "delivered"}
VERBS = {"pgonce_claim_alerts", "pgonce_alert_delivered", "pgonce_alert_failed"}
CELLS = transitions.read("alerts_deliver")


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_verb_moves_an_alert_as_the_table_says(conn: Connection, cell: transitions.Cell) -> None:
    alert, attempt = uuid4(), 1
    if cell.state != "absent":
        conn.execute(
            "insert into pgonce_alerts (id, channel, kind, subject, dedupe_key, message)"
            " values (%s, 'c', 'k', 's', 'd', 'm')",
            [alert],
        )
        conn.execute("select pgonce_claim_alerts('c')")
    past = "update pgonce_alerts set next_attempt_at = clock_timestamp() - interval '1 second'"
    if cell.state in {"due", "overtaken"}:
        conn.execute(past)
    if cell.state == "overtaken":
        conn.execute("select pgonce_claim_alerts('c')")
    if cell.state in {"waiting", "set_back"}:
        conn.execute("select pgonce_alert_failed(%s, 1, 'why')", [alert])
    if cell.state == "set_back":
        conn.execute("update pgonce_alerts set next_attempt_at = next_attempt_at + interval '3 hours'")
    if cell.state == "delivered":
        conn.execute("select pgonce_alert_delivered(%s)", [alert])
        conn.execute(past)

    def verb() -> Any:
        if cell.verb == "pgonce_claim_alerts":
            return [row["id"] for row in transitions.rows(conn, "select * from pgonce_claim_alerts('c')")]
        arguments: list[Any] = [alert] if cell.verb == "pgonce_alert_delivered" else [alert, attempt, "why"]
        query = f"select {cell.verb}({', '.join(['%s'] * len(arguments))}) as said"
        return transitions.rows(conn, query, *arguments)[0]["said"]

    before = transitions.rows(conn, "select * from pgonce_alerts")
    answer = transitions.attempt(verb)
    after = transitions.rows(conn, "select *, next_attempt_at > clock_timestamp() as later from pgonce_alerts")
    if cell.to in transitions.REFUSALS:
        assert answer == {"none": [], "false": False}.get(cell.to, cell.to)
        assert [{name: value for name, value in row.items() if name != "later"} for row in after] == before
        return
    assert answer == ([alert] if cell.verb == "pgonce_claim_alerts" else True)
    [row] = after
    assert (row["delivered_at"] is not None) == (cell.to == "delivered")
    assert row["attempts"] == before[0]["attempts"] + (cell.verb == "pgonce_claim_alerts")
    failed = cell.to == "waiting" or (cell.state, cell.to) == ("set_back", "claimed")
    assert row["last_error"] == ("why" if failed else None)
    assert row["later"] or cell.to == "delivered"


def test_every_state_stands_exactly_once_under_every_verb() -> None:
    special = {("overtaken", "pgonce_alert_delivered"), ("overtaken", "pgonce_alert_failed")}
    transitions.check_complete(CELLS, STATES, VERBS, special)
