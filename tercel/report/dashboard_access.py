"""Who may see the dashboard: loopback only unless a token is asked for, and no page of another site at all.

A browser proves that it knows the token once, in an Authorization header to /login, and from then on by a cookie that
is made of the token and cannot be turned back into it. The Host header is checked against DNS rebinding: a name that
is not this machine's could be anybody's who answers with our address. IP addresses cannot be rebound.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from offload.server.security import read_token
from offload.wire.addresses import is_loopback
from tercel.core.errors import UserError

COOKIE = "tercel_dashboard"


@dataclass(frozen=True)
class Access:
    """token: what must be known, or None on loopback. names: by which Host header we may be called, IPs aside."""

    token: str | None
    names: frozenset[str]

    def knows_host(self, header: str | None) -> bool:
        """Whether a Host header is one of ours."""
        host = _host_of(header or "")
        if host in self.names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True

    def knows_token(self, headers: Message) -> bool:
        """Whether a request comes with the token (Authorization: Bearer TOKEN) or the cookie made of it."""
        if self.token is None:
            return True
        authorization = headers.get("Authorization", "")
        if _equal(authorization, f"Bearer {self.token}"):
            return True
        # By hand: http.cookies gives up at the first odd cookie, and those of other ports of this machine come along.
        pairs = (part.strip().partition("=") for part in headers.get("Cookie", "").split(";"))
        return any(name == COOKIE and _equal(value, self.cookie()) for name, _, value in pairs)

    def cookie(self) -> str:
        """The cookie's value: the same for the same token, so that a restart of the server needs no new login."""
        return hmac.new((self.token or "").encode(), COOKIE.encode(), hashlib.sha256).hexdigest()


def make_access(host: str, token_file: Path | None) -> Access:
    """For a server that listens at host. Raises UserError if others can reach it and there is no token."""
    if token_file is None and not is_loopback(host):
        raise UserError(f"--listen {host} is reached from outside: add --token-file FILE, or listen on 127.0.0.1")
    names = {"localhost"}
    if not is_loopback(host):
        machine = socket.gethostname().lower()
        names |= {host.lower(), machine, f"{machine.partition('.')[0]}.local"}
    return Access(None if token_file is None else read_token(token_file), frozenset(names))


def is_foreign(headers: Message) -> bool:
    """Whether a browser says that another site's page asks (Fetch Metadata). To follow a link to us is allowed."""
    site = headers.get("Sec-Fetch-Site", "none")
    return site not in ("none", "same-origin") and headers.get("Sec-Fetch-Mode") != "navigate"


def _host_of(header: str) -> str:
    """The name or address of HOST, HOST:PORT or [IPv6]:PORT, in small letters."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())
