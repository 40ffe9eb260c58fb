"""For Django: ``"pgonce"`` in INSTALLED_APPS means ``"pgonce.integrations.django"``."""

from pgonce.integrations.django.apps import PgonceConfig

__all__ = ["PgonceConfig"]
