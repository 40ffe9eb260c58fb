"""The cursor of own statements loads every type that a function of ours returns, also in arrays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgonce.core.execute import OwnCursor

ONE = UUID(int=1)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("'x'::text", "x"),
        (f"'{ONE}'::uuid", ONE),
        ("7::bigint", 7),
        ("true", True),
        ("1.50::numeric", Decimal("1.50")),
        ("interval '90 s'", timedelta(seconds=90)),
        ("timestamptz '2026-11-29 06:00+00'", datetime(2026, 11, 29, 6, tzinfo=UTC)),
        ("'{\"a\": [1]}'::jsonb", {"a": [1]}),
        ("'\\x00ff'::bytea", b"\x00\xff"),
        ("'x'::name", "x"),
    ],
)
def test_a_value_and_an_array_of_it_come_back_as_python_has_them(
    conn: psycopg.Connection[Any], expression: str, value: Any
) -> None:
    with OwnCursor(conn) as cursor:
        cursor.execute(f"select {expression}, array[{expression}], array[]::text[]".encode())
        assert cursor.fetchone() == (value, [value], [])
