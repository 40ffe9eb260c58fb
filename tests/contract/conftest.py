"""Each test of this folder that asks for ``caller`` runs once for every caller of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from tests.conftest import _new_database
from tests.contract.callers import Async, Caller, PlainSql, Sync
from tests.faults.proxy import Proxy, proxy

ODD: dict[str, Any] = {"row_factory": dict_row, "autocommit": False}  # what a user's own pool may be set to
CALLERS: dict[str, Callable[[str], Caller]] = {
    "sql": PlainSql,
    "sync": Sync,
    "async": Async,
    "sync-odd-pool": lambda url: Sync(url, **ODD),
    "async-odd-pool": lambda url: Async(url, **ODD),
}
BINDINGS = [name for name in CALLERS if name != "sql"]


@pytest.fixture(scope="module")
def module_database(server: str, template: str) -> Iterator[str]:
    """The URL of a migrated database for all tests of a module, which use names of their own."""
    with _new_database(server, template) as url:
        with psycopg.connect(url) as conn:
            conn.execute("create table effects (name text not null, note text)")
        yield url


@pytest.fixture(scope="module", params=CALLERS)
def caller(request: pytest.FixtureRequest, module_database: str) -> Iterator[Caller]:
    """Each caller in turn, on ``module_database``."""
    opened = CALLERS[request.param](module_database)
    yield opened
    opened.close()


@pytest.fixture
def open_caller() -> Iterator[Callable[[str, str], Caller]]:
    """Opens a caller of a kind on a URL; closed after the test."""
    opened: list[Caller] = []

    def open_one(kind: str, url: str) -> Caller:
        opened.append(CALLERS[kind](url))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


@pytest.fixture
def network(module_database: str) -> Iterator[Proxy]:
    """A connection to ``module_database`` that can be delayed and cut."""
    with proxy(module_database) as opened:
        yield opened


@pytest.fixture
def db(module_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A session on ``module_database`` that observes, and acts as the other client."""
    with psycopg.connect(module_database, autocommit=True) as conn:
        conn.execute("set statement_timeout = '30 s'")  # wrong code fails here instead of waiting for ever
        yield conn


@pytest.fixture
def name() -> str:
    """A name that no other test uses: of an event, a job or a seed."""
    return f"evt_{uuid4().hex}"
