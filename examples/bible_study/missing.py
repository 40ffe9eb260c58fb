"""The error of a source that this machine does not have."""

from __future__ import annotations


class NotInstalled(ImportError):
    """The package that holds a source is missing; the message is one line that says what to install."""
