"""Which addresses only this machine reaches. Knows nothing of who asks."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str, *, unknown: bool = False) -> bool:
    """Whether only this machine reaches ``host``; ``unknown`` is the answer for what is no IP address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a name; or the path of a Unix socket, or a test's own transport
        return unknown
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
