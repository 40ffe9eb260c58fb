"""The operator's console: an ASGI app that answers whether anything is lost, late, stuck or slow."""
