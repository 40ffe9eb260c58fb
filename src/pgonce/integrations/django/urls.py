"""``path("", include("pgonce.integrations.django.urls"))`` receives Stripe's webhooks at /webhooks/stripe."""

from __future__ import annotations

from django.urls import path

from pgonce.integrations.django.views import stripe_webhook

urlpatterns = [path("webhooks/stripe", stripe_webhook, name="stripe_webhook")]
