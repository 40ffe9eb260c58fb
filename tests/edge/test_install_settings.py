"""The commands that install, check and remove pgonce do not depend on settings of the database or the machine."""

from __future__ import annotations

import psycopg
import pytest

from tests import casts
from tests.edge.command import pgonce

SETTINGS = [
    "client_encoding = 'SQL_ASCII'",
    "client_encoding = 'EUC_JP'",
    "client_encoding = 'LATIN1'",
    "datestyle = 'German, DMY'",
    "PGCLIENTENCODING=EUC_JP",
]


def install(database: str, machine: dict[str, str]) -> None:
    for command in (["migrate"], ["migrate"], ["migrate", "--check"], ["doctor"]):
        code, out, said = pgonce(database, *command, cwd=None, **machine)
        assert code == 0, f"{command}: {out}{said}"


def uninstall(database: str, machine: dict[str, str]) -> None:
    code, out, said = pgonce(database, "uninstall", "--yes", cwd=None, **machine)
    assert code == 0, said
    assert "b'" not in out


@pytest.mark.parametrize("setting", SETTINGS)
def test_migrate_and_doctor_work_under(empty_database: str, setting: str) -> None:
    machine = {}
    with psycopg.connect(empty_database, autocommit=True) as conn:
        if setting.startswith("PG"):
            machine = dict([setting.split("=")])
        else:
            conn.execute(
                f"do $$ begin execute format('alter database %I set {setting.replace(chr(39), chr(39) * 2)}',"
                " current_database()); end $$".encode()
            )
        install(empty_database, machine)
        functions = conn.execute("select string_agg(prosrc, '') from pg_proc where proname like 'pgonce%'").fetchone()
        assert functions
        assert "…" in functions[0], "and no character of theirs is stored as another one"
        uninstall(empty_database, machine)


def test_they_work_beside_implicit_casts(empty_database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(casts.IMPLICIT)
    install(empty_database, {})
    uninstall(empty_database, {})
