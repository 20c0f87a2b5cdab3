"""The DDS transport between two processes: latency of images and clouds, CPU, and small messages without loss.

    python tests/benchmarks/bench_dds.py [--json FILE]

Bytes in, bytes out: what encoding costs is measured by bench_convert. Latency is from before publish() to the callback
in the other process, by the clock that both share. CPU is that of both processes together, all threads, over the
messages. The configuration is our default: loopback, unicast, fragments of 64 kB.

Beside it: plain cyclonedds with the same structures, configuration and quality of service, where the wheel's own
serialiser makes the bytes and reads them (so its rows hold encoding; it is slow, so its runs are short); and as a floor
a Unix socket that carries the same bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cyclonedds.core import ReadCondition, WaitSet
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tercel.core.messages import PointCloud
from tercel.ros import dds_types as wire
from tercel.ros.convert import encode
from tercel.ros.dds import DdsTransport
from tercel.ros.dds_config import DEFAULT, delete
from tercel.ros.dds_graph import ANY
from tercel.ros.store import STORE
from tercel.ros.transport import COMMAND, SENSOR, Identity
from tests.benchmarks.wire_bench import (
    CLOUD,
    IMAGE,
    STAMP,
    Finish,
    Load,
    Log,
    Send,
    burst,
    compare,
    image_cdr,
    measure,
    read_socket,
    reader,
    socket_ends,
    through_socket,
)

SMALL = "sensor_msgs/msg/CompressedImage"  # a header and bytes: of any size
SIZES = (100, 1000)
NESTED = ("builtin_interfaces/msg/Time", "std_msgs/msg/Header", "sensor_msgs/msg/PointField")
TAKEN = 16
SECOND_NS = 10**9


def cloud_cdr() -> bytearray:
    """A cloud of 1 MB: x, y, z, intensity."""
    rng = np.random.default_rng(0)
    points_m = rng.uniform(-50, 50, (62_500, 3)).astype(np.float32)
    intensity = rng.random(len(points_m), dtype=np.float32)
    cloud = PointCloud(stamp_ns=0, frame_id="lidar", points_m=points_m, intensity=intensity)
    return bytearray(encode(cloud)[1])


def small_cdr(size_bytes: int) -> bytearray:
    """A message of so many bytes in all."""
    make = STORE.types
    header = make["std_msgs/msg/Header"](make["builtin_interfaces/msg/Time"](0, 0), "")

    def cdr(count: int) -> bytearray:
        return bytearray(STORE.serialize_cdr(make[SMALL](header, "", np.zeros(count, np.uint8)), SMALL))

    return cdr(size_bytes - len(cdr(0)))


# --- our transport, both ends --------------------------------------------------------------------------------------


def read_tercel(domain: str, ros_type: str, keep_all: str) -> None:
    """Until the input ends."""
    log, qos = Log(), COMMAND if int(keep_all) else SENSOR
    with DdsTransport(Identity("reader", domain=int(domain))) as transport:
        transport.subscribe("/bench", ros_type, qos, log.note)
        log.wait_and_tell()


@contextlib.contextmanager
def tercel_ends(ros_type: str, keep_all: bool) -> Iterator[tuple[Send, Finish]]:
    """A publisher here, a subscription there."""
    domain = random.SystemRandom().randint(1, 200)
    with (
        reader("tercel", domain, ros_type, int(keep_all)) as finish,
        DdsTransport(Identity("sender", domain=domain)) as transport,
    ):
        publisher = transport.advertise("/bench", ros_type, COMMAND if keep_all else SENSOR)
        time.sleep(1)
        yield publisher.publish, finish
        for reason, times in transport.problems.items():
            print(f"problem: {reason} ({times} times)")


# --- plain cyclonedds, both ends -----------------------------------------------------------------------------------


def plain_qos(keep_all: bool) -> Qos:
    """As our ends have it, but that Cyclone does the waiting for a slow reader."""
    policies = [
        Policy.Reliability.Reliable(10 * SECOND_NS) if keep_all else Policy.Reliability.BestEffort,
        Policy.History.KeepAll if keep_all else Policy.History.KeepLast(SENSOR.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True),
    ]
    return Qos(*policies, *([Policy.ResourceLimits(max_samples=COMMAND.depth)] if keep_all else []))


def plain_topic(participant: Any, ros_type: str) -> Any:
    """The topic; our structures become dataclasses, in place, for the wheel must make samples of them."""
    for name in (*NESTED, ros_type):
        dataclasses.dataclass(wire.structure(name))
    return Topic(participant, "bench", wire.structure(ros_type))


def read_plain(domain: str, ros_type: str, keep_all: str) -> None:
    """Until the input ends."""
    log, over = Log(), threading.Event()
    _domain = Domain(int(domain), DEFAULT)
    participant = DomainParticipant(int(domain))
    samples = DataReader(participant, plain_topic(participant, ros_type), plain_qos(bool(int(keep_all))))
    waitset = WaitSet(participant)
    waitset.attach(ReadCondition(samples, ANY))

    def receive() -> None:
        while not over.is_set():
            waitset.wait(SECOND_NS // 10)
            for sample in samples.take(TAKEN):
                sent = sample.header_.stamp_
                log.note(bytes(4) + STAMP.pack(sent.sec_, sent.nanosec_))

    thread = threading.Thread(target=receive)
    thread.start()
    log.wait_and_tell()
    over.set()
    thread.join()


@contextlib.contextmanager
def plain_ends(data: bytearray, ros_type: str, keep_all: bool) -> Iterator[tuple[Send, Finish]]:
    """A writer here, a reader there. The sample is made before; each time it gets its stamp and is serialised."""
    domain = random.SystemRandom().randint(1, 200)
    with reader("plain", domain, ros_type, int(keep_all)) as finish:
        own = Domain(domain, DEFAULT)
        participant = DomainParticipant(domain)
        writer = DataWriter(participant, plain_topic(participant, ros_type), plain_qos(keep_all))
        sample = wire.structure(ros_type).deserialize(wire.to_wire(data))

        def send(stamped: bytes) -> None:
            sample.header_.stamp_.sec_, sample.header_.stamp_.nanosec_ = STAMP.unpack_from(stamped, 4)
            writer.write(sample)

        time.sleep(1)
        try:
            yield send, finish
        finally:
            for entity in (writer, participant, own):
                delete(entity)


# --- table ---------------------------------------------------------------------------------------------------------


def through_tercel(load: Load) -> dict[str, float]:
    """Our transport."""
    with tercel_ends(load.ros_type, False) as (send, finish):
        return measure(send, finish, load)


def through_plain(load: Load) -> dict[str, float]:
    """cyclonedds alone: a short run."""
    with plain_ends(load.data, load.ros_type, False) as (send, finish):
        return measure(send, finish, replace(load, count=load.count // 4))


def lossless(size_bytes: int) -> dict[str, dict[str, float]]:
    """As many small messages as go."""
    data, results = small_cdr(size_bytes), {}
    assert len(data) == size_bytes
    with tercel_ends(SMALL, True) as (send, finish):
        results["tercel"] = burst(send, finish, data, 40_000)
    with plain_ends(data, SMALL, True) as (send, finish):
        results["plain cyclonedds"] = burst(send, finish, data, 10_000)
    with socket_ends() as (send, finish):
        results["Unix socket (floor)"] = burst(send, finish, data, 40_000)
    return results


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--reader", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.pop("CYCLONEDDS_URI", None)
    if args.reader:
        {"tercel": read_tercel, "plain": read_plain, "socket": read_socket}[args.reader[0]](*args.reader[1:])
        return
    print("command: python tests/benchmarks/bench_dds.py")
    loads = {
        "image": Load("VGA image", IMAGE, image_cdr(), 30, 240),
        "cloud": Load("cloud", CLOUD, cloud_cdr(), 10, 80),
    }
    ways = {"tercel": through_tercel, "plain cyclonedds": through_plain, "Unix socket (floor)": through_socket}
    results: dict[str, Any] = {key: compare(ways, load) for key, load in loads.items()}
    print("\nsmall messages without loss")
    print(f"{'way':<32}{'bytes':>8}{'a second':>12}{'p50 ms in the queue':>24}{'received':>12}")
    results["lossless"] = {}
    for size in SIZES:
        results["lossless"][size] = lossless(size)
        for way, result in results["lossless"][size].items():
            print(f"{way:<32}{size:>8}{result['per_s']:>12,}{result['p50_ms']:>24}{result['received']:>12}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
