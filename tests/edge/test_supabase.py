"""``pgonce sql --supabase``: the script as a file of Supabase's migrations."""

import re
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from pgonce.cli import main


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "supabase").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "supabase" / "migrations"


def write() -> str:
    done = CliRunner().invoke(main, ["sql", "--supabase"])
    assert done.exit_code == 0, done.output
    return done.output.strip()


def test_the_first_file_installs_everything_and_the_second_call_writes_none(project: Path, empty_database: str) -> None:
    said = write()
    [path] = project.iterdir()
    assert re.fullmatch(r"\d{14}_pgonce\.sql", path.name)
    assert said == f"wrote supabase/migrations/{path.name}"
    with psycopg.connect(empty_database, autocommit=True) as conn:
        conn.execute(path.read_text().encode())
        assert conn.execute("select start_job_run('stats_cache') is not null").fetchone() == (True,)
    assert write() == f"supabase/migrations/{path.name} is up to date"
    assert list(project.iterdir()) == [path]


def test_a_newer_release_writes_a_file_after_every_other_one(project: Path) -> None:
    project.mkdir()
    (project / "20200101000000_pgonce.sql").write_text("the script of an older release")
    (project / "29991231235958_orders.sql").write_text("a file of the application, made by a clock that was ahead")
    assert write() == "wrote supabase/migrations/29991231235959_pgonce.sql"


def test_without_a_supabase_folder_it_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["sql", "--supabase"])
    assert done.exit_code != 0
    assert list(tmp_path.iterdir()) == []
