"""The settings: a dict PGONCE in Django's settings, each key optional."""

from __future__ import annotations

from typing import Any

DEFAULTS = {"DATABASE": "default", "SCHEMA": "public", "SECRETS": None}


def setting(name: str) -> Any:
    """The value of a key of PGONCE.

    Raises:
        ImproperlyConfigured: PGONCE has a key that is none of ``DEFAULTS``.
    """
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    given = getattr(settings, "PGONCE", {})
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise ImproperlyConfigured(f"PGONCE has no setting {unknown[0]!r}: use {', '.join(sorted(DEFAULTS))}")
    return given.get(name, DEFAULTS[name])
