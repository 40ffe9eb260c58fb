"""What ``manage.py check`` finds, and every command that checks first, such as ``migrate`` and ``runserver``."""

from __future__ import annotations

import sys
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 -- Django's name for it
from django.db import connections

from pgonce.app import App
from pgonce.core.registration import check_schema
from pgonce.errors import InvalidArgument
from pgonce.integrations.django.conf import setting
from pgonce.integrations.django.registry import app
from pgonce.webhooks import stripe


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


def check_settings(**_options: Any) -> list[CheckMessage]:
    """The other keys of PGONCE; secrets are not quoted."""
    found: list[CheckMessage] = []
    try:
        check_schema(setting("SCHEMA"))
    except InvalidArgument as error:
        found.append(Error(f"PGONCE SCHEMA: {error}.", id="pgonce.E003"))
    if given := setting("SECRETS"):
        try:
            stripe.signing_secrets(given.split(",") if isinstance(given, str) else given)
        except InvalidArgument as error:
            found.append(Error(f"PGONCE SECRETS: {error}.", id="pgonce.E004"))
    return found


def check_apps(**_options: Any) -> list[CheckMessage]:
    """What ``webhooks.py`` and ``jobs.py`` register must be registered with the project's own app."""
    names = [f"{config.name}.{module}" for config in apps.get_app_configs() for module in ("webhooks", "jobs")]
    others = [
        (name, attribute)
        for name in names
        for attribute, value in vars(sys.modules.get(name, None) or object).items()
        if isinstance(value, App) and value is not app
    ]
    hint = "Write `from pgonce.integrations.django import app` in its place."
    return [
        Warning(f"{name}.{attribute} is an App of its own: `manage.py pgonce` does not use it.", hint, id="pgonce.W001")
        for name, attribute in others
    ]
