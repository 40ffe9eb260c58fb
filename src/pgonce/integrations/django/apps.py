"""The AppConfig."""

from __future__ import annotations

import os

from django.apps import AppConfig
from django.core.checks import register
from django.utils.module_loading import autodiscover_modules


class PgonceConfig(AppConfig):
    """Imports ``webhooks.py`` and ``jobs.py`` of every installed app, which register with ``app``."""

    name = "pgonce.integrations.django"
    label = "pgonce"
    verbose_name = "pgonce"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import what registers handlers and jobs."""
        from pgonce.integrations.django import app
        from pgonce.integrations.django.checks import check_apps, check_database, check_settings

        for check in (check_database, check_settings, check_apps):
            register(check)

        # it tells this project from others on one database
        app.name = app.name or os.environ.get("DJANGO_SETTINGS_MODULE", "django").partition(".")[0]
        autodiscover_modules("webhooks", "jobs")
