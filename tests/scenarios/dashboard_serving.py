"""What the dashboard's scenarios share: a robot that drives in real time, and a reader of Server-Sent Events."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from tercel.report.dashboard_access import Access
from tercel.report.dashboard_state import DashboardState
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE
from tests.scenarios import dashboard_robot as robot

TOKEN = "a-token-of-some-length"  # noqa: S105 (nobody else's)
OPEN = Access(None, frozenset({"localhost"}))
CLOSED = Access(TOKEN, frozenset({"localhost"}))


class Robot:
    """Drives the made-up drive into a state at ten steps a second until it is told to stop."""

    def __init__(self, state: DashboardState) -> None:
        self.state = state
        self.rows: list[robot.Row] = [
            robot.component("detector", "CameraDetector", 10.0, lost=2),
            robot.component("tracker_2d", "Tracker2D", 10.0),
        ]
        self.fates = {"done-edge": 10, "done-cloud": 20, "late": 0}
        self.silent: set[str] = set()
        self.class_name = "car"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drive, daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        step = 0
        while not self._ended.wait(0.1):
            wall_ns, now_ns = time.time_ns(), time.monotonic_ns()
            for topic, ros_type, data in robot.drive(step, wall_ns - 5_000_000, class_name=self.class_name):
                if topic not in self.silent:
                    self.state.receive(topic, ros_type, data, now_ns, wall_ns)
            if step % 5 == 0:
                self.fates["done-cloud"] += 3
                data = robot.diagnostics([*self.rows, robot.offload(self.fates)], wall_ns)
                self.state.receive("/diagnostics", DIAGNOSTICS_TYPE, data, now_ns, wall_ns)
            step += 1

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(timeout=5)


class Stream:
    """Reads Server-Sent Events, as a browser does."""

    def __init__(
        self, port: int, headers: dict[str, str] | None = None, receive_buffer_bytes: int | None = None
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        if receive_buffer_bytes is not None:
            self._connection.sock = socket.socket()
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            self._connection.sock.settimeout(5)
            self._connection.sock.connect(("127.0.0.1", port))
        self._connection.request("GET", "/events", headers=headers or {})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status

    def next(self, name: str) -> Any:
        """The content of the next event of that name."""
        while True:
            lines = []
            while (line := self._answer.readline().decode().rstrip("\n")) != "":
                lines.append(line)
            if f"event: {name}" in lines:
                return json.loads(next(line for line in lines if line.startswith("data: "))[6:])

    def close(self) -> None:
        self._answer.close()
        self._connection.close()


def until(what: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    """Wait until something is true, and give it back. Fails with the last value otherwise."""
    end_s = time.monotonic() + within_s
    while not (value := what()):
        assert time.monotonic() < end_s, f"still {value!r} after {within_s} s"
        time.sleep(0.05)
    return value


def count_of(tables: dict[str, Any], topic: str = "/odometry") -> int:
    """How many messages of a topic have come."""
    return int(next((row["count"] for row in tables["topics"] if row["name"] == topic), 0))
