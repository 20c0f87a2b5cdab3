"""`tercel view` with a viewer that speaks foxglove.sdk.v1: in this process, and over the wire as one of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from tercel.cli_view import add_view
from tercel.core.errors import UserError
from tercel.hosts.recording import RecordingWriter
from tercel.report import view_door, view_feed
from tercel.report.dashboard_topics import MAX_TOPICS
from tercel.report.view_account import summarize
from tercel.report.view_door import MAX_VIEWERS, Door
from tercel.report.view_feed import ViewFeed
from tercel.ros.convert import STORE
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE
from tercel.ros.local import LocalTransport
from tercel.ros.transport import LATCHED, RELIABLE, SENSOR, Identity, open_transport
from tests.scenarios import dashboard_robot as robot
from tests.scenarios.dashboard_serving import CLOSED, OPEN, TOKEN, until
from tests.scenarios.foxglove_viewer import NotLetIn, Viewer

WALL_NS = robot.WALL_NS


class Wire(LocalTransport):
    """A local transport that tells who reads what now."""

    def __init__(self, domain: int) -> None:
        super().__init__(Identity("watched", domain=domain))
        self.read: list[str] = []

    def subscribe(self, topic: str, ros_type: str, qos: Any, on_data: Any) -> Callable[[], None]:
        end = super().subscribe(topic, ros_type, qos, on_data)
        self.read.append(topic)

        def ended() -> None:
            self.read.remove(topic)
            end()

        return ended


@dataclass
class Setting:
    """A robot, a feed that watches it, and a door."""

    robot: LocalTransport
    wire: Wire
    feed: ViewFeed
    door: Door
    said: list[str] = field(default_factory=list)
    wall_ns: int = WALL_NS

    def publish(self, step: int = 3) -> dict[str, bytes]:
        """One step of the made-up drive, and its bytes by topic."""
        sent = {}
        for topic, ros_type, data in robot.drive(step, WALL_NS + step * 100 * robot.MS):
            self._publishers.setdefault(
                topic, self.robot.advertise(topic, ros_type, LATCHED if topic == "/tf_static" else RELIABLE)
            ).publish(data)
            sent[topic] = data
        return sent

    def __post_init__(self) -> None:
        self._publishers: dict[str, Any] = {}


@contextlib.contextmanager
def setting(access: Any = OPEN, tls: ssl.SSLContext | None = None) -> Iterator[Setting]:
    domain = random.SystemRandom().randrange(1, 233)
    said: list[str] = []
    with contextlib.ExitStack() as stack:
        publisher = stack.enter_context(LocalTransport(Identity("robot", domain=domain)))
        wire = Wire(domain)
        stack.callback(wire.close)
        feed = ViewFeed(wire, "a test", wall_ns=lambda: made.wall_ns, say=said.append)
        door = stack.enter_context(Door("127.0.0.1", 0, access, feed.server, tls))
        made = Setting(publisher, wire, feed, door, said)
        stack.enter_context(feed)
        yield made


@pytest.fixture
def made() -> Iterator[Setting]:
    with setting() as one:
        yield one


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_every_topic_comes_with_its_schema_and_its_very_bytes(made: Setting) -> None:
    made.publish()
    with Viewer(made.door.port) as viewer:
        names = ["/camera/image", "/lidar/points", "/odometry", "/tracks_2d", "/tracks_3d"]
        viewer.look(*names)
        for name in names:
            channel = viewer.channels[name]
            assert channel["encoding"] == "cdr"
            assert channel["schemaEncoding"] == "ros2msg"
            assert channel["schema"] == STORE.generate_msgdef(channel["schemaName"], ros_version=2)[0]
        assert viewer.channels["/camera/image"]["schemaName"] == "sensor_msgs/msg/Image"
        until(lambda: sorted(made.wire.read) == names)
        sent = made.publish(4)
        viewer.until(lambda: len(viewer.messages) == len(names))
        for name in names:
            assert viewer.of(name) == [sent[name]]
        assert {at for _, at, _ in viewer.messages} == {WALL_NS}
        assert viewer.times_ns == [WALL_NS], "the clock is told once, before the messages of its time"


def test_boxes_cubes_and_numbers_are_drawn_for_who_asks_for_them(made: Setting) -> None:
    made.publish()
    diagnostics = made.robot.advertise("/diagnostics", DIAGNOSTICS_TYPE, RELIABLE)
    with Viewer(made.door.port) as viewer:
        viewer.look("/tracks_2d/_boxes", "/tracks_3d/_scene", "/diagnostics/_numbers")
        until(lambda: len(made.wire.read) == 3)
        made.publish()
        diagnostics.publish(robot.diagnostics([robot.component("detector", "CameraDetector", 10.0)]))
        viewer.until(lambda: len(viewer.messages) == 3)
        assert viewer.channels["/tracks_2d/_boxes"]["schemaName"] == "foxglove.ImageAnnotations"
        assert viewer.channels["/tracks_3d/_scene"]["schemaName"] == "foxglove.SceneUpdate"
        assert b"car" in viewer.of("/tracks_2d/_boxes")[0]
        assert b"track 3" in viewer.of("/tracks_3d/_scene")[0]
        numbers = json.loads(viewer.of("/diagnostics/_numbers")[0])
        assert numbers["robot"]["detector"]["latency_ms"]["p50"] == 12.5
        assert viewer.of("/tracks_2d") == [], "nobody asked for the raw ones"


def test_the_wire_is_read_only_while_somebody_looks(made: Setting) -> None:
    made.publish()
    with Viewer(made.door.port) as viewer, Viewer(made.door.port) as other:
        viewer.until(lambda: "/odometry" in viewer.channels)
        assert made.wire.read == []
        viewer.look("/odometry", "/tracks_2d", "/tracks_2d/_boxes")
        other.look("/odometry")
        until(lambda: sorted(made.wire.read) == ["/odometry", "/tracks_2d"])
        viewer.look_away("/odometry", "/tracks_2d")
        time.sleep(0.2)
        assert sorted(made.wire.read) == ["/odometry", "/tracks_2d"], "one looks still, and one at the drawing"
        viewer.look_away("/tracks_2d/_boxes")
        until(lambda: made.wire.read == ["/odometry"])
        other.close()
        until(lambda: made.wire.read == [])
        until(lambda: made.door.ended == {"it left": 1})


def test_who_comes_late_gets_the_latched_frames_too(made: Setting) -> None:
    sent = made.publish()
    with Viewer(made.door.port) as viewer, Viewer(made.door.port) as late:
        for one in (viewer, late):
            one.look("/tf_static")
            one.until(lambda one=one: one.of("/tf_static"))
            assert one.of("/tf_static")[0] == sent["/tf_static"]


def test_topics_come_and_go_and_change_their_type(made: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_feed, "_GONE_S", 0.2)
    with Viewer(made.door.port) as viewer:
        with LocalTransport(Identity("guest", domain=made.wire.identity.domain)) as guest:
            guest.advertise("/late", "sensor_msgs/msg/Imu", SENSOR)
            guest.advertise("/camera/_hidden", "sensor_msgs/msg/Image", SENSOR)
            viewer.look("/late")
            assert "/camera/_hidden" not in viewer.channels
        viewer.until(lambda: "/late" not in viewer.channels)
        until(lambda: made.wire.read == [])
        made.robot.advertise("/late", "nav_msgs/msg/Odometry", SENSOR)
        viewer.until(lambda: viewer.channels.get("/late", {}).get("schemaName") == "nav_msgs/msg/Odometry")


def test_many_topics_at_once_reach_who_looks_already_and_too_many_are_counted(made: Setting) -> None:
    with Viewer(made.door.port) as viewer:
        viewer.until(lambda: viewer.others)
        for number in range(MAX_TOPICS + 20):
            made.robot.advertise(f"/many_{number}", "vision_msgs/msg/Detection3DArray", SENSOR)
        viewer.until(lambda: len(viewer.channels) == 2 * MAX_TOPICS)
        until(lambda: made.feed.left_out == 20)
        assert not viewer.is_closed


def test_time_is_that_of_the_clock_topic_where_there_is_one(made: Setting) -> None:
    made.publish()
    clock = made.robot.advertise("/clock", "rosgraph_msgs/msg/Clock", RELIABLE)
    with Viewer(made.door.port) as viewer:
        viewer.look("/odometry")
        until(lambda: sorted(made.wire.read) == ["/clock", "/odometry"])
        clock.publish(struct.pack("<4BiI", 0, 1, 0, 0, 77, 5))
        made.publish()
        viewer.until(lambda: viewer.messages)
        assert viewer.times_ns == [viewer.messages[0][1]] == [77 * robot.S + 5]


# --- what cannot be done, and who cannot come in ---------------------------------------------------------------------


def test_a_viewer_can_change_nothing(made: Setting) -> None:
    made.publish()
    before = made.wire.topics()
    with Viewer(made.door.port) as viewer:
        viewer.until(lambda: viewer.others)
        info = viewer.others.pop()
        assert info["op"] == "serverInfo"
        assert info["capabilities"] == ["time"]
        channel = {"id": 1, "topic": "/cmd_vel", "encoding": "cdr", "schemaName": "geometry_msgs/msg/Twist"}
        attempts: list[dict[str, Any]] = [
            {"op": "advertise", "channels": [channel]},
            {"op": "setParameters", "parameters": [{"name": "a", "value": 1}], "id": "x"},
            {"op": "getParameters", "parameterNames": [], "id": "y"},
        ]
        for attempt in attempts:
            viewer.say(attempt)
            viewer.until(lambda: viewer.others)
            assert viewer.others.pop()["level"] == 2, attempt
        viewer.send(2, struct.pack("<BI", 1, 1) + b"\0\1\0\0data")  # a message of the channel that was refused
        viewer.send(2, struct.pack("<BIII", 2, 1, 1, 4) + b"json{}")  # a service call
        viewer.until(lambda: len(viewer.others) == 2)
        assert made.wire.topics() == before
        assert made.wire.nodes() == ["/robot", "/watched"]
        viewer.look("/odometry")  # and it still may look
        until(lambda: made.wire.read == ["/odometry"])


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/?token=another-token-of-some-length", {}),
        ("/?token=", {}),
        ("/?token=%ff%fe", {}),
        ("/", {"Authorization": "Bearer nothing"}),
        ("/", {"Origin": "https://app.foxglove.dev"}),
    ],
)
def test_without_the_token_nobody_comes_in(path: str, headers: dict[str, str]) -> None:
    with setting(CLOSED) as made:
        with pytest.raises(NotLetIn, match="token") as refused:
            Viewer(made.door.port, path, headers)
        assert refused.value.status == 401
        assert made.door.let_in == 0


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/?token={TOKEN}", {"Origin": "https://viewer.example"}),
        ("/", {"Authorization": f"Bearer {TOKEN}"}),
    ],
)
def test_who_knows_the_token_comes_in(path: str, headers: dict[str, str]) -> None:
    with setting(CLOSED) as made:
        made.publish()
        with Viewer(made.door.port, path, headers) as viewer:
            viewer.until(lambda: "/odometry" in viewer.channels)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example:8765"}, 421),
        ({"Upgrade": "h2c"}, 426),
    ],
)
def test_pages_of_other_sites_and_other_names_are_refused(made: Setting, headers: dict[str, str], status: int) -> None:
    with pytest.raises(NotLetIn) as refused:
        Viewer(made.door.port, headers=headers)
    assert refused.value.status == status
    assert sum(made.door.refused.values()) == 1


def test_over_tls_it_is_the_same(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    with setting(OPEN, server) as made:
        made.publish()
        with Viewer(made.door.port, tls=client) as viewer:
            viewer.look("/camera/image")
            until(lambda: made.wire.read)
            assert viewer.until(lambda: viewer.of("/camera/image") or (made.publish() and None))


def test_garbage_at_the_door_is_survived_and_too_many_viewers_are_told(
    made: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    for garbage in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n", b"\xff" * 20_000 + b"\r\n\r\n", b"GET / HTTP"):
        with socket.create_connection(("127.0.0.1", made.door.port), timeout=5) as stream, contextlib.suppress(OSError):
            stream.sendall(garbage)
            stream.shutdown(socket.SHUT_WR)
            assert not stream.recv(1000).startswith(b"HTTP/1.1 101")
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_VIEWERS):
            stack.enter_context(Viewer(made.door.port))
        with pytest.raises(NotLetIn, match=f"{MAX_VIEWERS} viewers") as refused:
            Viewer(made.door.port)
        assert refused.value.status == 503
    until(lambda: made.door.viewers == 0)
    Viewer(made.door.port).close()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_slow_viewer_holds_up_neither_the_wire_nor_the_others(made: Setting) -> None:
    image = robot.data_of(robot.picture(0, WALL_NS))[1]
    camera = made.robot.advertise("/camera/image", "sensor_msgs/msg/Image", SENSOR)
    with Viewer(made.door.port) as quick, Viewer(made.door.port, receive_buffer_bytes=4096) as slow:
        for viewer in (quick, slow):
            viewer.look("/camera/image")
        until(lambda: made.feed._looking.total() == 2)
        reading = threading.Thread(target=lambda: quick.until(lambda: len(quick.messages) == 200), daemon=True)
        reading.start()
        longest_s = 0.0
        for number in range(200):  # 46 MB
            until(lambda number=number: len(quick.messages) > number - 20)  # however busy the machine is
            began_s = time.monotonic()
            camera.publish(image)
            longest_s = max(longest_s, time.monotonic() - began_s)
        reading.join(timeout=10)
        assert quick.of("/camera/image") == [image] * 200
        assert longest_s < 1.0
    until(lambda: made.door.viewers == 0)
    account = summarize(made.feed, made.door, "a test", 1.0)
    assert made.feed.handed_over == 400
    assert account["received"] == {"/camera/image": 200}
    assert account["shown"] + account["not_shown"]["viewer took no more"] == 400
    assert account["not_shown"]["viewer took no more"] > 100


def test_a_viewer_that_takes_nothing_is_shown_the_door(made: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_door, "STUCK_S", 0.3)
    camera = made.robot.advertise("/camera/image", "sensor_msgs/msg/Image", SENSOR)
    with Viewer(made.door.port, receive_buffer_bytes=4096) as slow:
        slow.look("/camera/image")
        until(lambda: made.wire.read)
        image = robot.data_of(robot.picture(0, WALL_NS))[1]

        def is_out() -> int:
            camera.publish(image)
            return made.door.ended["it took nothing for too long"]

        until(is_out)
        until(lambda: made.wire.read == [])


def test_garbage_and_unknown_types_are_said_once_counted_and_survived(made: Setting) -> None:
    publishers = {
        "/odometry": made.robot.advertise("/odometry", "nav_msgs/msg/Odometry", RELIABLE),
        "/tracks_2d": made.robot.advertise("/tracks_2d", "vision_msgs/msg/Detection2DArray", RELIABLE),
        "/diagnostics": made.robot.advertise("/diagnostics", DIAGNOSTICS_TYPE, RELIABLE),
    }
    made.robot.advertise("/strange", "nobody_msgs/msg/Knows", RELIABLE)
    with Viewer(made.door.port) as viewer:
        viewer.look("/odometry", "/tracks_2d/_boxes", "/diagnostics/_numbers")
        until(lambda: len(made.wire.read) == 3)
        good = robot.data_of(robot.tracks_2d(1, WALL_NS))[1]
        for _ in range(3):
            publishers["/odometry"].publish(b"")
            publishers["/odometry"].publish(b"\x07garbage")
            publishers["/tracks_2d"].publish(good[:-9])
            publishers["/diagnostics"].publish(b"\0\1\0\0\xff\xff\xff\xff")
        publishers["/tracks_2d"].publish(good)
        viewer.until(lambda: viewer.messages)
        assert [name for name, _, _ in viewer.messages] == ["/tracks_2d/_boxes"]
        assert made.feed.problems == {
            "/strange is not shown: nobody_msgs/msg/Knows is not known here": 1,
            "/odometry: what came is no CDR": 6,
            "/tracks_2d is not drawn: message does not decode": 3,
            "/diagnostics is not drawn: diagnostics do not decode": 3,
        }
        assert sorted(made.said) == sorted(made.feed.problems)
        made.feed.check()


# --- the command -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def viewing(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command as a process, and its port."""
    words = [sys.executable, "-m", "tercel.cli", "view", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"ws://127\.0\.0\.1:(\d+)", line)
        assert found, line + process.stdout.read()
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the made-up drive."""
    path = tmp_path_factory.mktemp("view") / "drive.mcap"
    with RecordingWriter(path) as writer:
        for step in range(20):
            at_ns = WALL_NS + step * 100 * robot.MS
            for topic, ros_type, data in robot.drive(step, at_ns):
                if topic != "/tf_static" or step == 0:
                    writer.write_raw(topic, ros_type, at_ns, data)
    return path


def test_a_recording_begins_when_somebody_looks_and_ends_with_the_account(drive: Path, tmp_path: Path) -> None:
    with viewing(drive, "--rate", 4, "--json", tmp_path / "view.json") as (process, port):
        with Viewer(port) as viewer:
            viewer.until(lambda: "/tf_static" in viewer.channels)
            time.sleep(0.3)
            topics = ["/camera/image", "/lidar/points", "/tracks_2d", "/tracks_3d", "/odometry", "/tf_static"]
            viewer.look(*topics, "/tracks_2d/_boxes", "/tracks_3d/_scene")
            viewer.until(lambda: viewer.is_closed)
            sent: dict[str, list[bytes]] = {topic: [] for topic in topics}
            for step in range(20):
                for topic, _, data in robot.drive(step, WALL_NS + step * 100 * robot.MS):
                    sent[topic].append(data)
            for topic in topics[:-1]:
                assert viewer.of(topic) == sent[topic], topic
            assert viewer.of("/tf_static") == sent["/tf_static"][:1]
            assert len(viewer.of("/tracks_3d/_scene")) == 20
        assert process.wait(timeout=10) == 0
        assert process.stdout is not None
        assert "showed 141 messages to 1 viewer" in process.stdout.read()
        steps = sorted({round((at - WALL_NS) / 1e8, 1) for _, at, _ in viewer.messages})
        assert 0 <= steps[0] < 0.5
        assert 18.5 < steps[-1] <= 19, "log times are the recording's"
    account = json.loads((tmp_path / "view.json").read_text())
    assert account["received"] == {topic: 1 if topic == "/tf_static" else 20 for topic in sorted(topics)}
    assert account["shown"] == 141
    assert account["not_shown"] == {}
    assert account["viewers"]["let_in"] == 1


def test_a_recording_in_a_loop_sets_the_viewers_clock_back(drive: Path) -> None:
    with viewing(drive, "--rate", 8, "--loop") as (process, port), Viewer(port) as viewer:
        viewer.look("/odometry")
        viewer.until(lambda: len(viewer.messages) > 45)
        back = sum(b < a for a, b in zip(viewer.times_ns, viewer.times_ns[1:], strict=False))
        assert back == 2
        process.send_signal(signal.SIGINT)
        viewer.until(lambda: viewer.is_closed)
        assert process.wait(timeout=10) == 0
        assert process.stdout is not None
        text = process.stdout.read()
        assert "Traceback" not in text
        assert re.search(r"^/odometry +\d+$", text, re.MULTILINE)
        assert "showed" in text


@pytest.mark.parametrize("kind", ["zenoh", "dds"])
def test_it_shows_what_another_process_publishes(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip(f"tercel.ros.{kind}")
    domain = random.SystemRandom().randrange(1, 100)
    account_file = tmp_path / "view.json"
    with viewing("--transport", kind, "--domain", domain, "--json", account_file) as (process, port):
        with open_transport(kind, Identity("robot", domain=domain)) as transport, Viewer(port) as viewer:
            ros_type, image = robot.data_of(robot.picture(3, WALL_NS))
            camera = transport.advertise("/camera/image", ros_type, SENSOR)
            tracks = transport.advertise("/tracks_3d", "vision_msgs/msg/Detection3DArray", RELIABLE)
            viewer.look("/camera/image", "/tracks_3d/_scene")

            def shown() -> bool:
                camera.publish(image)
                tracks.publish(robot.data_of(robot.tracks_3d(WALL_NS))[1])
                return bool(viewer.of("/camera/image") and viewer.of("/tracks_3d/_scene"))

            viewer.until(shown)
            assert viewer.of("/camera/image")[0] == image
            assert abs(viewer.messages[0][1] - time.time_ns()) < 60 * robot.S
            process.send_signal(signal.SIGTERM)
            viewer.until(lambda: viewer.is_closed)
        assert process.wait(timeout=10) == 0
    account = json.loads(account_file.read_text())
    assert account["received"]["/camera/image"] >= 1
    assert account["shown"] >= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "0.0.0.0"], "--token-file"),  # noqa: S104 (it is refused)
        (["nothing.mcap"], "no recording at"),
        (["--rate", "2"], "--rate and --loop go with a recording"),
        (["--loop"], "--rate and --loop go with a recording"),
        (["--port", "70000"], "0 to 65535"),
        (["x.mcap", "--transport", "zenoh"], "leave one of them out"),
        (["--transport", "local"], "reaches nobody outside"),
        (["--domain", "999"], "0 to 232"),
    ],
)
def test_a_mistake_is_one_line_with_the_mend(arguments: list[str], words: str) -> None:
    parser = argparse.ArgumentParser()
    add_view(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(["view", *arguments])
    with pytest.raises(UserError, match=words) as mistake:
        args.run(args)
    assert "\n" not in str(mistake.value)


def test_a_port_that_is_taken_is_said(made: Setting) -> None:
    with pytest.raises(UserError, match=r"cannot be opened .*--port"):
        Door("127.0.0.1", made.door.port, OPEN, made.feed.server)


def test_without_the_viewers_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "foxglove", None)
    with (
        LocalTransport(Identity("watched", domain=1)) as wire,
        pytest.raises(UserError, match=re.escape("pip install 'tercel[view]'")),
    ):
        ViewFeed(wire, "a test")
