"""PointCloud2 of every layout that drivers write, and of those that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.errors import Rejected
from tercel.core.messages import PointCloud
from tercel.ros import convert
from tercel.ros.clouds import cloud_from_pointcloud2


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


XYZ = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
STAMP_NS = 1_700_000_000_000_000_000
DRIVERS = {
    "velodyne": np.dtype([*XYZ, ("intensity", "<f4"), ("ring", "<u2"), ("time", "<f4")]),
    "ouster": np.dtype(
        {
            "names": ["x", "y", "z", "intensity", "t", "reflectivity", "ring", "ambient", "range"],
            "formats": ["<f4", "<f4", "<f4", "<f4", "<u4", "<u2", "<u1", "<u2", "<u4"],
            "offsets": [0, 4, 8, 16, 20, 24, 26, 28, 32],
            "itemsize": 48,
        }
    ),
    "hesai": np.dtype([*XYZ, ("intensity", "<f4"), ("ring", "<u2"), ("timestamp", "<f8")]),
    "robosense": np.dtype([*XYZ, ("intensity", "<f4"), ("ring", "<u2"), ("timestamp", "<f8")]),
    "livox": np.dtype([*XYZ, ("intensity", "<f4"), ("tag", "<u1"), ("line", "<u1"), ("timestamp", "<f8")]),
    "autoware": np.dtype([*XYZ, ("intensity", "<u1"), ("type", "<u1"), ("channel", "<u2"), ("time_stamp", "<u4")]),
}
TIMES = {
    "velodyne": ("time", 1.0, 0.0), "ouster": ("t", 1e9, 0.0), "hesai": ("timestamp", 1.0, 1.7e9),
    "robosense": ("timestamp", 1.0, 1.7e9), "livox": ("timestamp", 1e9, 1.7e18), "autoware": ("time_stamp", 1e9, 0.0),
}  # fmt: skip
RINGS = {"livox": "line", "autoware": "channel"}


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_intensity_ring_and_time_are_found_as_each_driver_writes_them(driver: str) -> None:
    rows = np.zeros(3000, DRIVERS[driver])
    name, unit, origin = TIMES[driver]
    offsets_s = np.linspace(0, 0.0999, 3000)
    rows[name] = offsets_s * unit + origin
    rows["intensity"] = np.arange(3000) % 200
    rows[RINGS.get(driver, "ring")] = np.arange(3000) % 64
    cloud = cloud_from_pointcloud2(FakeCloud(DRIVERS[driver], rows), STAMP_NS, "lidar")
    assert cloud.time_offset_s is not None
    assert cloud.intensity is not None
    assert cloud.ring is not None
    np.testing.assert_allclose(cloud.time_offset_s, offsets_s, atol=1e-6)
    assert cloud.intensity.tolist() == (np.arange(3000) % 200).tolist()
    assert cloud.ring.tolist() == (np.arange(3000) % 64).tolist()


def times_of(values: list[float], kind: str, stamp_ns: int = STAMP_NS) -> np.ndarray | None:
    dtype = np.dtype([*XYZ, ("t", "<" + kind)])
    rows = np.zeros(len(values), dtype)
    rows["t"] = values
    return cloud_from_pointcloud2(FakeCloud(dtype, rows), stamp_ns, "l").time_offset_s


def test_times_before_the_stamp_in_microseconds_and_since_switching_on_are_understood() -> None:
    np.testing.assert_allclose(times_of([-0.05, 0.0], "f4"), [-0.05, 0], atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_allclose(times_of([1.7e15, 1.7e15 + 5e4], "f8"), [0, 0.05], atol=1e-6)  # type: ignore[arg-type]
    since_on = times_of([1e12, 1e12 + 5e7], "f8", stamp_ns=10**12)
    np.testing.assert_allclose(since_on, [0, 0.05], atol=1e-6)  # type: ignore[arg-type]


def test_point_times_that_make_no_sense_are_unknown_and_single_unset_ones_nan() -> None:
    assert times_of([1e5, 2e5, 3e5], "f8", stamp_ns=0) is None
    assert times_of([1e5, 2e5, 3e5], "f8") is None
    assert times_of([np.nan, np.nan], "f8") is None
    assert times_of([4e18, 4e18], "f8") is None
    for unset in (0.0, np.nan):
        offsets = times_of([unset, 1.7e9, 1.7e9 + 0.05], "f8")
        np.testing.assert_allclose(offsets, [np.nan, 0, 0.05], atol=1e-6)  # type: ignore[arg-type]


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


def test_a_cloud_that_claims_a_huge_size_is_rejected_before_memory_is_taken() -> None:
    dtype = np.dtype(XYZ)
    for height, width, step in ((2**32 - 1, 2**32 - 1, 12), (1, 2**32 - 1, 12), (2**32 - 1, 1, 2**32 - 1)):
        huge = FakeCloud(dtype, np.zeros(10, dtype))
        huge.height, huge.width, huge.point_step, huge.row_step = height, width, step, 0
        with pytest.raises(Rejected, match="shorter"):
            cloud_from_pointcloud2(huge, 0, "l")


def test_fields_that_nobody_knows_are_left_alone() -> None:
    dtype = np.dtype([("rgb", "<f4"), *XYZ, ("normals", "<f4"), ("label", "<u1")])
    rows = np.zeros(5, dtype)
    rows["x"] = np.arange(5)
    cloud = FakeCloud(dtype, rows)
    cloud.fields[4].datatype = 99  # and of a type that is none
    cloud.fields[4].offset = 10**6
    read = cloud_from_pointcloud2(cloud, 0, "l")
    assert read.points_m[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (read.intensity, read.ring, read.time_offset_s) == (None, None, None)


def test_points_that_are_not_numbers_stay_for_the_components_to_judge() -> None:
    dtype = np.dtype(XYZ)
    rows = np.zeros(2, dtype)
    rows["y"] = [np.nan, np.inf]
    points = cloud_from_pointcloud2(FakeCloud(dtype, rows), 0, "l").points_m
    assert np.isnan(points[0, 1])
    assert np.isinf(points[1, 1])


def test_the_last_row_may_lack_its_padding() -> None:
    dtype = np.dtype(XYZ)
    rows = np.zeros(8, dtype)
    rows["z"] = np.arange(8)
    fake = FakeCloud(dtype, rows, height=2, row_pad=4)
    fake.data = fake.data[:-4]
    assert cloud_from_pointcloud2(fake, 0, "l").points_m[:, 2].tolist() == list(range(8))
    fake.data = fake.data[:-1]
    with pytest.raises(Rejected, match="shorter"):
        cloud_from_pointcloud2(fake, 0, "l")


@given(st.integers(0, 10**6), st.sampled_from(["intensity", "ring", "time_offset_s", ""]))
@settings(max_examples=30, deadline=None)
def test_a_cloud_goes_through_cdr_whatever_it_lacks(seed: int, missing: str) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    rows = {"intensity": rng.uniform(size=n), "ring": rng.integers(0, 2**16, n), "time_offset_s": rng.uniform(-1, 1, n)}
    cloud = PointCloud(
        stamp_ns=STAMP_NS, frame_id="l", points_m=rng.normal(size=(n, 3)),
        **{name: None if name == missing else values for name, values in rows.items()},
    )  # fmt: skip
    ros_type, data = convert.encode(cloud)
    back = convert.decode(ros_type, bytes(data))
    assert isinstance(back, PointCloud)
    np.testing.assert_array_equal(back.points_m, cloud.points_m)
    for name in rows:
        ours, theirs = getattr(cloud, name), getattr(back, name)
        if n and ours is not None:
            np.testing.assert_array_equal(theirs, ours)
        else:
            assert theirs is None
