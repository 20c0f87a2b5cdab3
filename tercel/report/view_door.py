"""The door of `tercel view`: it lets viewers in to Foxglove's own server, which asks nobody who he is.

That server (foxglove-sdk) listens at an address of this machine that nobody is told; the door at the address that users
know. It reads the HTTP request with which a WebSocket begins, refuses or forwards it, and then carries bytes. So

- beyond loopback a token is wanted: ws://robot:8765/?token=TOKEN, for browsers can give it nowhere else (other clients
  may send `Authorization: Bearer TOKEN`);
- a page of another site gets nothing without the token, although browsers let every page open every WebSocket: only
  Foxglove's own application, programs, and pages from this machine do;
- what a viewer was sent is counted. It gets at most what its connection takes: the server behind keeps its newest
  messages, BACKLOG at most, and one that takes nothing for STUCK_S is shown the door.

The server's clock, which Foxglove places everything by, is told before the messages: it is their log time.
"""

from __future__ import annotations

import asyncio
import hmac
import io
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from email.message import Message
from http.client import HTTPException, parse_headers
from typing import Any
from urllib.parse import parse_qs, urlsplit

from offload.wire.addresses import is_loopback
from tercel.core.errors import UserError
from tercel.report.dashboard_access import Access

MAX_VIEWERS = 8
MAX_CONNECTIONS = 32
BACKLOG = 64
STUCK_S = 10.0
_GREETING_S = 5.0
_MAX_REQUEST_BYTES = 8192
_BUFFER_BYTES = 1 << 18  # little lies between the server's queue and a slow viewer, so that what it gets is new
_BINARY, _MESSAGE_DATA, _TIME = 2, 1, 2  # WebSocket's opcode; those of foxglove.sdk.v1
_TICK_NS, _REWOUND_NS = 10_000_000, 1_000_000_000


class Refused(Exception):
    """A request that is not let in: an HTTP status with its words, and why."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def judge(request: bytes, access: Access) -> None:
    """Raises Refused where an HTTP request (up to its empty line) must not become a WebSocket."""
    try:
        line, _, rest = request.partition(b"\r\n")
        method, target, _ = line.decode("ascii").split(" ")
        headers = parse_headers(io.BytesIO(rest))
        query = parse_qs(urlsplit(target).query, max_num_fields=16)
    except (ValueError, HTTPException):
        raise Refused("400 Bad Request", "that was no HTTP request") from None
    if not access.knows_host(headers.get("Host")):
        raise Refused("421 Misdirected Request", "it was called by a name that is not this machine's")
    if method != "GET" or headers.get("Upgrade", "").lower() != "websocket":
        raise Refused("426 Upgrade Required", "this is a WebSocket for Foxglove: open it there as a connection")
    if access.token is not None:
        if not _knows_token(access, headers, query):
            raise Refused("401 Unauthorized", "the token is missing or wrong: ws://ADDRESS:PORT/?token=TOKEN")
    elif is_foreign_origin(headers.get("Origin")):
        raise Refused("403 Forbidden", "a page of another site asks; with --token-file it could by the token")


def _knows_token(access: Access, headers: Message, query: dict[str, list[str]]) -> bool:
    given = query.get("token", [""])[-1].encode("utf-8", "surrogateescape")
    return hmac.compare_digest(given, (access.token or "").encode()) or access.knows_token(headers)


def is_foreign_origin(origin: str | None) -> bool:
    """Whether a page of a site that is neither Foxglove's nor this machine's asks. Programs send no origin."""
    if origin is None:
        return False
    try:
        parts = urlsplit(origin)
        scheme, host = parts.scheme, parts.hostname or ""
    except ValueError:
        return True
    if scheme not in ("http", "https"):
        return not scheme  # "null": a frame that a page put into a sandbox. Applications have schemes of their own
    is_foxglove = scheme == "https" and (host == "foxglove.dev" or host.endswith(".foxglove.dev"))
    return not is_foxglove and not is_loopback(host)


class Door:
    """Carries viewers from HOST:PORT to the server behind, in a thread of its own. A context manager.

    `let_in`, `refused` and `ended` count viewers, `shown` messages. Raises UserError if the port cannot be opened.
    """

    def __init__(
        self, host: str, port: int, access: Access, behind: tuple[str, int], tls: ssl.SSLContext | None = None
    ) -> None:
        self._access, self._behind = access, behind
        self.let_in, self.shown, self.viewers = 0, 0, 0
        self.refused: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[Any] = set()
        try:
            opening = asyncio.start_server(self._meet, host, port, ssl=tls, limit=_BUFFER_BYTES)
            self._server = self._loop.run_until_complete(opening)
        except (OSError, OverflowError) as error:
            self._loop.close()
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{host}:{port} cannot be opened ({reason}): choose another --port or --listen") from None
        self.port: int = self._server.sockets[0].getsockname()[1]
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"{'wss' if tls else 'ws'}://{shown_host}:{self.port}"
        self._thread = threading.Thread(target=self._loop.run_forever, name="view-door", daemon=True)
        self._thread.start()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task: Any = asyncio.current_task()
        self._tasks.add(task)
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                raise Refused("503 Service Unavailable", "too many connections")
            request = await asyncio.wait_for(_head(reader), _GREETING_S)
            judge(request, self._access)
            if self.viewers >= MAX_VIEWERS:
                raise Refused("503 Service Unavailable", f"{MAX_VIEWERS} viewers look already")
            await self._carry(request, reader, writer)
        except Refused as refused:
            self.refused[str(refused)] += 1
            body = f"{refused}\n".encode()
            head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError):
            self.refused["that was no HTTP request"] += 1
        except (OSError, asyncio.CancelledError):
            pass  # it has gone, or we end
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _carry(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = socket.socket()
        inner.setblocking(False)
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        await self._loop.sock_connect(inner, self._behind)
        inside, outside = await asyncio.open_connection(sock=inner, limit=_BUFFER_BYTES)
        outside.write(request)
        self.viewers += 1
        self.let_in += 1
        try:
            await self._first_to_end(_copy(reader, outside), self._show(inside, writer))
        finally:
            self.viewers -= 1
            outside.close()

    async def _first_to_end(self, *ways: Coroutine[Any, Any, str]) -> None:
        """Both ways, until one of them ends; why is counted."""
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            first = next(task for task in tasks if task in done)
            self.ended["it left" if isinstance(first.exception(), OSError) else first.result()] += 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _show(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """What the server sends, frame by frame (RFC 6455, 5.2; a server's frames have no mask)."""
        told_ns: int | None = None
        try:
            writer.write(await _head(reader))
            while True:
                head, length = await _frame(reader)
                begin = await reader.readexactly(min(length, 13))
                is_message = head[0] & 15 == _BINARY and len(begin) == 13 and begin[0] == _MESSAGE_DATA
                if is_message:
                    (log_time_ns,) = struct.unpack_from("<Q", begin, 5)
                    if told_ns is None or not told_ns - _REWOUND_NS < log_time_ns < told_ns + _TICK_NS:
                        told_ns = log_time_ns
                        writer.write(bytes((0x80 | _BINARY, 9, _TIME)) + struct.pack("<Q", told_ns))
                writer.write(head + begin)
                left = length - len(begin)
                while left:
                    data = await reader.readexactly(min(left, _BUFFER_BYTES))
                    writer.write(data)
                    left -= len(data)
                    await _taken(writer)
                await _taken(writer)
                self.shown += is_message
        except asyncio.IncompleteReadError:
            return "the server ended it"
        except asyncio.TimeoutError:
            return "it took nothing for too long"

    def close(self) -> None:
        """End all connections and let go of the port."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """An HTTP head with its empty line. Raises Refused if it is too long."""
    head = await reader.readuntil(b"\r\n\r\n")
    if len(head) > _MAX_REQUEST_BYTES:
        raise Refused("431 Request Header Fields Too Large", "the request is too long")
    return head


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The head of a frame, and how many bytes follow."""
    head = await reader.readexactly(2)
    length = head[1] & 127
    if length < 126:
        return head, length
    extended = await reader.readexactly(2 if length == 126 else 8)
    return head + extended, int.from_bytes(extended, "big")


async def _taken(writer: asyncio.StreamWriter) -> None:
    """Wait until the viewer has taken most of what it was sent. Raises TimeoutError if it takes nothing."""
    if writer.transport.get_write_buffer_size() > _BUFFER_BYTES:
        await asyncio.wait_for(writer.drain(), STUCK_S)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    while data := await reader.read(_BUFFER_BYTES):
        writer.write(data)
        await writer.drain()
    return "it left"
