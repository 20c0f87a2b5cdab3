"""How a board is let in by a server, and how its channel to it behaves."""

from __future__ import annotations

from dataclasses import dataclass

from tercel.core.errors import UserError


@dataclass(frozen=True)
class RemoteAccess:
    """How to be let in. tls: whether the connection is encrypted; server_ca: who signed the server's certificate (None:
    the system's authorities); certificate and key: our own, for mutual TLS; PEM each. token: sent as a bearer token.
    """

    tls: bool = False
    server_ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if not self.tls and (self.server_ca or self.certificate or self.key):
            raise UserError("certificates are given, but TLS is off; turn it on")
        if (self.certificate is None) != (self.key is None):
            raise UserError("a certificate of our own wants its key, and the other way round")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """gRPC's options: nothing shared with other channels, no retries behind our back, no proxy from the environment."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
