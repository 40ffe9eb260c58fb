"""Installs the tables and functions of pgonce 0.1.0. The script is repeatable: a database that has them keeps them."""

from __future__ import annotations

from typing import Any

from django.db import migrations
from django.db.migrations.operations.base import Operation

from pgonce.core.migrate import script
from pgonce.integrations.django.conf import setting
from pgonce.integrations.django.models import OPERATIONS


def install(_apps: Any, editor: Any) -> None:
    """Run the script on the database of the settings; on others do nothing."""
    if editor.connection.alias != setting("DATABASE"):
        return
    with editor.connection.cursor() as cursor:
        cursor.execute(script(setting("SCHEMA")), None)


class Migration(migrations.Migration):
    """The script, and the models of the admin, which change nothing in the database."""

    initial = True
    dependencies: tuple[tuple[str, str], ...] = ()
    operations: tuple[Operation, ...] = (
        migrations.RunPython(install, migrations.RunPython.noop, elidable=False),
        *OPERATIONS,
    )
