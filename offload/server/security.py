"""Who may speak to the server: certificates, tokens, and no port beyond loopback without them."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.wire.addresses import is_loopback
from tercel.core.errors import UserError, require

MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Access:
    """certificate and key of the server, client_ca whose certificates clients must have, token they must know; PEM, or
    None each."""

    certificate: bytes | None = None
    key: bytes | None = None
    client_ca: bytes | None = None
    token: str | None = None


def read_access(
    *, tls: tuple[Path, Path] | None = None, client_ca: Path | None = None, token_file: Path | None = None
) -> Access:
    """Read the files that were named. Raises UserError."""
    if client_ca is not None and tls is None:
        raise UserError("--client-ca wants --tls CERT KEY, too: without TLS there are no certificates")
    certificate, key = (_pem(path, "--tls") for path in tls) if tls else (None, None)
    ca = _pem(client_ca, "--client-ca") if client_ca else None
    return Access(certificate, key, ca, read_token(token_file) if token_file else None)


def read_token(path: Path) -> str:
    """The token of a file, without white space around it. Raises UserError."""
    token = _file(path, "--token-file").decode("ascii", errors="replace").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"--token-file {path}: a token has 16 or more printable ASCII characters and no blanks")
    return token


def _file(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}; check the path") from None


def _pem(path: Path, option: str) -> bytes:
    data = _file(path, option)
    if b"-----BEGIN" not in data:
        raise UserError(f"{option} {path}: is no PEM file; convert it with openssl")
    return data


def check_exposure(host: str, access: Access) -> None:
    """Raises UserError for an address beyond loopback without TLS, or where anybody would be let in."""
    if is_loopback(host):
        return
    if access.certificate is None:
        raise UserError(f"--listen {host} is reached from outside: add --tls CERT KEY, or listen on 127.0.0.1")
    if access.client_ca is None and access.token is None:
        raise UserError(f"--listen {host} is reached from outside: add --token-file FILE or --client-ca CA")


def add_port(server: Any, address: str, access: Access) -> int:
    """Open the server's port, with TLS where there is a certificate; returns its number. Raises UserError."""
    grpc = require("grpc", extra="offload")
    try:
        if access.certificate is None:
            port = int(server.add_insecure_port(address))
        else:
            credentials = grpc.ssl_server_credentials(
                [(access.key, access.certificate)],
                root_certificates=access.client_ca,
                require_client_auth=access.client_ca is not None,
            )
            port = int(server.add_secure_port(address, credentials))
    except RuntimeError:
        port = 0
    if port == 0:
        raise UserError(f"--listen {address}: cannot be opened; another server may have it, or CERT and KEY do not fit")
    return port


def token_interceptor(token: str) -> Any:
    """A grpc.aio interceptor that ends every call without `authorization: Bearer TOKEN` before it is read."""
    grpc = require("grpc", extra="offload")
    aio = require("grpc.aio", extra="offload")
    wanted = f"Bearer {token}".encode()

    async def refuse(_requests: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token or none")

    # On the wire a unary call is a stream with one message, which this handler never reads.
    refusal = grpc.stream_stream_rpc_method_handler(refuse)

    class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[misc, name-defined]
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            given = [value for key, value in details.invocation_metadata or () if key == "authorization"]
            data = given[0] if given else ""
            known = hmac.compare_digest(data.encode() if isinstance(data, str) else data, wanted)
            return await continuation(details) if known and len(given) == 1 else refusal

    return TokenInterceptor()
