"""The bindings, written once: ``_sync`` is generated from this folder by ``tools/unasync.py``."""
