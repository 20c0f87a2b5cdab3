"""A viewer for the tests of `tercel view`: WebSocket (RFC 6455) and foxglove.sdk.v1, written by hand."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

PROTOCOL = "foxglove.sdk.v1"


class NotLetIn(Exception):
    """The answer was no WebSocket. status: HTTP's; args: the body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status = status


class Viewer:
    """One connection. `channels` by topic, `messages` (topic, log time, bytes), `others` (JSON), `times_ns`."""

    def __init__(
        self, port: int, path: str = "/", headers: dict[str, str] | None = None, *,
        receive_buffer_bytes: int | None = None, tls: ssl.SSLContext | None = None,
    ) -> None:  # fmt: skip
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(5.0)
        self.socket.connect(("127.0.0.1", port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.channels: dict[str, dict[str, Any]] = {}
        self.messages: list[tuple[str, int, bytes]] = []
        self.others: list[dict[str, Any]] = []
        self.times_ns: list[int] = []
        self.is_closed = False
        self._topics: dict[int, str] = {}
        self._data = b""
        wanted = {
            "Host": f"127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Protocol": PROTOCOL, **(headers or {}),
        }  # fmt: skip
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in wanted.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode())
        while b"\r\n\r\n" not in self._data:
            self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            raise NotLetIn(status, self._data.decode())

    def _more(self) -> None:
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the server has closed the connection")
        self._data += data

    def _take(self, count: int) -> bytes:
        while len(self._data) < count:
            self._more()
        data, self._data = self._data[:count], self._data[count:]
        return data

    def read(self) -> None:
        """One frame."""
        first, second = self._take(2)
        assert first & 0x80, "no fragments are expected"
        assert not second & 0x80, "a server does not mask"
        length = second & 127
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        payload, opcode = self._take(length), first & 15
        if opcode == 8:
            self.is_closed = True
        elif opcode == 1:
            self._hear(json.loads(payload))
        elif opcode == 2 and payload[0] == 1:
            subscription, log_time_ns = struct.unpack_from("<IQ", payload, 1)
            self.messages.append((self._topics[subscription], log_time_ns, payload[13:]))
        elif opcode == 2 and payload[0] == 2:
            self.times_ns.append(struct.unpack_from("<Q", payload, 1)[0])
        else:
            raise AssertionError(f"unexpected frame {opcode} {payload[:20]!r}")

    def _hear(self, words: dict[str, Any]) -> None:
        if words["op"] == "advertise":
            self.channels.update({channel["topic"]: channel for channel in words["channels"]})
        elif words["op"] == "unadvertise":
            gone = set(words["channelIds"])
            self.channels = {topic: row for topic, row in self.channels.items() if row["id"] not in gone}
        else:
            self.others.append(words)

    def until(self, what: Callable[[], Any], within_s: float = 10.0) -> Any:
        """Read frames until something is true, and give it back."""
        end_s = time.monotonic() + within_s
        while not (value := what()):
            assert time.monotonic() < end_s, f"still {value!r} after {within_s} s"
            self.socket.settimeout(max(0.01, min(0.2, end_s - time.monotonic())))
            try:
                self.read()
            except TimeoutError:
                continue
        return value

    def of(self, topic: str) -> list[bytes]:
        """What has come of a topic."""
        return [data for name, _, data in self.messages if name == topic]

    def say(self, words: dict[str, Any]) -> None:
        """Send a JSON message."""
        self.send(1, json.dumps(words).encode())

    def send(self, opcode: int, payload: bytes) -> None:
        """Send a frame, masked as a client's must be."""
        assert len(payload) < 1 << 16
        mask = os.urandom(4)
        head = bytes((0x80 | opcode, 0x80 | 126)) + struct.pack(">H", len(payload))
        self.socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)))

    def look(self, *topics: str) -> None:
        """Subscribe to topics, once they are advertised."""
        self.until(lambda: self.channels.keys() >= set(topics))
        ids = {topic: 1000 + self.channels[topic]["id"] for topic in topics}
        self._topics.update({number: topic for topic, number in ids.items()})
        rows = [{"id": ids[topic], "channelId": self.channels[topic]["id"]} for topic in topics]
        self.say({"op": "subscribe", "subscriptions": rows})

    def look_away(self, *topics: str) -> None:
        """Unsubscribe."""
        ids = [number for number, topic in self._topics.items() if topic in topics]
        self.say({"op": "unsubscribe", "subscriptionIds": ids})

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
