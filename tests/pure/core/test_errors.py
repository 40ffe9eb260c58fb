"""The line that stands for an error in a log and in a message."""

from __future__ import annotations

import psycopg
import pytest

from pgonce.errors import PgonceError, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PgonceError("one\ntwo"), "one"),
        (PgonceError("\n one"), "one"),
        (psycopg.OperationalError(), "OperationalError"),
        (PgonceError(" \n"), "PgonceError"),
    ],
)
def test_an_error_is_named_by_its_first_line_or_by_its_class(error: Exception, line: str) -> None:
    assert first_line(error) == line
