"""Addresses of machines and networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from pgonce.errors import InvalidArgument

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str]) -> list[Network]:
    """The addresses and networks of proxies.

    Raises:
        InvalidArgument: one cannot be read.
    """
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:
            raise InvalidArgument(f"{text!r} is not an address: write the proxy's as 10.0.0.5 or 10.0.0.0/24") from None
    return found


def is_in(address: str, known: Sequence[Network]) -> bool:
    """Whether ``address`` is one of the networks'."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in known)


def is_loopback(host: str) -> bool:
    """Whether ``host`` names this machine: localhost, 127.0.0.0/8 or ::1."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def without_port(address: str) -> str:
    """The address in ``1.2.3.4:5``, ``[::1]:5`` or ``::1``: some proxies write the client's port, too.

    With it each connection would be another address.
    """
    return host_of(address) if address.startswith("[") or address.count(":") == 1 else address


def host_of(authority: str) -> str:
    """The host of ``host:port``, also of ``[::1]:8000``."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]
