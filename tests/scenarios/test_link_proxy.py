"""Real bytes over emulated links, on loopback.

What must never happen (more bytes than the link carries, bytes out of order) is asserted exactly; what a busy machine
may delay, with much room.
"""

from __future__ import annotations

import asyncio
import random
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from offload.link import ConstantLink, Link, link_from_text
from offload.link_proxy import MAX_IN_FLIGHT_BYTES, LinkProxy

S = 10**9
MS = 10**6
FAST = ConstantLink(10**9, 0)
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def content(size_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    """A server on loopback; gives its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


class Sink:
    """Notes what arrives and when in the link's time."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.arrivals: list[tuple[int, int]] = []
        self.proxy: LinkProxy | None = None
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                assert self.proxy is not None
                self.received += data
                self.arrivals.append((self.proxy.now_ns, len(self.received)))
        finally:
            self.ended.set()

    def lateness_ns(self, link: Link, begun_ns: int) -> list[int]:
        """How much later than the link alone would have it each piece arrived."""
        late_ns = []
        for now_ns, size_bytes in self.arrivals:
            sent_ns = link.sent_ns(begun_ns, size_bytes)
            assert sent_ns is not None
            late_ns.append(now_ns - sent_ns - link.rtt_ns(sent_ns) // 2)
        return late_ns


async def uploaded(link: Link, data: bytes, start_ns: int = 0) -> tuple[Sink, LinkProxy]:
    """Send data through a proxy, close, and wait for the end at the other side."""
    sink = Sink()
    async with serving(sink) as port, LinkProxy(link, "127.0.0.1", port, start_ns=start_ns) as proxy:
        sink.proxy = proxy
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for start in range(0, len(data), 1 << 16):
            writer.write(data[start : start + (1 << 16)])
            await writer.drain()
        writer.close()
        await asyncio.wait_for(sink.ended.wait(), 60)
        return sink, proxy


# --- rate and round trip -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start_s", "size_bytes"),
    [
        ("constant:rate_mbps=8,rtt_ms=60", 0, 1_500_000),
        ("constant:rate_mbps=60,rtt_ms=10", 0, 6_000_000),
        ("{lte}/Verizon-LTE-short.up.gz,rtt_ms=60", 20, 1_500_000),
        ("{lte}/ATT-LTE-driving.up.gz,rtt_ms=60", 300, 300_000),
    ],
)
def test_what_is_sent_arrives_whole_when_the_link_would_have_carried_it(
    shared_data: Path, text: str, start_s: int, size_bytes: int
) -> None:
    link = link_from_text(text.format(lte=shared_data / "net_traces/lte_mahimahi"))
    data, start_ns = content(size_bytes), start_s * S
    sink, proxy = asyncio.run(uploaded(link, data, start_ns))
    assert bytes(sink.received) == data
    opened_ns = start_ns + link.rtt_ns(start_ns)
    for now_ns, received_bytes in sink.arrivals:  # never more than the link carries
        assert received_bytes <= link.capacity_bytes(opened_ns, now_ns - link.rtt_ns(now_ns) // 2) + 1
    lateness_ns = sink.lateness_ns(link, opened_ns)
    assert statistics.median(lateness_ns) < 500 * MS
    assert len(sink.arrivals) > 20
    assert proxy.statistics.up.bytes == size_bytes
    assert proxy.statistics.down.bytes == 0


def test_a_message_and_its_answer_take_one_round_trip() -> None:
    async def run() -> list[float]:
        link = ConstantLink(100_000_000, 80 * MS)
        async with serving(echo) as port, LinkProxy(link, "127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            took_s = []
            for _ in range(12):
                began_s = time.perf_counter()
                writer.write(b"ping")
                await reader.readexactly(4)
                took_s.append(time.perf_counter() - began_s)
            return took_s

    opening_s, *took_s = asyncio.run(run())
    assert opening_s >= 0.155  # opening the connection takes a round trip too
    assert min(took_s) >= 0.0799
    assert statistics.median(took_s) < 0.13


@pytest.mark.parametrize(("direction", "slow"), [("both", True), ("up", False)])
def test_the_way_back_is_as_slow_as_the_link_only_if_asked(direction: Any, slow: bool) -> None:
    data = content(500_000)

    async def send_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    async def run() -> float:
        link = ConstantLink(4_000_000, 0)
        async with serving(send_all) as port, LinkProxy(link, "127.0.0.1", port, direction=direction) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            began_s = time.perf_counter()
            assert await reader.read() == data
            writer.close()
            return time.perf_counter() - began_s

    took_s = asyncio.run(run())
    assert (took_s >= 0.99) if slow else (took_s < 0.7)


def test_two_connections_share_the_link() -> None:
    async def run() -> tuple[list[int], float]:
        received = [0, 0]

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            which = (await reader.readexactly(1))[0]
            while data := await reader.read(1 << 16):
                received[which] += len(data)

        link = ConstantLink(8_000_000, 20 * MS)
        async with serving(count) as port, LinkProxy(link, "127.0.0.1", port) as proxy:
            for which in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(bytes([which]) + content(3_000_000))
            while sum(received) < 1_000_000:
                await asyncio.sleep(0.01)
            return received, proxy.now_ns / S

    received, took_s = asyncio.run(run())
    assert min(received) > 0.35 * sum(received)
    assert took_s >= 1.0


# --- outages -------------------------------------------------------------------------------------------------------


def test_a_link_cut_for_ten_seconds_loses_nothing_and_goes_on_within_two() -> None:
    data = content(2_000_000)

    async def run() -> tuple[Sink, int, int]:
        sink = Sink()
        link = ConstantLink(8_000_000, 40 * MS)
        async with serving(sink) as port, LinkProxy(link, "127.0.0.1", port) as proxy:
            sink.proxy = proxy
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(data)
            await asyncio.sleep(0.5)
            proxy.cut()
            cut_ns = proxy.now_ns
            await asyncio.sleep(10)
            restored_ns = proxy.now_ns
            proxy.restore()
            writer.close()
            await asyncio.wait_for(sink.ended.wait(), 60)
            return sink, cut_ns, restored_ns

    sink, cut_ns, restored_ns = asyncio.run(run())
    assert bytes(sink.received) == data
    before_bytes = max(size_bytes for now_ns, size_bytes in sink.arrivals if now_ns < cut_ns + S)
    assert 0 < before_bytes < 1_000_000
    after = [(now_ns, size_bytes) for now_ns, size_bytes in sink.arrivals if now_ns > cut_ns + S]
    assert restored_ns <= after[0][0] < restored_ns + 2 * S
    for now_ns, size_bytes in after:  # at the link's rate again, but for the look-ahead and what was in the air
        assert size_bytes - before_bytes <= 1e6 * (now_ns - restored_ns) / S + 100_000


def test_a_connection_opened_while_the_link_is_cut_opens_when_it_is_back() -> None:
    async def run() -> tuple[bytes, float]:
        async with serving(echo) as port, LinkProxy(FAST, "127.0.0.1", port) as proxy:
            proxy.cut()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"hello")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readexactly(5), 0.5)
            began_s = time.perf_counter()
            proxy.restore()
            return await reader.readexactly(5), time.perf_counter() - began_s

    answer, took_s = asyncio.run(run())
    assert answer == b"hello"
    assert took_s < 2


def test_a_link_that_is_down_stalls_and_is_left_cleanly() -> None:
    async def run() -> None:
        async with serving(echo) as port, LinkProxy(ConstantLink(0, 0), "127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"hello")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(reader.read(), 0.5)
        with pytest.raises(ConnectionResetError):
            await reader.read()

    asyncio.run(run())


# --- ends ----------------------------------------------------------------------------------------------------------


def test_a_half_closed_connection_still_gets_its_answer() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        writer.write(request[::-1])
        await writer.drain()

    async def run() -> tuple[bytes, LinkProxy]:
        link = ConstantLink(80_000_000, 20 * MS)
        async with serving(answer_at_the_end) as port, LinkProxy(link, "127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(content(100_000))
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 20), proxy

    answer, proxy = asyncio.run(run())
    assert answer == content(100_000)[::-1]
    assert proxy.statistics.resets == 0


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a process that crashed with unread data does."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on_to_the_other_side(who: str) -> None:
    async def run() -> LinkProxy:
        ends: list[asyncio.StreamWriter] = []
        errors: list[type[BaseException]] = []

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ends.append(writer)
            await notice(reader)

        async def notice(reader: asyncio.StreamReader) -> None:
            try:
                while await reader.read(1 << 16):
                    pass
            except ConnectionResetError as error:
                errors.append(type(error))

        link = ConstantLink(8_000_000, 20 * MS)
        async with serving(listen) as port, LinkProxy(link, "127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            listening = asyncio.create_task(notice(reader))
            writer.write(content(200_000))
            while not ends:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            reset(writer if who == "client" else ends[0])
            for _ in range(1000):
                await asyncio.sleep(0.01)
                if proxy.statistics.resets and errors:
                    break
            await asyncio.wait_for(listening, 10)
            assert errors == [ConnectionResetError]
            return proxy

    assert asyncio.run(run()).statistics.resets == 1


def test_a_client_that_vanishes_in_a_download_leaves_nothing_behind() -> None:
    async def run() -> tuple[int, int]:
        gone = asyncio.Event()

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(bytes(10_000))
                    await writer.drain()
            finally:
                gone.set()

        async with serving(endless) as port, LinkProxy(ConstantLink(80_000_000, 20 * MS), "127.0.0.1", port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            await reader.readexactly(100_000)
            writer.close()
            await asyncio.wait_for(gone.wait(), 20)
            for _ in range(500):
                if not proxy.open_connections:
                    break
                await asyncio.sleep(0.01)
            return proxy.open_connections, proxy.statistics.resets

    assert asyncio.run(run()) == (0, 1)


def test_a_target_that_refuses_resets_the_client_and_the_next_one_is_served() -> None:
    async def run() -> LinkProxy:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            async with LinkProxy(FAST, "127.0.0.1", port) as proxy:
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                with pytest.raises(ConnectionResetError):
                    await reader.read()
                unused.close()
                server = await asyncio.start_server(echo, "127.0.0.1", port)
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(b"hello")
                assert await reader.readexactly(5) == b"hello"
                server.close()
                return proxy

    statistics = asyncio.run(run()).statistics
    assert (statistics.connections, statistics.refused) == (2, 1)


def test_a_server_that_does_not_read_slows_the_client_down() -> None:
    async def run() -> tuple[int, int]:
        read_on = asyncio.Event()
        received = 0

        async def wait_then_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            await read_on.wait()
            while data := await reader.read(1 << 20):
                received += len(data)

        async with serving(wait_then_read) as port, LinkProxy(ConstantLink(10**11, 0), "127.0.0.1", port) as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            sent, block = 0, bytes(1 << 20)
            try:
                while sent < 200 << 20:
                    writer.write(block)
                    await asyncio.wait_for(writer.drain(), 1.0)
                    sent += len(block)
            except asyncio.TimeoutError:
                pass
            stuck_at = sent
            read_on.set()
            await writer.drain()
            writer.write_eof()
            while received < stuck_at:
                await asyncio.sleep(0.01)
            return stuck_at, proxy.statistics.up.bytes

    stuck_at, carried = asyncio.run(run())
    assert stuck_at < MAX_IN_FLIGHT_BYTES + (24 << 20)  # and the kernel's buffers at both ends
    assert carried >= stuck_at


def test_no_more_than_a_megabyte_waits_before_a_slow_link() -> None:
    async def run() -> int:
        sink = Sink()
        async with serving(sink) as port, LinkProxy(ConstantLink(1_000_000, 0), "127.0.0.1", port) as proxy:
            sink.proxy = proxy
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)
            writer.transport.set_write_buffer_limits(high=0)
            sent, block = 0, bytes(8 << 10)
            while proxy.now_ns < 2 * S:
                writer.write(block)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(writer.drain(), 0.2)
                    sent += len(block)
            return sent - proxy.statistics.up.bytes

    assert 0 < asyncio.run(run()) < 1_000_000


# --- gRPC ----------------------------------------------------------------------------------------------------------


def test_grpc_runs_over_a_link() -> None:
    grpc = pytest.importorskip("grpc")
    payload = content(100_000)

    async def unary(request: bytes, context: Any) -> bytes:
        return request[::-1]

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]

    async def run() -> float:
        server = grpc.aio.server()
        handlers = {"Unary": grpc.unary_unary_rpc_method_handler(unary)}
        handlers["Stream"] = grpc.stream_stream_rpc_method_handler(stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        link = ConstantLink(20_000_000, 40 * MS)
        proxy = LinkProxy(link, "127.0.0.1", port, direction="up")
        async with proxy, grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel:
            call = channel.unary_unary("/test.Echo/Unary")
            assert await call(payload, timeout=20) == payload[::-1]
            began_s = time.perf_counter()
            assert await call(payload, timeout=20) == payload[::-1]
            took_s = time.perf_counter() - began_s
            answers = channel.stream_stream("/test.Echo/Stream")(iter([payload] * 3), timeout=20)
            assert [answer async for answer in answers] == [payload[::-1]] * 3
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(payload, timeout=0.06)
            assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await server.stop(0)
        return took_s

    assert 0.08 <= asyncio.run(run()) < 2
