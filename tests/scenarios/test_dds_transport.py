"""The DDS transport between processes: types, late joiners, services, bad types and QoS, 1080p, a killed writer."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")

from tercel.core.errors import UserError
from tercel.core.messages import Image
from tercel.ros.convert import encode
from tercel.ros.dds import DdsTransport
from tercel.ros.service_types import make_request, read_response
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, Identity
from tests.scenarios.dds_peers import peer
from tests.scenarios.ros_random import MESSAGE_TYPES, random_cdr
from tests.scenarios.zenoh_peers import IMAGE_TYPE, wait_for

STRING, IMU = "std_msgs/msg/String", "sensor_msgs/msg/Imu"
Open = Callable[..., DdsTransport]


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    return random.SystemRandom().randint(1, 200)


@pytest.fixture
def join(domain: int) -> Iterator[Open]:
    """Open transports; all are closed at the end."""
    opened: list[DdsTransport] = []

    def open_one(node: str = "us", **options: Any) -> DdsTransport:
        opened.append(DdsTransport(Identity(node, domain=domain), **options))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


def cdr(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"\x00\x01\x00\x00" + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("stations", [1, 2])
def test_every_type_goes_through_two_and_three_processes_byte_by_byte(stations: int, domain: int, join: Open) -> None:
    rng = random.Random(stations)  # noqa: S311
    sent = {f"t{i}": [random_cdr(ros_type, rng) for _ in range(3)] for i, ros_type in enumerate(MESSAGE_TYPES)}
    got: dict[str, list[bytes]] = defaultdict(list)
    us, names = join(), ",".join(MESSAGE_TYPES)
    legs = ["sent", *(f"leg{i}" for i in range(1, stations)), "back"]
    publishers = {}
    for i, ros_type in enumerate(MESSAGE_TYPES):
        us.subscribe(f"/back/t{i}", ros_type, COMMAND, lambda data, i=i: got[f"t{i}"].append(bytes(data)))
        publishers[f"t{i}"] = us.advertise(f"/sent/t{i}", ros_type, COMMAND)
    with contextlib.ExitStack() as relays:
        for i in range(stations):
            relays.enter_context(peer(domain, f"relay{i}", "relay", legs[i], legs[i + 1], names))
        assert wait_for(lambda: len(us.topics()) == len(MESSAGE_TYPES) * (stations + 1))
        assert wait_for(lambda: us.nodes() == [*(f"/relay{i}" for i in range(stations)), "/us"])
        assert us.topics()["/back/t0"] == MESSAGE_TYPES[0]
        time.sleep(1)
        for name, messages in sent.items():
            for data in messages:
                publishers[name].publish(data)
        wait_for(lambda: sum(map(len, got.values())) == 3 * len(MESSAGE_TYPES))
    assert got == sent
    assert not [reason for reason in us.problems if "went away" not in reason]


def test_who_comes_late_gets_the_latched_messages_and_no_others(join: Open) -> None:
    early, late = join("early"), join("late")
    latched = early.advertise("/tf_static", STRING, LATCHED)
    plain = early.advertise("/chatter", STRING, RELIABLE)
    for publisher in (latched, plain):
        publisher.publish(cdr("old"))
        publisher.publish(cdr("new"))
    got: dict[str, list[bytes]] = defaultdict(list)
    for topic, qos in (("/tf_static", LATCHED), ("/chatter", RELIABLE)):
        late.subscribe(topic, STRING, qos, lambda data, topic=topic: got[topic].append(bytes(data)))
    assert wait_for(lambda: got["/tf_static"])
    time.sleep(0.3)
    assert dict(got) == {"/tf_static": [cdr("new")]}
    latched.publish(cdr("newer"))
    assert wait_for(lambda: len(got["/tf_static"]) == 2)
    assert not late.problems


def test_services_answer_fail_and_time_out_between_processes(domain: int, join: Open) -> None:
    us = join()
    with peer(domain, "server", "serve"):
        for wanted in (True, False, True):
            request = make_request("std_srvs/srv/SetBool", data=wanted)
            answer = read_response(
                "std_srvs/srv/SetBool", us.call("/invert", "std_srvs/srv/SetBool", request, timeout_s=5)
            )
            assert (answer.success, answer.message) == (not wanted, f"was {wanted}")
        trigger = make_request("std_srvs/srv/Trigger")
        for service in ("/fail", "/sleep"):
            began_s = time.monotonic()
            with pytest.raises(TimeoutError, match=service):
                us.call(service, "std_srvs/srv/Trigger", trigger, timeout_s=1)
            assert time.monotonic() - began_s < 3
        with pytest.raises(TimeoutError, match="nobody offers"):
            us.call("/nothing", "std_srvs/srv/Trigger", trigger, timeout_s=0.3)


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_foreign_type_and_an_offer_that_is_too_weak_are_named_once(join: Open, reader_first: bool) -> None:
    said: list[str] = []
    reader, writer = join("reader", say=said.append), join("writer")
    got: list[bytes] = []

    def read() -> None:
        reader.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
        reader.subscribe("/weak", STRING, LATCHED, lambda data: got.append(bytes(data)))

    if reader_first:
        read()
    publishers = [writer.advertise("/chatter", IMU, RELIABLE), writer.advertise("/weak", STRING, SENSOR)]
    if not reader_first:
        read()
    expected = {
        "/chatter: somebody publishes sensor_msgs/msg/Imu, std_msgs/msg/String is wanted",
        "/weak: subscription wants reliable, publisher offers best effort",
        "/weak: subscription wants transient local, publisher offers volatile",
    }
    assert wait_for(lambda: set(said) >= expected)
    publishers[1].publish(cdr("x"))
    time.sleep(0.3)
    assert not got
    assert sorted(said) == sorted(expected)


def test_data_that_are_not_of_the_topics_type_are_refused_and_counted(join: Open) -> None:
    us = join()
    got: list[bytes] = []
    us.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = us.advertise("/chatter", STRING, RELIABLE)
    time.sleep(0.5)
    for data in (b"", b"\x00", b"\x00\x01\x00\x00", b"\xff" * 40, cdr("truncated")[:-4]):
        publisher.publish(data)
    publisher.publish(cdr("sound"))
    assert wait_for(lambda: got)
    assert got == [cdr("sound")]
    assert sum(us.problems.values()) == 5


def test_1080p_images_come_whole_at_30_hz(domain: int, join: Open) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    data = bytes(encode(Image(stamp_ns=1, frame_id="camera", pixels=pixels, encoding="bgr8"))[1])
    us = join()
    publisher = us.advertise("/image", IMAGE_TYPE, RELIABLE)
    got: list[bool] = []
    us.subscribe("/back/t0", IMAGE_TYPE, RELIABLE, lambda d: got.append(bytes(d) == data))
    with peer(domain, "reader", "read", "/image") as process:
        time.sleep(1.5)
        for _ in range(60):
            began_s = time.monotonic()
            publisher.publish(data)
            time.sleep(max(0.0, 1 / 30 - (time.monotonic() - began_s)))
        time.sleep(1)
        told = json.loads(process.communicate("")[0])
    assert told["counts"] == {"received": 60}
    assert not us.problems


def test_a_writer_killed_in_mid_message_is_noticed_and_the_next_one_is_read(domain: int, join: Open) -> None:
    us = join()
    got: list[int] = []
    us.subscribe("/image", IMAGE_TYPE, SENSOR, lambda data: got.append(len(data)))
    with peer(domain, "doomed", "publish", "/image") as process:
        assert wait_for(lambda: us.nodes() == ["/doomed", "/us"])
        time.sleep(0.5)
        process.kill()
    other = join("other")
    publisher = other.advertise("/image", IMAGE_TYPE, SENSOR)
    image = bytes(encode(Image(stamp_ns=1, frame_id="c", pixels=np.zeros((2, 2, 3), np.uint8), encoding="bgr8"))[1])
    got.clear()

    def came() -> bool:
        publisher.publish(image)
        return len(image) in got

    assert wait_for(came)


def test_a_configuration_that_cannot_be_read_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        DdsTransport(Identity("us", domain=3), config=tmp_path / "none.xml")
    bad = tmp_path / "bad.xml"
    bad.write_text("<CycloneDDS><Domain><Nonsense/></Domain></CycloneDDS>")
    with pytest.raises(UserError, match="refuses its configuration"):
        DdsTransport(Identity("us", domain=3), config=bad)


def test_closing_twice_is_once_and_a_domain_can_be_joined_again(domain: int) -> None:
    for _ in range(3):
        transport = DdsTransport(Identity("us", domain=domain))
        transport.advertise("/chatter", STRING, RELIABLE).publish(cdr("x"))
        transport.close()
        transport.close()
