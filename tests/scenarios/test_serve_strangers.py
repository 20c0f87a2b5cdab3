"""Who must not get in, and what must do no harm: papers, tokens, garbage, announcements, and clients that hang."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from offload.remote import RemoteExecutor
from offload.remote_access import RemoteAccess
from offload.server.process import LIMITING
from offload.wire import messages as pb
from offload.wire.service import SERVICE, InferenceStub
from offload.wire.tensors import put_tensors
from tercel.core.errors import UserError
from tests.scenarios.serving import CLOCK, SERVE, Served, client_of, kind_of
from tests.unit import onnx_files

TOKEN = "a-token-of-20-letters"  # noqa: S105
X = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers") / "models"
    folder.mkdir()
    onnx_files.doubling(folder / "twice.onnx")
    return folder


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[Served]:
    with Served(models, "--max-message-mb", 4) as server:
        yield server
        server.terminate()


def fate_at(address: str, access: RemoteAccess, **options: Any) -> str:
    async def main() -> str:
        async with client_of(address, access=access, **options) as client:
            return await client.run(kind_of("twice", 2000), X)

    return asyncio.run(main())


# --- certificates and tokens ---------------------------------------------------------------------------------------


class Papers:
    """A CA, a server's certificate for loopback, and a client's."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        server = self.ca.issue_cert("127.0.0.1", "localhost")
        self.client = self.ca.issue_cert("robot@fleet.example")
        self.certificate = folder / "server.pem"
        self.key = folder / "server.key"
        self.ca_file = folder / "ca.pem"
        self.token = folder / "token"
        self.certificate.write_bytes(b"".join(one.bytes() for one in server.cert_chain_pems))
        server.private_key_pem.write_to_path(str(self.key))
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.token.write_text(TOKEN + "\n")

    def access(self, *, client: Any = None, ca: Any = None, token: str | None = TOKEN) -> RemoteAccess:
        return RemoteAccess(
            tls=True,
            server_ca=(ca or self.ca).cert_pem.bytes(),
            certificate=client and b"".join(one.bytes() for one in client.cert_chain_pems),
            key=client and client.private_key_pem.bytes(),
            token=token,
        )


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def mutual(models: Path, papers: Papers) -> Iterator[Served]:
    options = ("--tls", papers.certificate, papers.key, "--client-ca", papers.ca_file, "--token-file", papers.token)
    with Served(models, *options) as server:
        yield server
        received = server.terminate()["twice"]["received"]
        assert received == 2  # of all the tests below, those two that had everything


@pytest.mark.parametrize("stream", [True, False])
def test_who_has_certificate_and_token_gets_in(mutual: Served, papers: Papers, stream: bool) -> None:
    assert fate_at(mutual.address, papers.access(client=papers.client), stream=stream) == "done"


def test_a_wrong_token_and_none_are_not_let_in(mutual: Served, papers: Papers) -> None:
    for token in (TOKEN[:-1], TOKEN + "s", None):
        access = papers.access(client=papers.client, token=token)
        assert fate_at(mutual.address, access) == "not let in"


def test_no_method_is_open_without_the_token(mutual: Served, papers: Papers) -> None:
    access = papers.access(client=papers.client)
    credentials = grpc.ssl_channel_credentials(access.server_ca, access.key, access.certificate)
    with grpc.secure_channel(mutual.address, credentials) as channel:
        stub = InferenceStub(channel)
        calls = [
            (stub.ServerLive, pb.ServerLiveRequest()),
            (stub.ServerReady, pb.ServerReadyRequest()),
            (stub.ModelReady, pb.ModelReadyRequest(name="twice")),
            (stub.ServerMetadata, pb.ServerMetadataRequest()),
            (stub.ModelMetadata, pb.ModelMetadataRequest(name="twice")),
            (stub.ModelInfer, pb.ModelInferRequest(model_name="twice")),
            (stub.RepositoryIndex, pb.RepositoryIndexRequest()),
        ]
        for metadata in (None, (("authorization", TOKEN),), (("authorization", f"Bearer {TOKEN}"),) * 2):
            for call, request in calls:
                with pytest.raises(grpc.RpcError) as error:
                    call(request, timeout=5, metadata=metadata)
                assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.RpcError) as error:
                list(stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="twice")]), metadata=metadata))
            assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_missing_foreign_or_expired_client_certificate_is_not_let_in(mutual: Served, papers: Papers) -> None:
    stranger = trustme.CA().issue_cert("robot@fleet.example")
    yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    expired = papers.ca.issue_cert("robot@fleet.example", not_after=yesterday)
    for client in (None, stranger, expired):
        assert fate_at(mutual.address, papers.access(client=client)) == "unavailable"


def test_the_board_does_not_trust_a_foreign_ca_nor_speak_in_clear_to_a_tls_port(mutual: Served, papers: Papers) -> None:
    assert fate_at(mutual.address, papers.access(client=papers.client, ca=trustme.CA())) == "unavailable"
    assert fate_at(mutual.address, RemoteAccess(token=TOKEN)) == "unavailable"


def test_the_board_does_not_trust_a_servers_certificate_that_expired_or_is_anothers(
    models: Path, papers: Papers, tmp_path: Path
) -> None:
    yesterday = dt.datetime.now(dt.timezone.utc) - dt.timedelta(days=1)
    wrong = [
        papers.ca.issue_cert("127.0.0.1", not_after=yesterday),
        papers.ca.issue_cert("cloud.example"),
    ]
    for certificate in wrong:
        (tmp_path / "c.pem").write_bytes(certificate.cert_chain_pems[0].bytes())
        certificate.private_key_pem.write_to_path(str(tmp_path / "k.pem"))
        with Served(models, "--tls", tmp_path / "c.pem", tmp_path / "k.pem") as server:
            assert fate_at(server.address, papers.access(token=None)) == "unavailable"
            server.terminate()


def test_a_token_is_not_sent_in_clear_and_a_bare_port_is_not_opened(models: Path, papers: Papers) -> None:
    with pytest.raises(UserError, match="would travel in clear"):
        RemoteExecutor("robot.example:8001", CLOCK, access=RemoteAccess(token=TOKEN))
    with pytest.raises(UserError, match="TLS is off"):
        RemoteAccess(server_ca=b"pem")
    with pytest.raises(UserError, match="wants its key"):
        RemoteAccess(tls=True, certificate=b"pem")
    for options, words in [
        (["--listen", "0.0.0.0:0"], "add --tls CERT KEY"),
        (["--listen", "0.0.0.0:0", "--tls", papers.certificate, papers.key], "add --token-file FILE or --client-ca CA"),
        (["--metrics", "0.0.0.0:0", "--listen", "127.0.0.1:0"], "asks for no token"),
        (["--listen", "127.0.0.1:0", "--tls", papers.key, papers.certificate], "cannot be opened"),
    ]:
        words_of = [sys.executable, "-c", SERVE, "--models", models, *options]
        ended = subprocess.run(list(map(str, words_of)), capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert words in ended.stderr
        assert "listening" not in ended.stdout


# --- hostile bytes -------------------------------------------------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def http2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request_headers(method: str) -> bytes:
    """HEADERS of a gRPC call, each field a literal without indexing (RFC 7541, section 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": f"/{SERVICE}/{method}",
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return http2_frame(0x1, 0x4, 1, block)


def connected(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def works(server: Served) -> None:
    assert fate_at(server.address, RemoteAccess()) == "done"


@pytest.mark.skipif(
    tuple(int(part) for part in grpc.__version__.split(".")[:2]) < LIMITING, reason="this grpcio waits for the end"
)
@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_two_gigabytes_that_are_announced_are_refused_before_they_are_allocated(plain: Served, method: str) -> None:
    works(plain)
    before_bytes = plain.resident_bytes()
    with connected(plain.address) as line:
        message = b"\0" + struct.pack(">I", 2_000_000_000) + b"\0" * 1000
        line.sendall(PREFACE + http2_frame(0x4, 0, 0, b"") + request_headers(method) + http2_frame(0x0, 0, 1, message))
        received = b""
        while b"grpc-status" not in received and (data := line.recv(65536)):
            received += data
        assert b"grpc-status\x018" in received  # 8: RESOURCE_EXHAUSTED
    assert plain.resident_bytes() - before_bytes < 50_000_000
    works(plain)


def test_a_tensor_of_two_gigabytes_in_a_small_message_is_refused(plain: Served) -> None:
    with grpc.insecure_channel(plain.address) as channel:
        stub = InferenceStub(channel)
        before_bytes = plain.resident_bytes()
        for codec in ("", "zlib"):
            request = pb.ModelInferRequest(model_name="twice")
            put_tensors(request.inputs, request.raw_input_contents, {"x": X})
            request.inputs[0].shape[:] = [1 << 27, 4]
            if codec:
                request.inputs[0].parameters["tercel_codec"].string_param = codec
            with pytest.raises(grpc.RpcError) as error:
                stub.ModelInfer(request, timeout=10)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert error.value.details() == "tensor is too large"
        request.inputs[0].shape[:] = [2, 4]
        del request.inputs[0].parameters["tercel_codec"]
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(request, timeout=10)
        assert error.value.details() == "shape contradicts the number of bytes"
        assert plain.resident_bytes() - before_bytes < 50_000_000


def test_a_message_beyond_the_limit_is_refused_on_both_ways(plain: Served) -> None:
    large = np.zeros((400_000, 4), np.float32)  # 6.4 MB, the server takes 4

    async def main() -> None:
        async with client_of(plain.address, max_message_bytes=1 << 20) as client:
            assert await client.run(kind_of("twice", 2000), large) == "larger than the message limit"
            assert await client.run(kind_of("twice", 2000), X) == "done"
        async with client_of(plain.address, stream=False) as client:
            assert await client.run(kind_of("twice", 5000), large) == "refused by the server"
            assert await client.run(kind_of("twice", 2000), X) == "done"

    asyncio.run(main())


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).bytes(100_000),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        PREFACE + np.random.default_rng(1).bytes(10_000),
        PREFACE + http2_frame(0x4, 0, 0, b"") + request_headers("ModelInfer")
        + http2_frame(0x0, 1, 1, b"\0" + struct.pack(">I", 200) + np.random.default_rng(2).bytes(200)),
        PREFACE + http2_frame(0x4, 0, 0, b"") + request_headers("ModelStreamInfer")
        + http2_frame(0x0, 1, 1, b"\1" + struct.pack(">I", 9) + b"not zlib!"),
        PREFACE + http2_frame(0x4, 0, 0, b"") + request_headers("NoSuchMethod") + http2_frame(0x0, 1, 1, b"\0" * 5),
    ],
    ids=["noise", "http1", "noise after the preface", "no protobuf", "no zlib", "no method"],
)  # fmt: skip
def test_garbage_on_the_port_does_no_harm(plain: Served, data: bytes) -> None:
    with connected(plain.address) as line:
        line.settimeout(2)
        try:
            line.sendall(data)
            while line.recv(65536):
                pass
        except OSError:
            pass
    works(plain)


def test_a_request_that_is_no_protobuf_ends_its_own_call_only(plain: Served) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(plain.address) as channel:
            raw = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")()
            await raw.write(b"\xff" * 50)
            with pytest.raises(grpc.aio.AioRpcError):
                await raw.read()
            stub = InferenceStub(channel)
            assert (await stub.ServerLive(pb.ServerLiveRequest(), timeout=5)).live

    asyncio.run(main())
    works(plain)


def test_clients_that_hang_keep_nobody_from_being_served(plain: Served) -> None:
    hanging = [connected(plain.address) for _ in range(100)]
    try:
        for index, line in enumerate(hanging):
            line.sendall(PREFACE[: index % len(PREFACE)])
        half = connected(plain.address)  # a message that never ends
        hanging.append(half)
        half.sendall(PREFACE + http2_frame(0x4, 0, 0, b"") + request_headers("ModelInfer"))
        half.sendall(http2_frame(0x0, 0, 1, b"\0" + struct.pack(">I", 1_000_000) + b"\0" * 100))
        began_s = time.monotonic()
        works(plain)
        assert time.monotonic() - began_s < 3
        hanging[0].settimeout(15)
        while hanging[0].recv(65536):  # and who has not even begun is let go
            pass
    finally:
        for line in hanging:
            line.close()


def test_a_client_that_asks_and_never_reads_is_bounded(plain: Served) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(plain.address) as channel:
            stub = InferenceStub(channel)
            call = stub.ModelStreamInfer()
            request = pb.ModelInferRequest(model_name="twice")
            tensors = {"x": np.zeros((12_500, 4), np.float32)}
            put_tensors(request.inputs, request.raw_input_contents, tensors)
            before_bytes = plain.resident_bytes()

            async def flood() -> None:
                for number in range(3000):  # 600 MB
                    request.id = str(number)
                    await call.write(request)

            flooding = asyncio.ensure_future(flood())
            await asyncio.sleep(3)
            assert not flooding.done()
            assert plain.resident_bytes() - before_bytes < 300_000_000
            assert (await stub.ServerLive(pb.ServerLiveRequest(), timeout=5)).live
            call.cancel()
            await asyncio.gather(flooding, return_exceptions=True)

    asyncio.run(main())
    works(plain)
