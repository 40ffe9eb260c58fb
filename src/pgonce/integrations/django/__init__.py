"""pgonce as a Django app: put ``pgonce.integrations.django`` into INSTALLED_APPS. See docs/django.md.

``app`` is the registry: ``webhooks.py`` and ``jobs.py`` of every installed app are imported at the start, and register
their functions with it.
"""

from pgonce.integrations.django.registry import DjangoApp, app, database_url, fenced

__all__ = ["DjangoApp", "app", "database_url", "fenced"]
