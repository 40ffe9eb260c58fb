"""What ``manage.py check`` finds, and every command that checks first, such as ``migrate`` and ``runserver``."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import connections

from pgonce.integrations.django.conf import setting


def check_database(**_options: Any) -> list[CheckMessage]:
    """The database of the settings must be PostgreSQL; a new project has SQLite."""
    alias = setting("DATABASE")
    if alias not in connections:
        named = ", ".join(connections)
        hint = f'Use one of {named}: PGONCE = {{"DATABASE": "..."}}.'
        return [Error(f"PGONCE DATABASE is {alias!r}, and DATABASES has no such key.", hint, id="pgonce.E001")]
    vendor = connections[alias].vendor
    if vendor != "postgresql":
        hint = (
            f"Set the ENGINE of {alias!r} to django.db.backends.postgresql, "
            'or name the database that is: PGONCE = {"DATABASE": "..."}.'
        )
        return [Error(f"Database {alias!r} is {vendor}. pgonce needs PostgreSQL.", hint, id="pgonce.E002")]
    return []
