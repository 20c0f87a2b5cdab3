"""A TCP proxy on loopback that carries bytes as a link would: the emulator that the simulator asks, in wall time.

Each direction is one queue that all connections share, taken in turns of a few ms: a chunk begins when those before it
have left, leaves at `Link.sent_ns` and arrives half a round trip later, in order. Opening a connection takes one round
trip. An outage stalls; nothing is lost, as nothing is lost on TCP. What waits is bounded, so that a sender is slowed by
backpressure. Half-closed connections stay half open, and a reset is passed on.

Not modelled: slow start, and a handshake that fails while the link is down (the connection opens once it is back).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from offload.link import Link

LOOK_AHEAD_NS = 20_000_000
"""How far ahead of the wall clock chunks are taken from the sender: above what a loaded machine oversleeps, else the
link would idle."""

TURN_NS = 2_000_000
MIN_CHUNK_BYTES = 1500
MAX_CHUNK_BYTES = 64 << 10
BUFFER_BYTES = 64 << 10
KERNEL_BUFFER_BYTES = 128 << 10
"""Left alone it grows to megabytes, a queue that no link has. Of less, or less after the start, loopback's segments of
64 KiB make stalls of 200 ms."""
MAX_IN_FLIGHT_BYTES = 16 << 20
MAX_CONNECTIONS = 256
RETRY_S = 0.5


@dataclass
class DirectionStatistics:
    """What went one way. bytes; wait_ns: from the chunks' reading to their arrival, sum and maximum; chunks."""

    bytes: int = 0
    chunks: int = 0
    wait_sum_ns: int = 0
    wait_max_ns: int = 0

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "bytes": self.bytes,
            "wait_mean_ms": self.wait_sum_ns / max(1, self.chunks) / 1e6,
            "wait_max_ms": self.wait_max_ns / 1e6,
        }


@dataclass
class ProxyStatistics:
    """What a proxy has done. refused: connections that the target did not take, or too many at once. resets: ended
    by a reset of either side.
    """

    connections: int = 0
    refused: int = 0
    resets: int = 0
    up: DirectionStatistics = field(default_factory=DirectionStatistics)
    down: DirectionStatistics = field(default_factory=DirectionStatistics)

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        counts = {"connections": self.connections, "refused": self.refused, "resets": self.resets}
        return counts | {"up": self.up.summary(), "down": self.down.summary()}


class LinkProxy:
    """A proxy to target_host:target_port, as an asynchronous context manager; `port` is where it listens.

    direction: "both" are as slow as the link, or "up" alone; either way both take half of its round trip. start_ns: the
    link's time at which the proxy starts.
    """

    def __init__(
        self,
        link: Link,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        direction: Literal["up", "both"] = "both",
        start_ns: int = 0,
    ) -> None:
        self.link = link
        self.host = host
        self.port = port
        self.statistics = ProxyStatistics()
        self._target = (target_host, target_port)
        self._began_ns = time.monotonic_ns() - start_ns
        self._start_ns = start_ns
        self._up = _Channel(self, link, self.statistics.up)
        self._down = _Channel(self, link if direction == "both" else None, self.statistics.down)
        self._connected = asyncio.Event()
        self._connected.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> LinkProxy:
        """Listen. Raises OSError if the port cannot be had."""
        family, *_, address = (await _addresses(self.host, self.port))[0]
        listening = socket.create_server(address[:2], family=family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)  # for all that it accepts
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=BUFFER_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        self._began_ns = time.monotonic_ns() - self._start_ns
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening, and reset what is still open."""
        assert self._server is not None  # noqa: S101
        self._server.close()
        await _cancel(self._tasks)
        await self._server.wait_closed()
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next turn

    @property
    def now_ns(self) -> int:
        """The link's time."""
        return time.monotonic_ns() - self._began_ns

    @property
    def open_connections(self) -> int:
        """How many there are now."""
        return len(self._tasks)

    def cut(self) -> None:
        """From now on nothing arrives, either way, until `restore`."""
        self._connected.clear()

    def restore(self) -> None:
        """End a cut. What had waited goes on from here at the link's rate."""
        if not self._connected.is_set():
            self._up.free_ns = max(self._up.free_ns, self.now_ns)
            self._down.free_ns = max(self._down.free_ns, self.now_ns)
            self._connected.set()

    async def sleep_until_ns(self, when_ns: int) -> None:
        """Wait for a point in the link's time, and for the end of a cut."""
        while True:
            await self._connected.wait()
            left_ns = when_ns - self.now_ns
            if left_ns <= 0:
                return
            await asyncio.sleep(left_ns / 1e9)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._tasks.add(task)
        self.statistics.connections += 1
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                self.statistics.refused += 1
                _reset(writer)
            else:
                await self._relay(reader, writer)
        except asyncio.CancelledError:
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its opening to its end."""
        await self._travel(self.link.rtt_ns(self.now_ns))
        try:
            far_reader, far_writer = await _connection(*self._target)
        except OSError:
            self.statistics.refused += 1
            _reset(writer)
            return
        ends = (writer, far_writer)
        for end in ends:
            end.transport.set_write_buffer_limits(high=BUFFER_BYTES)
        up, down = _Pipe(self._up, reader, far_writer), _Pipe(self._down, far_reader, writer)
        try:
            await _together(up.take_in(), up.hand_on(), down.take_in(), down.hand_on())
            for end in ends:
                end.close()
            for end in ends:
                await end.wait_closed()
        except OSError:
            self.statistics.resets += 1
            await self._travel(self.link.rtt_ns(self.now_ns) // 2)
        finally:
            for end in ends:
                _reset(end)

    async def _travel(self, duration_ns: int) -> None:
        await self.sleep_until_ns(self.now_ns + duration_ns)


class _Channel:
    """One direction of the link, shared by all connections. link: None if it is as fast as the machine."""

    def __init__(self, proxy: LinkProxy, link: Link | None, statistics: DirectionStatistics) -> None:
        self.proxy = proxy
        self.statistics = statistics
        self.free_ns = 0
        self._link = link

    async def turn(self) -> int:
        """Wait until the channel has room; returns how many bytes to take at most."""
        await self.proxy.sleep_until_ns(self.free_ns - LOOK_AHEAD_NS)
        if self._link is None:
            return MAX_CHUNK_BYTES
        start_ns = max(self.free_ns, self.proxy.now_ns)
        turn_bytes = int(self._link.capacity_bytes(start_ns, start_ns + TURN_NS))
        return min(max(turn_bytes, MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)

    async def send(self, size_bytes: int) -> int:
        """Put a chunk on the channel; returns when it arrives."""
        while True:
            start_ns = max(self.free_ns, self.proxy.now_ns)
            sent_ns = start_ns if self._link is None else self._link.sent_ns(start_ns, size_bytes)
            if sent_ns is not None:
                self.free_ns = sent_ns
                return sent_ns + self.proxy.link.rtt_ns(sent_ns) // 2
            await asyncio.sleep(RETRY_S)


class _Pipe:
    """One direction of one connection: what has been taken in and has not arrived yet."""

    def __init__(self, channel: _Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._channel = channel
        self._proxy = channel.proxy
        self._reader = reader
        self._writer = writer
        self._in_flight: deque[tuple[int, int, bytes]] = deque()
        self._in_flight_bytes = 0
        self._changed = asyncio.Event()

    async def take_in(self) -> None:
        """Read as fast as the link drains. Raises OSError if the sender resets the connection."""
        arrives_ns = 0
        while data := await self._reader.read(MAX_CHUNK_BYTES):
            read_ns = self._proxy.now_ns
            while data:
                while self._in_flight_bytes >= MAX_IN_FLIGHT_BYTES:
                    await self._wait_for_change()
                size_bytes = min(await self._channel.turn(), len(data))
                arrives_ns = max(arrives_ns, await self._channel.send(size_bytes))
                self._put(read_ns, arrives_ns, data[:size_bytes])
                data = data[size_bytes:]
        self._put(self._proxy.now_ns, max(arrives_ns, await self._channel.send(0)), b"")

    async def hand_on(self) -> None:
        """Write what arrives, when it arrives, and at last the end. Raises OSError if the receiver is gone."""
        while True:
            while not self._in_flight:
                await self._wait_for_change()
            read_ns, arrives_ns, data = self._in_flight[0]
            await self._proxy.sleep_until_ns(arrives_ns)
            if not data:
                self._writer.write_eof()
                return
            self._writer.write(data)
            await self._writer.drain()
            self._in_flight.popleft()
            self._in_flight_bytes -= len(data)
            self._changed.set()
            self._count(len(data), self._proxy.now_ns - read_ns)

    def _put(self, read_ns: int, arrives_ns: int, data: bytes) -> None:
        self._in_flight.append((read_ns, arrives_ns, data))
        self._in_flight_bytes += len(data)
        self._changed.set()

    async def _wait_for_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _count(self, size_bytes: int, wait_ns: int) -> None:
        statistics = self._channel.statistics
        statistics.bytes += size_bytes
        statistics.chunks += 1
        statistics.wait_sum_ns += wait_ns
        statistics.wait_max_ns = max(statistics.wait_max_ns, wait_ns)


async def _together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run until all are done or one raises; the others are then cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable[asyncio.Future[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _addresses(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connection(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, the kernel's buffer being bounded from the start. Raises OSError."""
    refusal = OSError("no address")
    for family, kind, protocol, _, address in await _addresses(host, port):
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.setblocking(False)
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES)
            await asyncio.get_running_loop().sock_connect(connecting, address)
            return await asyncio.open_connection(sock=connecting, limit=BUFFER_BYTES)
        except OSError as error:
            refusal = error
            connecting.close()
        except BaseException:
            connecting.close()
            raise
    raise refusal


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset what is still open."""
    if writer.transport.is_closing() and not writer.transport.get_write_buffer_size():
        return
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
