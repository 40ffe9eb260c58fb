"""The commands that install, check and remove pgonce do not depend on settings of the database or the machine."""

from __future__ import annotations

import psycopg
import pytest

from tests.edge.command import pgonce

SETTINGS = [
    "client_encoding = 'SQL_ASCII'",
    "client_encoding = 'EUC_JP'",
    "client_encoding = 'LATIN1'",
    "datestyle = 'German, DMY'",
    "PGCLIENTENCODING=EUC_JP",
]


@pytest.mark.parametrize("setting", SETTINGS)
def test_they_work_under(empty_database: str, setting: str) -> None:
    machine = {}
    with psycopg.connect(empty_database, autocommit=True) as conn:
        if setting.startswith("PG"):
            machine = dict([setting.split("=")])
        else:
            conn.execute(
                f"do $$ begin execute format('alter database %I set {setting.replace(chr(39), chr(39) * 2)}',"
                " current_database()); end $$".encode()
            )
        for command in (["migrate"], ["migrate"], ["migrate", "--check"], ["doctor"]):
            code, out, said = pgonce(empty_database, *command, cwd=None, **machine)
            assert code == 0, f"{command}: {out}{said}"
        functions = conn.execute("select string_agg(prosrc, '') from pg_proc where proname like 'pgonce%'").fetchone()
        assert functions
        assert "…" in functions[0], "and no character of theirs is stored as another one"
        code, out, said = pgonce(empty_database, "uninstall", "--yes", cwd=None, **machine)
        assert code == 0, said
        assert "b'" not in out
