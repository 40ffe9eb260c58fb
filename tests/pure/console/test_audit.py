"""The audit's page has words for everything that the audit records."""

from __future__ import annotations

import re
from pathlib import Path

import pgonce
from pgonce.console.pages.audit import DONE

SOURCE = Path(pgonce.__file__).parent
WRITTEN = re.compile(
    r"pgonce_audit_write\(\s*'(\w+)', '(\w+)'"  # SQL
    r'|(?:audited\([^"]*|entry\()"(\w+)", "(\w+)"'  # the command line
)


def test_every_action_has_words() -> None:
    files = [*SOURCE.rglob("*.sql"), *(SOURCE / "cli").glob("*.py")]
    found = {tuple(filter(None, each)) for path in files for each in WRITTEN.findall(path.read_text(encoding="utf-8"))}
    assert {("pause", "job"), ("replay", "webhook"), ("unschedule", "job"), ("erase", "customer")} <= found
    assert found - DONE.keys() == set()
