"""Predictions as visualization_msgs/MarkerArray: a line for each hypothesis of each track, for RViz and Foxglove."""

from __future__ import annotations

from typing import Any

import numpy as np

from tercel.core.messages import Predictions
from tercel.ros.store import STORE, make

LINE_STRIP, DELETE_ALL = 4, 3
_LINE_WIDTH_M = 0.05
_T = STORE.types


def marker_array(m: Predictions, head: Any) -> Any:
    """First a marker that clears the last picture, then the lines: the likelier a hypothesis, the less transparent.

    A line's namespace is its track's id, its id the hypothesis'. Positions in an image (D = 2) lie at z = 0.
    """
    lifetime_ns = round(float(m.horizons_s[-1]) * 1e9) if len(m.horizons_s) else 0
    lifetime = _T["builtin_interfaces/msg/Duration"](sec=lifetime_ns // 10**9, nanosec=lifetime_ns % 10**9)
    colour, vector = _T["std_msgs/msg/ColorRGBA"], _T["geometry_msgs/msg/Vector3"]
    scale = vector(x=_LINE_WIDTH_M, y=0.0, z=0.0)
    markers = [make("visualization_msgs/msg/Marker", header=head, action=DELETE_ALL)]
    for track, hypotheses, shares in zip(m.ids.tolist(), m.positions, m.mode_probabilities.tolist(), strict=True):
        for index, (positions, share) in enumerate(zip(hypotheses, shares, strict=True)):
            markers.append(
                make(
                    "visualization_msgs/msg/Marker", header=head, ns=f"track {track}", id=index, type=LINE_STRIP,
                    scale=scale, color=colour(r=1.0, g=0.6, b=0.0, a=max(0.1, share)), lifetime=lifetime,
                    points=_points(positions),
                )
            )  # fmt: skip
    return _T["visualization_msgs/msg/MarkerArray"](markers=markers)


def _points(positions: np.ndarray) -> list[Any]:
    point = _T["geometry_msgs/msg/Point"]
    return [point(x=row[0], y=row[1], z=row[2] if len(row) > 2 else 0.0) for row in positions.tolist()]
