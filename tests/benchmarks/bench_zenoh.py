"""The zenoh transport between two processes: latency of images and clouds, CPU, and small messages without loss.

    python tests/benchmarks/bench_zenoh.py [--json FILE]

Bytes in, bytes out: what encoding costs is measured by bench_conversion. Latency is from before publish() to the
callback in the other process, by the clock that both share. CPU is that of both processes together, all threads, over
the messages. Goals: a VGA image at 30 Hz p50 3 ms, p99 12 ms; a cloud of 1 MB p50 4 ms; 3.5 ms of CPU a message; small
messages without loss above 10,000 a second.

Beside it: the same in shared memory, which is off by default (zenoh_config.py says why); plain zenoh; dora-rs as the
reader (it decodes to Arrow; its CPU includes our asking it 5,000 times a second); and as a floor a Unix socket that
carries the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
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
from pathlib import Path
from typing import Any

import numpy as np
import zenoh

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tercel.core.messages import Image
from tercel.ros.convert import encode
from tercel.ros.transport import COMMAND, SENSOR, Identity
from tercel.ros.zenoh import ZenohTransport
from tests.scenarios.ros_share import write_share
from tests.scenarios.zenoh_peers import private_network

IMAGE, CLOUD, IMU = "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Imu"
STAMP = struct.Struct("<iI")  # std_msgs/Header begins with it, behind CDR's four bytes: a place for the time of sending
DOMAIN = 77
US = Identity("sender", domain=DOMAIN)
WARM_UP = 20
GOALS = {
    "image p50 ms": (3.0, "image", "p50_ms"),
    "image p99 ms": (12.0, "image", "p99_ms"),
    "image CPU ms": (3.5, "image", "cpu_ms"),
    "cloud p50 ms": (4.0, "cloud", "p50_ms"),
    "cloud CPU ms": (3.5, "cloud", "cpu_ms"),
}


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


def read_tercel(config: str, ros_type: str, depth: str) -> None:
    """Our transport."""
    log, qos = Log(), COMMAND if int(depth) >= COMMAND.depth else SENSOR
    with ZenohTransport(Identity("reader", domain=DOMAIN), config=Path(config)) as transport:
        transport.subscribe("/bench", ros_type, qos, log.note)
        log.wait_and_tell()


def read_plain(config: str) -> None:
    """zenoh alone."""
    log = Log()
    with zenoh.open(zenoh.Config.from_file(config)) as session:
        session.declare_subscriber("bench", lambda sample: log.note(sample.payload.to_bytes()))
        log.wait_and_tell()


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


def read_dora(config: str, name: str) -> None:
    """dora-rs: the message as an Arrow array."""
    import dora

    log, over = Log(), threading.Event()
    context = dora.Ros2Context(transport=dora.Ros2Transport.zenoh("rep2016", config))
    node = context.new_node("reader", "/", dora.Ros2NodeOptions())
    qos = dora.Ros2QosPolicies(keep_last=5)
    subscription = node.create_subscription(node.create_topic("/bench", name, qos))

    def receive() -> None:
        while not over.is_set():
            values = subscription.next()
            if values is None:
                time.sleep(0.0002)
                continue
            sent = values.field("header").field("stamp")
            log.note(bytes(4) + STAMP.pack(sent.field("sec")[0].as_py(), sent.field("nanosec")[0].as_py()))

    thread = threading.Thread(target=receive)
    thread.start()
    log.wait_and_tell()
    over.set()
    thread.join()


# --- senders, here -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reader(kind: str, *arguments: object, **environment: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A reader's process; call what comes to end it and get what it noted."""
    words = [sys.executable, __file__, "--reader", kind, *map(str, arguments)]
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


def pace(send: Callable[[bytes], object], data: bytearray, rate_hz: float, count: int) -> float:
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


def measure(send: Callable[[bytes], object], finish: Callable[[], dict[str, Any]], load: Load) -> dict[str, float]:
    """Send a load, and sum up what the reader noted."""
    used_s = pace(send, load.data, load.rate_hz, load.count)
    return row(finish(), used_s, load.count)


def through_tercel(config: Path, load: Load) -> dict[str, float]:
    """Our transport, both ends."""
    with reader("tercel", config, load.ros_type, 1) as finish, ZenohTransport(US, config=config) as transport:
        publisher = transport.advertise("/bench", load.ros_type, SENSOR)
        time.sleep(1)
        return measure(publisher.publish, finish, load)


def through_dora(config: Path, load: Load) -> dict[str, float]:
    """Our transport to dora-rs."""
    with tempfile.TemporaryDirectory() as folder:
        share = write_share(Path(folder), [load.ros_type])
        words = {"AMENT_PREFIX_PATH": str(share), "ROS_DOMAIN_ID": str(DOMAIN)}
        with (
            reader("dora", config, load.ros_type.replace("/msg/", "/"), **words) as finish,
            ZenohTransport(US, config=config) as transport,
        ):
            publisher = transport.advertise("/bench", load.ros_type, SENSOR)
            time.sleep(1)
            return measure(publisher.publish, finish, load)


def through_plain_zenoh(config: Path, load: Load) -> dict[str, float]:
    """zenoh without our transport."""
    with reader("plain", config) as finish, zenoh.open(zenoh.Config.from_file(config)) as session:
        publisher = session.declare_publisher("bench", congestion_control=zenoh.CongestionControl.DROP)
        time.sleep(1)
        return measure(publisher.put, finish, load)


def through_socket(load: Load) -> dict[str, float]:
    """The floor."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/socket"
        with reader("socket", path) as finish, socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

            def send(data: bytes) -> None:
                client.sendall(len(data).to_bytes(4, "little"))
                client.sendall(data)

            return measure(send, finish, load)


def lossless(config: Path, size_bytes: int, count: int) -> dict[str, float]:
    """As many small messages as go, on a topic that keeps all. A lost one is an error."""
    with reader("tercel", config, IMU, COMMAND.depth) as finish, ZenohTransport(US, config=config) as transport:
        publisher = transport.advertise("/bench", IMU, COMMAND)
        time.sleep(1)
        data = bytearray(b"\x00\x01\x00\x00" + bytes(size_bytes - 4))
        began_s = time.monotonic()
        for _ in range(count):
            publisher.publish(stamp(data))
        time.sleep(1)
        noted = finish()
    received = len(noted["ages_ns"])
    if received != count:
        raise SystemExit(f"{count - received} of {count} messages were lost")
    ages_ms = np.array(noted["ages_ns"]) / 1e6
    rate = count / (noted["ends_s"] - began_s)
    return {"per_s": round(rate), "p50_ms": round(float(np.percentile(ages_ms, 50)), 2), "received": received}


# --- table ---------------------------------------------------------------------------------------------------------


def compare(config: Path, shared: Path, load: Load) -> dict[str, dict[str, float]]:
    """One load through everything."""
    ways: dict[str, Callable[[], dict[str, float]]] = {
        "tercel": lambda: through_tercel(config, load),
        "tercel, shared memory": lambda: through_tercel(shared, load),
        "plain zenoh": lambda: through_plain_zenoh(config, load),
        "plain zenoh, shared memory": lambda: through_plain_zenoh(shared, load),
        "Unix socket (floor)": lambda: through_socket(load),
    }
    if importlib.util.find_spec("dora") and load.ros_type == IMAGE:
        ways["tercel to dora-rs"] = lambda: through_dora(config, load)
    results = {}
    print(f"\n{load.name}: {len(load.data):,} bytes, {load.rate_hz:g} Hz, {load.count} messages")
    print(f"{'way':<32}{'p50 ms':>8}{'p99 ms':>8}{'CPU ms':>8}{'received':>14}")
    for name, run in ways.items():
        results[name] = result = run()
        came = f"{result['received']:.0f}/{result['sent']:.0f}"
        print(f"{name:<32}{result['p50_ms']:>8}{result['p99_ms']:>8}{result['cpu_ms']:>8}{came:>14}", flush=True)
    return results


def main() -> None:
    """Print the tables and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--reader", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.reader:
        kinds = {"tercel": read_tercel, "plain": read_plain, "socket": read_socket, "dora": read_dora}
        kinds[args.reader[0]](*args.reader[1:])
        return
    print("command: python tests/benchmarks/bench_zenoh.py")
    loads = {
        "image": Load("VGA image", IMAGE, image_cdr(), 30, 300),
        "cloud": Load("cloud", CLOUD, bytearray(b"\x00\x01\x00\x00" + os.urandom(1_000_000)), 10, 150),
    }
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = private_network(Path(folder), transport__shared_memory__enabled="true")
        shared = shared.rename(Path(folder) / "shared_memory.json5")
        config = private_network(Path(folder))
        for key, load in loads.items():
            results[key] = compare(config, shared, load)
        results["lossless"] = {size: lossless(config, size, 40_000) for size in (100, 1000)}
    print("\nsmall messages without loss")
    for size, result in results["lossless"].items():
        print(f"{size:>6} bytes: {result['per_s']:,} a second, p50 {result['p50_ms']} ms in the queue")
    print("\ngoals")
    for name, (goal, key, field) in GOALS.items():
        value = results[key]["tercel"][field]
        print(f"{name:<16}{value:>8} of {goal:>6}  {'met' if value <= goal else 'NOT MET'}")
    rate = min(result["per_s"] for result in results["lossless"].values())
    print(f"{'lossless per s':<16}{rate:>8} of {10_000:>6}  {'met' if rate >= 10_000 else 'NOT MET'}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
