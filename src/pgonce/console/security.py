"""Protects each request: the headers of every answer, where a request comes from, and the token of a form."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgonce.console.hosts import Network, host_of, is_in, is_loopback, without_port
from pgonce.errors import PgonceError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not "no-referrer": with it a browser sends "Origin: null" with our own forms
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
SAFE = {"GET", "HEAD"}
_USUAL_PORTS = {"http": ":80", "https": ":443"}


class CrossSite(PgonceError):
    """A request that changes something did not come from a page of the console."""


class Headed:
    """Middleware: every answer has `HEADERS`, unless it has one of the same name, and Vary."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.add_vary_header("Cookie, HX-Request")
            await send(message)

        await self._app(scope, receive, headed)


def check_origin(headers: Headers, host: str) -> None:
    """Refuse what another site's page sends.

    Browsers send Sec-Fetch-Site to https and to localhost only. A console at http://10.0.0.5:8000 gets the Origin.

    Args:
        headers: of the request.
        host: the address of the console as the browser sees it, with the port.

    Raises:
        CrossSite: another site sent it, or it cannot be told.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site not in {"same-origin", "none"}:
            raise CrossSite("this was sent by another site: open the console and do it there")
        return
    origin = headers.get("origin")
    if origin is None:
        raise CrossSite(
            "this request has neither Sec-Fetch-Site nor Origin: use a current browser, or the command line"
        )
    address = split(origin)
    # An Origin leaves the usual port out; a proxy may write it into the Host.
    if address.netloc.lower() != host.lower().removesuffix(_USUAL_PORTS.get(address.scheme, " ")):
        raise CrossSite("the request's Origin is not this console: behind a proxy, name the proxy with --proxy")


def split(address: str) -> SplitResult:
    """The parts of an address that a client has sent; all are empty if it is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def check_form_token(given: str, wanted: str) -> None:
    """Refuse a form that this browser did not get from the console.

    Raises:
        CrossSite: the token is missing, or another browser's.
    """
    if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
        raise CrossSite(
            "the form is out of date, or this browser accepts no cookies: go back, load the page and try again"
        )


class Place:
    """Where a request comes from and where the console is, as the browser sees it.

    The X-Forwarded-… headers count only if they come from one of the ``proxies``.
    """

    def __init__(self, scope: Scope, proxies: Sequence[Network]) -> None:
        headers = Headers(scope=scope)
        peer = str((scope.get("client") or ("",))[0])
        self.peer = peer
        self.through_proxy = is_in(peer, proxies)
        trusted = headers if self.through_proxy else Headers({})
        self.address = _first_unknown(trusted.get("x-forwarded-for", ""), peer, proxies)
        self.host = (trusted.get("x-forwarded-host") or headers.get("host", "")).split(",")[-1].strip()
        scheme = trusted.get("x-forwarded-proto", "").split(",")[-1].strip() or str(scope.get("scheme", "http"))
        self.secure = scheme == "https"
        self.prefix = _prefix(trusted.get("x-forwarded-prefix", ""))
        self.is_local = (
            is_loopback(peer)
            and is_loopback(host_of(self.host))
            # a proxy on this machine would let others in
            and not any(name in headers for name in ("forwarded", "via", "x-forwarded-for", "x-real-ip"))
            and not _is_proxied(scope, headers)
        )

    @property
    def account_address(self) -> str:
        """What attempts to log in are counted by: the address; of IPv6 its network, because a machine has many."""
        try:
            parsed = ipaddress.ip_address(self.address)
        except ValueError:
            return self.address
        if isinstance(parsed, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        return self.address


def _is_proxied(scope: Scope, headers: Headers) -> bool:
    """Whether the request comes through a proxy that says nothing of itself.

    nginx sends the Host of the server behind it and no X-Forwarded-For, unless it is told to. Up to 1.29.6 it speaks
    HTTP/1.0, as no browser does. And the page with the form or the link is not at localhost, although the browser does
    not call the request another site's.
    """
    page = split(headers.get("origin") or headers.get("referer") or "").netloc
    elsewhere = bool(page) and not is_loopback(host_of(page))
    return scope.get("http_version") == "1.0" or (
        elsewhere and headers.get("sec-fetch-site") not in {"cross-site", "same-site"}
    )


def _first_unknown(forwarded: str, peer: str, proxies: Sequence[Network]) -> str:
    """The last address in X-Forwarded-For that is not a proxy's: what stands before it may be invented."""
    addresses = [without_port(each.strip()) for each in forwarded.split(",") if each.strip()]
    for address in reversed(addresses):
        if not is_in(address, proxies):
            return address[:100]
    return addresses[0][:100] if addresses else peer


def _prefix(given: str) -> str:
    """A path under which a proxy shows the console; nothing that could lead to another host."""
    path = given.rsplit(",", maxsplit=1)[-1].strip().rstrip("/")
    good = (
        path.startswith("/") and not path.startswith("//") and all(sign.isalnum() or sign in "/-_.~" for sign in path)
    )
    return path if good else ""


def header(scope: Any, name: str) -> str:
    """The value of one header of a request; of several of one name, none counts."""
    values = Headers(scope=scope).getlist(name)
    return values[0].strip() if len(values) == 1 else ""
