"""The zenoh transport between two processes: latency of images and clouds, CPU, and small messages without loss.

    python tests/benchmarks/bench_zenoh.py [--json FILE]

Bytes in, bytes out: what encoding costs is measured by bench_convert. Latency is from before publish() to the
callback in the other process, by the clock that both share. CPU is that of both processes together, all threads, over
the messages. Goals: a VGA image at 30 Hz p50 3 ms, p99 12 ms; a cloud of 1 MB p50 4 ms; 3.5 ms of CPU a message; small
messages without loss above 10,000 a second.

Beside it: the same in shared memory, which is off by default (zenoh_config.py says why); plain zenoh; dora-rs as the
reader (it decodes to Arrow; its CPU includes our asking it 5,000 times a second); and as a floor a Unix socket that
carries the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import zenoh

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tercel.ros.transport import COMMAND, SENSOR, Identity
from tercel.ros.zenoh import ZenohTransport
from tests.benchmarks.wire_bench import (
    CLOUD,
    IMAGE,
    STAMP,
    Load,
    Log,
    Way,
    burst,
    compare,
    image_cdr,
    measure,
    read_socket,
    reader,
    through_socket,
)
from tests.scenarios.ros_share import write_share
from tests.scenarios.zenoh_peers import private_network

IMU = "sensor_msgs/msg/Imu"
DOMAIN = 77
US = Identity("sender", domain=DOMAIN)
GOALS = {
    "image p50 ms": (3.0, "image", "p50_ms"),
    "image p99 ms": (12.0, "image", "p99_ms"),
    "image CPU ms": (3.5, "image", "cpu_ms"),
    "cloud p50 ms": (4.0, "cloud", "p50_ms"),
    "cloud CPU ms": (3.5, "cloud", "cpu_ms"),
}


# --- readers: each in a process of its own, until its input ends ---------------------------------------------------


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


def lossless(config: Path, size_bytes: int, count: int) -> dict[str, float]:
    """As many small messages as go."""
    with reader("tercel", config, IMU, COMMAND.depth) as finish, ZenohTransport(US, config=config) as transport:
        publisher = transport.advertise("/bench", IMU, COMMAND)
        time.sleep(1)
        return burst(publisher.publish, finish, bytearray(b"\x00\x01\x00\x00" + bytes(size_bytes - 4)), count)


# --- table ---------------------------------------------------------------------------------------------------------


def ways_for(config: Path, shared: Path, load: Load) -> dict[str, Way]:
    """All that a load goes through."""
    ways: dict[str, Way] = {
        "tercel": partial(through_tercel, config),
        "tercel, shared memory": partial(through_tercel, shared),
        "plain zenoh": partial(through_plain_zenoh, config),
        "plain zenoh, shared memory": partial(through_plain_zenoh, shared),
        "Unix socket (floor)": through_socket,
    }
    if importlib.util.find_spec("dora") and load.ros_type == IMAGE:
        ways["tercel to dora-rs"] = partial(through_dora, config)
    return ways


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
            results[key] = compare(ways_for(config, shared, load), load)
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
