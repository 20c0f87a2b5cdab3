"""What `tercel view` draws of messages that Foxglove has no picture for.

| of | becomes | as |
| --- | --- | --- |
| vision_msgs/Detection2DArray | foxglove.ImageAnnotations | a rectangle and words for each box, over the image |
| vision_msgs/Detection3DArray | foxglove.SceneUpdate | a cube and words for each box, in the array's frame |
| diagnostic_msgs/DiagnosticArray | JSON | the numbers, by node, component and name: what a plot can point at |

Pure: serialised messages in, serialised messages out. Colours are those of the reports: a track keeps its own.
"""

from __future__ import annotations

import colorsys
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercel.core.errors import Rejected, require
from tercel.core.messages import Tracks2D, Tracks3D
from tercel.report.camera_view import hue_of, name_of
from tercel.report.dashboard_diagnostics import DIAGNOSTICS_TYPE, Status, read_statuses
from tercel.ros import convert
from tercel.ros.transport import Data

MAX_BOXES = 500
MAX_BYTES = 8 << 20
_SHOWN_FOR_S = 2  # boxes of a tracker that has died do not stay
_LINE_PX, _FONT_PX = 2.0, 12.0
_BEYOND_PX, _BEYOND_M = 1e5, 1e6


@dataclass(frozen=True)
class Drawing:
    """How one ROS type is drawn: what the topic's name gets, the message's encoding and schema, and the function."""

    suffix: str
    encoding: str
    schema: str
    draw: Callable[[Data], bytes]


def image_annotations(data: Data) -> bytes:
    """foxglove.ImageAnnotations (protobuf) of a serialised Detection2DArray. Raises Rejected if it does not decode."""
    foxglove = require("foxglove.messages", extra="view")
    tracks = _tracks("vision_msgs/msg/Detection2DArray", data, Tracks2D)
    at = foxglove.Timestamp(*divmod(tracks.stamp_ns, 10**9))
    boxes = tracks.boxes_xyxy_px.astype(np.float64)
    rows = _usable(boxes, _BEYOND_PX)
    shapes, texts = [], []
    for row in rows:
        x0, y0, x1, y1 = boxes[row].tolist()
        colour = _colour(foxglove, tracks, row)
        corners = [foxglove.Point2(x=x, y=y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        shapes.append(
            foxglove.PointsAnnotation(
                timestamp=at, type=foxglove.PointsAnnotationType.LineLoop, points=corners, outline_color=colour,
                thickness=_LINE_PX,
            )
        )  # fmt: skip
        texts.append(
            foxglove.TextAnnotation(
                timestamp=at, position=foxglove.Point2(x=x0, y=y0), text=_words(tracks, row), font_size=_FONT_PX,
                text_color=foxglove.Color(r=1.0, g=1.0, b=1.0, a=1.0), background_color=colour,
            )
        )  # fmt: skip
    return bytes(foxglove.ImageAnnotations(timestamp=at, points=shapes, texts=texts).encode())


def scene(data: Data) -> bytes:
    """foxglove.SceneUpdate (protobuf) of a serialised Detection3DArray. Raises Rejected if it does not decode.

    It first takes away what was drawn before.
    """
    foxglove = require("foxglove.messages", extra="view")
    tracks = _tracks("vision_msgs/msg/Detection3DArray", data, Tracks3D)
    at = foxglove.Timestamp(*divmod(tracks.stamp_ns, 10**9))
    numbers = np.column_stack([tracks.centers_m, tracks.sizes_m, tracks.yaws_rad])
    entities = [_entity(foxglove, tracks, row, at) for row in _usable(numbers, _BEYOND_M)]
    gone = foxglove.SceneEntityDeletion(timestamp=at, type=foxglove.SceneEntityDeletionType.All)
    return bytes(foxglove.SceneUpdate(deletions=[gone], entities=entities).encode())


def _entity(foxglove: Any, tracks: Tracks3D, row: int, at: Any) -> Any:
    x, y, z = tracks.centers_m[row].tolist()
    length, width, height = np.abs(tracks.sizes_m[row]).tolist()
    half_yaw = float(tracks.yaws_rad[row]) / 2
    turn = foxglove.Quaternion(x=0.0, y=0.0, z=math.sin(half_yaw), w=math.cos(half_yaw))
    cube = foxglove.CubePrimitive(
        pose=foxglove.Pose(position=foxglove.Vector3(x=x, y=y, z=z), orientation=turn),
        size=foxglove.Vector3(x=length, y=width, z=height),
        color=_colour(foxglove, tracks, row, alpha=0.5),
    )
    above = foxglove.Pose(
        position=foxglove.Vector3(x=x, y=y, z=z + height / 2),
        orientation=foxglove.Quaternion(x=0.0, y=0.0, z=0.0, w=1.0),
    )
    text = foxglove.TextPrimitive(
        pose=above, billboard=True, font_size=_FONT_PX, scale_invariant=True, color=_colour(foxglove, tracks, row),
        text=_words(tracks, row),
    )  # fmt: skip
    identity = int(tracks.ids[row])
    return foxglove.SceneEntity(
        timestamp=at, frame_id=tracks.frame_id, id=f"track {identity}" if identity >= 0 else f"box {row}",
        lifetime=foxglove.Duration(_SHOWN_FOR_S, 0), cubes=[cube], texts=[text],
    )  # fmt: skip


def numbers(data: Data) -> bytes:
    """JSON of the finite numbers in a serialised DiagnosticArray. Raises Rejected if it does not decode.

    "tercel: odometry" with "latency_ms.p50" becomes {"tercel": {"odometry": {"latency_ms": {"p50": 12.5}}}}; what is
    no letter, digit or underscore becomes an underscore, so that a message path can name it.
    """
    tree: dict[str, Any] = {}
    for status in read_statuses(data):
        for key, value in _finite(status):
            _plant(tree, [*status.name.split(": "), *key.split(".")], value)
    return json.dumps(tree, allow_nan=False).encode()


def _finite(status: Status) -> list[tuple[str, float]]:
    found = []
    for key, text in status.values.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if math.isfinite(value):
            found.append((key, value))
    return found


def _plant(tree: dict[str, Any], path: list[str], value: float) -> None:
    """Put a value into nested mappings, unless a number stands where a mapping is wanted or the other way round."""
    *branches, leaf = [re.sub(r"\W", "_", part.strip(), flags=re.ASCII) or "_" for part in path]
    for branch in branches:
        tree = tree.setdefault(branch, {})
        if not isinstance(tree, dict):
            return
    if not isinstance(tree.get(leaf), dict):
        tree[leaf] = value


def _tracks(ros_type: str, data: Data, kind: type[Any]) -> Any:
    if len(data) > MAX_BYTES:
        raise Rejected("message is too large to draw")
    message = convert.decode(ros_type, data)
    if not isinstance(message, kind):
        raise Rejected(f"no {kind.__name__}")
    return message


def _usable(rows: Any, beyond: float) -> list[int]:
    """The rows without NaN and numbers that no scene holds, MAX_BOXES at most."""
    good = np.isfinite(rows).all(axis=1) & (np.abs(rows) < beyond).all(axis=1)
    return [int(row) for row in np.flatnonzero(good)[:MAX_BOXES]]


def _colour(foxglove: Any, tracks: Tracks2D | Tracks3D, row: int, alpha: float = 1.0) -> Any:
    red, green, blue = colorsys.hls_to_rgb(float(hue_of(tracks, row)) / 360.0, 0.45, 0.85)
    return foxglove.Color(r=red, g=green, b=blue, a=alpha)


def _words(tracks: Tracks2D | Tracks3D, row: int) -> str:
    identity = int(tracks.ids[row])
    words = [str(identity)] if identity >= 0 else []
    return " ".join([*words, name_of(tracks, row), f"{float(tracks.scores[row]):.2f}"]).replace("  ", " ").strip()


# No topic from the wire is shown whose name has a part that begins with an underscore: these can meet none of them.
DRAWINGS: dict[str, Drawing] = {
    "vision_msgs/msg/Detection2DArray": Drawing("/_boxes", "protobuf", "foxglove.ImageAnnotations", image_annotations),
    "vision_msgs/msg/Detection3DArray": Drawing("/_scene", "protobuf", "foxglove.SceneUpdate", scene),
    DIAGNOSTICS_TYPE: Drawing("/_numbers", "json", "", numbers),
}
