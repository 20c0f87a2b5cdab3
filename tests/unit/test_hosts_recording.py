from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer
from rosbags.highlevel import AnyReader

from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Image, Imu, Message, PointCloud
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.ros import convert
from tests.unit.test_ros_convert import example_messages


def imu(stamp_ns: int, value: float = 0.0) -> Imu:
    rate, force = np.full(3, value), np.zeros(3)
    return Imu(stamp_ns=stamp_ns, frame_id="imu", angular_velocity_radps=rate, linear_acceleration_mps2=force)


def cloud(stamp_ns: int, count: int = 1000) -> PointCloud:
    points = np.random.default_rng(stamp_ns).normal(size=(count, 3))
    return PointCloud(stamp_ns=stamp_ns, frame_id="lidar", points_m=points)


def write_two_topics(path: Path, count: int = 40, **options: object) -> None:
    with RecordingWriter(path, chunk_bytes=1 << 15, **options) as writer:  # type: ignore[arg-type]
        for i in range(count):
            writer.write("/imu", 10**9 + i * 10**7, imu(10**9 + i * 10**7, i))
            writer.write("/cloud", 10**9 + i * 10**7 + 5, cloud(10**9 + i * 10**7))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_is_written_is_read_back_in_order(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "r.mcap"
    write_two_topics(path, compression=compression)
    recording = open_recording(path)
    assert {t.name: t.count for t in recording.topics.values()} == {"/imu": 40, "/cloud": 40}
    rows = list(recording.messages(["/imu", "/cloud"]))
    times = [row.log_time_ns for row in rows]
    assert times == sorted(times)
    assert len(rows) == 80
    rates = [recording.decode(row).angular_velocity_radps[0] for row in rows if row.topic == "/imu"]  # type: ignore[attr-defined]
    assert rates == list(range(40))
    assert recording.problems == []


def test_one_topic_can_be_read_alone(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap")
    recording = open_recording(tmp_path / "r.mcap")
    assert {row.topic for row in recording.messages(["/imu"])} == {"/imu"}


def test_the_same_messages_give_the_same_bytes(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "a.mcap")
    write_two_topics(tmp_path / "b.mcap")
    assert filecmp.cmp(tmp_path / "a.mcap", tmp_path / "b.mcap", shallow=False)


def test_mcaps_own_reader_and_rosbags_open_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "all.mcap"
    messages = example_messages(3)
    with RecordingWriter(path) as writer:
        for i, message in enumerate(messages):
            writer.write(f"/topic{i}", 10**9 + i, message)
    with path.open("rb") as stream:
        read = list(make_reader(stream, validate_crcs=True).iter_messages())
    assert [(channel.topic, schema.name) for schema, channel, _ in read if schema] == [
        (f"/topic{i}", convert.ros_type_of(type(m))) for i, m in enumerate(messages)
    ]
    with AnyReader([path]) as reader:
        decoded = [reader.deserialize(raw, connection.msgtype) for connection, _, raw in reader.messages()]
    assert len(decoded) == len(messages)


def test_messages_written_out_of_order_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "shuffled.mcap"
    order = np.random.default_rng(0).permutation(200)
    with RecordingWriter(path, chunk_bytes=1 << 11) as writer:
        for i in order.tolist():
            writer.write("/imu", 10**9 + i, imu(10**9 + i))
    times = [row.log_time_ns for row in open_recording(path).messages(["/imu"])]
    assert times == list(range(10**9, 10**9 + 200))


@given(cut=st.integers(1, 400_000))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recording_cut_anywhere_opens_with_a_prefix_or_says_why_not(tmp_path: Path, cut: int) -> None:
    whole = tmp_path / "whole.mcap"
    if not whole.exists():
        write_two_topics(whole)
    data = whole.read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: min(cut, len(data) - 1)])
    try:
        recording = open_recording(path)
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert any("truncated" in problem for problem in recording.problems) or cut >= len(data) - 2000
    stamps = [recording.decode(row).stamp_ns for row in recording.messages(["/imu"])]
    assert stamps == [10**9 + i * 10**7 for i in range(len(stamps))]


@given(st.integers(0, 10**9), st.integers(1, 50))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_recording_with_flipped_bytes_never_ends_in_a_traceback(tmp_path: Path, seed: int, flips: int) -> None:
    whole = tmp_path / "whole.mcap"
    if not whole.exists():
        write_two_topics(whole, count=6)
    data = bytearray(whole.read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(8, len(data), flips).tolist():
        data[at] = int(rng.integers(0, 256))
    path = tmp_path / "flipped.mcap"
    path.write_bytes(data)
    try:
        recording = open_recording(path)
    except UserError:
        return
    for row in recording.messages(list(recording.topics)):
        if recording.topics[row.topic].message_type is not None:
            try:
                recording.decode(row)
            except Rejected:
                continue


def test_empty_missing_and_foreign_files_are_one_line_errors(tmp_path: Path) -> None:
    (tmp_path / "zero.mcap").touch()
    (tmp_path / "zero.bag").touch()
    (tmp_path / "text.mcap").write_text("hello, this is not a recording")
    (tmp_path / "text.bag").write_text("hello, this is not a recording")
    (tmp_path / "folder").mkdir()
    for name, words in [
        ("zero.mcap", "zero bytes"), ("zero.bag", "zero bytes"), ("text.mcap", "not an MCAP file"),
        ("text.bag", "does not open"), ("folder", "does not open"), ("nothing.mcap", "no recording at"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            open_recording(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_of_two_types_on_one_topic_the_rarer_is_counted_as_rejected(tmp_path: Path) -> None:
    path = tmp_path / "two.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream)
        writer.start("ros2", "test")
        ids = {}
        for kind in ("sensor_msgs/msg/Imu", "sensor_msgs/msg/PointCloud2"):
            text, _ = convert.STORE.generate_msgdef(kind, ros_version=2)
            schema = writer.register_schema(kind, "ros2msg", text.encode())
            ids[kind] = writer.register_channel("/data", "cdr", schema)
        for i in range(5):
            kind, data = convert.encode(imu(i + 1) if i else cloud(1))
            writer.add_message(ids[kind], i + 1, bytes(data), i + 1)
        writer.finish()
    recording = open_recording(path)
    assert recording.topics["/data"].ros_type == "sensor_msgs/msg/Imu"
    assert recording.rejected == {"/data also carries sensor_msgs/msg/PointCloud2": 1}
    assert len(list(recording.messages(["/data"]))) == 4


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_messages_of_one_log_time_keep_their_order_across_chunks(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "r.mcap"
    with RecordingWriter(path, chunk_bytes=1 << 11, compression=compression) as writer:  # type: ignore[arg-type]
        for i in range(200):
            writer.write("/imu", 10**9, imu(10**9 + i))
    recording = open_recording(path)
    stamps = [recording.decode(row).stamp_ns for row in recording.messages(["/imu"])]
    assert stamps == list(range(10**9, 10**9 + 200))


def test_a_zstd_frame_that_unpacks_to_more_than_its_chunk_says_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.mcap"
    write_two_topics(path, count=3)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x04\x00\x00\x00zstd")
    data[at - 12 : at - 4] = (100).to_bytes(8, "little")
    path.write_bytes(data)
    recording = open_recording(path)
    assert list(recording.messages(["/imu"])) == []
    assert any("not what it claims" in problem for problem in recording.problems)
    assert any("messages could not be read" in problem for problem in recording.problems)


def test_a_recording_without_chunks_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "loose.mcap"
    with path.open("wb") as stream:
        writer = Writer(stream, use_chunking=False, compression=CompressionType.NONE)
        writer.start("ros2", "test")
        text, _ = convert.STORE.generate_msgdef("sensor_msgs/msg/Imu", ros_version=2)
        schema = writer.register_schema("sensor_msgs/msg/Imu", "ros2msg", text.encode())
        channel = writer.register_channel("/imu", "cdr", schema)
        for i in range(7):
            writer.add_message(channel, i + 1, bytes(convert.encode(imu(i + 1))[1]), i + 1)
        writer.finish()
    recording = open_recording(path)
    assert recording.topics["/imu"].count == 7
    assert [row.log_time_ns for row in recording.messages(["/imu"])] == [1, 2, 3, 4, 5, 6, 7]


def test_a_chunk_that_claims_terabytes_is_a_problem_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "r.mcap"
    write_two_topics(path, count=3)
    data = bytearray(path.read_bytes())
    at = data.index(b"\x04\x00\x00\x00zstd")
    data[at - 12 : at - 4] = (1 << 42).to_bytes(8, "little")
    path.write_bytes(data)
    recording = open_recording(path)
    assert list(recording.messages(["/imu"])) == []
    assert any("claims" in problem for problem in recording.problems)


def test_raw_images_are_views_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "i.mcap"
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    with RecordingWriter(path, compression="none") as writer:
        writer.write("/image", 5, Image(stamp_ns=5, frame_id="c", pixels=pixels, encoding="bgr8"))
    recording = open_recording(path)
    image = recording.decode(next(iter(recording.messages(["/image"]))))
    assert isinstance(image, Image)
    assert not image.pixels.flags.owndata
    np.testing.assert_array_equal(image.pixels, pixels)


def test_foreign_bags_open(shared_data: Path) -> None:
    expected = {
        "bags/tf_example_rosbag2": {"/tf": 517, "/tf_static": 1},
        "bags/tf_example_rosbag2/tf_example.db3": {"/tf": 517, "/tf_static": 1},
        "bags/nav2_turtlebot.mcap": {"/amcl_pose": 135, "/odom": 2639, "/tf": 5422, "/tf_static": 1},
        "bags/robot_localization_test1.bag": {"/fix": 989, "/husky_velocity_controller/odom": 3952, "/imu/data": 11865},
    }
    for name, topics in expected.items():
        recording = open_recording(shared_data / name)
        assert {t.name: t.count for t in recording.topics.values()} == topics
        decoded = sum(isinstance(recording.decode(row), Message) for row in recording.messages(list(topics)))
        assert decoded == sum(topics.values())
