"""What reaches whoever watches: on_error, Sentry, JSON lines, and OpenTelemetry's spans."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sentry_sdk
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sentry_sdk.transport import Transport

import pgonce
from pgonce.core import telemetry
from pgonce.errors import InvalidArgument
from pgonce.jobs.executor import Executor
from pgonce.testing import deliver, drain, event, run
from tests.conftest import wait_until
from tests.edge.command import pgonce as command
from tests.edge.command import running

Connection = psycopg.Connection[Any]
CARD = "card 4242 4242 4242 4242"


@pytest.fixture(autouse=True)
def found(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGONCE_DATABASE_URL", database)
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", "whsec_test")


def shop(**options: Any) -> pgonce.App:
    app = pgonce.App(**options)

    @app.webhook("invoice.*")
    def invoice(event: pgonce.Event, tx: Connection) -> None:
        if event.object.get("number") == "bad":
            raise ValueError(CARD)
        if event.object.get("number") == "ignore":
            event.ignore("not wanted")

    @app.webhook("payout.paid")
    async def payout(event: pgonce.Event, tx: psycopg.AsyncConnection[Any]) -> None:
        pass

    @app.webhook_batch("charge.*")
    def charges(events: list[pgonce.Event], tx: Connection) -> None:
        pass

    @app.webhook("customer.created", transaction="own")
    def customer(event: pgonce.Event) -> None:
        with psycopg.connect(tx_url()) as conn:
            event.complete(conn)

    @app.job("report")
    def report(run: pgonce.Run) -> None:
        if run.scope.get("bad"):
            raise KeyError(CARD)

    return app


def tx_url() -> str:
    from pgonce import database

    return database.find()


def queued(app: pgonce.App) -> pgonce.Endpoint:
    return pgonce.Endpoint(app, secrets="whsec_test", queue=True)


# on_error and Sentry


def test_on_error_of_an_app_gets_the_exception_and_the_event_or_run(database: str) -> None:
    seen: list[tuple[BaseException, Any]] = []
    app, other = shop(on_error=lambda error, what: seen.append((error, what))), shop(on_error=lambda *_: 1 / 0)
    deliver(queued(app), event("invoice.paid", event_id="evt_1", number="bad"))
    deliver(queued(app), event("invoice.paid", event_id="evt_2", number="ignore"))
    drain(app, raises=False)
    deliver(pgonce.Endpoint(app, secrets="whsec_test"), event("invoice.paid", event_id="evt_3", number="bad"))
    with pgonce.database.open_pool(database, 4) as pool:
        executor = Executor(pool, database, "public", closing=pool, on_error=app.on_error)
        execution = executor.start(app.get_job("report"), scope={"bad": True})
        assert execution is not None
        executor.finish(execution)
    assert [str(error) for error, _ in seen] == [CARD, CARD, repr(CARD)]
    assert [what.id for _, what in seen[:2]] == ["evt_1", "evt_3"]
    assert seen[2][1] is execution.run
    deliver(queued(other), event("invoice.paid", event_id="evt_4", number="bad"))
    drain(other, raises=False)
    assert len(seen) == 3, "another app's failures are not this one's, and a hook that raises stops nothing"
    with pytest.raises(InvalidArgument, match="on_error is 'sentry', which is not a function"):
        pgonce.App(on_error="sentry")  # type: ignore[arg-type]


class Nowhere(Transport):
    """Sends nothing."""

    def capture_envelope(self, envelope: Any) -> None:
        pass


def test_sentry_gets_each_failure_by_itself_without_the_text_of_the_exception() -> None:
    sent: list[Any] = []
    app = shop()
    client = sentry_sdk.Client(
        dsn="http://key@127.0.0.1:9/1", transport=Nowhere, before_send=lambda found, _: sent.append(found),
        include_local_variables=False, default_integrations=True,
    )  # fmt: skip
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        deliver(queued(app), event("invoice.paid", event_id="evt_1", number="bad"))
        drain(app, raises=False)
    [failure] = sent
    [raised] = failure["exception"]["values"]
    assert raised["type"] == "ValueError"
    assert [frame["function"] for frame in raised["stacktrace"]["frames"]][-1] == "invoice"
    assert failure["extra"]["event_id"] == "evt_1"
    assert "4242" not in json.dumps(failure, default=str)
    client.close()


# JSON lines


APP = """
import logging, pgonce

app = pgonce.App()
log = logging.getLogger("shop")

@app.webhook("invoice.paid")
def paid(event, tx):
    log.info("taking %s", event.object_id)
    if event.object.get("number") == "bad":
        raise ValueError("card 4242")

@app.job("report", every="1 second")
def report(run):
    log.info("counting")
"""


def log_of_serve(database: str, tmp_path: Path, log_format: str) -> list[str]:
    """The lines that a server writes about a good event, a bad one and a job."""
    (tmp_path / "shop.py").write_text(APP, "utf-8")
    arguments = ("serve", "--app", "shop", "--port", "0", "--no-alerts")
    with running(database, *arguments, cwd=tmp_path, PGONCE_LOG=log_format) as server:
        address = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=address) as client:
            for number in ("good", "bad"):
                made = event("invoice.paid", event_id=f"evt_{number}", id=f"in_{number}", number=number)
                assert deliver(client, made, secret="whsec_command").status_code == 200
        for text in ("evt_bad failed", "taking in_good", "counting"):
            wait_until(lambda text=text: server.printed(text), text)  # type: ignore[misc]
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(30)
        return server.log.read_text("utf-8").splitlines()


def test_pgonce_log_json_makes_every_line_json_with_the_ids_of_event_and_run(
    database: str, conn: Connection, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in log_of_serve(database, tmp_path, "json")]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    said = {line["message"]: line for line in lines}
    assert (said["taking in_good"]["event_id"], said["taking in_good"]["logger"]) == ("evt_good", "shop")
    assert {"run_id", "job"} <= set(said["counting"])
    [failed] = [line for line in lines if line["message"].startswith("event evt_bad failed")]
    assert (failed["event_id"], failed["level"], failed["error"]) == ("evt_bad", "error", "builtins.ValueError")
    assert failed["frames"][-1].endswith("in paid")
    assert "4242" not in json.dumps(lines)
    for arguments in (["worker", "--app", "shop"], ["console", "--port", "0"]):
        assert command(database, *arguments, cwd=tmp_path, PGONCE_LOG="jsonn")[2].startswith(
            "pgonce: PGONCE_LOG is 'jsonn': set it to json or text"
        )


def test_a_server_logs_text_as_a_worker_does_with_the_application_s_lines_and_no_empty_one(
    database: str, conn: Connection, tmp_path: Path
) -> None:
    lines = log_of_serve(database, tmp_path, "text")
    assert {"taking in_good", "counting", "event evt_bad failed: ValueError (paid, shop.py:11)"} <= set(lines)
    assert [line for line in lines if not line.strip()] == []


# OpenTelemetry


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Records every span from now on: a process has one provider, for ever."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_attempt_links_to_the_span_that_recorded_the_event(
    database: str, spans: InMemorySpanExporter, conn: Connection
) -> None:
    import asyncio

    app = shop()
    receiver = pgonce.receiver(app, secrets="whsec_test", url=database, worker=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(receiver), base_url="http://here") as client:
        for type_ in ("invoice.paid", "payout.paid", "customer.created", "charge.failed"):
            assert (await deliver(client, event(type_, event_id=f"evt_{type_}"))).status_code == 200
        assert (await deliver(client, event("invoice.voided", event_id="evt_bad", number="bad"))).status_code == 200
    await receiver.stop()
    await asyncio.to_thread(lambda: drain(app, raises=False))
    done = {span.name: span for span in spans.get_finished_spans()}
    for type_ in ("invoice.paid", "payout.paid", "customer.created"):
        received, attempt = done[f"receive {type_}"], done[f"process {type_}"]
        assert (received.kind, attempt.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
        assert [link.context.span_id for link in attempt.links] == [received.context.span_id]
        attributes = dict(attempt.attributes or {})
        assert (attributes["pgonce.event_id"], attributes["messaging.system"]) == (f"evt_{type_}", "pgonce")
    assert dict(done["process charge.*"].attributes or {})["messaging.batch.message_count"] == 1
    failed = done["process invoice.voided"]
    assert (failed.status.is_ok, failed.status.description) == (False, "ValueError")
    assert "4242" not in "".join(span.to_json() for span in spans.get_finished_spans())
    assert conn.execute("select count(*) from pgonce_webhook_traces").fetchone() == (5,)


def test_a_run_is_a_span_with_its_tick(spans: InMemorySpanExporter) -> None:
    done = run(shop(), "report", at="2026-11-29T06:00")
    assert done is not None
    [span] = [each for each in spans.get_finished_spans() if each.name == "run report"]
    attributes = dict(span.attributes or {})
    assert (attributes["pgonce.run_id"], attributes["faas.trigger"]) == (str(done.id), "timer")


def test_each_batch_of_an_import_is_a_span_below_its_run(
    spans: InMemorySpanExporter, database: str, conn: Connection
) -> None:
    conn.execute("create table psalms (number int primary key)")
    app = shop()

    @app.seed("psalms", into="psalms", key=["number"], batch_size=50)
    def psalms(cursor: Any) -> Iterator[Any]:
        for number in range(1, 151):
            yield {"number": number}, {"number": number}

    with pgonce.database.open_pool(database, 4) as pool:
        pgonce.Seeds(pool).run(app.get_seed("psalms"))
    done = spans.get_finished_spans()
    [whole] = [span for span in done if span.name.startswith("run ")]
    batches = [span for span in done if span.name == "write batch"]
    assert sum(int(str((span.attributes or {})["pgonce.rows"])) for span in batches) == 150
    assert {(span.attributes or {})["pgonce.import"] for span in batches} == {"psalms"}
    assert {span.parent and span.parent.span_id for span in batches} == {whole.context.span_id}


def test_a_link_that_somebody_else_wrote_is_left_out(spans: InMemorySpanExporter) -> None:
    with telemetry.working("w", "internal", {}, link="no span"):
        assert telemetry.current_ids() == {}
    assert spans.get_finished_spans()[0].links == ()


def test_traces_are_kept_for_a_week_and_the_first_delivery_counts(conn: Connection) -> None:
    conn.execute("select pgonce_store_webhook_trace('evt_old', '00-a')")
    conn.execute("update pgonce_webhook_traces set recorded_at = now() - interval '8 days'")
    for span in ("00-b", "00-c"):
        conn.execute("select pgonce_store_webhook_trace('evt_1', %s)", [span])
    rows = conn.execute("select stripe_event_id, traceparent from pgonce_webhook_traces").fetchall()
    assert rows == [("evt_1", "00-b")]


def test_without_opentelemetry_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_api", lambda: None)
    with telemetry.working("w", "internal", {"event_id": "evt_1"}) as work:
        assert telemetry.current_ids() == {"event_id": "evt_1"}
        work.failed(ValueError())
    assert (work.traceparent, telemetry.is_traced(), telemetry.current_ids()) == (None, False, {})
