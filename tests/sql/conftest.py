"""Databases that many cases share: creating one costs 34 ms, names of its own cost 2 ms, emptying the tables 20 ms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.conftest import _new_database, wait_until


@pytest.fixture(scope="module")
def shared_database(server: str, template: str) -> Iterator[str]:
    """The URL of a migrated database for all tests of a module that use names of their own."""
    with _new_database(server, template) as url:
        yield url


@pytest.fixture(scope="module")
def shared(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A session on ``shared_database``, in autocommit."""
    with psycopg.connect(shared_database, autocommit=True) as conn:
        yield conn


@pytest.fixture
def swept_database(shared_database: str) -> Iterator[str]:
    """``shared_database`` with empty tables, for tests that change rows only. A module takes it as its ``database``."""
    yield shared_database
    others = "select count(*) = 0 from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
    with psycopg.connect(shared_database, autocommit=True) as conn:
        wait_until(lambda: (conn.execute(others).fetchone() or [False])[0], "the test's sessions have ended")
        conn.execute("truncate webhook_events, cron_job_runs, seed_checkpoints")
        conn.execute("drop table if exists effects")
