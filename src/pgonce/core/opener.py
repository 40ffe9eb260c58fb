"""Opens HTTP requests without following redirects: a redirected POST arrives as a GET without its body."""

from __future__ import annotations

import urllib.request

opener = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
):
    opener.add_handler(_handler())
