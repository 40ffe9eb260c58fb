"""The place of an error is a line of the application's, also where psycopg's compiled code raised it."""

from __future__ import annotations

import traceback
from typing import Any

import psycopg
import pytest

from pgonce.cli.webhook_show import _place
from pgonce.console.traceback import read_traceback
from pgonce.core.failures import find_place


@pytest.mark.parametrize("mistake", ["commit", "rollback"])
def test_the_place_of_an_error_of_compiled_code_is_the_line_that_called_it(
    conn: psycopg.Connection[Any], mistake: str
) -> None:
    with pytest.raises(psycopg.ProgrammingError) as raised, conn.transaction():
        getattr(conn, mistake)()
    text = "".join(traceback.format_exception(raised.value))
    assert ".pyx" in text, "psycopg raises it from Python now: take another error"
    here = find_place(raised.value) or ""
    assert "test_place.py" in here
    assert "test_place.py" in _place(text, "")[0]
    frame = read_traceback(text).frame
    assert frame is not None
    assert frame.file.endswith("test_place.py")
    [(place,)] = conn.execute("select pgonce_error_place(%s)", [text]).fetchall()
    assert place.startswith("core/test_place.py:")
