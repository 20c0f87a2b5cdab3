"""What the benches of wires share: loads, a reader in a process of its own, the Unix socket as the floor, the tables.

A message bears the time of its sending in its header's stamp; both processes share the clock. CPU is that of both,
all threads, a message. The script that runs is its own readers' too: `--reader KIND ARGUMENTS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercel.core.messages import Image
from tercel.ros.convert import encode

IMAGE, CLOUD = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"
STAMP = struct.Struct("<iI")  # std_msgs/Header begins with it, behind CDR's four bytes: a place for the time of sending
WARM_UP = 20
Send = Callable[[bytes], object]
Finish = Callable[[], dict[str, Any]]
Way = Callable[["Load"], dict[str, float]]


@dataclass(frozen=True)
class Load:
    """What is sent, how often, and how many."""

    name: str
    ros_type: str
    data: bytearray
    rate_hz: float
    count: int


def image_cdr() -> bytearray:
    """A VGA image."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    return bytearray(encode(Image(stamp_ns=0, frame_id="camera", pixels=pixels, encoding="bgr8"))[1])


def stamp(data: bytearray) -> bytes:
    """A copy that bears the time now."""
    STAMP.pack_into(data, 4, *divmod(time.monotonic_ns(), 10**9))
    return bytes(data)


def age_ns(data: Any) -> int:
    """How long ago it was stamped."""
    now_ns = time.monotonic_ns()
    seconds, nanoseconds = STAMP.unpack_from(data, 4)
    return now_ns - seconds * 10**9 - nanoseconds


def cpu_s() -> float:
    """Of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- readers: each in a process of its own, until its input ends ---------------------------------------------------


class Log:
    """What a reader notes: the age of each message; CPU is counted from the end of the warming up."""

    def __init__(self) -> None:
        self.ages_ns: list[int] = []
        self.cpu_s = 0.0
        self.ends_s = 0.0

    def note(self, data: Any) -> None:
        """One message."""
        self.ages_ns.append(age_ns(data))
        self.ends_s = time.monotonic()
        if len(self.ages_ns) == WARM_UP:
            self.cpu_s = cpu_s()

    def wait_and_tell(self, **more: Any) -> None:
        """Print "ready", and all at the end of the input."""
        print("ready", flush=True)
        sys.stdin.readline()
        used_s = cpu_s() - self.cpu_s
        print(json.dumps({"ages_ns": self.ages_ns, "cpu_s": used_s, "ends_s": self.ends_s, **more}), flush=True)


def read_socket(path: str) -> None:
    """A Unix socket: four bytes of length, then the message."""
    log = Log()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)

        def receive() -> None:
            connection = server.accept()[0]
            while header := connection.recv(4, socket.MSG_WAITALL):
                log.note(connection.recv(int.from_bytes(header, "little"), socket.MSG_WAITALL))

        threading.Thread(target=receive, daemon=True).start()
        log.wait_and_tell()


# --- senders, here -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reader(kind: str, *arguments: object, **environment: str) -> Iterator[Finish]:
    """A reader's process; call what comes to end it and get what it noted."""
    words = [sys.executable, sys.argv[0], "--reader", kind, *map(str, arguments)]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield lambda: json.loads(process.communicate("\n")[0])
    finally:
        process.kill()
        process.wait()


def pace(send: Send, data: bytearray, rate_hz: float, count: int) -> float:
    """Send `count` messages at a rate after the warming up. Returns the CPU used for those, in seconds."""
    began_s, used_s = time.perf_counter(), 0.0
    for i in range(WARM_UP + count):
        if i == WARM_UP:
            used_s = cpu_s()
        time.sleep(max(0.0, began_s + i / rate_hz - time.perf_counter()))
        send(stamp(data))
    used_s = cpu_s() - used_s
    time.sleep(0.5)
    return used_s


def row(noted: dict[str, Any], sender_cpu_s: float, count: int) -> dict[str, float]:
    """Percentiles of latency and CPU a message, both ends together."""
    ages_ms = np.array(noted["ages_ns"][WARM_UP:]) / 1e6
    return {
        "p50_ms": round(float(np.percentile(ages_ms, 50)), 2),
        "p99_ms": round(float(np.percentile(ages_ms, 99)), 2),
        "cpu_ms": round((sender_cpu_s + noted["cpu_s"]) * 1e3 / count, 2),
        "received": len(ages_ms),
        "sent": count,
    }


def measure(send: Send, finish: Finish, load: Load) -> dict[str, float]:
    """Send a load, and sum up what the reader noted."""
    used_s = pace(send, load.data, load.rate_hz, load.count)
    return row(finish(), used_s, load.count)


def burst(send: Send, finish: Finish, data: bytearray, count: int) -> dict[str, float]:
    """As many small messages as go, on a topic that keeps all. A lost one is an error."""
    began_s = time.monotonic()
    for _ in range(count):
        send(stamp(data))
    time.sleep(1)
    noted = finish()
    received = len(noted["ages_ns"])
    if received != count:
        raise SystemExit(f"{count - received} of {count} messages were lost")
    ages_ms = np.array(noted["ages_ns"]) / 1e6
    rate = count / (noted["ends_s"] - began_s)
    return {"per_s": round(rate), "p50_ms": round(float(np.percentile(ages_ms, 50)), 2), "received": received}


@contextlib.contextmanager
def socket_ends() -> Iterator[tuple[Send, Finish]]:
    """The floor."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        with reader("socket", path) as finish, socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

            def send(data: bytes) -> None:
                client.sendall(len(data).to_bytes(4, "little"))
                client.sendall(data)

            yield send, finish


def through_socket(load: Load) -> dict[str, float]:
    """The floor."""
    with socket_ends() as (send, finish):
        return measure(send, finish, load)


def compare(ways: dict[str, Way], load: Load) -> dict[str, dict[str, float]]:
    """One load through everything, printed as a table."""
    results = {}
    print(f"\n{load.name}: {len(load.data):,} bytes, {load.rate_hz:g} Hz, {load.count} messages")
    print(f"{'way':<32}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}{'received':>14}")
    for name, run in ways.items():
        results[name] = result = run(load)
        came = f"{result['received']:.0f}/{result['sent']:.0f}"
        print(f"{name:<32}{result['p50_ms']:>8}{result['p99_ms']:>8}{result['cpu_ms']:>8}{came:>14}", flush=True)
    return results
