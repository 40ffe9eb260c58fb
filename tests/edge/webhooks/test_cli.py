"""``pgonce webhook`` and ``pgonce cleanup``, run as commands."""

from __future__ import annotations

import json
import re
import shlex
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg import Connection

from pgonce.cli import main
from tests.conftest import wait_until
from tests.edge.command import SECRET, pgonce, running

APP = """
import pgonce
app = pgonce.App()
@app.webhook("customer.*")
def customer(event, tx):
    tx.execute("insert into effects values (%s)", [event.id])
"""


@pytest.fixture
def inbox(conn: Connection[Any]) -> Connection[Any]:
    """One event in every state."""
    ids = ["evt_wait", "evt_done", "evt_failed", "evt_dead", "evt_ignored"]
    payload = json.dumps({"object": "event", "livemode": False, "data": {"object": {"id": "cus_1"}}})
    types = ["customer.created", "customer.updated", "customer.updated", "invoice.paid", "invoice.paid"]
    conn.execute("select pgonce_queue_webhooks(%s, %s, %s)", [ids, types, [payload] * 5])
    conn.execute(
        "update webhook_events set lease = gen_random_uuid(), attempts = 1 where stripe_event_id <> 'evt_wait'"
    )
    for end, event in (
        ("complete_webhook(id, lease)", "evt_done"),
        ("fail_webhook(id, lease, E'Traceback\\n  line 1\\nValueError: no plan')", "evt_failed"),
        ("fail_webhook(id, lease, E'Traceback\\nKeyError: 7', 1)", "evt_dead"),
        ("ignore_webhook(id, lease, 'a test account')", "evt_ignored"),
    ):
        conn.execute(f"select {end} from webhook_events where stripe_event_id = %s".encode(), [event])
    return conn


def listed(database: str, *options: str) -> set[str]:
    code, out, err = pgonce(database, "webhook", "ls", "--json", *options)
    assert (code, err) == (0, "")
    return {line["stripe_event_id"] for line in json.loads(out)}


def test_ls_shows_a_table_with_states_and_reasons(database: str, inbox: Connection[Any]) -> None:
    code, out, _ = pgonce(database, "webhook", "ls")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert "ValueError: no plan" in lines["evt_failed"]
    assert " dead " in lines["evt_dead"]
    assert "a test account" in lines["evt_ignored"]
    assert "processing" in lines["evt_wait"]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ([], "wait done failed dead ignored"),
        (["--status", "failed"], "failed dead"),
        (["--status", "dead"], "dead"),
        (["--status", "processing"], "wait"),
        (["--type", "customer.*"], "wait done failed"),
        (["--type", "customer.created"], "wait"),
        (["--object", "cus_1", "--status", "succeeded"], "done"),
        (["--object", "cus_2"], ""),
        (["--since", "1 hour"], "wait done failed dead ignored"),
        (["--since", "2100-01-01"], ""),
    ],
    ids=" ".join,
)
def test_ls_lists_what_its_options_say(database: str, inbox: Connection[Any], options: list[str], wanted: str) -> None:
    assert listed(database, *options) == {f"evt_{name}" for name in wanted.split()}


def test_ls_lists_no_more_than_the_limit_newest_first(database: str, inbox: Connection[Any]) -> None:
    assert listed(database, "--limit", "2") == {"evt_dead", "evt_ignored"}


def test_show_prints_state_life_and_reason_and_with_all_the_payload_and_traceback(
    database: str, inbox: Connection[Any]
) -> None:
    inbox.execute("update webhook_events set next_attempt_at = now() + interval '1 hour' where next_attempt_at > now()")
    code, out, _ = pgonce(database, "webhook", "show", "evt_failed")
    assert code == 0
    head, facts = out.splitlines()[:2]
    assert head.startswith("customer.updated  evt_failed  ● failed, again in ")
    assert facts == "  object cus_1  customer –  account –  test  0.1 kB  1 attempt"
    assert "what to do" in out
    assert "ValueError: no plan" in out
    assert '"id": "cus_1"' not in out
    whole = pgonce(database, "webhook", "show", "evt_failed", "--all")[1]
    for part in ('"id": "cus_1"', "Traceback\n  line 1\nValueError: no plan"):
        assert part in whole
    found = json.loads(pgonce(database, "webhook", "show", "evt_failed", "--json")[1])
    assert found["payload"]["data"]["object"] == {"id": "cus_1"}
    inbox.execute(
        "update webhook_events set error_message = error_message || E'\\u009b31m\\u202e',"
        " payload = payload || jsonb_build_object('odd', E'\\u009b31m\\u202e') where stripe_event_id = 'evt_failed'"
    )
    for option in ("--all", "--json"):  # what a terminal would interpret
        odd = pgonce(database, "webhook", "show", "evt_failed", option)[1]
        assert '"odd": "\\u009b31m\\u202e"' in odd
        assert odd.replace("\n", "").isprintable()


@pytest.mark.parametrize("value", ['{"a":' * 5000 + "1" + "}" * 5000, "[" * 5000 + "]" * 5000], ids=["object", "list"])
def test_show_prints_what_is_nested_deeper_than_python_reads(database: str, inbox: Connection[Any], value: str) -> None:
    payload = f'{{"id": "evt_deep", "type": "a.b", "data": {{"object": {{"id": "cus_1", "deep": {value}}}}}}}'
    inbox.execute("select pgonce_queue_webhooks('{evt_deep}', '{a.b}', array[%s])", [payload])
    for options in ([], ["--all"]):
        code, out, _ = pgonce(database, "webhook", "show", "evt_deep", *options)
        assert (code, "object cus_1" in out) == (0, True)
    found = json.loads(pgonce(database, "webhook", "show", "evt_deep", "--json")[1])
    assert found["payload"]["data"]["object"]["id"] == "cus_1"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("wait", "● waiting for a worker"),
        ("done", "✔ succeeded"),
        ("dead", "✗ dead, nobody tries it again by itself"),
        ("ignored", "○ ignored: a test account"),
    ],
)
def test_show_begins_with_the_state(database: str, inbox: Connection[Any], event: str, state: str) -> None:
    assert pgonce(database, "webhook", "show", f"evt_{event}")[1].splitlines()[0].endswith(state)


TRACE = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/pgonce/webhooks/executor.py", line 1, in call
    function()
  File "/srv/shop/billing.py", line 88, in sync_invoice
    coupons = [d["coupon"] for d in invoice["discounts"]]
  File "/usr/lib/python3.11/json/__init__.py", line 3, in loads
    x
KeyError: 'discounts'
"""


@pytest.mark.parametrize("payload", ["[]", "null", '"text"', "1"])
def test_show_prints_an_event_whose_payload_is_no_object(database: str, conn: Connection[Any], payload: str) -> None:
    conn.execute("insert into webhook_events (stripe_event_id, event_type, payload) values ('e', 'x', %s)", [payload])
    code, out, said = pgonce(database, "webhook", "show", "e")
    assert (code, said) == (0, "")
    assert "delivered, recorded" in out


def test_show_names_the_line_of_the_application_and_joins_equal_failures(database: str, inbox: Connection[Any]) -> None:
    inbox.execute("delete from pgonce_webhook_attempts")
    inbox.execute(
        "update webhook_events set error_message = %s, attempts = 5 where stripe_event_id = 'evt_dead'", [TRACE]
    )
    inbox.execute(
        "insert into pgonce_webhook_attempts (event_id, what, attempt, worker, began_at, error)"
        " select id, 'failed', n, 'web-1:7', clock_timestamp() - interval '41 ms', %s"
        " from webhook_events, generate_series(1, 5) n where stripe_event_id = 'evt_dead' order by n",
        [TRACE],
    )
    out = pgonce(database, "webhook", "show", "evt_dead")[1]
    assert "  shop/billing.py:88  in sync_invoice\n    coupons = [d[" in out
    life = [line[12:].split("  ")[0] for line in out.splitlines() if line[4:5] == ":" and line[7:8] == ":"]
    assert [re.sub(r" after .*", "", line) for line in life] == [
        "delivered, recorded", "attempt 1 failed", "attempts 2 to 4", "attempt 5 failed",
    ]  # fmt: skip
    assert "web-1:7" in out


def test_the_commands_that_ls_and_show_name_run_whatever_the_id_is(database: str, conn: Connection[Any]) -> None:
    conn.execute("insert into webhook_events (stripe_event_id, event_type, status) values ('--e v', 'a.b', 'failed')")
    printed = pgonce(database, "webhook", "ls")[1]
    for _ in range(2):
        [words] = re.findall("pgonce webhook show (.*)", printed)
        code, printed, _ = pgonce(database, "webhook", "show", *shlex.split(words))
        assert code == 0
    assert "\npayload\n" in printed


def test_the_commands_that_ls_names_are_for_the_schema_that_it_lists(database: str, conn: Connection[Any]) -> None:
    pgonce(database, "migrate", "--schema", "other")
    conn.execute(
        "insert into other.webhook_events (stripe_event_id, event_type, status) values ('evt_o', 'a.b', 'failed')"
    )
    printed = pgonce(database, "webhook", "ls", "--schema", "other")[1]
    shown, again = (shlex.split(each) for each in re.findall(": pgonce (.*)", printed))
    assert "evt_o" in pgonce(database, *shown)[1]
    assert pgonce(database, *again)[1] == "evt_o\n1 would be queued again\n"


@pytest.mark.parametrize("command", ["show evt_nobody", "replay evt_nobody", "replay evt_nobody --dry-run", "show evt"])
def test_an_unknown_event_is_one_line_and_exit_code_1(database: str, command: str) -> None:
    code, out, err = pgonce(database, "webhook", *command.split())
    assert (code, out) == (1, "")
    short = ": write its id, or at least the first eight characters" if command == "show evt" else ""
    assert err == f"pgonce: there is no event {command.split()[1]}{short}\n"


def test_replay_queues_the_events_that_are_named(database: str, inbox: Connection[Any]) -> None:
    code, out, _ = pgonce(database, "webhook", "replay", "evt_done", "evt_dead")
    assert (code, out) == (0, "2 of 2 queued again\n")
    assert listed(database, "--status", "processing") == {"evt_wait", "evt_done", "evt_dead"}


def test_a_dry_run_says_which_and_changes_nothing(database: str, inbox: Connection[Any]) -> None:
    code, out, _ = pgonce(database, "webhook", "replay", "--failed", "--dry-run")
    assert (code, out) == (0, "evt_dead\nevt_failed\n2 would be queued again\n")
    assert listed(database, "--status", "failed") == {"evt_failed", "evt_dead"}


@pytest.mark.parametrize(
    "options, queued",
    [
        ([], "failed dead"),
        (["--type", "invoice.*"], "dead"),
        (["--type", "[h-j]*"], "dead"),
        (["--since", "2100-01-01"], ""),
        (["--limit", "1"], "dead"),
    ],
    ids=" ".join,
)
def test_replay_failed_queues_what_its_options_say(
    database: str, inbox: Connection[Any], options: list[str], queued: str
) -> None:
    wanted = {f"evt_{name}" for name in queued.split()}
    _, planned, _ = pgonce(database, "webhook", "replay", "--failed", *options, "--dry-run")
    assert set(planned.splitlines()[:-1]) == wanted
    assert pgonce(database, "webhook", "replay", "--failed", *options)[0] == 0
    assert listed(database, "--status", "processing") == {"evt_wait", *wanted}


@pytest.mark.parametrize("arguments", [[], ["evt_1", "--failed"]], ids=["neither", "both"])
def test_replay_wants_either_events_or_failed(database: str, arguments: list[str]) -> None:
    code, _, err = pgonce(database, "webhook", "replay", *arguments)
    assert code == 2
    assert "name the events, or pass --failed" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "--status", "nonsense"],
        ["ls", "--since", "yesterdayish"],
        ["ls", "--limit", "2147483648"],
        ["ls", "--type", "invoice.[z-a]"],
        ["replay", "--failed", "--type", "invoice.[z-a]"],
        ["replay", "evt_1", "--type", "invoice.paid"],
    ],
    ids=" ".join,
)
def test_what_an_option_cannot_be_is_a_usage_error(database: str, arguments: list[str]) -> None:
    code, out, err = pgonce(database, "webhook", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)


def test_send_posts_signed_events_that_a_real_receiver_handles_once(
    database: str, conn: Connection[Any], tmp_path: Path
) -> None:
    conn.execute("create table effects (event text)")
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "event.json").write_text(json.dumps({"id": "evt_file", "type": "customer.created", "object": "event"}))
    (tmp_path / "object.json").write_text(json.dumps({"id": "cus_9", "object": "customer"}))
    with running(database, "serve", "--port", "0", "--app", "shop", cwd=tmp_path) as server:
        to = ["--to", f"http://127.0.0.1:{server.port}/webhooks/stripe"]

        def send(*arguments: str, **more: str) -> tuple[int, str, str]:
            return pgonce(database, "webhook", "send", *arguments, *to, cwd=tmp_path, **more)

        assert send("--type", "customer.updated")[0] == 0
        assert send("event.json", "--keep-id")[1].startswith("200 ")
        wait_until(lambda: _effects(conn) == 2, "the effects")
        assert '"done"' in send("event.json", "--keep-id")[1]
        assert send("object.json", "--type", "customer.deleted")[0] == 0
        wait_until(lambda: _effects(conn) == 3, "the effect of the object's event")
        refused = send("event.json", PGONCE_WEBHOOK_SECRET="whsec_other")
        assert refused[0] == 1
        assert refused[2].startswith("400 ")
        assert SECRET not in refused[1] + refused[2]
        assert send("object.json")[0] == 2
        code, _, said = send("customer.deleted")
        assert (code, "is an event type, not a file: pass --type customer.deleted" in said) == (2, True)
        code, _, said = send("--type", "customer.update")
        assert (code, "did you mean customer.updated?" in said) == (1, True)
        code, _, said = send("no.json", "--type", "customer.updated")
        assert (code, "there is no file no.json" in said) == (2, True)
        code, _, said = send()
        assert (code, "there is nothing to send: say with --type" in said) == (2, True)
    assert listed(database, "--object", "cus_9", "--type", "customer.deleted") != set()
    made = conn.execute("select payload->'data'->'object' from webhook_events where event_type = 'customer.updated'")
    [(customer,)] = made.fetchall()
    assert (customer["object"], customer["id"][:4], "email" in customer) == ("customer", "cus_", True)
    assert _effects(conn) == 3


def _effects(conn: Connection[Any]) -> int:
    row = conn.execute("select count(*) from effects").fetchone()
    assert row
    return int(row[0])


def test_send_to_nobody_says_what_to_start(database: str) -> None:
    code, _, err = pgonce(database, "webhook", "send", "--type", "x", "--to", "http://127.0.0.1:9/webhooks/stripe")
    assert code == 1
    assert err.startswith("pgonce: no receiver at http://127.0.0.1:9/")
    assert err.endswith("start `pgonce serve`\n")
    assert pgonce(database, "webhook", "send", "--type", "x", "--to", "file:///etc/hosts")[0] == 1


class _Odd(BaseHTTPRequestHandler):
    """Answers as receivers that are not pgonce's do."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/closed":
            self.close_connection = True
        elif self.path == "/moved":
            self.send_response(301)
            self.send_header("Location", "/moved/")
            self.end_headers()
        else:
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"caf\xe9 " + b"x" * 100_000)

    def do_GET(self) -> None:
        self.send_response(200)  # of a POST that was redirected and has lost its body
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/closed", "pgonce: no answer from {} (Remote end closed connection without response): look at its log"),
        ("/moved", "pgonce: 301 from {}, moved to /moved/: Stripe follows no redirect"),
        ("/error", f"500 caf\ufffd {'x' * 995}…"),
        (
            "/a b",
            "pgonce: {} is not an http address: URL can't contain control characters. '/a b' (found at least ' ')",
        ),
        (":x", "pgonce: {} is not an http address: nonnumeric port: '"),
    ],
)
def test_send_says_in_one_line_how_a_receiver_has_answered(
    monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", SECRET)
    with HTTPServer(("127.0.0.1", 0), _Odd) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        to = f"http://127.0.0.1:{server.server_port}{path}"
        done = CliRunner().invoke(main, ["webhook", "send", "--type", "x", "--to", to], prog_name="pgonce")
        server.shutdown()
        thread.join()
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(says.format(to))


def test_send_takes_no_json_for_the_name_of_a_file() -> None:
    done = CliRunner().invoke(main, ["webhook", "send", '{"id": "' + "x" * 5000 + '"}'], prog_name="pgonce")
    assert (done.exit_code, "there is no file" in done.stderr) == (2, True)


def test_send_without_a_secret_says_which_to_set(database: str) -> None:
    code, _, err = pgonce(database, "webhook", "send", "--type", "x", PGONCE_WEBHOOK_SECRET="")
    assert (code, "PGONCE_WEBHOOK_SECRET" in err, err.count("\n")) == (1, True, 1)


def test_cleanup_lists_dead_letters_and_deletes_what_is_old_and_ended(database: str, inbox: Connection[Any]) -> None:
    inbox.execute("update webhook_events set received_at = now() - interval '91 days'")
    inbox.execute("select start_job_run('nightly')")
    code, out, _ = pgonce(database, "cleanup")
    assert code == 0
    letter, total = out.splitlines()
    assert letter.startswith("dead letter: evt_dead invoice.paid, received ")
    assert letter.endswith("1 attempts: KeyError: 7")
    assert total == "deleted 3 events, 0 job runs and 0 audit entries"
    assert listed(database) == {"evt_wait", "evt_failed"}


def test_cleanup_lists_an_event_whose_client_died_as_a_dead_letter(database: str, conn: Connection[Any]) -> None:
    conn.execute("select insert_webhook_if_new('evt_died', 'invoice.paid', '{}')")
    conn.execute("select insert_webhook_if_new('evt_held', 'invoice.paid', '{}')")
    conn.execute("update webhook_events set received_at = now() - interval '91 days'")
    conn.execute("update webhook_events set lease_expires_at = now() where stripe_event_id = 'evt_died'")
    code, out, _ = pgonce(database, "cleanup")
    letter, total = out.splitlines()
    assert letter.startswith("dead letter: evt_died invoice.paid, received ")
    assert letter.endswith("1 attempts: its client died, and it was not delivered again")
    assert (code, total) == (0, "deleted 1 events, 0 job runs and 0 audit entries")


def test_cleanup_keeps_events_for_31_days_unless_it_is_overridden(database: str, inbox: Connection[Any]) -> None:
    inbox.execute("update webhook_events set received_at = now() - interval '20 days'")
    code, _, err = pgonce(database, "cleanup", "--webhooks-older-than", "10 days")
    assert (code, "--override-31-days" in err, err.count("\n")) == (1, True, 1)
    assert len(listed(database)) == 5
    code, out, _ = pgonce(database, "cleanup", "--webhooks-older-than", "10 days", "--override-31-days")
    assert out.splitlines()[-1] == "deleted 3 events, 0 job runs and 0 audit entries"
    assert pgonce(database, "cleanup", "--runs-older-than", "soon")[0] == 2


def test_cleanup_passes_over_what_somebody_has_locked(database: str, inbox: Connection[Any], session: Any) -> None:
    inbox.execute("update webhook_events set received_at = now() - interval '91 days'")
    other = session(autocommit=False)
    other.execute("select from webhook_events where stripe_event_id = 'evt_done' for update")
    assert pgonce(database, "cleanup")[1].splitlines()[-1] == "deleted 2 events, 0 job runs and 0 audit entries"
    other.rollback()
    assert "evt_done" in listed(database)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"object": "list", "data": [{"id": "evt_1"}]}', "is a list"),
        ('{"data": [{"id": "evt_1", "object": "event"}], "has_more": false}', "is a list"),
        ('{"headers": {}, "body": "{}"}', "is a whole request"),
        ('{"detail-type": "a.b", "detail": {"id": "evt_1"}, "source": "aws.partner/stripe.com"}', "EventBridge"),
        ('{"type": "x", "event": {"id": "evt_1"}}', "is an envelope"),
        ("[1]", "not an object"),
        ("not JSON", "not JSON"),
    ],
)
def test_send_names_what_is_not_an_event(database: str, tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "it.json").write_text(content)
    code, _, err = pgonce(
        database, "webhook", "send", "it.json", "--type", "x", cwd=tmp_path, PGONCE_WEBHOOK_SECRET="whsec_a"
    )
    assert (code, err.count("\n")) == (1, 1)
    assert "it.json" in err
    assert says in err


def test_refused_lists_reasons_and_what_they_mean(database: str, conn: Connection[Any]) -> None:
    assert pgonce(database, "webhook", "refused") == (0, "", "no delivery was refused in that time\n")
    conn.execute("select pgonce_count_refused_deliveries('{signature,time}', '{212,1}')")
    code, out, _ = pgonce(database, "webhook", "refused")
    assert code == 0
    assert "signature" in out.splitlines()[1]
    assert "212" in out.splitlines()[1]
    assert "secret" in out.splitlines()[1]
    listed = json.loads(pgonce(database, "webhook", "refused", "--since", "2 hours", "--json")[1])
    assert [(each["reason"], each["deliveries"]) for each in listed] == [("signature", 212), ("time", 1)]


def test_a_replay_is_kept_with_its_events_and_stands_in_the_audit(database: str, inbox: Connection[Any]) -> None:
    options = ["--failed", "--type", "[cx]ustomer.*", "--because", "mended"]
    code, out, _ = pgonce(database, "webhook", "replay", *options, PGONCE_ACTOR="ann")
    assert (code, out) == (0, "1 of 1 queued again\n")
    said = "select actor, source, action, noun, object, before, after, reason from pgonce_audit where action = 'replay'"
    assert inbox.execute(said.encode()).fetchall() == [
        ("ann", "cli", "replay", "webhook", "evt_failed", "1 failed", "queued", "mended")
    ]
    kept = "select r.status, r.why, i.stripe_event_id, i.state from pgonce_replays r, pgonce_replay_items i"
    assert inbox.execute(kept.encode()).fetchall() == [("running", "mended", "evt_failed", "queued")]
