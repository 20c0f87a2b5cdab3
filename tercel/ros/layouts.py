"""Pixels and points inside ROS byte buffers: views where the layout allows it, copies where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tercel.core.messages import CompressedImage, Image, PointCloud

Array = NDArray[Any]

# sensor_msgs/image_encodings.hpp: numpy dtype and channels.
ENCODINGS: dict[str, tuple[str, int]] = {
    "bgr8": ("u1", 3), "rgb8": ("u1", 3), "bgra8": ("u1", 4), "rgba8": ("u1", 4), "mono8": ("u1", 1),
    "mono16": ("u2", 1), "8UC1": ("u1", 1), "8UC3": ("u1", 3), "16UC1": ("u2", 1), "32FC1": ("f4", 1),
}  # fmt: skip

# sensor_msgs/PointField: INT8 .. FLOAT64.
_POINT_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}

MAX_PIXELS = 1 << 27
MAX_SWEEP_S = 10.0


def pixels_from_buffer(data: Array, *, height: int, width: int, step: int, encoding: str, big_endian: bool) -> Array:
    """Pixels (H, W) or (H, W, C) as a view of a ROS image's bytes, row padding left out.

    Raises Rejected for an unknown encoding or a buffer shorter than the size it claims.
    """
    if encoding not in ENCODINGS:
        raise Rejected("unknown image encoding")
    code, channels = ENCODINGS[encoding]
    dtype = np.dtype((">" if big_endian else "<") + code)
    row_bytes = width * channels * dtype.itemsize
    step = step or row_bytes
    if height <= 0 or width <= 0:
        raise Rejected("image without pixels")
    if step < row_bytes or len(data) < step * (height - 1) + row_bytes:
        raise Rejected("image data shorter than its size says")
    shape: tuple[int, ...] = (height, width)
    strides: tuple[int, ...] = (step, channels * dtype.itemsize)
    if channels > 1:
        shape, strides = (*shape, channels), (*strides, dtype.itemsize)
    view: Array = np.ndarray(shape, dtype, data.data, 0, strides)
    return view


def _field_view(data: Array, count: int, fields: dict[str, tuple[int, str]], name: str, step: int, order: str) -> Array:
    offset, code = fields[name]
    view: Array = np.ndarray((count,), np.dtype(order + code), data.data, offset, (step,))
    return view


def cloud_from_pointcloud2(message: Any, stamp_ns: int, frame_id: str) -> PointCloud:
    """A PointCloud of a sensor_msgs/PointCloud2 with any field order, padding, byte order or organisation.

    x, y, z as adjacent float32 become a view; other layouts are copied. Intensity, ring and per-point time are found
    under the names that drivers use. Raises Rejected for a cloud without x, y, z or a buffer that is too short.
    """
    fields: dict[str, tuple[int, str]] = {
        f.name: (int(f.offset), _POINT_DTYPES[f.datatype]) for f in message.fields if f.datatype in _POINT_DTYPES
    }
    if not {"x", "y", "z"} <= fields.keys():
        raise Rejected("point cloud without x, y, z")
    step, width, height = int(message.point_step), int(message.width), int(message.height)
    data = message.data
    row_step = int(message.row_step) or width * step
    if any(offset + np.dtype(code).itemsize > step for offset, code in fields.values()) or row_step < width * step:
        raise Rejected("point cloud layout contradicts itself")
    if len(data) < row_step * height:
        raise Rejected("point cloud data shorter than its size says")
    if row_step != width * step:  # padded rows: close them up, once
        data = data[: row_step * height].reshape(height, row_step)[:, : width * step].reshape(-1)
    count = width * height
    if count == 0:
        return PointCloud(stamp_ns=stamp_ns, frame_id=frame_id, points_m=np.zeros((0, 3)))
    order = ">" if message.is_bigendian else "<"

    (x, kind_x), (y, kind_y), (z, kind_z) = fields["x"], fields["y"], fields["z"]
    if (y, z) == (x + 4, x + 8) and {kind_x, kind_y, kind_z} == {"f4"}:
        points: Array = np.ndarray((count, 3), np.dtype(order + "f4"), data.data, x, (step, 4))
    else:
        points = np.stack([_field_view(data, count, fields, n, step, order) for n in "xyz"], axis=1)

    def first_of(*names: str) -> str | None:
        return next((name for name in names if name in fields), None)

    intensity = first_of("intensity", "i", "reflectivity")
    ring = first_of("ring", "channel", "line")
    return PointCloud(
        stamp_ns=stamp_ns,
        frame_id=frame_id,
        points_m=points,
        intensity=None if intensity is None else _field_view(data, count, fields, intensity, step, order),
        ring=None if ring is None else _field_view(data, count, fields, ring, step, order),
        time_offset_s=_time_offsets_s(data, count, fields, first_of("time", "t", "timestamp"), step, order, stamp_ns),
    )


def _time_offsets_s(
    data: Array, count: int, fields: dict[str, tuple[int, str]], name: str | None, step: int, order: str, stamp_ns: int
) -> Array | None:
    """Per-point time relative to the stamp, or None where it makes no sense.

    Drivers write float seconds, uint32 nanoseconds, or float64 since the epoch in seconds, micro- or nanoseconds; the
    median tells which, since single points may be unset.
    """
    if name is None:
        return None
    values = _field_view(data, count, fields, name, step, order)
    if values.dtype.kind in "ui":
        seconds = values.astype(np.float64) * 1e-9
    else:
        middle = abs(float(np.median(values)))
        unit_s = 1e-9 if middle > 1e17 else 1e-6 if middle > 1e14 else 1.0
        seconds = values.astype(np.float64) * unit_s - (stamp_ns * 1e-9 if middle > 1e6 else 0.0)
    if not np.median(np.abs(seconds)) < MAX_SWEEP_S:
        return None
    return np.where(np.abs(seconds) < MAX_SWEEP_S, seconds, np.nan).astype(np.float32)


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


def decompress(message: CompressedImage) -> Image:
    """Decode a JPEG or PNG. Colour becomes bgr8, grey mono8, 16-bit 16UC1. Raises Rejected if it does not decode."""
    import cv2

    size = _declared_size(message.data)
    if size is not None and size[0] * size[1] > MAX_PIXELS:
        raise Rejected("compressed image is too large")
    if _is_cut_off(message.data):
        raise Rejected("compressed image is cut off")
    try:
        pixels = cv2.imdecode(message.data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise Rejected("compressed image does not decode")
    if pixels.dtype == np.uint16 and pixels.ndim == 2:
        encoding = "16UC1"
    elif pixels.dtype == np.uint8:
        encoding = "mono8" if pixels.ndim == 2 else {3: "bgr8", 4: "bgra8"}.get(pixels.shape[2], "")
    else:
        encoding = ""
    if not encoding:
        raise Rejected("compressed image has an unusual pixel format")
    return Image(stamp_ns=message.stamp_ns, frame_id=message.frame_id, pixels=pixels, encoding=encoding)


def _declared_size(data: Array) -> tuple[int, int] | None:
    """Width and height that a PNG's or JPEG's header claims, so that a small file cannot ask for gigabytes."""
    head = data[: 1 << 16].tobytes()
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    at = 2 if head.startswith(b"\xff\xd8") else len(head)
    while at + 9 <= len(head) and head[at] == 0xFF:  # a JPEG is a chain of segments: marker, length, body
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(head[at + 7 : at + 9], "big"), int.from_bytes(head[at + 5 : at + 7], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _is_cut_off(data: Array) -> bool:
    """Whether a JPEG lacks its end marker (cameras may pad behind it); OpenCV would fill the rest with grey."""
    return data[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in data[-4096:].tobytes()
