"""The table of consoles in docs/comparison.md names a test for each thing that it says of pgonce's."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_what_the_table_says_of_this_console_is_shown_by_a_test_that_exists() -> None:
    page = (ROOT / "docs/comparison.md").read_text()
    table = re.findall(r"^\| (?!\|)(.+) \|$", page.partition("## Consoles")[2], re.MULTILINE)
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", tests, re.MULTILINE))
    assert len(table) > 30
    for line in table:
        feature, *_, ours, shown = line.split(" | ")
        assert ours == "no" or set(re.findall(r"`(\w+)`", shown)) <= defined, feature
        assert ours == "no" or shown != "–", feature
