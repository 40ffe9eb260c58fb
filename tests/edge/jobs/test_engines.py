"""The recipes for RQ, Airflow and Dagster, as docs/recipes/jobs.md has them, where those are installed."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

Connection = psycopg.Connection[Any]
PAGE = Path(__file__).resolve().parents[3] / "docs" / "recipes" / "jobs.md"
TICK = datetime(2026, 11, 29, tzinfo=UTC)


def recipes(heading: str) -> list[str]:
    """The examples in Python of one section."""
    section = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.delenv("PGONCE_DATABASE_URL", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in {"tasks", "search", "enqueue", "engine_recipe"} - before:
        if pool := getattr(sys.modules.pop(name, None), "pool", None):
            pool.close()


def runs(conn: Connection, name: str) -> list[Any]:
    found = "select status, scheduled_for from cron_job_runs where job_name = %s and status <> 'skipped'"
    return conn.execute(found, [name]).fetchall()


def load(folder: Path, text: str) -> Any:
    (folder / "engine_recipe.py").write_text(text, "utf-8")
    return importlib.import_module("engine_recipe")


def test_rq(folder: Path, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    rq, fakeredis, redis = (pytest.importorskip(name) for name in ("rq", "fakeredis", "redis"))
    monkeypatch.setattr(redis, "Redis", fakeredis.FakeStrictRedis)
    monkeypatch.setattr(rq, "Queue", functools.partial(rq.Queue, is_async=False))  # runs the job when it is enqueued
    job, enqueue = recipes("RQ")
    pool = "from pgonce import database\npool = database.open_pool(database.find(), 4)\n"
    for name, text in {"tasks": pool, "search": job, "enqueue": enqueue}.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    importlib.import_module("enqueue")
    assert runs(conn, "rebuild_search") == [("succeeded", None)]


def test_airflow(folder: Path, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(folder / "airflow"))
    pytest.importorskip("airflow.sdk")
    recipe, _ = recipes("Airflow and Dagster")
    task = load(folder, recipe).load_orders.function
    for _ in range(2):  # the second is a cleared task: its tick has run
        task(data_interval_end=TICK)
    assert runs(conn, "load_orders") == [("succeeded", TICK)]


def test_dagster(folder: Path, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "")
    dagster = pytest.importorskip("dagster")
    _, recipe = recipes("Airflow and Dagster")
    orders = load(folder, recipe).orders
    for _ in range(2):
        assert dagster.materialize([orders], partition_key="2026-11-28").success
    assert runs(conn, "orders") == [("succeeded", TICK)]
