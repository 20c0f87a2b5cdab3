from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_typestore

from tercel.core.errors import UserError
from tercel.core.messages import Transforms
from tercel.hosts.play import Player
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.ros import convert
from tercel.ros.local import LocalTransport
from tercel.ros.transport import LATCHED, RELIABLE, Identity
from tests.unit.live_hosts import any_domain
from tests.unit.test_hosts_recording import cloud, imu, write_two_topics

IMU, CLOUD, CLOCK = "sensor_msgs/msg/Imu", "sensor_msgs/msg/PointCloud2", "rosgraph_msgs/msg/Clock"


class Listener:
    """Hears some topics, and when."""

    def __init__(self, domain: int, **topics: str) -> None:
        self.transport = LocalTransport(Identity("listener", domain=domain))
        self.heard: list[tuple[str, float, bytes]] = []
        for name, ros_type in topics.items():
            topic = "/" + name.replace("__", "/")
            self.transport.subscribe(
                topic, ros_type, RELIABLE, lambda data, topic=topic: self.heard.append((topic, now(), bytes(data)))
            )

    def of(self, topic: str) -> list[bytes]:
        return [data for name, _, data in self.heard if name == topic]


def now() -> float:
    return time.monotonic()


def play(path: Path, listener_topics: dict[str, str], rounds: int = 1, **options: Any) -> tuple[Listener, Player]:
    domain = any_domain()
    listener = Listener(domain, **listener_topics)
    with listener.transport, LocalTransport(Identity("player", domain=domain)) as transport:
        player = Player(open_recording(path), transport, say=lambda _line: None, **{"rate": 1000.0, **options})
        player.play(threading.Event(), rounds=rounds)
    return listener, player


def test_the_bytes_are_those_of_the_recording_in_its_order(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=20)
    listener, player = play(tmp_path / "r.mcap", {"imu": IMU, "cloud": CLOUD})
    recording = open_recording(tmp_path / "r.mcap")
    expected = [(r.topic, bytes(r.raw)) for r in recording.messages(["/imu", "/cloud"])]
    assert [(topic, data) for topic, _, data in listener.heard] == expected
    assert player.account.sent == {"/imu": 20, "/cloud": 20}
    assert player.summary()["rejected"] == {}


def test_messages_leave_at_their_log_times_divided_by_the_rate(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for i in range(6):
            writer.write("/imu", 10**9 + i * 10**8, imu(i + 1))
    listener, player = play(tmp_path / "r.mcap", {"imu": IMU}, rate=2.0)
    times_s = np.array([at for _, at, _ in listener.heard])
    np.testing.assert_allclose(times_s - times_s[0], np.arange(6) * 0.05, atol=0.03)
    assert (np.diff(times_s) > 0.02).all()
    assert 0.0 <= player.summary()["late_ms"]["p50"] < 30.0
    assert player.now_ns() == 10**9 + 5 * 10**8


def test_topics_can_be_chosen_remapped_and_put_under_a_namespace(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=5)
    topics = {"robot__front": IMU, "robot__cloud": CLOUD, "imu": IMU}
    listener, _ = play(
        tmp_path / "r.mcap", topics, topics=["/imu"], remap={"/imu": "/front"}, namespace="/robot"
    )  # fmt: skip
    assert [len(listener.of(topic)) for topic in ("/robot/front", "/robot/cloud", "/imu")] == [5, 0, 0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"topics": ["/imo"]}, "has no topic /imo; did you mean '/imu'"),
        ({"remap": {"/imo": "/x"}}, "has no topic /imo"),
        ({"rate": 0.0}, "rate 0: 0.01 to 1000"),
        ({"rate": float("nan")}, "rate nan"),
    ],
)
def test_what_cannot_be_played_is_the_users_mistake(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    write_two_topics(tmp_path / "r.mcap", count=2)
    with pytest.raises(UserError, match=words):
        play(tmp_path / "r.mcap", {}, **options)


def test_a_clock_ticks_between_the_messages_and_begins_again_with_the_recording(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for i in range(3):
            writer.write("/imu", 10**9 + i * 10**8, imu(i + 1))
    listener, player = play(tmp_path / "r.mcap", {"imu": IMU, "clock": CLOCK}, rate=4.0, clock=True, rounds=2)
    messages: list[Any] = [convert.STORE.deserialize_cdr(data, CLOCK) for data in listener.of("/clock")]
    times_ns = [m.clock.sec * 10**9 + m.clock.nanosec for m in messages]
    assert times_ns == [10**9, 1_040_000_000, 1_080_000_000, 1_120_000_000, 1_160_000_000, 1_200_000_000] * 2
    assert [topic for topic, _, _ in listener.heard[:3]] == ["/clock", "/imu", "/clock"]
    assert player.account.rounds == 2
    assert len(listener.of("/imu")) == 6


def test_an_interrupt_ends_the_playing_at_once(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        writer.write("/imu", 10**9, imu(1))
        writer.write("/imu", 1000 * 10**9, imu(2))
    domain, stop = any_domain(), threading.Event()
    with LocalTransport(Identity("player", domain=domain)) as transport:
        player = Player(open_recording(tmp_path / "r.mcap"), transport)
        threading.Timer(0.1, stop.set).start()
        began_s = now()
        player.play(stop, rounds=None)
    assert now() - began_s < 5.0
    assert player.account.sent == {"/imu": 1}
    assert player.account.rounds == 0
    assert 10**9 < player.now_ns() < 6 * 10**9


def test_latched_transforms_are_latched_and_all_of_them(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for i, child in enumerate(("camera", "lidar")):
            static = Transforms(
                stamp_ns=1, frame_id="", parents=("base",), children=(child,), parent_T_child=np.eye(4)[None]
            )
            writer.write("/tf_static", 10**9 + i, static)
    domain, heard = any_domain(), list[bytes]()
    with (
        LocalTransport(Identity("player", domain=domain)) as transport,
        LocalTransport(Identity("late", domain=domain)) as late,
    ):
        Player(open_recording(tmp_path / "r.mcap"), transport, namespace="/r").play(threading.Event())
        late.subscribe("/tf_static", "tf2_msgs/msg/TFMessage", LATCHED, lambda data: heard.append(bytes(data)))
    assert [convert.decode("tf2_msgs/msg/TFMessage", data).children for data in heard] == [("camera",), ("lidar",)]  # type: ignore[attr-defined]


def test_a_ros_1_bag_is_converted(tmp_path: Path) -> None:
    """What arrives is what ROS 2 would have written of the same message, header sequence aside."""
    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(tmp_path / "r.bag") as writer:
        connection = writer.add_connection("/imu", IMU, typestore=store)
        _, ours = convert.to_ros(imu(5 * 10**9 + 7, 2.0))
        types = store.types
        header = types["std_msgs/msg/Header"](
            seq=9, stamp=types["builtin_interfaces/msg/Time"](sec=5, nanosec=7), frame_id="imu"
        )
        names = [
            "orientation", "orientation_covariance", "angular_velocity", "angular_velocity_covariance",
            "linear_acceleration", "linear_acceleration_covariance",
        ]  # fmt: skip
        message = types[IMU](header, *(getattr(ours, name) for name in names))
        writer.write(connection, 10**9, store.serialize_ros1(message, IMU))
    listener, _ = play(tmp_path / "r.bag", {"imu": IMU})
    assert listener.of("/imu") == [bytes(convert.encode(imu(5 * 10**9 + 7, 2.0))[1])]


@pytest.mark.parametrize("name", ["robot_localization_test1.bag", "nav2_turtlebot.mcap", "tf_example_rosbag2"])
def test_bags_of_others_are_played_whole_and_as_they_decode(shared_data: Path, name: str) -> None:
    recording = open_recording(shared_data / "bags" / name)
    domain = any_domain()
    heard: dict[str, list[bytes]] = {}
    with (
        LocalTransport(Identity("player", domain=domain)) as transport,
        LocalTransport(Identity("peer", domain=domain)) as peer,
    ):
        for topic in recording.topics.values():
            rows = heard.setdefault(topic.name, [])
            peer.subscribe(topic.name, topic.ros_type, RELIABLE, lambda data, rows=rows: rows.append(bytes(data)))
        player = Player(recording, transport, rate=1000.0, say=lambda _line: None)
        account = player.play(threading.Event())
    readable = [topic for topic in recording.topics.values() if topic.message_type and topic.count]
    assert readable
    assert not account.rejected
    for topic in recording.topics.values():
        assert account.sent[topic.name] == len(heard[topic.name]) == topic.count
    for topic in readable:
        for recorded, data in zip(recording.messages([topic.name]), heard[topic.name], strict=True):
            ours, theirs = recording.decode(recorded), convert.decode(topic.ros_type, data)
            assert (ours.stamp_ns, ours.frame_id) == (theirs.stamp_ns, theirs.frame_id)
            assert bytes(convert.encode(ours)[1]) == bytes(convert.encode(theirs)[1])


def test_a_type_that_the_wire_does_not_know_is_left_out_and_said(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=3)

    class Narrow(LocalTransport):
        def advertise(self, topic: str, ros_type: str, qos: Any) -> Any:
            if ros_type == CLOUD:
                raise UserError("no such type here")
            return super().advertise(topic, ros_type, qos)

    said: list[str] = []
    with Narrow(Identity("player", domain=any_domain())) as transport:
        account = Player(open_recording(tmp_path / "r.mcap"), transport, rate=1000.0, say=said.append).play(
            threading.Event()
        )
    assert said == [f"/cloud is left out: {CLOUD}: no such type here"]
    assert account.sent == {"/imu": 3}


def test_a_message_that_cannot_be_converted_is_counted_and_the_rest_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tercel.core.errors import Rejected

    write_two_topics(tmp_path / "r.mcap", count=4)
    recording = open_recording(tmp_path / "r.mcap")

    def cdr(recorded: Any) -> Any:
        if recorded.topic == "/cloud":
            raise Rejected("message does not convert from ROS 1")
        return recorded.raw

    monkeypatch.setattr(recording, "cdr", cdr)
    with LocalTransport(Identity("player", domain=any_domain())) as transport:
        account = Player(recording, transport, rate=1000.0).play(threading.Event())
    assert account.sent == {"/imu": 4}
    assert account.rejected == {"/cloud: message does not convert from ROS 1": 4}


def test_an_empty_recording_has_nothing_to_play(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        writer.write("/cloud", 1, cloud(1, 2))

    class Deaf(LocalTransport):
        def advertise(self, topic: str, ros_type: str, qos: Any) -> Any:
            raise UserError("no")

    with Deaf(Identity("player", domain=any_domain())) as transport:
        recording = open_recording(tmp_path / "r.mcap")
        with pytest.raises(UserError, match="r.mcap has no messages to play"):
            Player(recording, transport, say=lambda _line: None)


def test_a_name_that_is_none_is_left_out_and_said(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=3)
    said: list[str] = []
    with LocalTransport(Identity("player", domain=any_domain())) as transport:
        player = Player(
            open_recording(tmp_path / "r.mcap"), transport, rate=1000.0, remap={"/imu": "imu*"}, say=said.append
        )
        player.play(threading.Event())
    assert set(player.account.sent) == {"/cloud"}
    assert len(said) == 1
    assert "'/imu*' is no topic" in said[0]
