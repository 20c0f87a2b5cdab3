"""The CDR bytes of vision_msgs/Detection2DArray and Detection3DArray, written and read without an object per box.

rosbags makes a dozen objects of every detection, most of them zeros, and takes about a millisecond for a hundred boxes
each way. Here the floats of all boxes are one table, and what lies between them, strings, is cut out in one loop. The
bytes are rosbags' own, which the tests compare.

One detection in CDR, u32 and strings aligned to 4, f64 to 8:

    header    i32 sec, u32 nanosec, string frame_id
    results   u32 count; each: string class_id, f64 score, 7 f64 pose, 36 f64 covariance
    bbox      2D: f64 x, y, theta, width, height;  3D: 7 f64 pose (x y z, quaternion x y z w), 3 f64 size
    id        string
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected

Array = NDArray[Any]

BOX_2D, BOX_3D = 5, 10  # the floats of a bounding box
_POSE_AND_COVARIANCE = 7 + 36
_LITTLE_ENDIAN = b"\x00\x01\x00\x00"
_U32, _F64, _HEADER = Struct("<I"), Struct("<d"), Struct("<iII")
_LEAST_BYTES = 8 + 5 + 3 + 4 + 8 * BOX_2D + 4  # of one detection: strings empty, no results
_MAX_ID_DIGITS = 18


class Boxes(NamedTuple):
    """What a detection array holds.

    boxes: (N, 5 or 10) float64, as the message has them; scores, names and ids of the best hypotheses: 0, "" and -1
    where there is none.
    """

    stamp_ns: int
    frame_id: str
    boxes: Array
    scores: list[float]
    names: list[str]
    ids: list[int]


def write(stamp_ns: int, frame_id: str, boxes: Array, scores: Array, names: Sequence[str], ids: Sequence[str]) -> bytes:
    """The CDR bytes of an array with one hypothesis for each box (N, 5 or 10): its class name and score."""
    header = _HEADER.pack(stamp_ns // 10**9, stamp_ns % 10**9, 0)[:8] + _string(frame_id)
    begin = header + _padding(len(header), 4) + _U32.pack(len(boxes))
    table = np.zeros((len(boxes), 1 + _POSE_AND_COVARIANCE + boxes.shape[1]))
    table[:, 0] = scores
    table[:, 7] = 1.0  # the hypothesis' pose is not told: the identity, as every message that nobody filled has it
    table[:, 1 + _POSE_AND_COVARIANCE :] = boxes
    floats, row_bytes = memoryview(table.tobytes()), table.itemsize * table.shape[1]
    # Header, one result and the class name begin at 4 bytes, the floats behind them at 8: two forms of each.
    heads: dict[tuple[str, int], bytes] = {}
    parts: list[bytes | memoryview] = [_LITTLE_ENDIAN, begin]
    at = len(begin)
    for index, (name, identity) in enumerate(zip(names, ids, strict=True)):
        head = heads.get((name, at & 4))
        if head is None:
            head = header + _padding(len(header), 4) + _U32.pack(1) + _string(name)
            head += _padding((at & 4) + len(head), 8)
            heads[name, at & 4] = head
        tail = _string(identity)
        if index + 1 < len(names):
            tail += _padding(len(tail), 4)
        parts += (head, floats[index * row_bytes : (index + 1) * row_bytes], tail)
        at += len(head) + row_bytes + len(tail)
    return b"".join(parts)


def read(data: bytes | bytearray | memoryview, box_floats: int) -> Boxes | None:
    """The content of a detection array; of several hypotheses of a box, the best. None for bytes of big-endian.

    box_floats: BOX_2D or BOX_3D. Raises Rejected if it does not decode.
    """
    whole = memoryview(data)
    if bytes(whole[:2]) != _LITTLE_ENDIAN[:2]:
        return None
    try:
        return _read(bytes(whole[4:]), box_floats)
    except (StructError, ValueError, IndexError, OverflowError):
        raise Rejected("message does not decode") from None


def _read(body: bytes, box_floats: int) -> Boxes:
    u32, f64 = _U32.unpack_from, _F64.unpack_from
    sec, nanosec, _ = _HEADER.unpack_from(body, 0)
    frame, at = _cut_string(body, 8)
    at = (at + 3) & -4
    (count,) = u32(body, at)
    at += 4
    if count * _LEAST_BYTES > len(body):
        raise ValueError("more detections than bytes")
    offsets, scores, names, ids = [], [], [], []
    spelled = {b"": "", frame: frame.decode()}
    results, head = 0, b""  # most headers repeat the one before, byte for byte
    for _ in range(count):
        at = (at + 3) & -4
        if head and body.startswith(head, at):
            at += len(head)
        else:
            begin = at
            own_frame, at = _cut_string(body, at + 8)
            spelled[own_frame] = own_frame.decode()
            at = (at + 3) & -4
            (results,) = u32(body, at)
            at += 4
            head = body[begin:at]
        best, best_score = b"", None
        for _ in range(results):
            name, at = _cut_string(body, (at + 3) & -4)
            if name not in spelled:
                spelled[name] = name.decode()
            at = (at + 7) & -8
            (score,) = f64(body, at)
            at += 8 * (1 + _POSE_AND_COVARIANCE)
            if best_score is None or score > best_score:
                best, best_score = name, score
        at = (at + 7) & -8
        offsets.append(at)
        identity, at = _cut_string(body, at + 8 * box_floats)
        names.append(spelled[best])
        scores.append(0.0 if best_score is None else best_score)
        ids.append(int(identity) if identity.isdigit() and len(identity) <= _MAX_ID_DIGITS else _no_number(identity))
    if at + 3 < len(body):
        raise ValueError("bytes left over")
    return Boxes(sec * 10**9 + nanosec, spelled[frame], _floats(body, offsets, box_floats), scores, names, ids)


def _no_number(identity: bytes) -> int:
    """-1 for an id that is no number. Raises ValueError if it is no text either."""
    identity.decode()
    return -1


def _floats(body: bytes, offsets: list[int], count: int) -> Array:
    """(N, count) float64 of the given places. Raises IndexError if one lies outside."""
    places = np.array(offsets, np.int64)[:, None] + np.arange(8 * count)
    floats: Array = np.frombuffer(body, np.uint8)[places].view("<f8").reshape(len(offsets), count)
    return floats


def _cut_string(body: bytes, at: int) -> tuple[bytes, int]:
    """A string without its closing zero, and where it ends. Raises ValueError if it does not lie in the bytes whole."""
    (length,) = _U32.unpack_from(body, at)
    end = at + 4 + length
    if not length or end > len(body) or body[end - 1]:
        raise ValueError("string out of bounds")
    return body[at + 4 : end - 1], end


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _U32.pack(len(encoded) + 1) + encoded + b"\x00"


def _padding(length: int, to: int) -> bytes:
    return bytes(-length % to)
