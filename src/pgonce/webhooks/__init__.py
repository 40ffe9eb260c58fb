"""Webhooks: Stripe's events recorded once and handled exactly once."""
