"""sensor_msgs/PointCloud2 of any layout as a PointCloud and back: views where the layout allows it, copies elsewhere.

What drivers write, and what is read of it: x, y, z; intensity (Ouster's and Livox' reflectivity where there is no
intensity); ring (Hesai's and Autoware's channel, Livox' line); the time of each point in any of these forms:

| driver | field | meaning |
| --- | --- | --- |
| Velodyne, LIO-SAM | time, float32 | seconds from the stamp |
| Ouster | t, uint32 | nanoseconds from the stamp |
| Autoware | time_stamp, uint32 | nanoseconds from the stamp |
| Hesai, Robosense, Seyond | timestamp, float64 | seconds since 1970 |
| Livox | timestamp, float64 | nanoseconds since 1970, or since it was switched on, as the stamp is |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import PointCloud

Array = NDArray[Any]

MAX_SWEEP_S = 10.0
_TIMES_JUDGED = 1024

# sensor_msgs/PointField: INT8 .. FLOAT64.
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_INTENSITY = ("intensity", "i", "reflectivity", "reflectance")
_RING = ("ring", "channel", "line", "laser_id")
_TIME = ("time", "t", "timestamp", "time_stamp", "offset_time", "time_offset")


def cloud_from_pointcloud2(message: Any, stamp_ns: int, frame_id: str) -> PointCloud:
    """A PointCloud of a sensor_msgs/PointCloud2 with any field order, padding, byte order or organisation.

    x, y, z as adjacent float32 become a view; other layouts are copied. Raises Rejected for a cloud without x, y, z, a
    layout that contradicts itself, or a buffer that is too short.
    """
    order = ">" if message.is_bigendian else "<"
    fields = {f.name: (int(f.offset), order + _DTYPES[f.datatype]) for f in message.fields if f.datatype in _DTYPES}
    if not {"x", "y", "z"} <= fields.keys():
        raise Rejected("point cloud without x, y, z")
    step, count = int(message.point_step), int(message.width) * int(message.height)
    if any(offset + np.dtype(code).itemsize > step for offset, code in fields.values()):
        raise Rejected("point cloud layout contradicts itself")
    data = _rows_closed_up(message, step)
    if count == 0:
        return PointCloud(stamp_ns=stamp_ns, frame_id=frame_id, points_m=np.zeros((0, 3)))

    def column(*names: str) -> Array | None:
        found = next((name for name in names if name in fields), None)
        if found is None:
            return None
        offset, code = fields[found]
        view: Array = np.ndarray((count,), np.dtype(code), data.data, offset, (step,))
        return view

    (x, kind_x), (y, kind_y), (z, kind_z) = fields["x"], fields["y"], fields["z"]
    if (y, z) == (x + 4, x + 8) and {kind_x, kind_y, kind_z} == {order + "f4"}:
        points: Array = np.ndarray((count, 3), np.dtype(kind_x), data.data, x, (step, 4))
    else:
        points = np.stack([column(n) for n in "xyz"], axis=1)  # type: ignore[misc]
    return PointCloud(
        stamp_ns=stamp_ns, frame_id=frame_id, points_m=points, intensity=column(*_INTENSITY), ring=column(*_RING),
        time_offset_s=_time_offsets_s(column(*_TIME), stamp_ns),
    )  # fmt: skip


def _rows_closed_up(message: Any, step: int) -> Array:
    """The bytes of all points, one after the other: a copy only where rows are padded. Raises Rejected."""
    width, height, data = int(message.width), int(message.height), message.data
    row_bytes = width * step
    row_step = int(message.row_step) or row_bytes
    if row_step < row_bytes:
        raise Rejected("point cloud layout contradicts itself")
    if len(data) < row_step * (height - 1) + row_bytes:
        raise Rejected("point cloud data shorter than its size says")
    if row_step == row_bytes or height < 2:
        return data  # type: ignore[no-any-return]
    rows: Array = np.ndarray((height, row_bytes), np.uint8, data.data, 0, (row_step, 1))
    return rows.reshape(-1)


def _time_offsets_s(values: Array | None, stamp_ns: int) -> Array | None:
    """Per-point time relative to the stamp, or None where it makes no sense; NaN for single points where it does not.

    Drivers do not say which unit and origin they mean. Of those in the module's table, the one is taken whose median
    lies nearest to the stamp: the median, since single points may be unset, and of some thousand points at most.
    """
    if values is None:
        return None
    some = values[:: max(1, len(values) // _TIMES_JUDGED)].astype(np.float64)
    some = some[np.isfinite(some)]
    if not some.size:
        return None
    stamp_s = stamp_ns * 1e-9
    readings = [(1e-9, 0.0)] if values.dtype.kind in "ui" else [(1.0, 0.0)]
    if values.dtype.kind == "f" and stamp_s > MAX_SWEEP_S:  # before that, a clock cannot be told from a sweep
        readings += [(1.0, stamp_s), (1e-6, stamp_s), (1e-9, stamp_s)]
    medians_s = [abs(abs(float(np.median(some))) * unit_s - origin_s) for unit_s, origin_s in readings]
    nearest = int(np.argmin(medians_s))
    unit_s, origin_s = readings[nearest]
    if not medians_s[nearest] < MAX_SWEEP_S:
        return None
    if (unit_s, origin_s) == (1.0, 0.0):
        seconds = values.astype(np.float32, copy=False)
    else:
        seconds = (values * unit_s - origin_s).astype(np.float32)
    astray = ~(np.abs(seconds) < MAX_SWEEP_S)
    return np.where(astray, np.float32(np.nan), seconds) if astray.any() else seconds


def pointcloud2_buffer(cloud: PointCloud) -> tuple[Array, list[tuple[str, int, int]], int]:
    """Bytes, fields (name, offset, PointField datatype) and point step of a cloud, as Velodyne's driver lays them."""
    columns = [
        ("intensity", cloud.intensity, "<f4", 7),
        ("ring", cloud.ring, "<u2", 4),
        ("time", cloud.time_offset_s, "<f4", 7),
    ]
    present = [column for column in columns if column[1] is not None]
    layout = [("x", "<f4", 7), ("y", "<f4", 7), ("z", "<f4", 7), *((n, code, kind) for n, _, code, kind in present)]
    dtype = np.dtype([(name, code) for name, code, _ in layout])
    packed = np.empty(len(cloud.points_m), dtype)
    for axis, name in enumerate("xyz"):
        packed[name] = cloud.points_m[:, axis]
    for name, values, _, _ in present:
        packed[name] = values
    offsets = np.cumsum([0, *(np.dtype(code).itemsize for _, code, _ in layout)]).tolist()
    fields = [(name, offset, kind) for (name, _, kind), offset in zip(layout, offsets, strict=False)]
    return packed.view(np.uint8), fields, dtype.itemsize
