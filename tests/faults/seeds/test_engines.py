"""The recipes for Ray and Spark, as they stand in docs/recipes/imports.md, run where the engine is installed.

pip install ray pyspark          (Spark needs Java 17)
python -m pytest tests/faults/seeds/test_engines.py
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "recipes" / "imports.md"


def block(after: str, language: str = "python") -> str:
    """The first block of code after a text of the page."""
    found = re.search(rf"{re.escape(after)}.*?```{language}\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found, after
    return found[1]


@pytest.mark.parametrize(("engine", "begins", "needs"), [("ray", "Ray:", ""), ("pyspark", "Spark, one task", "java")])
def test_an_engine_imports_each_partition_once_by_its_recipe(
    database: str, conn: psycopg.Connection[Any], tmp_path: Path, engine: str, begins: str, needs: str
) -> None:
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} missing: pip install {engine}")
    if needs and not shutil.which(needs):
        pytest.skip(f"{engine} needs {needs}")
    (tmp_path / "visits.py").write_text(block("commits no batch a second time."))
    conn.execute(block("commits no batch a second time.", "sql").encode())
    script = "from visits import app, import_part\n" + block(begins)
    path = os.pathsep.join([str(tmp_path), *(each for each in sys.path if each)])
    environment = {
        **os.environ, "DATABASE_URL": database, "PYTHONPATH": path, "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    for _ in range(2):  # the second time every partition is complete
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    assert conn.execute("select count(*), count(distinct (day, number)) from visits").fetchone() == (2000, 2000)
    assert conn.execute("select status, rows_inserted from seed_checkpoints").fetchall() == [("complete", 2000)]
