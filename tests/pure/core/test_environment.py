"""A variable that is misspelt is named, with the one that was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pgonce
from pgonce.core import database, environment

PACKAGE = Path(pgonce.__file__).parent
INTERNAL = {environment.DATABASE_URL_FROM, environment.DATABASE_URL_MISSING}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PGONCE_ALERT", "did you mean PGONCE_ALERTS?"),
        ("PGONCE_ALERT_URL", "did you mean PGONCE_ALERTS?"),
        ("PGONCE_CONCOLE_USERS", "did you mean PGONCE_CONSOLE_USERS?"),
        ("PGONCE_WEBHOOK_SECRETS", "did you mean PGONCE_WEBHOOK_SECRET?"),
        ("PGONCE_DB_URL", "did you mean PGONCE_DATABASE_URL?"),
        ("pgonce_app", "did you mean PGONCE_APP?"),
        ("PGONE_APP", "did you mean PGONCE_APP?"),
        ("PG_ONCE_DATABASE_URL", "did you mean PGONCE_DATABASE_URL?"),
        ("PGONCE_XYZ", "take it out"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(name: str, meant: str) -> None:
    assert environment.doubts([name, "PGONCE_APP", "HOME"]) == [f"pgonce reads no variable {name}: {meant}"]


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL", "SHOP_DATABASE_URL", "PG_DATABASE_URL", "WEBHOOK_SECRET", "STRIPE_WEBHOOK_SECRET", "APP",
        "PGHOST", "_PGONCE_COMPLETE", *sorted(INTERNAL),
        # what Kubernetes sets for a Service that is called pgonce-receiver
        "PGONCE_RECEIVER_SERVICE_HOST", "PGONCE_RECEIVER_SERVICE_PORT", "PGONCE_RECEIVER_SERVICE_PORT_HTTP",
        "PGONCE_RECEIVER_PORT", "PGONCE_RECEIVER_PORT_8000_TCP", "PGONCE_RECEIVER_PORT_8000_TCP_ADDR", "PGONCE_PORT",
    ],
)  # fmt: skip
def test_variables_of_others_are_not(name: str) -> None:
    assert environment.doubts([name]) == []


def test_all_variables_that_the_code_reads_are_known_and_no_others() -> None:
    text = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if path.name != "environment.py")
    assert set(re.findall(r"(?<!_)PGONCE_[A-Z_]*[A-Z]\b", text)) == environment.VARIABLES
    page = (Path(__file__).parents[3] / "docs" / "install.md").read_text("utf-8")
    assert set(re.findall(r"PGONCE_[A-Z_]+", page)) >= environment.VARIABLES, "and the page on installing has them"


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"PGONCE_DATABASE_URL": "a", "DATABASE_URL": "b"}, "PGONCE_DATABASE_URL"),
        ({"PGONCE_DATABASE_URL": "a\n", "DATABASE_URL": "a"}, "PGONCE_DATABASE_URL"),
        ({"PGONCE_DATABASE_URL": "a", environment.DATABASE_URL_FROM: "SHOP_URL"}, "SHOP_URL"),
        ({"PGONCE_DATABASE_URL": "", "DATABASE_URL": "a"}, "DATABASE_URL"),
        ({"PGONCE_DATABASE_URL": "b"}, "the database URL"),
        ({}, "the database URL"),
    ],
)
def test_a_message_names_the_variable_that_has_the_url(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for each in ("PGONCE_DATABASE_URL", "DATABASE_URL", environment.DATABASE_URL_FROM):
        monkeypatch.delenv(each, raising=False)
    for each, value in variables.items():
        monkeypatch.setenv(each, value)
    assert database.name_of("a") == name
