"""Against dora-rs, an implementation of ROS 2 over rmw_zenoh's wire that none of us wrote."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.messages import Image, PointCloud
from tercel.ros.convert import encode
from tercel.ros.service_types import make_request, make_response, read_request, read_response
from tercel.ros.store import STORE
from tercel.ros.transport import LATCHED, RELIABLE, SENSOR, Data, Identity
from tercel.ros.zenoh import ZenohTransport
from tests.scenarios.ros_random import random_cdr
from tests.scenarios.ros_share import write_share
from tests.scenarios.zenoh_peers import private_network, wait_for

pytest.importorskip("dora", reason="dora-rs needs Python 3.11 or later")

TYPES = (
    "std_msgs/msg/String", "sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Imu",
    "vision_msgs/msg/Detection2DArray",
)  # fmt: skip
SET_BOOL = "std_srvs/srv/SetBool"
PEER = Path(__file__).with_name("dora_peer.py")


class Dora:
    """The peer's process. told: what it has printed of the messages it got, by topic number."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.told: queue.Queue[tuple[int, Any]] = queue.Queue()
        assert process.stdout is not None
        lines = process.stdout
        assert lines.readline() == "ready\n"
        threading.Thread(target=lambda: [self.told.put(tuple(json.loads(line))) for line in lines], daemon=True).start()


@contextlib.contextmanager
def dora_peer(folder: Path, kind: str, config: Path, domain: int, job: str = ",".join(TYPES)) -> Iterator[Dora]:
    share = write_share(folder / "share", [*TYPES, SET_BOOL])
    environment = {**os.environ, "AMENT_PREFIX_PATH": str(share), "ROS_DOMAIN_ID": str(domain)}
    words = [sys.executable, str(PEER), kind, str(config), job]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield Dora(process)
    finally:
        process.kill()
        process.wait()


def plain(value: Any) -> Any:
    """A rosbags message as plain Python values."""
    if hasattr(value, "__msgtype__"):
        return {name: plain(getattr(value, name)) for name, _ in STORE.fielddefs[value.__msgtype__][1]}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, list) else value


def large_messages() -> dict[int, bytes]:
    """A VGA image and a cloud of 20,000 points, as the suite writes them, by topic number."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    points = rng.normal(0, 10, (20_000, 3)).astype(np.float32)
    ring = rng.integers(0, 64, 20_000).astype(np.uint16)
    image = Image(stamp_ns=1_700_000_000_123_456_789, frame_id="camera", pixels=pixels, encoding="rgb8")
    cloud = PointCloud(stamp_ns=5, frame_id="lidar", points_m=points, intensity=points[:, 0], ring=ring)
    return {TYPES.index(ros_type): bytes(data) for ros_type, data in map(encode, (image, cloud))}


@pytest.mark.parametrize("distribution", ["jazzy", "humble"])
def test_dora_receives_and_sends_every_type_and_its_bytes_equal_ours(distribution: str, tmp_path: Path) -> None:
    rng = random.Random(distribution)  # noqa: S311
    domain, network = random.SystemRandom().randint(1, 232), private_network(tmp_path)
    sent = {i: [random_cdr(ros_type, rng) for _ in range(5)] for i, ros_type in enumerate(TYPES)}
    small = sum(map(len, sent.values()))
    for i, data in large_messages().items():
        sent[i].append(data)
    back: dict[int, list[bytes]] = defaultdict(list)
    identity = Identity("us", domain=domain, distribution=distribution)
    with ZenohTransport(identity, config=network) as us, dora_peer(tmp_path, distribution, network, domain) as dora:
        publishers = []
        for i, ros_type in enumerate(TYPES):
            publishers.append(us.advertise(f"/to_dora/t{i}", ros_type, RELIABLE))
            us.subscribe(f"/from_dora/t{i}", ros_type, SENSOR, lambda data, i=i: back[i].append(bytes(data)))
        assert wait_for(lambda: us.nodes() == ["/peer/dora_peer", "/us"])
        expected = {f"/{way}_dora/t{i}": ros_type for i, ros_type in enumerate(TYPES) for way in ("from", "to")}
        assert wait_for(lambda: us.topics() == expected)
        time.sleep(1)
        for i, messages in sent.items():
            for data in messages:
                publishers[i].publish(data)
                time.sleep(0.005)
        assert wait_for(lambda: sum(map(len, back.values())) == small + 2)
        assert back == sent
        told: dict[int, list[Any]] = defaultdict(list)
        for _ in range(small):
            i, values = dora.told.get(timeout=5)
            told[i].append(values)
        for i, ros_type in enumerate(TYPES):
            for values, data in zip(told[i], sent[i][:5], strict=True):
                same(values, plain(STORE.deserialize_cdr(data, ros_type)))
        assert not us.problems


def same(theirs: Any, ours: Any) -> None:
    """Assert that dora's values are ours."""
    if isinstance(ours, dict):
        for name, value in ours.items():
            same(theirs[name], value)
    elif isinstance(ours, list):
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours, strict=True):
            same(their, our)
    else:
        assert theirs == ours or (isinstance(ours, float) and math.isclose(theirs, ours, rel_tol=1e-6))


@pytest.mark.parametrize("distribution", ["jazzy", "humble"])
def test_dora_and_we_call_each_others_services(distribution: str, tmp_path: Path) -> None:
    domain, network = random.SystemRandom().randint(1, 232), private_network(tmp_path)
    identity = Identity("us", domain=domain, distribution=distribution)

    def answer(request: Data) -> Data:
        return make_response(SET_BOOL, success=read_request(SET_BOOL, request).data, message="ours")

    with ZenohTransport(identity, config=network) as us:
        us.serve("/of_ours", SET_BOOL, answer)
        with dora_peer(tmp_path, distribution, network, domain, "services") as dora:
            assert dora.told.get(timeout=10) == (0, {"success": True, "message": "ours"})
            for wanted in (True, False):
                request = make_request(SET_BOOL, data=wanted)
                response = read_response(SET_BOOL, us.call("/of_dora", SET_BOOL, request, timeout_s=10))
                assert (response.success, response.message) == (not wanted, f"dora: was {wanted}")
        assert not us.problems


def test_latched_topics_reach_who_comes_late_in_both_directions(tmp_path: Path) -> None:
    domain, network = random.SystemRandom().randint(1, 232), private_network(tmp_path)
    got: list[bytes] = []
    with ZenohTransport(Identity("us", domain=domain), config=network) as us:
        publisher = us.advertise("/latched_of_ours", TYPES[0], LATCHED)
        for text in ("old", "new"):
            publisher.publish(string_cdr(text))
        with dora_peer(tmp_path, "jazzy", network, domain, "latched") as dora:
            assert dora.told.get(timeout=10) == (0, {"data": "new"})
            us.subscribe("/latched_of_dora", TYPES[0], LATCHED, lambda data: got.append(bytes(data)))
            assert wait_for(lambda: got)
            time.sleep(0.3)
            assert got == [string_cdr("new")]
            publisher.publish(string_cdr("newer"))
            assert dora.told.get(timeout=10) == (0, {"data": "newer"})


def string_cdr(text: str) -> bytes:
    return bytes(STORE.serialize_cdr(STORE.types[TYPES[0]](data=text), TYPES[0]))


def test_dora_hears_nothing_of_a_topic_whose_type_it_does_not_expect(tmp_path: Path) -> None:
    domain, network = random.SystemRandom().randint(1, 232), private_network(tmp_path)
    with ZenohTransport(Identity("us", domain=domain), config=network) as us:
        us.subscribe("/from_dora/t0", "sensor_msgs/msg/Imu", RELIABLE, lambda _data: None)
        publisher = us.advertise("/to_dora/t0", "std_srvs/srv/Trigger_Response", RELIABLE)
        with dora_peer(tmp_path, "jazzy", network, domain) as dora:
            assert wait_for(lambda: us.problems)
            for _ in range(10):
                publisher.publish(make_response("std_srvs/srv/Trigger"))
                time.sleep(0.02)
            assert dora.told.empty()
    reason = "/from_dora/t0: somebody publishes std_msgs/msg/String, sensor_msgs/msg/Imu is wanted"
    assert reason in us.problems
