"""The metrics are described, bounded, and read once a second; the dashboard and the alert rules name no others."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import pgonce
from pgonce.core import database as databases
from pgonce.core.processes import Registration
from pgonce.metrics import METRICS, Metrics, MetricsCollector, collect_metrics, registry
from pgonce.testing import deliver, drain, event, run
from tests.conftest import wait_until
from tests.edge.command import pgonce as command
from tests.edge.command import running

Connection = psycopg.Connection[Any]
ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "docs" / "grafana" / "pgonce.json"
RULES = ROOT / "docs" / "grafana" / "alerts.yaml"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def busy(database: str, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database in which everything has happened."""
    monkeypatch.setenv("PGONCE_DATABASE_URL", database)
    app = pgonce.App()

    @app.webhook("invoice.*")
    def invoice(event: pgonce.Event, tx: Connection) -> None:
        if event.object.get("number") == "bad":
            raise ValueError

    @app.job("report", cron="0 6 * * *")
    def report(run: pgonce.Run) -> None:
        if run.scope.get("bad"):
            raise ValueError

    endpoint = pgonce.Endpoint(app, secrets="whsec_test", queue=True)
    deliver(endpoint, event("invoice.paid"), secret="whsec_test")
    deliver(endpoint, event("invoice.voided", number="bad"), secret="whsec_test")
    drain(app, raises=False)
    deliver(endpoint, event('of."odd"\\'), secret="whsec_test")
    run(app, "report", at="2026-11-29T06:00")
    with pytest.raises(ValueError, match=r"^$"):
        run(app, "report", scope={"bad": True})
    conn.execute("select start_job_run('hanging'), pgonce_count_refused_deliveries('{signature}', '{3}')")
    conn.execute("insert into seed_checkpoints (seed_name, rows_inserted, status) values ('psalms', 150, 'failed')")
    conn.execute("insert into pgonce_job_schedules (job_name, cron, timezone, next_tick)"
                 " values ('nightly', '0 3 * * *', 'UTC', now() - interval '1 hour')")  # fmt: skip
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message) values ('c', 'k', 's', 'd', 'm')"
    )
    with databases.open_pool(database, 1) as pool:
        Registration("events", "public", capacity=4).register(pool)
    return database


def test_every_metric_is_there_with_its_labels_and_its_value(busy: str) -> None:
    with databases.open_pool(busy, 1) as pool:
        found = parsed(generate_latest(registry(pool)).decode())
    assert {name for name, _ in found} == set(METRICS)
    # Prometheus gives each sample its own labels of these names: ours would become exported_job, unknown to every rule.
    assert not {"job", "instance"} & {label for each in METRICS.values() for label in each.labels}
    for name, labels in found:
        assert tuple(label for label, _ in labels) == tuple(sorted(METRICS[name].labels)), name
    expected = {
        ("pgonce_up", ()): 1,
        ("pgonce_webhook_events", (("state", "due"),)): 1,
        ("pgonce_webhook_events", (("state", "scheduled"),)): 1,
        ("pgonce_webhook_events", (("state", "dead"),)): 0,
        ("pgonce_webhook_received_5m", (("event_type", "invoice.paid"), ("status", "succeeded"))): 1,
        ("pgonce_webhook_attempts_failed_5m", ()): 1,
        ("pgonce_webhook_refused_1h", (("reason", "signature"),)): 3,
        ("pgonce_webhook_refused_1h", (("reason", "time"),)): 0,
        ("pgonce_job_last_failed", (("job_name", "report"),)): 1,
        ("pgonce_job_running", (("job_name", "hanging"),)): 1,
        ("pgonce_job_missed", (("job_name", "nightly"),)): 1,
        ("pgonce_import_rows", (("import", "psalms"), ("outcome", "inserted"))): 150,
        ("pgonce_import_failed", (("import", "psalms"),)): 1,
        ("pgonce_processes", (("does", "events"),)): 1,
        ("pgonce_process_capacity", (("does", "events"),)): 4,
        ("pgonce_alerts_undelivered", ()): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["pgonce_job_last_success_timestamp_seconds", (("job_name", "report"),)] > 1e9


def test_labels_are_bounded_however_many_names_there_are(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status)"
        " select 'evt_' || n, 'type.' || n, 'succeeded' from generate_series(1, 1000) n"
    )
    conn.execute("insert into cron_job_runs (job_name, status, completed_at, duration_ms)"
                 " select 'job ' || n, 'succeeded', now(), 5 from generate_series(1, 1000) n")  # fmt: skip
    conn.execute("insert into seed_checkpoints (seed_name) select 's' || n from generate_series(1, 1000) n")
    with databases.open_pool(database, 1) as pool:
        found = parsed(generate_latest(registry(pool)).decode())
    names: dict[str, set[str]] = {}
    for _, labels in found:
        for label, value in labels:
            names.setdefault(label, set()).add(value)
    assert {label: len(values) for label, values in names.items() if len(values) > 201} == {}
    assert found["pgonce_webhook_received_5m", (("event_type", "other"), ("status", "succeeded"))] == 800


def test_the_database_is_asked_once_a_second_and_its_loss_is_a_figure(
    busy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases.open_pool(busy, 1) as pool:
        collector = MetricsCollector(pool)
        asked = []
        read = collector._read

        def counted() -> list[Any]:
            asked.append(1)
            return read()

        monkeypatch.setattr(collector, "_read", counted)
        for _ in range(5):
            assert next(iter(collector.collect())).samples[0].value == 1
        assert len(asked) == 1
    lost = MetricsCollector(pool)
    assert [(family.name, family.samples[0].value) for family in lost.collect()] == [("pgonce_up", 0)]


def test_the_time_does_not_grow_with_the_tables(database: str, conn: Connection) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
        " select 'evt_' || n, 'a.b', 'succeeded', now() - n * interval '1 minute' from generate_series(1, 20000) n"
    )
    conn.execute("insert into cron_job_runs (job_name, status, started_at, completed_at)"
                 " select 'job' || n % 10, 'succeeded', now() - n * interval '1 minute', now()"
                 " from generate_series(1, 20000) n")  # fmt: skip
    conn.execute("vacuum analyze webhook_events, cron_job_runs")
    conn.execute("select pg_stat_reset()")
    with databases.open_pool(database, 1) as pool, pool.connection() as own:
        own.execute("select count(*) from pgonce_collect_metrics()")
        own.execute("select pg_stat_force_next_flush()")
    rows = conn.execute(
        "select relname, seq_scan, seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
        " where relname in ('webhook_events', 'cron_job_runs')"
    ).fetchall()
    assert {name: (scans, read < 2000) for name, scans, read in rows} == {
        "webhook_events": (0, True), "cron_job_runs": (0, True),
    }, rows  # fmt: skip


def test_the_command_prints_them_or_serves_them(busy: str, tmp_path: Path) -> None:
    code, out, err = command(busy, "metrics")
    assert (code, err) == (0, "")
    assert parsed(out)["pgonce_up", ()] == 1
    with running(busy, "metrics", "--port", "0", cwd=tmp_path) as server:
        wait_until(lambda: server.printed("metrics at "), "the address")
        [address] = re.findall(r"http://\S+", server.log.read_text("utf-8"))
        assert "pgonce_webhook_events" in httpx.get(address).text
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_asgi_app_answers_in_the_format_that_is_asked_for(busy: str) -> None:
    async def get(app: Metrics, accept: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/metrics", headers={"Accept": accept})

    metrics = Metrics(busy)
    assert (await get(metrics, "*/*")).headers["content-type"].startswith("text/plain")
    assert (await get(metrics, "application/openmetrics-text; version=1.0.0")).text.endswith("# EOF\n")
    assert (await get(Metrics("postgresql://127.0.0.1:1/none"), "*/*")).status_code == 503


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    return found + [
        rule["expr"] for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]
    ]


def test_the_dashboard_and_the_alert_rules_name_only_metrics_and_labels_that_exist() -> None:
    used: set[str] = set()
    for expression in expressions():
        for name, matchers in re.findall(r"\b(pgonce_\w+)(?:\{([^}]*)\})?", expression):
            assert name in METRICS, expression
            used.add(name)
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
                assert label in METRICS[name].labels, expression
    assert len(expressions()) > 20
    assert set(METRICS) - used <= {"pgonce_import_complete", "pgonce_job_next_tick_timestamp_seconds"}


def test_every_rule_says_what_it_is_and_what_to_do() -> None:
    for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            assert re.search(r"pgonce \w+", rule["annotations"]["action"]), rule["alert"]
            assert rule["labels"]["severity"] in {"page", "ticket"}


def test_the_list_of_metrics_in_the_documentation_is_complete() -> None:
    page = (ROOT / "docs" / "observability.md").read_text("utf-8")
    rows = re.findall(r"^\| `(pgonce_\w+)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert rows == [
        (name, ", ".join(f"`{label}`" for label in each.labels) or "–", each.text) for name, each in METRICS.items()
    ]


def test_collecting_is_one_call() -> None:
    assert collect_metrics().function == "pgonce_collect_metrics"


def test_prometheus_reads_the_alert_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool: apt-get install prometheus")
    checked = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert (checked.returncode, "SUCCESS" in checked.stdout) == (0, True), checked.stdout + checked.stderr
