"""Processes that speak zenoh with each other, on a network of their own: peers that meet on loopback.

python tests/scenarios/zenoh_peers.py CONFIG DOMAIN NODE JOB [ARGUMENTS]

Jobs: relay FROM TO TYPES (each message of /FROM/i goes out as /TO/i), serve (services of every kind of outcome),
publish TOPIC (large images without a pause), read TOPIC (images; tells at the end of its input what came).
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zenoh

from tercel.ros.service_types import make_response, read_request
from tercel.ros.transport import COMMAND, SENSOR, Data, Identity
from tercel.ros.zenoh import ZenohTransport
from tercel.ros.zenoh_config import DEFAULT

HERE = Path(__file__)
IMAGE_TYPE = "sensor_msgs/msg/Image"


def private_network(folder: Path, **changes: str) -> Path:
    """Our default with a scouting port of its own and no router: its peers meet each other and nobody else.

    changes: single settings with "__" for "/", as JSON.
    """
    config = zenoh.Config.from_json5(DEFAULT)
    port = random.SystemRandom().randint(20_000, 60_000)
    alone = {"connect__endpoints": "[]", "scouting__multicast__address": f'"224.0.0.224:{port}"'}
    for key, value in {**alone, **changes}.items():
        config.insert_json5(key.replace("__", "/"), value)
    path = folder / "zenoh.json5"
    path.write_text(str(config))
    return path


@contextlib.contextmanager
def peer(config: Path, domain: int, node: str, *job: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said "ready". Killed at the end."""
    words = [sys.executable, str(HERE), str(config), str(domain), node, *map(str, job)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{node} did not start"
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(what: Callable[[], object], timeout_s: float = 15.0) -> bool:
    """Whether it becomes true in time."""
    ends_s = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > ends_s:
            return False
        time.sleep(0.02)
    return True


def relay(transport: ZenohTransport, source: str, target: str, types: str) -> None:
    """Send on all messages of /SOURCE/0, /SOURCE/1, ... under /TARGET/0, /TARGET/1, ..."""
    for i, ros_type in enumerate(types.split(",")):
        publisher = transport.advertise(f"/{target}/t{i}", ros_type, COMMAND)
        transport.subscribe(f"/{source}/t{i}", ros_type, COMMAND, publisher.publish)


def serve(transport: ZenohTransport) -> None:
    """A service that answers, one that fails, and one that takes long."""

    def invert(request: Data) -> Data:
        wanted = read_request("std_srvs/srv/SetBool", request).data
        return make_response("std_srvs/srv/SetBool", success=not wanted, message=f"was {wanted}")

    def fail(_request: Data) -> Data:
        raise ValueError("no map yet")

    def sleep(_request: Data) -> Data:
        time.sleep(3)
        return make_response("std_srvs/srv/Trigger")

    transport.serve("/invert", "std_srvs/srv/SetBool", invert)
    transport.serve("/fail", "std_srvs/srv/Trigger", fail)
    transport.serve("/sleep", "std_srvs/srv/Trigger", sleep)


def publish(transport: ZenohTransport, topic: str) -> None:
    """Images of 2 MB, one after another without a pause, so that a kill comes in the midst of one."""
    publisher = transport.advertise(topic, IMAGE_TYPE, SENSOR)
    data = b"\x00\x01\x00\x00" + bytes(2_000_000)

    def send() -> None:
        while True:
            publisher.publish(data)

    threading.Thread(target=send, daemon=True).start()


def read(transport: ZenohTransport, topic: str, counts: dict[str, int]) -> None:
    """Count what comes."""

    def count(_data: Data) -> None:
        counts["received"] = counts.get("received", 0) + 1

    transport.subscribe(topic, IMAGE_TYPE, SENSOR, count)


def main(config: str, domain: str, node: str, job: str, *arguments: str) -> None:
    """Do the job until the input ends, then tell what came and what was wrong."""
    counts: dict[str, int] = {}
    with ZenohTransport(Identity(node, domain=int(domain)), config=Path(config)) as transport:
        jobs: dict[str, Callable[..., None]] = {"relay": relay, "serve": serve, "publish": publish}
        if job == "read":
            read(transport, *arguments, counts)
        else:
            jobs[job](transport, *arguments)
        print("ready", flush=True)
        sys.stdin.read()
        print(json.dumps({"counts": counts, "problems": transport.problems}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
