"""A PostgreSQL 15 from Debian's packages, where it is installed: another release than the embedded one."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pgonce.core import migrate as schema
from tests import clusters

BINARIES = Path("/usr/lib/postgresql/15/bin")


@contextmanager
def debian_server(settings: str = "") -> Iterator[str]:
    """The URL of a superuser on a new cluster with pgonce, which is removed after the block.

    Args:
        settings: as postgres takes them, such as ``-c cron.use_background_workers=on``.
    """
    if not (BINARIES / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    with tempfile.TemporaryDirectory(prefix="pgonce-tests-", dir=clusters.in_memory()) as folder:
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            import pwd

            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            options = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}

        def run(program: str, *arguments: str) -> None:
            command = [str(BINARIES / program), "-D", f"{folder}/data", *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **options)

        initdb = partial(run, "initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        clusters.make("debian", Path(folder, "data"), initdb)
        run("pg_ctl", "-w", "-l", f"{folder}/log", "start", "-o", f"-k {folder} -c listen_addresses='' {settings}")
        try:
            url = f"postgresql://postgres@/postgres?host={quote(folder)}"
            schema.migrate(url)
            yield url
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
