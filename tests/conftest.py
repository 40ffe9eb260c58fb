"""The real PostgreSQL of the suite: one embedded server per test process, one database per test.

PGONCE_TEST_DATABASE_URL names another server to test against (a superuser's URL, PostgreSQL 14 or newer).
"""

from __future__ import annotations

import ast
import functools
import gc
import os
import shutil
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql

from pgonce.core import migrate as schema
from tests import clusters

if sys.version_info < (3, 11, 9):  # Debian 12 has 3.11.2
    _parse = ast.parse

    @functools.wraps(ast.parse)
    def _parse_again(*args: Any, **options: Any) -> Any:
        """``ast.parse``, which may fail while another thread parses, as logging a traceback does (cpython#106905).

        pytest parses the file of a test that fails. Its worker process would end with this error and name no test.
        """
        for _ in range(10):
            try:
                return _parse(*args, **options)
            except SystemError:
                pass
        return _parse(*args, **options)

    ast.parse = _parse_again

# Each client of httpx reads the certificates that the machine trusts, which takes 40 ms, and tests speak plain HTTP.
pytest.MonkeyPatch().setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))

# A busy machine pauses for longer than hypothesis allows an example, and the generation of examples, to take.
settings.register_profile("no limit of time", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no limit of time")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """A collection of garbage looks at all objects, and the collection of tests makes a million of them that stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin the share of each worker with its part of the long tests. The last of them kept one core at work alone."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    ends = [number * len(rest) // workers for number in range(workers + 1)]
    items[:] = [
        item for number in range(workers) for item in (*long[number::workers], *rest[ends[number] : ends[number + 1]])
    ]


ROLES = ("anon", "authenticated", "service_role")  # Supabase's


def with_database(url: str, name: str) -> str:
    """The same server's URL for another of its databases."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _new_folder() -> Path:
    for left in Path("/dev/shm").glob("pgonce-tests-*"):
        with suppress(OSError):  # by a run that was killed, so that its server has been stopped
            if time.time() - left.stat().st_mtime > 3600 and not (left / "pg" / "postmaster.pid").exists():
                shutil.rmtree(left, ignore_errors=True)
    # Not pytest's: as root, the server runs as another user, and each new session of pytest removes that access.
    return Path(tempfile.mkdtemp(prefix="pgonce-tests-", dir=clusters.in_memory()))


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a superuser on a real PostgreSQL with Supabase's roles, for the whole session."""
    url = os.environ.get("PGONCE_TEST_DATABASE_URL")
    running = None if url else clusters.start(_new_folder())
    url = url or (running.url if running else "")
    with psycopg.connect(url, autocommit=True) as conn:
        for role in ROLES:
            if not conn.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
                conn.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        if running:
            # A database for each test costs 34 ms instead of 170. A process that is killed loses nothing by it: only a
            # machine that loses its power would.
            for setting in ("fsync", "full_page_writes"):
                conn.execute(sql.SQL("alter system set {} = off").format(sql.Identifier(setting)))
            # From PostgreSQL 18 on, files are copied inside the kernel, which takes two thirds of the time.
            cloning = "select from pg_settings where name = 'file_copy_method' and 'clone' = any (enumvals)"
            if conn.execute(cloning).rowcount:
                conn.execute("alter system set file_copy_method = clone")
            conn.execute("select pg_reload_conf()")
    yield url
    if running:
        running.close()
        remove(running.data_dir)


def remove(data_dir: Path) -> None:
    """Remove the folder after the reaper has stopped the server."""
    pid_file = data_dir / "pg" / "postmaster.pid"
    wait_until(lambda: not pid_file.exists(), "the embedded server to stop")
    shutil.rmtree(data_dir, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database that each test's database is copied from (30 ms instead of 300)."""
    name = f"template_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        schema.migrate(with_database(server, name))
        yield name
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextmanager
def _new_database(server: str, template: str | None) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    create = sql.SQL("create database {}").format(sql.Identifier(name))
    if template:
        create += sql.SQL(" template {}").format(sql.Identifier(template))
    with psycopg.connect(server, autocommit=True) as conn:
        if conn.info.server_version >= 150000:  # the default writes each page to the write-ahead log
            create += sql.SQL(" strategy file_copy")
        conn.execute(create)
        try:
            yield with_database(server, name)
        finally:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The URL of a new database without pgonce."""
    with _new_database(server, None) as url:
        yield url


@pytest.fixture
def database(server: str, template: str) -> Iterator[str]:
    """The URL of a new, migrated database."""
    with _new_database(server, template) as url:
        yield url


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A session on ``database``, in autocommit: every statement is a transaction of its own."""
    with psycopg.connect(database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def role(server: str, database: str) -> Iterator[str]:
    """A new role that may log in and has no other rights. It is dropped with all that it owns in ``database``."""
    name = f"role_{uuid4().hex[:8]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create role {name} login".encode())
        yield name
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(f"drop owned by {name} cascade".encode())
        admin.execute(f"drop role {name}".encode())


@pytest.fixture
def session(database: str) -> Iterator[Callable[..., psycopg.Connection[Any]]]:
    """Opens further sessions on ``database``; closed after the test."""
    opened: list[psycopg.Connection[Any]] = []

    def open_session(**options: Any) -> psycopg.Connection[Any]:
        opened.append(psycopg.connect(database, **{"autocommit": True, **options}))
        return opened[-1]

    yield open_session
    for each in opened:
        each.close()


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Poll ``condition`` until it holds and return its value; fail the test with ``what`` after ``seconds``."""
    began = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - began
        if waited > seconds:
            pytest.fail(f"waited {seconds} s in vain: {what}")
        threading.Event().wait(max(0.005, min(waited / 20, 0.05)))  # a condition may be a query, which others pay for
    return value


def is_waiting_for_lock(observer: psycopg.Connection[Any], waiter: psycopg.Connection[Any]) -> bool:
    """Whether ``waiter``'s statement is waiting for a lock at this moment."""
    row = observer.execute(
        "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s", [waiter.info.backend_pid]
    ).fetchone()
    return bool(row and row[0])
