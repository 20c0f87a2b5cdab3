"""rclpy as a transport: what a host and `tercel play` ask of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import rclpy
from example_interfaces.srv import AddTwoInts
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tercel.core.errors import UserError
from tercel.ros.node_transport import RclpyTransport, ros_class
from tercel.ros.service_types import make_request, make_response, read_response
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, Identity, open_transport
from tests.ros.peers import Peer, eventually

TEXT = "std_msgs/msg/String"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def transport(on_loopback: int, said: list[str]) -> Iterator[RclpyTransport]:
    with open_transport("ros2", Identity("ours", "/robot1", on_loopback), say=said.append) as opened:
        assert isinstance(opened, RclpyTransport)
        yield opened


def test_bytes_go_out_as_ros_itself_writes_them(peer: Peer, transport: RclpyTransport) -> None:
    heard = peer.listen("/robot1/text", String)
    publisher = transport.advertise("/robot1/text", TEXT, RELIABLE)
    eventually(lambda: publisher._publisher.get_subscription_count(), "the peer listens")
    message = serialize_message(String(data="grüß"))
    for data in (message, bytearray(message), memoryview(message)):
        publisher.publish(data)
    eventually(lambda: len(heard) == 3, "three messages")
    assert [m.data for m in heard] == ["grüß"] * 3


def test_bytes_come_in_as_they_were_sent(peer: Peer, transport: RclpyTransport) -> None:
    got: list[bytes] = []
    end = transport.subscribe("/image", "sensor_msgs/msg/Image", SENSOR, lambda data: got.append(bytes(data)))
    publisher = peer.advertise("/image", Image)
    peer.wait_for_subscriber(publisher)
    image = Image(height=2, width=3, encoding="mono8", step=3, data=bytes(range(6)))
    publisher.publish(image)
    eventually(lambda: got, "an image")
    assert deserialize_message(got[0], Image) == image
    end()
    publisher.publish(image)
    eventually(lambda: publisher.get_subscription_count() == 0, "nobody listens any more")
    assert len(got) == 1


def test_who_comes_late_gets_what_is_latched(peer: Peer, transport: RclpyTransport) -> None:
    transport.advertise("/latched", TEXT, LATCHED).publish(serialize_message(String(data="kept")))
    heard: list[Any] = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(String, "/latched", heard.append, qos)
    eventually(lambda: heard, "the latched message")
    assert heard[0].data == "kept"
    got: list[bytes] = []
    transport.subscribe("/latched", TEXT, LATCHED, lambda data: got.append(bytes(data)))
    eventually(lambda: got, "the latched message, of ourselves")


def test_nothing_is_lost_on_a_topic_that_keeps_all(peer: Peer, transport: RclpyTransport) -> None:
    got: list[bytes] = []
    transport.subscribe("/commands", TEXT, COMMAND, lambda data: got.append(bytes(data)))
    publisher = peer.advertise("/commands", String, qos=QoSProfile(depth=1000))
    peer.wait_for_subscriber(publisher)
    for number in range(500):
        publisher.publish(String(data=str(number)))
    eventually(lambda: len(got) == 500, "all commands")
    assert [deserialize_message(data, String).data for data in got] == [str(n) for n in range(500)]


def test_a_service_of_ours_is_called_by_ros_and_one_of_ros_by_us(peer: Peer, transport: RclpyTransport) -> None:
    transport.serve(
        "/robot1/ours", "std_srvs/srv/Trigger",
        lambda _request: make_response("std_srvs/srv/Trigger", success=True, message="done"),
    )  # fmt: skip
    answer = peer.trigger("/robot1/ours")
    assert (answer.success, answer.message) == (True, "done")

    def theirs(_request: Any, response: Any) -> Any:
        response.success, response.message = True, "theirs"
        return response

    peer.node.create_service(Trigger, "/theirs", theirs)
    request = make_request("std_srvs/srv/Trigger")
    response = read_response(
        "std_srvs/srv/Trigger", transport.call("/theirs", "std_srvs/srv/Trigger", request, timeout_s=10)
    )
    assert (response.success, response.message) == (True, "theirs")


def test_a_service_that_is_not_there_or_does_not_answer_is_a_timeout(peer: Peer, transport: RclpyTransport) -> None:
    request = make_request("std_srvs/srv/Trigger")
    with pytest.raises(TimeoutError, match="nobody answers"):
        transport.call("/nowhere", "std_srvs/srv/Trigger", request, timeout_s=0.3)
    released = threading.Event()

    def slow(_request: Any, response: Any) -> Any:
        released.wait(10.0)
        return response

    peer.node.create_service(Trigger, "/slow", slow)
    eventually(lambda: "/slow" in dict(peer.node.get_service_names_and_types()), "the service")
    try:
        with pytest.raises(TimeoutError, match="/slow"):
            transport.call("/slow", "std_srvs/srv/Trigger", request, timeout_s=1.0)
    finally:
        released.set()


def test_a_slow_service_of_ours_holds_up_no_data(peer: Peer, transport: RclpyTransport) -> None:
    got: list[bytes] = []
    released = threading.Event()

    def answer(_request: Any) -> bytes:
        released.wait(10.0)
        return bytes(make_response("std_srvs/srv/Trigger", success=True))

    transport.serve("/robot1/slow", "std_srvs/srv/Trigger", answer)
    transport.subscribe("/text", TEXT, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = peer.advertise("/text", String, qos=10)
    peer.wait_for_subscriber(publisher)
    client = peer.node.create_client(Trigger, "/robot1/slow")
    eventually(client.service_is_ready, "the service")
    future = client.call_async(Trigger.Request())
    try:
        publisher.publish(String(data="meanwhile"))
        eventually(lambda: got, "data while a service is at work", 5.0)
        assert not future.done()
    finally:
        released.set()
    eventually(future.done, "the answer")


def test_topics_and_nodes_are_those_of_the_graph(peer: Peer, transport: RclpyTransport) -> None:
    peer.advertise("/theirs", String)
    transport.advertise("/robot1/ours", TEXT, RELIABLE)
    transport.subscribe("/only_read", TEXT, RELIABLE, lambda _data: None)
    eventually(lambda: {"/theirs", "/robot1/ours"} <= set(transport.topics()), "both topics")
    assert transport.topics()["/theirs"] == TEXT
    assert "/only_read" not in transport.topics()
    eventually(lambda: {"/peer", "/robot1/ours"} <= set(transport.nodes()), "both nodes")


def test_a_publisher_whose_quality_does_not_fit_is_told_by_name(
    peer: Peer, transport: RclpyTransport, said: list[str]
) -> None:
    transport.subscribe("/commands", TEXT, COMMAND, lambda _data: None)
    peer.advertise("/commands", String)  # best effort: what keeps all cannot have it
    eventually(lambda: any("/commands" in reason for reason in transport.problems), "the problem")
    assert sum("/commands" in line for line in said) == 1


def test_a_type_that_ros_does_not_have_is_named_with_the_package_that_has_it(
    transport: RclpyTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    with pytest.raises(UserError, match="sudo apt-get install ros-humble-nobody-s-msgs"):
        transport.advertise("/x", "nobody_s_msgs/msg/Thing", RELIABLE)
    with pytest.raises(UserError, match="no ROS 2 type"):
        transport.advertise("/x", "os/system", RELIABLE)
    assert ros_class("example_interfaces/srv/AddTwoInts") is AddTwoInts


def test_closing_takes_everything_back_and_publishing_after_it_does_no_harm(peer: Peer, on_loopback: int) -> None:
    transport = open_transport("ros2", Identity("ours", domain=on_loopback))
    publisher = transport.advertise("/text", TEXT, RELIABLE)
    eventually(lambda: "ours" in peer.node.get_node_names(), "our node")
    transport.close()
    transport.close()
    publisher.publish(serialize_message(String(data="late")))
    eventually(lambda: "ours" not in peer.node.get_node_names(), "our node is gone")
    assert peer.node.count_publishers("/text") == 0


def test_a_configuration_file_is_refused_with_the_way_ros_is_configured(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="RMW_IMPLEMENTATION"):
        open_transport("ros2", Identity("ours", domain=1), config=tmp_path / "zenoh.json5")


def test_a_topic_has_the_type_that_is_published_not_the_one_that_we_listen_for(
    peer: Peer, transport: RclpyTransport
) -> None:
    transport.subscribe("/wrong", "sensor_msgs/msg/Image", SENSOR, lambda _data: None)
    peer.advertise("/wrong", String)
    eventually(lambda: transport.topics().get("/wrong"), "the peer's topic")
    assert transport.topics()["/wrong"] == TEXT


def test_the_type_of_a_remapped_topic_is_known_under_the_graphs_name_too(peer: Peer, on_loopback: int) -> None:
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "-r", "/wanted:=/wrong"], context=context, domain_id=on_loopback)
    node = rclpy.create_node("remapped", context=context)
    try:
        transport = RclpyTransport(node)
        transport.subscribe("/wanted", "sensor_msgs/msg/Image", SENSOR, lambda _data: None)
        peer.advertise("/wrong", String)
        eventually(lambda: transport.topics().get("/wanted"), "the peer's topic")
        assert transport.topics()["/wanted"] == TEXT
        transport.close()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
