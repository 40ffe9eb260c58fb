"""Mistakes in settings, URLs, secrets and ``--app``, and the error for each; see also test_mistakes.py."""

# ruff: noqa: E501 -- a table of mistakes, one a line
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from psycopg_pool import ConnectionPool

import pgonce
from pgonce.cli.app_loader import load
from pgonce.core import database
from pgonce.errors import InvalidArgument
from pgonce.jobs.scheduler import Scheduler
from pgonce.testing import Clock, deliver, drain, event, handled, run, signed
from pgonce.webhooks import stripe
from pgonce.webhooks.providers import standard_webhooks
from pgonce.webhooks.worker import Worker
from tests.pure.mistakes import check_refusal

app = pgonce.App()
app.job("j")(lambda _: None)
SYNC_POOL: ConnectionPool[Any] = ConnectionPool("", open=False)

# the mistake -> the line
MISTAKES: list[tuple[str, Callable[[], object], str]] = [
    # services
    ('Endpoint("shop")', lambda: pgonce.Endpoint("shop", secrets="whsec_a"),  # type: ignore[arg-type]
     "Endpoint needs your pgonce.App, not a str: app = pgonce.App(), Endpoint(app, ...)"),
    ("receiver(FastAPI())", lambda: pgonce.receiver(FastAPI(), secrets="whsec_a"),  # type: ignore[arg-type]
     "receiver needs your pgonce.App, not a FastAPI: "),
    ("Endpoint(App)", lambda: pgonce.Endpoint(pgonce.App, secrets="whsec_a"), "not the class: "),  # type: ignore[arg-type]
    ("Scheduler(None)", lambda: Scheduler(None, ""), "Scheduler needs your pgonce.App, not a NoneType: "),  # type: ignore[arg-type]
    ("Worker(None)", lambda: Worker(None, ""), "Worker needs your pgonce.App, not a NoneType: "),  # type: ignore[arg-type]
    ("Worker(app, os.environ.get(...))", lambda: Worker(app, None), "the database URL is None: is DATABASE_URL set?"),  # type: ignore[arg-type]
    ("Scheduler(app, pool)", lambda: Scheduler(app, SYNC_POOL), "the database URL is a ConnectionPool: pass postgresql://..."),  # type: ignore[arg-type]
    ("Worker(concurrency=0)", lambda: Worker(app, "", concurrency=0), "concurrency of Worker must be a whole number of at least 1, not 0"),
    ("Scheduler(concurrency='4')", lambda: Scheduler(app, "", concurrency="4"), "concurrency of Scheduler must be a whole number "),  # type: ignore[arg-type]
    ("Worker(poll=0)", lambda: Worker(app, "", poll=0), "poll of Worker must be a number of seconds of more than 0, not 0"),
    ("Worker(poll=nan)", lambda: Worker(app, "", poll=float("nan")), "poll of Worker must be a number of seconds "),
    ("Worker(poll=inf)", lambda: Worker(app, "", poll=float("inf")), "poll of Worker must be a number of seconds "),
    ('Worker(adopt="no")', lambda: Worker(app, "", adopt="no"), "adopt of Worker must be True or False, not 'no'"),  # type: ignore[arg-type]
    ('receiver(live_only="false")', lambda: pgonce.receiver(app, secrets="whsec_a", live_only="false"), "live_only of receiver must be True or "),  # type: ignore[arg-type]
    ('receiver(worker="no")', lambda: pgonce.receiver(app, secrets="whsec_a", worker="no"), "worker of receiver must be True or False"),  # type: ignore[arg-type]
    ("receiver(concurrency=0)", lambda: pgonce.receiver(app, secrets="whsec_a", concurrency=0), "concurrency of receiver must be a whole"),
    ("receiver(path=None)", lambda: pgonce.receiver(app, secrets="whsec_a", path=None), 'the path must be text, not None: write "/webhooks/stripe"'),  # type: ignore[arg-type]
    ('receiver(max_body="1MB")', lambda: pgonce.receiver(app, secrets="whsec_a", max_body="1MB"), "max_body of receiver must be a whole number"),  # type: ignore[arg-type]
    ("Endpoint(max_body=-1)", lambda: pgonce.Endpoint(app, secrets="whsec_a", max_body=-1), "max_body of Endpoint must be a whole number"),
    ('Endpoint(queue="false")', lambda: pgonce.Endpoint(app, secrets="whsec_a", queue="false"), "queue of Endpoint must be True or False"),  # type: ignore[arg-type]
    ("Endpoint(schema=None)", lambda: pgonce.Endpoint(app, secrets="whsec_a", schema=None), "schema must be the name of a schema"),  # type: ignore[arg-type]
    ("Webhooks(tolerance=nan)", lambda: pgonce.Webhooks(SYNC_POOL, tolerance=float("nan")), "the tolerance must be a number of seconds of more than 0, not nan"),
    ('Webhooks(tolerance="300")', lambda: pgonce.Webhooks(SYNC_POOL, tolerance="300"), "the tolerance must be a number of seconds "),  # type: ignore[arg-type]
    ("standard_webhooks(tolerance=nan)", lambda: standard_webhooks("whsec_aGVsbG8=", tolerance=float("nan")), "the tolerance must be"),
    ("schema=None", lambda: pgonce.Jobs(SYNC_POOL, schema=None),  # type: ignore[arg-type]
     'schema must be the name of a schema, not None: leave it out for "public"'),
    ("App(name=None)", lambda: pgonce.App(name=None), 'the app\'s name must be text, not None: write name="shop"'),  # type: ignore[arg-type]
    ("on_error=lambda: ...", lambda: pgonce.App(on_error=lambda: None),  # type: ignore[arg-type, misc]
     "on_error, <lambda>, takes (), but is called with (error, failed): "),
    ("secrets={...}", lambda: pgonce.Webhooks(SYNC_POOL, secrets={"live": "whsec_a"}), "the webhook secret is dict, not text: "),
    ("all headers as the signature", lambda: stripe.verify(b"{}", {"stripe-signature": "t=1"}, "whsec_a"),  # type: ignore[arg-type]
     'the value of the Stripe-Signature header, not dict: pass request.headers["Stripe-Signature"]'),
    ('secrets=os.environ.get("NOT_SET")', lambda: pgonce.Endpoint(app, secrets=None),  # type: ignore[arg-type]
     "no webhook secret is configured: set PGONCE_WEBHOOK_SECRET"),
    ("secrets=[None]", lambda: pgonce.Endpoint(app, secrets=[None]), "webhook secret 1 is None: is its variable set?"),  # type: ignore[list-item]
    ("secrets=5", lambda: pgonce.Endpoint(app, secrets=5), "the webhook secret is int, not text: "),  # type: ignore[arg-type]
    ("secrets=b'...'", lambda: pgonce.Endpoint(app, secrets=b"whsec_a"), "the webhook secret is bytes, not text: "),  # type: ignore[arg-type]
    ("the endpoint's id as its secret", lambda: pgonce.Endpoint(app, secrets="we_1Ox"), "webhook secret 1 is the endpoint's id (we_...): "),
    ("a placeholder as the secret", lambda: pgonce.Endpoint(app, secrets="whsec_..."), "webhook secret 1 is a placeholder: "),
    ("a body that was parsed", lambda: stripe.verify({}, "t=1,v1=" + "a" * 64, "whsec_a"),  # type: ignore[arg-type]
     "the body must be the raw bytes, not dict: pass the framework's raw body"),
    ("a body that was decoded", lambda: stripe.verify("{}", None, "whsec_a"), "not str: pass body.encode()"),  # type: ignore[arg-type]
    # the database's URL
    ('open_pool(os.environ.get("NOT_SET"))', lambda: database.open_pool(None),  # type: ignore[arg-type]
     "the database URL is None: is DATABASE_URL set?"),
    ("url=pool", lambda: database.find(SYNC_POOL), "the database URL is a ConnectionPool: pass postgresql://..."),  # type: ignore[arg-type]
    ("in quotation marks", lambda: database.check('"postgresql://me:secret@h/d"'), "is in quotation marks, which an env file of docker keeps: take them out"),
    ("$DATABASE_URL", lambda: database.check("${DATABASE_URL}"), "begins with $, so its variable was not replaced: "),
    ("jdbc:", lambda: database.check("jdbc:postgresql://h/d"), "the database URL is JDBC's: write postgresql://"),
    ("mysql://", lambda: database.check("mysql://me:secret@h/d"), "begins with mysql://, and pgonce needs PostgreSQL: write"),
    ("https://", lambda: database.check("https://x.supabase.co"), "begins with https://, and pgonce needs PostgreSQL: "),
    ("[YOUR-PASSWORD]", lambda: database.check("postgresql://p:[YOUR-PASSWORD]@h/d"), "still has the placeholder [YOUR-PASSWORD]: "),
    ("<password>", lambda: database.check("postgresql://shop:<password>@h/d"), "still has the placeholder <password>: put your own there"),
    ("DATABASE_URL=...", lambda: database.check("DATABASE_URL=postgresql://me:secret@h/d"), "begins with DATABASE_URL=: give what stands after it"),
    ("export DATABASE_URL=...", lambda: database.check("export DATABASE_URL=postgresql://me:secret@h/d"), "begins with DATABASE_URL=: "),
    ("psql ...", lambda: database.check("psql postgresql://me:secret@h/d"), "is a command of psql: give the URL in it"),
    ("POSTGRESQL://", lambda: database.check("POSTGRESQL://me:secret@h/d"), "begins with POSTGRESQL://: write postgresql://"),
    ("a driver of SQLAlchemy", lambda: database.check("postgresql+asyncpg://me:secret@h/d"), "drop +asyncpg, write postgresql://"),
    ("a parameter of Prisma", lambda: database.check("postgresql://me:secret@h/d?pgbouncer=true"), "knows no parameter pgbouncer: take it out, or set PGONCE_DATABASE_URL"),
    ("a % in the password", lambda: database.check("postgresql://me:secret%zz@h/d"), "has a % that encodes nothing: "),
    ("a space in the password", lambda: database.check("postgresql://me:se cret@h/d"), "has a space in it: write it as %20, or take it out"),
    ("a port in words", lambda: database.check("postgresql://me:secret@h:port/d"), "the database URL's port is not a number; "),
    ("options=-c%20a=b", lambda: database.check("postgresql://me:secret@h/d?options=-c%20a=b"), "has a second = in the parameter options: write it as %3D"),
    ("an @ in the password", lambda: database.check("postgresql://me:se@cret@h/d"), "has an @ where none belongs: "),
    ("a schema of PostgreSQL", lambda: pgonce.script("information_schema"), "schema information_schema is PostgreSQL's own: "),
    # testing
    ("deliver(app, ...)", lambda: deliver(app, event("invoice.paid")), "cannot deliver to App("),
    ('deliver(endpoint, "invoice.paid")', lambda: deliver(pgonce.Endpoint(app, secrets="whsec_a"), "invoice.paid"),  # type: ignore[arg-type]
     'pass an event, not its type: event("invoice.paid")'),
    ('signed("invoice.paid")', lambda: signed("invoice.paid"), "pass an event, not its type: "),  # type: ignore[arg-type]
    ('handled("invoice.paid")', lambda: handled("invoice.paid"), "pass an event, not its type: "),  # type: ignore[arg-type]
    ("run(app, ..., at=5)", lambda: run(app, "j", at=5), "a time must be a datetime or text, not 5: "),  # type: ignore[arg-type]
    ('event("invoice.*")', lambda: event("invoice.*"), 'an event has one type, not a pattern: write event("invoice.paid"), '),
    ("event(5)", lambda: event(5), "the event's type must be text, not 5: write event(\"invoice.paid\")"),  # type: ignore[arg-type]
    ("signed(data.object)", lambda: signed({"customer": "cus_1"}), "pass an event, which has an id and a type: event("),
    ("drain(FastAPI())", lambda: drain(FastAPI()), "drain needs your pgonce.App, not a FastAPI: "),  # type: ignore[arg-type]
    ("Clock(None, ...)", lambda: Clock(None, "2026-11-29"), "Clock needs your pgonce.App, not a NoneType: "),  # type: ignore[arg-type]
    ("run(run_job, ...)", lambda: run(print, "j"), "run needs your pgonce.App, not a builtin_function_or_method: "),  # type: ignore[arg-type]
    ('event("invoice.payed")', lambda: event("invoice.payed"), "did you mean invoice.paid?"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "make", "line"), MISTAKES, ids=[each[0] for each in MISTAKES])
def test_a_mistake_is_refused_with_one_line(mistake: str, make: Callable[[], object], line: str) -> None:
    check_refusal(make, line, "me:")  # the user of a URL, and with it the password


WRONG_APPS = """
import pgonce
from fastapi import FastAPI
web = FastAPI()
hooks = pgonce.App()
def make():
    return hooks
class Holder:
    app = pgonce.App()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wrong_apps.py").write_text(WRONG_APPS)
    (tmp_path / "base64.py").write_text("import pgonce\napp = pgonce.App()\n")
    (tmp_path / "circle.py").write_text("import circle_handlers\nimport pgonce\napp = pgonce.App()\n")
    (tmp_path / "circle_handlers.py").write_text("from circle import app\n")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('no config')\n")
    (tmp_path / "prints.py").write_text("import pgonce\nprint('hello')\napp = pgonce.App()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("wrong_apps", "ends", "prints", "circle", "circle_handlers"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_an_app_may_be_an_attribute_and_what_its_module_prints_is_no_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(" wrong_apps:Holder.app ").name == "wrong_apps:Holder.app"
    load("prints")
    assert capsys.readouterr() == ("", "hello\n")


def test_white_space_around_the_url_in_the_environment_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGONCE_DATABASE_URL", raising=False)
    monkeypatch.setenv("DATABASE_URL", " postgresql://h/shop\n")  # as in a file, or a secret of Kubernetes
    assert database.find() == "postgresql://h/shop"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("shop.py", "--app shop.py names a file, not a module: pass --app shop"),
        ("web/shop.py:app", "--app web/shop.py:app names a file, not a module: pass --app web.shop"),
        (
            "asyncio:run",
            "asyncio:run is a function, not a pgonce.App: write app = run() in asyncio and pass --app asyncio:app",
        ),
        ("pgonce:App", "pgonce:App is a class, not a pgonce.App: pass --app module:app"),
        (
            "dash-ed/shop.py:make",
            "--app dash-ed/shop.py:make names a file, not a module: run the command in dash-ed, and pass --app shop:make",
        ),
        (
            "C:\\web\\shop.py:make",
            "--app C:\\web\\shop.py:make names a file, not a module: run the command in C:/web, and pass --app shop:make",
        ),
        ("web\\shop:app", "--app web\\shop:app names a file, not a module: pass --app web.shop"),
        (
            "/srv/web/shop.py",
            "--app /srv/web/shop.py names a file, not a module: run the command in /srv/web, and pass --app shop",
        ),
        ("wrong_apps:web", "wrong_apps:web is of type FastAPI, not a pgonce.App: pass --app wrong_apps:hooks"),
        ("wrong_apps", "wrong_apps has no pgonce.App called 'app': pass --app wrong_apps:hooks"),
        ("wrong_apps:make()", "wrong_apps:make() is a function, not a pgonce.App: pass --app wrong_apps:hooks"),
        ("wrong_apps:Holder", "wrong_apps:Holder is a class, not a pgonce.App: pass --app wrong_apps:hooks"),
        ("wrong_apps.hooks", "hooks is an App in module wrong_apps: pass --app wrong_apps:hooks"),
        (
            "ends",
            'ends ends the process when it is imported (no config): put what it does as a program under if __name__ == "__main__":',
        ),
        (
            "circle",
            (
                "circle cannot be imported: circle and another module import each other (circle_handlers.py, line 1): "
                "in circle, import that one last"
            ),
        ),
        ("base64", "base64 is another module, which hides base64.py here: rename the file"),
        ("pgonce", "pgonce has no pgonce.App called 'app': pass --app module:app"),
        ("no_such_module", "there is no module 'no_such_module' here: pass --app module:app"),
        ("", "'' is not a module: pass --app module:app"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_refused_with_one_line(folder: Path, given: str, line: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        load(given)
    assert str(refused.value) == line
