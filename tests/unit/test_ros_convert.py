from __future__ import annotations

from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.messages import (
    CameraInfo,
    CompressedImage,
    Detections3D,
    Image,
    Imu,
    Message,
    NavSatFix,
    Odometry,
    PointCloud,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.ros import convert
from tercel.ros.layouts import ENCODINGS, cloud_from_pointcloud2, decompress, pixels_from_buffer

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
        back = convert.from_ros(convert.STORE.deserialize_cdr(bytes(data), ros_type), ros_type)
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


class FakeField:
    def __init__(self, name: str, offset: int, datatype: int) -> None:
        self.name, self.offset, self.datatype = name, offset, datatype


class FakeCloud:
    """A PointCloud2 in any layout."""

    def __init__(
        self, dtype: np.dtype, rows: np.ndarray, *, height: int = 1, row_pad: int = 0, big: bool = False
    ) -> None:
        kinds = {"f4": 7, "f8": 8, "u2": 4, "u4": 6, "u1": 2}
        self.fields = [FakeField(n, dtype.fields[n][1], kinds[dtype.fields[n][0].str[1:]]) for n in dtype.names or ()]  # type: ignore[index]
        self.point_step, self.height, self.width = dtype.itemsize, height, len(rows) // height
        self.row_step = self.width * self.point_step + row_pad
        self.is_bigendian = big
        grid = rows.astype(dtype).view(np.uint8).reshape(height, -1)
        self.data = np.pad(grid, ((0, 0), (0, row_pad))).reshape(-1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize(("height", "row_pad"), [(1, 0), (4, 0), (4, 7)])
@pytest.mark.parametrize("names", [("x", "y", "z"), ("z", "x", "y"), ("x", "pad", "y", "z")])
def test_a_cloud_of_any_layout_gives_the_same_points(
    order: str, kind: str, height: int, row_pad: int, names: tuple[str, ...]
) -> None:
    dtype = np.dtype([(n, order + kind) for n in names] + [("intensity", order + "f4"), ("ring", order + "u2")])
    rng = np.random.default_rng(0)
    rows = np.zeros(12, dtype)
    for name in ("x", "y", "z", "intensity"):
        rows[name] = rng.normal(size=12)
    rows["ring"] = np.arange(12)
    fake = FakeCloud(dtype, rows, height=height, row_pad=row_pad, big=order == ">")
    cloud = cloud_from_pointcloud2(fake, 5, "lidar")
    np.testing.assert_allclose(cloud.points_m, np.stack([rows[n] for n in "xyz"], axis=1), atol=1e-6)
    assert cloud.intensity is not None
    assert cloud.ring is not None
    np.testing.assert_allclose(cloud.intensity, rows["intensity"], atol=1e-6)
    assert cloud.ring.tolist() == list(range(12))


def test_an_empty_cloud_is_empty_whatever_fields_it_claims() -> None:
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    cloud = cloud_from_pointcloud2(FakeCloud(dtype, np.zeros(0, dtype)), 0, "l")
    assert cloud.points_m.shape == (0, 3)


def test_the_common_layout_is_a_view() -> None:
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])
    fake = FakeCloud(dtype, np.zeros(100, dtype))
    assert np.shares_memory(cloud_from_pointcloud2(fake, 0, "l").points_m, fake.data)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 50_000_000], "u4"),
        ([0.0, 0.05], "f4"),
        ([1.7e9, 1.7e9 + 0.05], "f8"),
        ([1.7e15, 1.7e15 + 5e4], "f8"),
        ([1.7e18, 1.7e18 + 5e7], "f8"),
    ],
)
def test_drivers_per_point_times_all_become_seconds_after_the_stamp(values: list[float], kind: str) -> None:
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("t", "<" + kind)])
    rows = np.zeros(2, dtype)
    rows["t"] = values
    cloud = cloud_from_pointcloud2(FakeCloud(dtype, rows), 1_700_000_000_000_000_000, "l")
    assert cloud.time_offset_s is not None
    np.testing.assert_allclose(cloud.time_offset_s, [0, 0.05], atol=1e-6)


def test_point_times_that_make_no_sense_are_unknown_and_single_unset_ones_nan() -> None:
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("t", "<f8")])
    rows = np.zeros(3, dtype)
    rows["t"] = [1e5, 2e5, 3e5]
    assert cloud_from_pointcloud2(FakeCloud(dtype, rows), 0, "l").time_offset_s is None
    rows["t"] = [0.0, 1.7e9, 1.7e9 + 0.05]
    offsets = cloud_from_pointcloud2(FakeCloud(dtype, rows), 1_700_000_000_000_000_000, "l").time_offset_s
    assert offsets is not None
    np.testing.assert_allclose(offsets, [np.nan, 0, 0.05], atol=1e-6)


def test_clouds_that_contradict_themselves_are_rejected() -> None:
    dtype = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4")])
    short = FakeCloud(dtype, np.zeros(10, dtype))
    short.width, short.row_step = 11, 0
    with pytest.raises(Rejected, match="shorter"):
        cloud_from_pointcloud2(short, 0, "l")
    flat = FakeCloud(np.dtype([("x", "<f4"), ("y", "<f4")]), np.zeros(3, np.dtype([("x", "<f4"), ("y", "<f4")])))
    with pytest.raises(Rejected, match="without x, y, z"):
        cloud_from_pointcloud2(flat, 0, "l")
    outside = FakeCloud(dtype, np.zeros(3, dtype))
    outside.fields[2].offset = 10
    with pytest.raises(Rejected, match="contradicts"):
        cloud_from_pointcloud2(outside, 0, "l")


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_images_of_every_encoding_with_padded_rows(encoding: str) -> None:
    code, channels = ENCODINGS[encoding]
    rng = np.random.default_rng(1)
    shape = (3, 4) if channels == 1 else (3, 4, channels)
    pixels = rng.integers(0, 200, shape).astype(code)
    row = pixels.reshape(3, -1).view(np.uint8)
    padded = np.pad(row, ((0, 0), (0, 5)))
    view = pixels_from_buffer(
        padded.reshape(-1), height=3, width=4, step=padded.shape[1], encoding=encoding, big_endian=False
    )
    np.testing.assert_array_equal(view, pixels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "yuv422"}, "unknown"),
        ({"height": 0}, "without pixels"),
        ({"height": 9}, "shorter"),
        ({"step": 3}, "shorter"),
    ],
)
def test_bad_images_are_rejected_with_the_reason(change: dict[str, Any], reason: str) -> None:
    arguments = {"height": 2, "width": 2, "step": 6, "encoding": "bgr8", "big_endian": False, **change}
    with pytest.raises(Rejected, match=reason):
        pixels_from_buffer(np.zeros(12, np.uint8), **arguments)


def compressed(data: bytes) -> CompressedImage:
    return CompressedImage(stamp_ns=1, frame_id="camera", format="x", data=np.frombuffer(data, np.uint8))


def test_compressed_images_decode_to_their_own_kind() -> None:
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    depth = np.arange(72, dtype=np.uint16).reshape(8, 9) * 900
    for pixels, encoding in ((colour, "bgr8"), (colour[:, :, 0], "mono8"), (depth, "16UC1")):
        image = decompress(compressed(cv2.imencode(".png", pixels)[1].tobytes()))
        assert image.encoding == encoding
        np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\nnot a png at all", b"\xff\xd8\xff broken"])
def test_compressed_images_that_do_not_decode_are_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        decompress(compressed(data))


def test_a_png_that_claims_a_huge_size_is_rejected_before_memory_is_taken() -> None:
    png = bytearray(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes())
    png[16:24] = (100_000).to_bytes(4, "big") * 2
    with pytest.raises(Rejected, match="too large"):
        decompress(compressed(bytes(png)))


def test_a_jpeg_that_claims_a_huge_size_or_is_cut_off_is_rejected() -> None:
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())
    assert decompress(compressed(bytes(jpeg))).pixels.shape == (64, 64, 3)
    with pytest.raises(Rejected, match="cut off"):
        decompress(compressed(bytes(jpeg[: len(jpeg) * 3 // 4])))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(Rejected, match="too large"):
        decompress(compressed(bytes(jpeg)))


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
