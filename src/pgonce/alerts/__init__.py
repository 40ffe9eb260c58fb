"""Alerts: what went wrong, found in SQL and delivered once to each channel."""
