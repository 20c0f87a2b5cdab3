from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.messages import (
    BatteryState,
    CameraInfo,
    CompressedImage,
    Detections2D,
    Detections3D,
    Image,
    Imu,
    Message,
    NavSatFix,
    NextLook,
    Odometry,
    PointCloud,
    Predictions,
    Range,
    RemoteTracks,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.ros import convert

STAMP_NS = 1_700_000_000_987_654_321


def example_messages(seed: int) -> list[Message]:
    """One message of every type, filled at random."""
    rng = np.random.default_rng(seed)
    head: dict[str, Any] = {"stamp_ns": STAMP_NS + int(rng.integers(0, 10**9)), "frame_id": "sensor"}
    n = int(rng.integers(1, 5))
    pose = geometry.se3_exp(rng.uniform(-1, 1, 6))
    corner, size = rng.uniform(0, 100, (n, 2)), rng.uniform(1, 50, (n, 2))
    names = ("car", "person")
    labels = rng.integers(0, 2, n)
    nan2, nan3, nan = np.full((n, 2), np.nan), np.full((n, 3), np.nan), np.full(n, np.nan)
    return [
        Image(**head, pixels=rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), encoding="bgr8"),
        Image(**head, pixels=rng.integers(0, 65535, (4, 5), dtype=np.uint16), encoding="16UC1"),
        CompressedImage(**head, format="jpeg", data=rng.integers(0, 255, 99, dtype=np.uint8)),
        CameraInfo(
            **head, width_px=640, height_px=480, intrinsics=rng.normal(size=(3, 3)), distortion_model="plumb_bob",
            distortion=rng.normal(size=5), rectification=np.eye(3), projection=rng.normal(size=(3, 4)),
        ),
        PointCloud(**head, points_m=rng.normal(size=(n * 3, 3))),
        PointCloud(
            **head, points_m=rng.normal(size=(n, 3)), intensity=rng.uniform(size=n), ring=rng.integers(0, 64, n),
            time_offset_s=rng.uniform(-0.1, 0, n),
        ),
        Imu(**head, angular_velocity_radps=rng.normal(size=3), linear_acceleration_mps2=rng.normal(size=3)),
        NavSatFix(**head, latitude_deg=49.0, longitude_deg=8.4, altitude_m=116.4),
        Range(**head, range_m=1.5, min_range_m=0.25, max_range_m=8.0, field_of_view_rad=0.5, radiation="ultrasound"),
        BatteryState(
            **head, voltage_v=15.5, current_a=-2.25, charge_ah=1.5, capacity_ah=4.0, charge_fraction=0.375,
            temperature_c=30.5, status="discharging", cell_voltages_v=rng.uniform(3, 4, n),
        ),
        NextLook(**head, due_ns=STAMP_NS + 2 * 10**9, reason="error budget, no contact", critical_id=-1),
        Odometry(
            **head, child_frame_id="lidar", frame_T_child=pose, covariance=np.eye(6) * rng.uniform(0.1, 1),
            linear_velocity_mps=rng.normal(size=3), angular_velocity_radps=rng.normal(size=3),
        ),
        Transforms(
            stamp_ns=head["stamp_ns"], frame_id="", parents=("a", "b"), children=("b", "c"),
            parent_T_child=geometry.se3_exp(rng.uniform(-1, 1, (2, 6))),
        ),
        Tracks2D(
            **head, boxes_xyxy_px=np.c_[corner, corner + size], scores=rng.uniform(size=n), labels=labels,
            class_names=names, ids=np.arange(n), velocities_px_per_s=nan2, ages_s=nan,
        ),
        Tracks3D(
            **head, centers_m=rng.normal(size=(n, 3)), sizes_m=rng.uniform(1, 4, (n, 3)),
            yaws_rad=rng.uniform(-3, 3, n), scores=rng.uniform(size=n), labels=labels, class_names=names,
            ids=np.arange(n), velocities_mps=nan3,
            ages_s=nan,
        ),
    ]  # fmt: skip


def class_names_of(message: Any) -> list[str]:
    return [message.class_names[label] for label in message.labels]


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_every_message_survives_the_way_through_cdr_bytes(seed: int) -> None:
    for message in example_messages(seed):
        ros_type, data = convert.encode(message)
        back = convert.decode(ros_type, bytes(data))
        assert isinstance(back, type(message))
        for field in fields(message):
            ours, theirs = getattr(message, field.name), getattr(back, field.name)
            if field.name in ("labels", "class_names"):
                continue  # the class table of a detection message is rebuilt from the names
            if isinstance(ours, np.ndarray):
                assert theirs.dtype == ours.dtype, field.name
                np.testing.assert_allclose(theirs, ours, atol=2e-5 if ours.dtype == np.float32 else 1e-12)
            else:
                assert theirs == ours, field.name
        if isinstance(message, (Tracks2D, Tracks3D)):
            assert class_names_of(back) == class_names_of(message)


def test_detections_come_back_as_tracks_without_an_identity() -> None:
    plain = Detections3D(
        stamp_ns=1, frame_id="lidar", centers_m=np.ones((2, 3)), sizes_m=np.ones((2, 3)), yaws_rad=np.zeros(2),
        scores=np.ones(2), labels=np.zeros(2), class_names=("obstacle",),
    )  # fmt: skip
    back = convert.from_ros(convert.to_ros(plain)[1], "vision_msgs/msg/Detection3DArray")
    assert isinstance(back, Tracks3D)
    assert back.ids.tolist() == [-1, -1]


def test_stamps_that_ros_cannot_write_are_rejected() -> None:
    fix = NavSatFix(stamp_ns=5, frame_id="gps", latitude_deg=0.0, longitude_deg=0.0, altitude_m=0.0)
    _, ros = convert.to_ros(fix)
    ros.header.stamp.sec = 2**31
    with pytest.raises(Rejected, match="1970 to 2038"):
        convert.from_ros(ros, "sensor_msgs/msg/NavSatFix")


def test_a_pose_whose_quaternion_is_zero_is_rejected_and_not_the_identity() -> None:
    odometry = Odometry(stamp_ns=1, frame_id="odom", child_frame_id="base", frame_T_child=np.eye(4))
    _, ros = convert.to_ros(odometry)
    ros.pose.pose.orientation.w = 0.0
    with pytest.raises(Rejected):
        convert.from_ros(ros, "nav_msgs/msg/Odometry")


def test_every_message_type_of_the_suite_has_a_ros_type_and_goes_out() -> None:
    written = {type(m): m for m in [*example_messages(1), *one_way_messages()]}
    kinds = [Message]
    for kind in kinds:
        kinds += kind.__subclasses__()
    suite = {k for k in kinds if k.__module__ == Message.__module__} - {Message}
    assert written.keys() == suite
    for kind, message in written.items():
        ros_type, data = convert.encode(message)
        assert ros_type == convert.ros_type_of(kind)
        ros: Any = convert.STORE.deserialize_cdr(data, ros_type)
        assert bytes(convert.STORE.serialize_cdr(ros, ros_type)) == bytes(data)
        assert convert.to_ros(message)[0] == ros_type


def one_way_messages() -> list[Message]:
    """Those that do not come back from ROS as they went out."""
    tracks = next(m for m in example_messages(1) if isinstance(m, Tracks3D))
    head: dict[str, Any] = {"stamp_ns": STAMP_NS, "frame_id": "odom"}
    plain = {"scores": np.ones(1), "labels": np.zeros(1, int), "class_names": ("car",)}
    return [
        RemoteTracks(**head, robot="r2", tracks=tracks, sent_ns=1),
        Predictions(
            **head, ids=np.array([7]), horizons_s=np.array([0.5, 1.0]), positions=np.arange(12.0).reshape(1, 2, 2, 3),
            covariances=np.zeros((1, 2, 2, 3, 3)), mode_probabilities=np.array([[0.75, 0.25]]),
        ),
        Detections2D(**head, boxes_xyxy_px=np.ones((1, 4)), **plain),
        Detections3D(**head, centers_m=np.ones((1, 3)), sizes_m=np.ones((1, 3)), yaws_rad=np.zeros(1), **plain),
    ]  # fmt: skip


def test_predictions_go_out_as_a_line_for_each_hypothesis_after_the_last_ones_are_cleared() -> None:
    predictions = one_way_messages()[1]
    _, ros = convert.to_ros(predictions)
    clear, *lines = ros.markers
    assert clear.action == 3
    assert [(line.ns, line.id, line.type) for line in lines] == [("track 7", 0, 4), ("track 7", 1, 4)]
    assert [(p.x, p.y, p.z) for p in lines[1].points] == [(6.0, 7.0, 8.0), (9.0, 10.0, 11.0)]
    assert lines[0].color.a > lines[1].color.a
    assert lines[0].lifetime.sec == 1
    assert lines[0].pose.orientation.w == 1.0


def test_tracks_of_another_robot_carry_its_name() -> None:
    _, ros = convert.to_ros(one_way_messages()[0])
    assert ros.detections[0].id == "r2/0"


def test_a_time_reference_of_a_gps_is_no_next_look() -> None:
    _, ros = convert.to_ros(NextLook(stamp_ns=1, frame_id="", due_ns=2, reason="x"))
    ros.source = "gps"
    with pytest.raises(Rejected, match="no next look"):
        convert.from_ros(ros, "sensor_msgs/msg/TimeReference")


def test_a_range_of_humble_which_lacks_the_variance_is_read() -> None:
    message = Range(stamp_ns=5, frame_id="", range_m=2.5, min_range_m=0.0, max_range_m=4.0, field_of_view_rad=0.5)
    ros_type, data = convert.encode(message)
    back = convert.decode(ros_type, bytes(data)[:-4])
    assert isinstance(back, Range)
    assert back.range_m == 2.5
    with pytest.raises(Rejected):
        convert.decode(ros_type, bytes(data)[:-9])


def test_without_a_satellite_fix_there_is_no_position() -> None:
    _, ros = convert.to_ros(NavSatFix(stamp_ns=5, frame_id="gps", latitude_deg=0.0, longitude_deg=0.0, altitude_m=0.0))
    ros.status.status = -1
    with pytest.raises(Rejected, match="no satellite fix"):
        convert.from_ros(ros, "sensor_msgs/msg/NavSatFix")


def test_numbers_that_stand_for_no_word_are_rejected() -> None:
    battery = BatteryState(stamp_ns=5, frame_id="", voltage_v=12.0)
    ros_type, ros = convert.to_ros(battery)
    ros.power_supply_status = 9
    with pytest.raises(Rejected, match="makes no sense"):
        convert.from_ros(ros, ros_type)
    with pytest.raises(ValueError, match="not one of"):
        BatteryState(stamp_ns=5, frame_id="", voltage_v=12.0, status="boiling")


def test_a_type_that_the_suite_has_no_use_for_is_rejected_by_name() -> None:
    with pytest.raises(Rejected, match="std_msgs/msg/String"):
        convert.decode("std_msgs/msg/String", b"\x00\x01\x00\x00\x01\x00\x00\x00\x00")


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_rejected_or_read_and_nothing_else_happens(seed: int, data: st.DataObject) -> None:
    message = data.draw(st.sampled_from(example_messages(seed)))
    ros_type, whole = convert.encode(message)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.sampled_from([0, 1, 2, 127, 128, 255]))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    with np.errstate(all="ignore"), suppress(Rejected):
        assert isinstance(convert.decode(ros_type, bytes(damaged)), convert.message_type_of(ros_type) or ())


def test_bytes_of_a_big_endian_machine_are_read_too() -> None:
    for message in example_messages(4):
        ros_type, data = convert.encode(message)
        ros = convert.STORE.deserialize_cdr(data, ros_type)
        swapped = convert.STORE.serialize_cdr(ros, ros_type, little_endian=False)
        assert swapped[1] == 0
        theirs, ours = convert.decode(ros_type, swapped), convert.decode(ros_type, data)
        for field in fields(ours):
            np.testing.assert_array_equal(getattr(theirs, field.name), getattr(ours, field.name), field.name)


def test_the_pixels_and_points_of_a_message_are_views_of_its_bytes() -> None:
    wanted = {Image: "pixels", PointCloud: "points_m", CompressedImage: "data"}
    seen = set()
    for message in example_messages(2):
        name = wanted.get(type(message))
        if name:
            ros_type, data = convert.encode(message)
            raw = np.frombuffer(bytes(data), np.uint8)
            assert np.shares_memory(getattr(convert.decode(ros_type, raw.data), name), raw)
            seen.add(type(message))
    assert seen == wanted.keys()
