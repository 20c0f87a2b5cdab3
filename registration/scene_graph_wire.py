"""Scene graphs as bytes: at most 4 KB each, little-endian, with a version and a checksum.

    offset  type     what
    0       4 bytes  "TSGR"
    4       u8       version, 1
    5       u8       F: bytes of the frame's name, at most 64
    6       u16      N: nodes, at most 254
    8       i64      stamp, ns
    16      i16 x 2  up: x and y of the unit vector, in 1 / 32767; z is positive and follows
    20      i16      the sensor's height above the ground, cm
    22      F bytes  the frame's name, UTF-8
    22 + F  N nodes  16 bytes each: kind u8, weight u8 (1 / 255), centre i16 x 3 (cm), size u16 x 3 (cm), yaw i16
                     (pi / 32767; -32768 where unknown)
    ...     u32      CRC-32 (zlib's) of all before it

Centres and sizes are rounded to 1 cm (within 5 mm), yaws to 0.0055 degrees. What cannot be written (farther than 327 m,
not finite) is left out, and of more nodes than fit, those with the most weight are kept.

A decoder believes nothing: the length must be the one that the counts name, and any flipped bit fails the checksum.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registration.scene_graph import KINDS, SceneGraph
from tercel.core.errors import Rejected
from tercel.core.geometry import wrap_angle

Array = NDArray[Any]

MAGIC = b"TSGR"
VERSION = 1
MAX_BYTES = 4096
MAX_FRAME_BYTES = 64

_HEADER = struct.Struct("<4sBBHqhhh")
_CRC = struct.Struct("<I")
_NODE = np.dtype([("kind", "u1"), ("weight", "u1"), ("center", "<i2", 3), ("size", "<u2", 3), ("yaw", "<i2")])
_UNIT = 32767
_NO_YAW = -32768
_CM = 100.0

MAX_NODES = (MAX_BYTES - _HEADER.size - _CRC.size) // _NODE.itemsize


def encode_scene_graph(graph: SceneGraph, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The graph as at most max_bytes bytes.

    Raises ValueError for a frame's name of more than 64 bytes, a max_bytes too small for no node at all or above
    MAX_BYTES, and an up that does not point up.
    """
    frame = graph.frame_id.encode()
    if len(frame) > MAX_FRAME_BYTES:
        raise ValueError(f"frame_id has {len(frame)} bytes; {MAX_FRAME_BYTES} is the most")
    room = max_bytes - _HEADER.size - len(frame) - _CRC.size
    if room < 0 or max_bytes > MAX_BYTES:
        raise ValueError(f"max_bytes is {max_bytes}; a graph takes {max_bytes - room}..{MAX_BYTES}")
    if not (np.isfinite(graph.up).all() and abs(np.linalg.norm(graph.up) - 1.0) < 1e-6 and graph.up[2] >= 0.0):
        raise ValueError("up is not a unit vector that points up")
    nodes = _packed(graph, min(room // _NODE.itemsize, MAX_NODES))
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        len(frame),
        len(nodes),
        graph.stamp_ns,
        round(float(graph.up[0]) * _UNIT),
        round(float(graph.up[1]) * _UNIT),
        round(float(np.clip(graph.sensor_height_m, -300.0, 300.0)) * _CM),
    )
    body = header + frame + nodes.tobytes()
    return body + _CRC.pack(zlib.crc32(body))


def decode_scene_graph(data: bytes) -> SceneGraph:
    """The graph that encode_scene_graph wrote. Raises Rejected for anything else."""
    if len(data) < _HEADER.size + _CRC.size or len(data) > MAX_BYTES or data[:4] != MAGIC:
        raise Rejected("not a scene graph")
    _, version, frame_bytes, count, stamp_ns, up_x, up_y, height = _HEADER.unpack_from(data)
    if version != VERSION:
        raise Rejected("scene graph of an unknown version")
    end = _HEADER.size + frame_bytes + count * _NODE.itemsize
    if frame_bytes > MAX_FRAME_BYTES or count > MAX_NODES or len(data) != end + _CRC.size:
        raise Rejected("scene graph of a wrong length")
    if zlib.crc32(data[:end]) != _CRC.unpack_from(data, end)[0]:
        raise Rejected("scene graph with a wrong checksum")
    nodes = np.frombuffer(data, _NODE, count, _HEADER.size + frame_bytes)
    up = np.array([up_x, up_y, 0.0]) / _UNIT
    left = 1.0 - float(up @ up)
    if left < 0.0 or (nodes["kind"] >= len(KINDS)).any():
        raise Rejected("scene graph with impossible values")
    up[2] = np.sqrt(left)
    try:
        frame_id = data[_HEADER.size : _HEADER.size + frame_bytes].decode()
    except UnicodeDecodeError:
        raise Rejected("scene graph with impossible values") from None
    yaws = nodes["yaw"].astype(np.float64)
    return SceneGraph(
        stamp_ns,
        frame_id,
        up,
        height / _CM,
        nodes["kind"].copy(),
        nodes["center"] / _CM,
        nodes["size"] / _CM,
        np.where(yaws == _NO_YAW, np.nan, yaws * (np.pi / _UNIT)),
        nodes["weight"] / 255.0,
    )


def _packed(graph: SceneGraph, room: int) -> Array:
    """The nodes that can be written and weigh most, at most `room`, in the graph's order."""
    finite = np.isfinite(np.column_stack([graph.centers_m, graph.sizes_m, graph.weights])).all(axis=1)
    small = (np.abs(graph.centers_m) * _CM < _UNIT).all(axis=1) & (graph.sizes_m >= 0.0).all(axis=1)
    usable = np.flatnonzero(finite & small & (graph.kinds < len(KINDS)))
    kept = np.sort(usable[np.argsort(-graph.weights[usable], kind="stable")[:room]])
    nodes = np.zeros(len(kept), _NODE)
    yaws = graph.yaws_rad[kept]
    known = np.isfinite(yaws)
    nodes["kind"] = graph.kinds[kept]
    nodes["weight"] = np.round(np.clip(graph.weights[kept], 0.0, 1.0) * 255.0)
    nodes["center"] = np.round(graph.centers_m[kept] * _CM)
    nodes["size"] = np.round(np.minimum(graph.sizes_m[kept] * _CM, 65535.0))
    nodes["yaw"] = np.where(known, np.round(wrap_angle(np.where(known, yaws, 0.0)) * (_UNIT / np.pi)), _NO_YAW)
    return nodes
