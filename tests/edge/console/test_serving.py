"""Where the console is served, what it says when it cannot read, and that it reads no longer than somebody waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

import pgonce
from pgonce.console import reads
from pgonce.console.pages import now
from tests.conftest import wait_until
from tests.edge.command import running
from tests.edge.console.conftest import served
from tests.faults.child import children

Connection = psycopg.Connection[Any]

ROOT = Path(__file__).resolve().parents[3]
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%pgonce_console_audit%'"


@pytest.fixture
def alone(url: str) -> Any:
    """A client of a console without users."""
    console = pgonce.Console(url=url, users="")
    with served(console, console.stop) as client:
        yield client


def test_serve_shows_the_console_beside_the_receiver(database: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("import pgonce\napp = pgonce.App(name='bakery')\n")
    with running(database, "serve", "--port", "0", "--console", "--app", "shop", cwd=tmp_path) as server:
        base = f"http://127.0.0.1:{server.port}"
        for path in ("/console", "/console/"):
            page = httpx.get(base + path)
            assert (page.status_code, "bakery" in page.text) == (200, True)
            assert 'href="/console/audit"' in page.text
        assert httpx.get(f"{base}/console/now.json").json()["sentences"][1]["question"] == "Late?"
        assert httpx.get(f"{base}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{base}/webhooks/stripe").status_code == 405
        assert httpx.get(f"{base}/consoles").status_code == 404
        assert "this machine only, without a password" in server.log.read_text()


def test_connections_that_send_nothing_do_not_keep_others_out(database: str) -> None:
    few = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (160, 160)); from pgonce.cli import main; main()"
    with children(database) as start, ExitStack() as silent:
        process = start(sys.executable, "-c", few, "console", "--port", "0")
        port = int(process.until(r"console +http://127\.0\.0\.1:(\d+)")[1])
        for _ in range(300):
            silent.enter_context(socket.create_connection(("127.0.0.1", port), 30)).sendall(b"GET / HTTP/1.1\r\n")
        assert httpx.get(f"http://127.0.0.1:{port}/", timeout=30).status_code == 200


def test_fastapi_mounts_it_and_closes_its_connections(url: str, conn: Connection) -> None:
    console = pgonce.Console(url=url, users="")
    api = FastAPI(lifespan=console.lifespan)
    api.mount("/admin/pgonce", console)
    with served(api) as client:
        page = client.get("/admin/pgonce/")
        assert (page.status_code, 'href="/admin/pgonce/alerts"' in page.text) == (200, True)
    ours = "select count(*) from pg_stat_activity where application_name = 'pgonce' and datname = current_database()"
    wait_until(lambda: conn.execute(ours).fetchone() == (0,), "the connections are closed")


SITE = """
import django
from django.conf import settings
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, parse_cookie
from django.urls import path

import pgonce

settings.configure(
    SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_TZ=True,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()

def log_in(request, role):
    request.session["role"] = role
    return HttpResponse("hello")

urlpatterns = [path("hello/<role>", log_in)]

def user(scope):
    cookies = parse_cookie(dict(scope["headers"]).get(b"cookie", b"").decode("latin-1"))
    role = SessionStore(cookies.get(settings.SESSION_COOKIE_NAME, "")).get("role")
    return ("ada", role) if role else None

site = get_asgi_application()
console = pgonce.Console(pgonce.App(name="bakery"), prefix="/ops", user=user)

async def application(scope, receive, send):
    below = scope["type"] == "http" and (scope["path"] + "/").startswith("/ops/")
    await (console if below else site)(scope, receive, send)
"""


def test_django_serves_it_below_a_path_for_whoever_is_logged_in_to_django(database: str, tmp_path: Path) -> None:
    (tmp_path / "site_asgi.py").write_text(SITE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "site_asgi:application", "--port", str(port), "--lifespan", "off"]
    environment = {**os.environ, "DATABASE_URL": database}
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        try:
            wait_until(lambda: "running on" in log.read_text() or server.poll() is not None, "it is up", 60)
            assert client.get("/ops").status_code == 403, log.read_text()
            assert client.get("/hello/reader").text == "hello"
            page = client.get("/ops")
            assert (page.status_code, "bakery" in page.text, "ada, reader" in page.text) == (200, True, True)
            assert 'href="/ops/audit"' in page.text
            assert client.get("/ops/audit").status_code == 200
            assert client.get("/hello/operator").text == "hello"
            assert "ada, operator" in client.get("/ops/jobs").text
            assert client.get("/opsx").status_code == 404  # Django's
        finally:
            server.terminate()


@pytest.mark.parametrize("path", ["", "/"])
def test_a_dispatcher_by_path_needs_only_the_prefix(url: str, path: str) -> None:
    console = pgonce.Console(url=url, users="", prefix="/ops")
    with served(console, console.stop) as client:
        page = client.get(f"/ops{path}")
        assert (page.status_code, 'href="/ops/audit"' in page.text) == (200, True)


def test_without_the_database_a_page_says_so() -> None:
    console = pgonce.Console(url="postgresql://127.0.0.1:1/nowhere?connect_timeout=2", users="")
    with served(Starlette(routes=[Mount("/", console)])) as client:  # alone it would not start
        page = client.get("/audit")
        assert page.status_code == 503
        assert "The database cannot be reached" in page.text
        assert client.get("/audit.json").json()["status"] == 503


def test_a_search_that_takes_too_long_is_ended_and_said(alone: Any, conn: Connection, url: str) -> None:
    with psycopg.connect(url) as other:
        other.execute("lock table pgonce_audit")
        page = alone.get("/audit")
    assert (page.status_code, "Too much to search" in page.text) == (503, True)
    assert "longer than 2 s" in page.text


def test_a_read_ends_when_the_browser_goes_away(
    alone: Any, conn: Connection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "_BEGIN", reads._BEGIN.replace("'2s'", "'600s'"))
    alone.get("/")
    with psycopg.connect(url) as other:
        other.execute("lock table pgonce_audit")
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{alone.base_url}/audit", timeout=1)
        wait_until(lambda: conn.execute(WAITING).fetchone() == (0,), "the query is cancelled")
    assert alone.get("/audit").status_code == 200


def test_an_error_that_nobody_expected_is_a_page_and_in_the_log(
    alone: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(now, "make_sentences", broken)
    page = alone.get("/")
    assert (page.status_code, "An error in the console" in page.text, "secret" in page.text) == (500, True, False)
    assert "unexpected error in the console at '/'" in caplog.text
    assert alone.get("/audit").status_code == 200


def test_a_page_that_does_not_exist_is_said_in_the_frame(alone: Any) -> None:
    page = alone.get("/nothing")
    assert (page.status_code, "There is no such page" in page.text, 'id="nav"' in page.text) == (404, True, True)
    assert alone.post("/audit", headers={"sec-fetch-site": "same-origin"}).status_code == 400


def test_static_files_are_kept_by_their_digest(alone: Any) -> None:
    style = alone.get("/").text.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = alone.get(style)
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]
    assert len(answer.content) <= 16_384
    assert alone.get("/static/htmx.LICENSE").text.startswith("Zero-Clause BSD")
    for name in ("../app.py", "%2e%2e/app.py", "app.py"):
        assert alone.get(f"/static/{name}").status_code == 404


def test_make_console_shows_a_shop_at_work(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {"PATH": "/usr/bin:/bin", "PGONCE_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-m", "tools.console", "--port", "8479", "--for", "900"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: "the console" in log.read_text() or process.poll() is not None, "it is up", 300)
        assert "http://127.0.0.1:8479/console/" in log.read_text(), log.read_text()
        found = httpx.get("http://127.0.0.1:8479/console/now.json", timeout=30).json()
        assert found["facts"]["dead"] > 0
        page = "http://127.0.0.1:8479/console/"
        wait_until(lambda: "catalog_prices" in httpx.get(page, timeout=30).text, "the import is under way", 300)
    finally:
        process.terminate()
        process.wait(30)
