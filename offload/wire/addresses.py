"""Where a server listens: HOST:PORT, and whether that is this machine only."""

from __future__ import annotations

import ipaddress

from tercel.core.errors import UserError


def split_address(address: str, option: str) -> tuple[str, int]:
    """HOST:PORT, [IPv6]:PORT; port 0 is any free one. Raises UserError."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UserError(f"{option} {address}: write HOST:PORT, such as 127.0.0.1:8001")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name other than localhost may be anywhere."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
