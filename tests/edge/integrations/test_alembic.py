"""Alembic beside pgonce: its script installs it, and autogenerate proposes nothing."""

from __future__ import annotations

import pytest
import sqlalchemy
from alembic.autogenerate import produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Column, Integer, MetaData, Table

import pgonce
from pgonce.core.schema_check import check
from pgonce.integrations.alembic import include_name

MODELS = MetaData()
Table("accounts", MODELS, Column("id", Integer, primary_key=True))


def proposed(url: str, **options: object) -> list[str]:
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"target_metadata": MODELS, **options})
            ops = produce_migrations(context, MODELS).upgrade_ops
            assert ops is not None
            return [type(op).__name__ for op in ops.ops]
    finally:
        engine.dispose()


@pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")  # SQLAlchemy 2.1, of its own reflection
@pytest.mark.parametrize("schema", ["public", "pgonce"])
def test_the_script_in_a_migration_installs_and_autogenerate_then_proposes_nothing(
    empty_database: str, schema: str
) -> None:
    engine = sqlalchemy.create_engine(empty_database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        MODELS.create_all(connection)
        Operations(MigrationContext.configure(connection)).execute(pgonce.script(schema))
    engine.dispose()
    assert [line for line in check(empty_database, schema) if "may create objects" not in line] == []
    options: dict[str, object] = {"include_schemas": True} if schema != "public" else {}
    assert "DropTableOp" in proposed(empty_database, **options), "without include_name it would drop them"
    assert proposed(empty_database, include_name=include_name, **options) == []


@pytest.mark.filterwarnings("ignore:Can't validate argument 'dialect_options'")
def test_beside_a_table_of_yours_that_is_called_like_one_of_pgonce_s_its_schema_is_left_out(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = MetaData()
    Table("webhook_events", mine, Column("id", Integer, primary_key=True))
    monkeypatch.setitem(globals(), "MODELS", mine)
    engine = sqlalchemy.create_engine(empty_database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        mine.create_all(connection)
        Operations(MigrationContext.configure(connection)).execute(pgonce.script("pgonce"))
    engine.dispose()
    assert proposed(empty_database) == []
    without = {"include_name": lambda name, type_, _: (type_, name) != ("schema", "pgonce")}  # docs/recipes/webhooks.md
    assert proposed(empty_database, include_schemas=True, **without) == []


def test_a_table_of_yours_is_still_compared() -> None:
    for name in ("accounts", "alerts", "webhook_event", None):
        assert include_name(name, "table", {"schema_name": None})
    assert include_name("webhook_events", "index", {"schema_name": None, "table_name": "accounts"})
    assert not include_name("webhook_events", "table", {"schema_name": "pgonce"})
