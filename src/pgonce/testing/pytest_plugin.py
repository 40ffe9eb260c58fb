"""The pytest plugin: ``pgonce_db``, a migrated PostgreSQL that is empty at the start of each test.

pytest finds it by itself once pgonce is installed (entry point ``pytest11``).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    import psycopg

# pgonce itself is imported in the fixtures: a project that has it installed pays nothing for tests that do not use it.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the setting ``pgonce_keep``."""
    parser.addini("pgonce_keep", "tables that pgonce_db does not empty", "linelist", default=[])


@pytest.fixture(scope="session")
def pgonce_setup() -> Callable[[str], object]:
    """What is done once, after the migration: override it to create your own tables. It gets the database's URL."""
    return lambda _url: None


@pytest.fixture(scope="session")
def pgonce_server(pgonce_setup: Callable[[str], object]) -> Iterator[str]:
    """The URL of a migrated database, for the whole session.

    It is the embedded server's, in a folder of its own, or a new database on the server that
    PGONCE_TEST_DATABASE_URL names (the URL of a superuser).
    """
    from pgonce.core import embedded
    from pgonce.core.migrate import migrate

    given = os.environ.get("PGONCE_TEST_DATABASE_URL")
    if given:
        with _database_on(given) as url:
            migrate(url)
            pgonce_setup(url)
            yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="pgonce-test-"))
    with embedded.start(folder) as server:
        migrate(server.url)
        pgonce_setup(server.url)
        yield server.url
    until = time.monotonic() + 10
    while (folder / "pg" / "postmaster.pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def _with_database(url: str, name: str) -> str:
    """The URL of another database of the server that ``url`` names, as a URL or as ``key=value`` pairs."""
    from psycopg.conninfo import conninfo_to_dict

    if "://" in url:
        parts = urlsplit(url)  # urlunsplit leaves the slashes out where there is no host: postgresql:///shop
        start, options = f"{parts.scheme}://{parts.netloc}", parse_qsl(parts.query, keep_blank_values=True)
    else:
        start, options = "postgresql://", [(key, str(value)) for key, value in conninfo_to_dict(url).items()]
    kept = [(key, value) for key, value in options if key != "dbname"]  # in a query it would overrule the path
    return f"{start}/{name}" + ("?" if kept else "") + urlencode(kept, quote_via=quote)


class _database_on:  # noqa: N801 -- used as a function
    """A new database, dropped at the end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._name = f"pgonce_test_{uuid4().hex[:12]}"

    def _execute(self, statement: str) -> None:
        import psycopg
        from psycopg import sql

        with psycopg.connect(self._url, autocommit=True) as conn:
            conn.execute(sql.SQL(statement).format(sql.Identifier(self._name)))

    def __enter__(self) -> str:
        import psycopg

        self._execute("create database {}")
        url = _with_database(self._url, self._name)
        with psycopg.connect(url) as conn:
            found = conn.execute("select current_database()").fetchone()
        if found != (self._name,):  # a pooler may answer any name with one database; every table of ours is emptied
            self.__exit__()
            raise pytest.UsageError("PGONCE_TEST_DATABASE_URL leads to one database, whatever the name: name a server")
        return url

    def __exit__(self, *_: object) -> None:
        self._execute("drop database {} with (force)")


@pytest.fixture(scope="session")
def _pgonce_cleaner(pgonce_server: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    import psycopg

    with psycopg.connect(pgonce_server, autocommit=True, prepare_threshold=None) as conn:
        yield conn
        with suppress(psycopg.Error):
            conn.close()


@pytest.fixture
def pgonce_db(
    request: pytest.FixtureRequest,
    pgonce_server: str,
    _pgonce_cleaner: psycopg.Connection[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """The URL of a migrated database whose tables are empty, yours as well; setting ``pgonce_keep`` names exceptions.

    For the time of the test it is in PGONCE_DATABASE_URL, where pgonce's own objects look for it, and
    PGONCE_WEBHOOK_SECRET is ``pgonce.testing.SECRET``.
    """
    from pgonce.testing import SECRET
    from pgonce.testing.clean import empty

    empty(_pgonce_cleaner, request.config.getini("pgonce_keep"))
    monkeypatch.setenv("PGONCE_DATABASE_URL", pgonce_server)
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", SECRET)
    return pgonce_server
