"""Looking a thing up by its name."""

from __future__ import annotations

import pytest

import pgonce
from pgonce.errors import NotFound


def test_an_app_without_a_job_says_that_its_modules_are_not_imported() -> None:
    app = pgonce.App()
    with pytest.raises(NotFound, match="no job 'x' in this app, nor any other: import the modules that register them"):
        app.get_job("x")
    app.job("y")(lambda _: None)
    with pytest.raises(NotFound, match=r"no job 'x' in this app; it has: y$"):
        app.get_job("x")
