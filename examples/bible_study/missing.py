"""The error for a source that is not installed on this machine."""

from __future__ import annotations


class NotInstalled(ImportError):
    """The package with the source is missing; the message is one line that says what to install."""
