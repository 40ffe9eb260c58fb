"""pgonce as an app of a real Django project: its own tests, its commands, its worker."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

import pgonce
from pgonce.testing import deliver, event
from tests.conftest import wait_until
from tests.forked import Forked

Connection = psycopg.Connection[Any]
PROJECT = Path(__file__).with_name("django_shop")
# what `python -W error manage.py` does with modules of this folder, too; a program of this form is forked
MANAGE = """
import runpy, sys, warnings
warnings.simplefilter("error")
sys.path.append(sys.argv.pop(1))
sys.argv[0] = "manage.py"
runpy.run_path("manage.py", run_name="__main__")
"""
MIGRATIONS = Path(pgonce.__file__).parent / "integrations" / "django" / "migrations"


def start(url: str, *arguments: str, modules: Path = PROJECT, **more: str) -> Forked:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PGONCE_", "DJANGO_", "DATABASE_"))
    }
    return Forked(
        [sys.executable, "-c", MANAGE, modules, *arguments],
        cwd=PROJECT,
        env={**kept, "SHOP_DATABASE_URL": url, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def manage(url: str, *arguments: str, **more: Any) -> tuple[int, str]:
    with start(url, *arguments, **more) as process:
        said = process.communicate(timeout=300)[0]
    return process.returncode, said


def test_a_project_s_own_tests_have_the_tables_and_pass(empty_database: str) -> None:
    code, said = manage(empty_database, "test", "--verbosity", "1")
    assert code == 0, said
    assert re.search(r"Ran 1[0-9] tests", said), said


def test_the_short_name_installs_the_same_app(empty_database: str, tmp_path: Path) -> None:
    short = "INSTALLED_APPS[INSTALLED_APPS.index('pgonce.integrations.django')] = 'pgonce'"
    (tmp_path / "short.py").write_text(f"from site_config.settings import *\n{short}\n", "utf-8")
    named = "from django.apps import apps; print(apps.get_app_config('pgonce').name)"
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "short"}
    code, said = manage(empty_database, "shell", "--command", named, **more)
    assert (code, said.splitlines()[-1]) == (0, "pgonce.integrations.django"), said


def test_a_delivery_is_committed_before_its_200_also_outside_of_autocommit(database: str, tmp_path: Path) -> None:
    (tmp_path / "manual.py").write_text(
        "from site_config.settings import *\nDATABASES['default']['AUTOCOMMIT'] = False\n", "utf-8"
    )
    made = "from django.test import Client; from pgonce.testing import deliver, event;"
    now = "from pgonce.webhooks import refusals; refusals.EVERY = 0;"
    with_secrets = "[{}, {}, {'secret': 'whsec_other'}]"
    sent = f"{made} {now} print([deliver(Client(), event('invoice.paid'), **o).status_code for o in {with_secrets}])"
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "manual"}
    code, said = manage(database, "shell", "--command", sent, **more)
    assert (code, said.splitlines()[-1]) == (0, "[200, 200, 400]"), said
    with psycopg.connect(database) as conn:
        assert conn.execute("select count(*) from webhook_events").fetchone() == (2,)
        assert conn.execute("select reason, deliveries from pgonce_refused_deliveries").fetchall() == [("signature", 1)]


@pytest.mark.parametrize(
    "settings",
    [
        "'CONN_MAX_AGE': None",
        "'CONN_MAX_AGE': None, 'CONN_HEALTH_CHECKS': True",
        "'OPTIONS': {'pool': {'min_size': 2, 'max_size': 2}}",
        "'ATOMIC_REQUESTS': True",
    ],
)
def test_the_first_delivery_after_a_restart_of_the_database_is_recorded(
    database: str, tmp_path: Path, settings: str
) -> None:
    (tmp_path / "kept.py").write_text(
        f"from site_config.settings import *\nDATABASES['inbox'] = {{**DATABASES['default'], {settings}}}\n"
        "PGONCE = {**PGONCE, 'DATABASE': 'inbox'}\n",
        "utf-8",
    )
    (tmp_path / "sent.py").write_text(
        "import psycopg, sys\nfrom django.test import Client\nfrom pgonce.testing import deliver, event\n"
        "def send(): print(deliver(Client(), event('invoice.paid')).status_code)\nsend()\n"
        "with psycopg.connect(sys.argv[-1], autocommit=True) as conn:\n"
        "    others = 'where datname = current_database() and pid <> pg_backend_pid()'\n"
        "    conn.execute(f'select pg_terminate_backend(pid, 10000) from pg_stat_activity {others}')\n"
        "send()\n",
        "utf-8",
    )
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "kept"}
    run = f"import sys; sys.argv.append({database!r}); import sent"
    code, said = manage(database, "shell", "--command", run, **more)
    assert (code, said.splitlines()[-2:]) == (0, ["200", "200"]), said


@pytest.mark.parametrize("schema", ["public", "pgonce"])
def test_migrate_installs_the_commands_find_it_and_the_worker_handles(empty_database: str, schema: str) -> None:
    code, said = manage(empty_database, "migrate", SHOP_SCHEMA=schema)
    assert code == 0, said
    code, said = manage(empty_database, "pgonce", "migrate", "--check", SHOP_SCHEMA=schema)
    assert (code, "may create objects" in said or "current" in said) == (int("may create" in said), True), said
    app = pgonce.App()
    endpoint = pgonce.Endpoint(app, secrets="whsec_test", url=empty_database, schema=schema, queue=True)
    assert deliver(endpoint, event("invoice.paid", id="in_1")).status == 200
    worker = start(empty_database, "pgonce", "worker", "--concurrency", "2", SHOP_SCHEMA=schema)
    try:
        with psycopg.connect(empty_database, autocommit=True) as conn:

            def payments() -> list[Any]:
                assert worker.poll() is None, worker.stdout and worker.stdout.read()
                return conn.execute("select invoice from shop_payment").fetchall()

            assert wait_until(payments, "the worker to handle it") == [("in_1",)]
            processes = f"select distinct app, jobs from {schema}.pgonce_processes where does = 'jobs'".encode()
            found = wait_until(lambda: conn.execute(processes).fetchall(), "the scheduler to register")
            assert found == [("site_config", ["daily_payment"])]
    finally:
        worker.send_signal(signal.SIGTERM)
        said_at_the_end = worker.communicate(timeout=60)[0]
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
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "wrong"}
    for command in (["check"], ["migrate"]):
        code, said = manage(empty_database, *command, **more)
        assert (code, "pgonce.E00" in said, line in said, hint in said) == (1, True, True, True), said
        assert "Traceback" not in said
    code, said = manage(empty_database, "pgonce", "ps", **more)
    assert (code, said.count("\n"), line in said, hint in said) == (1, 1, True, True), said


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ("PGONCE = ['whsec_secret']", "PGONCE must be a dict, not list: PGONCE = {"),
        ("PGONCE = 'whsec_secret'", "PGONCE must be a dict, not str: PGONCE = {"),
        ("PGONCE = {'secrets': ['whsec_secret']}", "PGONCE has no setting 'secrets': use DATABASE, SCHEMA, SECRETS"),
        ("PGONCE = {'SECRETS': 'sk_test_secret'}", "PGONCE SECRETS: webhook secret 1 is an API key (sk_...): "),
        ("PGONCE = {'SECRETS': 5}", "PGONCE SECRETS: the webhook secret is int, not text: "),
        ("PGONCE = {'SCHEMA': None}", "PGONCE SCHEMA: schema must be the name of a schema, not None: "),
        ("INSTALLED_APPS += ['other']", "other.webhooks.mine is an App of its own: `manage.py pgonce` does not use it"),
        ("INSTALLED_APPS += ['using']", "DATABASES has no 'replica': use one of default"),
        ("INSTALLED_APPS += ['shared']", 'using of a.b does nothing with transaction="shared": leave it out'),
        ("INSTALLED_APPS += ['kind']", 'transaction of a.b is "atomic", "shared" or "own", not \'mine\''),
    ],
)
def test_a_mistake_in_a_project_is_found_when_it_is_checked(
    empty_database: str, tmp_path: Path, settings: str, line: str
) -> None:
    ours = "from pgonce.integrations.django import app\n\n@app.webhook('a.b', {})\ndef handle(event, tx=None): ..."
    for package, text in {
        "other": "import pgonce\nmine = pgonce.App()",
        "using": ours.format("using='replica'"),
        "shared": ours.format("using='default', transaction='shared'"),
        "kind": ours.format("transaction='mine'"),
    }.items():
        (tmp_path / package).mkdir()
        (tmp_path / package / "webhooks.py").write_text(text, "utf-8")
    (tmp_path / "wrong.py").write_text(f"from site_config.settings import *\n{settings}\n", "utf-8")
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "wrong"}
    code, said = manage(empty_database, "check", "--fail-level", "WARNING", **more)
    assert (code, line in said, "_secret" in said.replace("'whsec_secret'", "")) == (1, True, False), said


def test_a_second_database_with_options_of_django_is_found_by_the_commands_and_the_admin(
    empty_database: str, tmp_path: Path
) -> None:
    (tmp_path / "several.py").write_text(
        "from site_config.settings import *\n"
        "options = {'prepare_threshold': 5, 'server_side_binding': True, 'sslmode': None, 'application_name': 'a&b'}\n"
        "DATABASES = {'default': {**DATABASES['default'], 'PORT': 1},\n"
        "             'events': {**DATABASES['default'], 'OPTIONS': options}}\n"
        "PGONCE = {'DATABASE': 'events'}\n",
        "utf-8",
    )
    code = (
        "import psycopg; from django.contrib import admin; from django.apps import apps\n"
        "from pgonce.integrations.django import database_url\n"
        "with psycopg.connect(database_url()) as conn: print(conn.info.parameter_status('application_name'))\n"
        "models = apps.get_app_config('pgonce').get_models()\n"
        "print({admin.site.get_model_admin(model).get_queryset(None).db for model in models})"
    )
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "several"}
    done, said = manage(empty_database, "shell", "--command", code, **more)
    assert (done, said.splitlines()[-2:]) == (0, ["a&b", "{'events'}"]), said


def test_the_role_that_django_assumes_is_that_of_pgonce_s_connections(empty_database: str, tmp_path: Path) -> None:
    role = f"owner of {uuid4().hex[:8]}"
    (tmp_path / "assumed.py").write_text(
        "from site_config.settings import *\n"
        f"DATABASES['default']['OPTIONS'] = {{'assume_role': {role!r}, 'options': '-c statement_timeout=9s'}}\n",
        "utf-8",
    )
    code = (
        "import psycopg\nfrom pgonce.integrations.django import database_url\n"
        "with psycopg.connect(database_url()) as conn:\n"
        "    conn.execute('reset role')\n"
        "    print(conn.execute('select current_user, current_setting($$statement_timeout$$)').fetchone())"
    )
    more = {"modules": tmp_path, "DJANGO_SETTINGS_MODULE": "assumed"}
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
        try:
            done, said = manage(empty_database, "shell", "--command", code, **more)
        finally:
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    assert (done, said.splitlines()[-1]) == (0, f"('{role}', '9s')"), said


def test_there_is_a_migration_for_this_release() -> None:
    newest = max(path.stem for path in MIGRATIONS.glob("0*.py"))
    assert newest.endswith(pgonce.__version__.replace(".", "_")), (
        "copy the last migration: its script is the new release's"
    )
