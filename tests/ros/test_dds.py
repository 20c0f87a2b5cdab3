"""Our DDS transport against rclpy on rmw_cyclonedds: two releases of Cyclone DDS, and ROS's own serialisation."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")

import rclpy
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from std_srvs.srv import SetBool

if rclpy.get_rmw_implementation_identifier() != "rmw_cyclonedds_cpp":
    pytest.skip("ROS runs on another rmw: set RMW_IMPLEMENTATION=rmw_cyclonedds_cpp", allow_module_level=True)

from tercel.core.messages import Image
from tercel.ros.convert import encode
from tercel.ros.dds import DdsTransport
from tercel.ros.node_transport import ros_class
from tercel.ros.service_types import make_request, make_response, read_request, read_response
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, Identity
from tests.ros.peers import Peer, eventually
from tests.scenarios.ros_random import random_cdr

TEXT, SET_BOOL = "std_msgs/msg/String", "std_srvs/srv/SetBool"
IMAGE, DETECTIONS = "sensor_msgs/msg/Image", "vision_msgs/msg/Detection2DArray"
KEEP_ALL = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0)
LATCHED_IN_ROS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MANY = 5000


@pytest.fixture
def transport(on_loopback: int) -> Iterator[DdsTransport]:
    with DdsTransport(Identity("ours", "/robot1", on_loopback, os.environ["ROS_DISTRO"])) as opened:
        yield opened
        assert not opened.problems.keys() - {reason for reason in opened.problems if "went away" in reason}


def text(data: str) -> bytes:
    return bytes(serialize_message(ros_class(TEXT)(data=data)))


def image_1080p() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    return bytes(encode(Image(stamp_ns=1, frame_id="camera", pixels=pixels, encoding="bgr8"))[1])


def samples(ros_type: str) -> list[bytes]:
    rng = random.Random(ros_type)  # noqa: S311
    return [image_1080p()] * 3 if ros_type == IMAGE else [random_cdr(ros_type, rng) for _ in range(10)]


def unfilled(data: bytes, sent: bytes) -> bytes:
    """Without what rmw_cyclonedds 2.2 fills up to four bytes: unlike DDS-XTypes, its header does not say how many."""
    return data[: len(sent)] if len(data) == len(sent) + -len(sent) % 4 and not any(data[len(sent) :]) else data


def test_each_sees_the_others_node_and_topics(peer: Peer, transport: DdsTransport) -> None:
    peer.advertise("/theirs", ros_class(TEXT))
    transport.advertise("/robot1/ours", TEXT, RELIABLE)
    transport.subscribe("/read", DETECTIONS, RELIABLE, lambda _data: None)
    eventually(lambda: {"/peer", "/robot1/ours"} <= set(transport.nodes()), "both nodes")
    eventually(lambda: transport.topics().get("/theirs") == TEXT, "their topic")
    node = peer.node
    eventually(lambda: ("ours", "/robot1") in node.get_node_names_and_namespaces(), "our node in ROS")
    written, read = node.get_publisher_names_and_types_by_node, node.get_subscriber_names_and_types_by_node
    eventually(lambda: written("ours", "/robot1") == [("/robot1/ours", [TEXT])], "what our node writes, in ROS")
    eventually(lambda: read("ours", "/robot1") == [("/read", [DETECTIONS])], "what our node reads, in ROS")
    (publisher,) = node.get_publishers_info_by_topic("/robot1/ours")
    (subscription,) = node.get_subscriptions_info_by_topic("/read")
    mine = node.get_publishers_info_by_topic("/theirs")[0]
    assert publisher.node_name == subscription.node_name == "ours"
    if os.environ["ROS_DISTRO"] != "humble":  # which has none
        assert str(publisher.topic_type_hash) == str(mine.topic_type_hash)  # ROS computed it when it built std_msgs
    transport.close()
    eventually(lambda: "ours" not in node.get_node_names(), "our node is gone")


@pytest.mark.parametrize("ros_type", [TEXT, IMAGE, DETECTIONS])
def test_ros_reads_what_we_send_byte_by_byte(ros_type: str, peer: Peer, transport: DdsTransport) -> None:
    heard, sent = peer.listen("/data", ros_class(ros_type)), samples(ros_type)
    publisher = transport.advertise("/data", ros_type, RELIABLE)
    eventually(lambda: publisher._writer.get_matched_subscriptions(), "the peer listens")
    peer.wait_for_publisher("/data")
    for data in sent:
        publisher.publish(data)
    eventually(lambda: len(heard) == len(sent), "all messages")
    assert [bytes(serialize_message(message)) for message in heard] == sent


@pytest.mark.parametrize("ros_type", [TEXT, IMAGE, DETECTIONS])
def test_we_read_what_ros_sends_byte_by_byte(ros_type: str, peer: Peer, transport: DdsTransport) -> None:
    got: list[bytes] = []
    sent = samples(ros_type)
    transport.subscribe("/data", ros_type, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = peer.advertise("/data", ros_class(ros_type), qos=10)
    peer.wait_for_subscriber(publisher)
    for data in sent:
        publisher.publish(deserialize_message(data, ros_class(ros_type)))
    eventually(lambda: len(got) == len(sent), "all messages")
    assert list(map(unfilled, got, sent)) == sent


def test_who_comes_late_gets_what_is_latched_in_both_directions(peer: Peer, transport: DdsTransport) -> None:
    publisher = transport.advertise("/ours", TEXT, LATCHED)
    for word in ("old", "kept"):
        publisher.publish(text(word))
    theirs = peer.advertise("/theirs", ros_class(TEXT), qos=LATCHED_IN_ROS)
    for word in ("old", "kept"):
        theirs.publish(ros_class(TEXT)(data=word))
    heard: list[Any] = []
    got: list[bytes] = []
    peer.node.create_subscription(ros_class(TEXT), "/ours", heard.append, LATCHED_IN_ROS)
    transport.subscribe("/theirs", TEXT, LATCHED, lambda data: got.append(bytes(data)))
    eventually(lambda: heard and got, "both latched messages")
    time.sleep(0.3)
    assert [message.data for message in heard] == ["kept"]
    assert list(map(unfilled, got, [text("kept")])) == [text("kept")]


def test_nothing_is_lost_on_topics_that_keep_all_through_a_process_of_ros(
    on_loopback: int, transport: DdsTransport
) -> None:
    """Far more than a queue holds. A process of its own: rclpy holds Python's lock while its writer waits for us."""
    got: list[bytes] = []

    def slow(data: Any) -> None:
        got.append(bytes(data))
        if len(got) % 2000 == 1:
            time.sleep(0.3)

    transport.subscribe("/back", TEXT, COMMAND, slow)
    publisher = transport.advertise("/sent", TEXT, COMMAND)
    with relay(on_loopback):
        eventually(lambda: publisher._writer.get_matched_subscriptions(), "the relay listens")
        eventually(lambda: "/back" in transport.topics() and "/relay" in transport.nodes(), "the relay speaks")
        time.sleep(0.5)  # the relay's ends know ours a moment later
        sent = [text(f"{number:07}" * (1 + number % 50)) for number in range(MANY)]
        for data in sent:
            publisher.publish(data)
        with contextlib.suppress(AssertionError):
            eventually(lambda: len(got) >= MANY, "all commands")
    assert len(got) == MANY
    assert list(map(unfilled, got, sent)) == sent


def test_ros_calls_a_service_of_ours_and_we_one_of_ros(peer: Peer, transport: DdsTransport) -> None:
    def ours(request: Any) -> bytes:
        on = read_request(SET_BOOL, request).data
        return make_response(SET_BOOL, success=on, message=f"ours {on}")

    def theirs(request: Any, response: Any) -> Any:
        response.success, response.message = request.data, f"theirs {request.data}"
        return response

    transport.serve("/robot1/ours", SET_BOOL, ours)
    client = peer.node.create_client(SetBool, "/robot1/ours", qos_profile=QoSProfile(depth=100))
    eventually(client.service_is_ready, "our service")
    futures = [
        client.call_async(SetBool.Request(data=number % 2 == 0)) for number in range(100)
    ]  # a burst: none is lost
    eventually(lambda: all(future.done() for future in futures), "our answers")
    answers = [(future.result().success, future.result().message) for future in futures]
    assert answers == [(True, "ours True"), (False, "ours False")] * 50

    peer.node.create_service(SetBool, "/theirs", theirs)
    for on in (True, False):
        request = make_request(SET_BOOL, data=on)
        response = read_response(SET_BOOL, transport.call("/theirs", SET_BOOL, request, timeout_s=10))
        assert (response.success, response.message) == (on, f"theirs {on}")


def test_a_service_of_ros_that_does_not_answer_is_a_timeout_and_its_late_answer_goes_nowhere(
    peer: Peer, transport: DdsTransport
) -> None:
    released = threading.Event()

    def slow(request: Any, response: Any) -> Any:
        if request.data:
            released.wait(10.0)
        response.message = "late" if request.data else "in time"
        return response

    peer.node.create_service(SetBool, "/slow", slow)
    try:
        with pytest.raises(TimeoutError, match="/slow: no answer"):
            transport.call("/slow", SET_BOOL, make_request(SET_BOOL, data=True), timeout_s=2.0)
    finally:
        released.set()
    answer = transport.call("/slow", SET_BOOL, make_request(SET_BOOL, data=False), timeout_s=10.0)
    assert read_response(SET_BOOL, answer).message == "in time"


# --- a process of ROS ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def relay(domain: int) -> Iterator[None]:
    """A node of rclpy in its own process that sends again under /back what comes under /sent."""
    words = [sys.executable, "-m", "tests.ros.test_dds", str(domain)]
    process = subprocess.Popen(words, cwd=Path(__file__).resolve().parents[2])
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def main(domain: int) -> None:
    """The relay."""
    rclpy.init(args=[], domain_id=domain)
    node, kind = rclpy.create_node("relay"), ros_class(TEXT)
    publisher = node.create_publisher(kind, "/back", KEEP_ALL)
    node.create_subscription(kind, "/sent", publisher.publish, KEEP_ALL)
    rclpy.spin(node)


if __name__ == "__main__":
    main(int(sys.argv[1]))
