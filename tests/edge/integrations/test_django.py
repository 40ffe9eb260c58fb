"""pgonce as an app of a real Django project: its own tests, its commands, its worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgonce
from pgonce.testing import deliver, event
from tests.conftest import wait_until

Connection = psycopg.Connection[Any]
PROJECT = Path(__file__).with_name("django_shop")
MIGRATIONS = Path(pgonce.__file__).parent / "integrations" / "django" / "migrations"


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PGONCE_", "DJANGO_", "DATABASE_"))
    }
    return kept | {"SHOP_DATABASE_URL": url, "PYTHONWARNINGS": "error", "PYTHONDONTWRITEBYTECODE": "1", **more}


def manage(url: str, *arguments: str, **more: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env=environment(url, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_project_s_own_tests_have_the_tables_and_pass(empty_database: str) -> None:
    code, said = manage(empty_database, "test", "--verbosity", "1")
    assert code == 0, said
    assert re.search(r"Ran 1[0-9] tests", said), said


@pytest.mark.parametrize("schema", ["public", "pgonce"])
def test_migrate_installs_the_commands_find_it_and_the_worker_handles(empty_database: str, schema: str) -> None:
    code, said = manage(empty_database, "migrate", SHOP_SCHEMA=schema)
    assert code == 0, said
    code, said = manage(empty_database, "pgonce", "migrate", "--check", SHOP_SCHEMA=schema)
    assert (code, "may create objects" in said or "current" in said) == (int("may create" in said), True), said
    app = pgonce.App()
    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=empty_database, schema=schema, queue=True)
    assert deliver(endpoint, event("invoice.paid", id="in_1")).status == 200
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "pgonce", "worker", "--concurrency", "2"],
        cwd=PROJECT,
        env=environment(empty_database, SHOP_SCHEMA=schema),
        stderr=subprocess.PIPE,
    )
    try:
        with psycopg.connect(empty_database, autocommit=True) as conn:

            def payments() -> list[Any]:
                assert worker.poll() is None, worker.stderr and worker.stderr.read()
                return conn.execute("select invoice from shop_payment").fetchall()

            assert wait_until(payments, "the worker to handle it") == [("in_1",)]
            processes = f"select distinct app, jobs from {schema}.pgonce_processes where does = 'jobs'".encode()
            found = wait_until(lambda: conn.execute(processes).fetchall(), "the scheduler to register")
            assert found == [("site_config", ["daily_payment"])]
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said_at_the_end = worker.communicate(timeout=30)
    assert worker.returncode == 0, said_at_the_end


@pytest.mark.parametrize(
    ("settings", "line", "hint"),
    [
        ("DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}",
         "is sqlite", "ENGINE"),
        ("DATABASES = {}", "is unknown", "ENGINE"),
        ("PGONCE = {'DATABASE': 'shop'}", "DATABASES has no", "default"),
    ],
)  # fmt: skip
def test_another_database_than_postgresql_is_found_before_anything_is_written(
    empty_database: str, tmp_path: Path, settings: str, line: str, hint: str
) -> None:
    (tmp_path / "wrong.py").write_text(f"from site_config.settings import *\n{settings}\n", "utf-8")
    more = {"DJANGO_SETTINGS_MODULE": "wrong", "PYTHONPATH": str(tmp_path)}
    for command in (["check"], ["migrate"]):
        code, said = manage(empty_database, *command, **more)
        assert (code, "pgonce.E00" in said, line in said, hint in said) == (1, True, True, True), said
        assert "Traceback" not in said
    code, said = manage(empty_database, "pgonce", "ps", **more)
    assert (code, said.count("\n"), line in said, hint in said) == (1, 1, True, True), said


def test_there_is_a_migration_for_this_release() -> None:
    newest = max(path.stem for path in MIGRATIONS.glob("0*.py"))
    assert newest.endswith(pgonce.__version__.replace(".", "_")), (
        "copy the last migration: its script is the new release's"
    )
