# Generated from ../_async/__init__.py by tools/unasync.py: edit that one, then `make generate`.
"""The bindings, written once: ``_sync`` is generated from this folder by ``tools/unasync.py``."""
