"""The settings: a dict PGONCE in Django's settings, each key optional."""

from __future__ import annotations

from typing import Any

DEFAULTS = {"DATABASE": "default", "SCHEMA": "public", "SECRETS": None}


def setting(name: str) -> Any:
    """The value of a key of PGONCE.

    Raises:
        ImproperlyConfigured: PGONCE is not a dict, or has a key that is none of ``DEFAULTS``.
    """
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    given = getattr(settings, "PGONCE", {})
    if not isinstance(given, dict):  # not quoted: it may be a secret
        kind = type(given).__name__
        raise ImproperlyConfigured(f'PGONCE must be a dict, not {kind}: PGONCE = {{"SECRETS": ["whsec_..."]}}')
    if unknown := sorted(set(given) - set(DEFAULTS)):
        raise ImproperlyConfigured(f"PGONCE has no setting {unknown[0]!r}: use {', '.join(sorted(DEFAULTS))}")
    return given.get(name, DEFAULTS[name])
