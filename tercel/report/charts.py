"""The map, and the position error along the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.report.drawing import Axes, Panel, hue_of_id, nice_step, number, thin
from tercel.report.frames import Frames, Trajectory, alignment
from tercel.report.track_paths import TrackPath

Array = NDArray[Any]

_MAX_MAPPED = 1000
_MAP_WIDTH = 760.0
_MARGIN = (46.0, 14.0, 18.0, 30.0)  # left, top, right, bottom


def true_poses(estimate: Trajectory, truth: Trajectory, frames: Frames) -> Array:
    """The true poses (N, 4, 4) of the estimate's child, laid over the estimate at the first pose they share.

    One for each of the truth's stamps. Raises KeyError where the two cannot be compared.
    """
    estimate_T_truth, truthchild_T_child = alignment(estimate, truth, frames.static, slack_ns=frames.slack_ns)
    result: Array = estimate_T_truth @ truth.frame_T_child @ truthchild_T_child
    return result


def position_errors(estimate: Trajectory, truth: Trajectory, true: Array, slack_ns: int) -> tuple[Array, Array]:
    """Distance travelled (M,) m and position error (M,) m at the true poses that the estimate has a pose for."""
    laid = Trajectory(truth.topic, estimate.frame_id, estimate.child_frame_id, truth.stamps_ns, true)
    distances, errors = [], []
    for stamp_ns, distance_m, pose in zip(truth.stamps_ns.tolist(), laid.distances_m.tolist(), true, strict=True):
        try:
            estimated = estimate.at(stamp_ns, slack_ns=slack_ns)
        except KeyError:
            continue
        distances.append(distance_m)
        errors.append(float(np.linalg.norm(estimated[:3, 3] - pose[:3, 3])))
    return np.array(distances), np.array(errors)


def map_panel(estimate: Trajectory, true: Array | None, paths: Sequence[TrackPath]) -> tuple[Panel, Axes]:
    """The way from above in the odometry's frame, equal scales, with the tracks' paths."""
    way = estimate.positions_m[:, :2]
    laid = [way] + ([true[:, :2, 3]] if true is not None else [])
    axes = map_axes(np.concatenate(laid), [path.centers[:, :2] for path in paths])
    panel = Panel(_MAP_WIDTH, axes.top + axes.height + _MARGIN[3], "Map of the estimated way", "chart map")
    axes.draw(panel, x_unit="m", y_unit="m")
    _draw_tracks(panel, axes, paths)
    if true is not None:
        panel.line(axes.place(thin(true[:, :2, 3], 1200)), "true-way")
    panel.line(axes.place(thin(way, 1200)), "way")
    (x0, y0), (x1, y1) = axes.place(way[[0, -1]]).tolist()
    panel.text(x0, y0, "start", "point start")
    panel.text(x1, y1, "end", "point end")
    scale_bar(panel, axes)
    return panel, axes


def _draw_tracks(panel: Panel, axes: Axes, paths: Sequence[TrackPath]) -> None:
    """What stands as dots, what moves as lines in the tracks' colours: those seen longest, if there are many."""
    for path in sorted(paths, key=lambda path: (path.first_ns - path.last_ns, path.identity))[:_MAX_MAPPED]:
        places = path.centers[:, :2] if path.moves else np.median(path.centers[:, :2], axis=0)[None]
        inside = axes.place(places[_inside(axes, places)])
        if path.moves and len(inside) > 1:
            panel.line(thin(inside, 60), "track-path", hue=hue_of_id(path.identity))
        elif len(inside):
            panel.circle(float(inside[0, 0]), float(inside[0, 1]), 2.0, "standing")


def map_axes(way: Array, paths: Sequence[Array]) -> Axes:
    """Room for the whole way and for the tracks near it, neither very flat nor very tall."""
    low, high = way.min(axis=0), way.max(axis=0)
    reach = max(15.0, 0.25 * float((high - low).max()))
    if paths:
        places = np.clip(np.concatenate(list(paths)), low - reach, high + reach)
        around = np.quantile(places, [0.02, 0.98], axis=0)
        low, high = np.minimum(low, around[0]), np.maximum(high, around[1])
    span = np.maximum(high - low, 0.02 * float((high - low).max()) + 1.0) * 1.08
    middle = (low + high) / 2
    width = _MAP_WIDTH - _MARGIN[0] - _MARGIN[2]
    height = float(np.clip(width * span[1] / span[0], 0.32 * width, 0.62 * width))
    scale = min(width / span[0], height / span[1])
    half = np.array([width, height]) / scale / 2
    (x0, y0), (x1, y1) = (middle - half).tolist(), (middle + half).tolist()
    return Axes(_MARGIN[0], _MARGIN[1], width, height, (x0, x1), (y0, y1))


def _inside(axes: Axes, points: Array) -> Array:
    (x0, x1), (y0, y1) = axes.x_range, axes.y_range
    result: Array = (points[:, 0] >= x0) & (points[:, 0] <= x1) & (points[:, 1] >= y0) & (points[:, 1] <= y1)
    return result


def scale_bar(panel: Panel, axes: Axes) -> None:
    """A bar of a round length, at the lower right."""
    length_m = nice_step(axes.x_range[1] - axes.x_range[0], 6)
    length = length_m / (axes.x_range[1] - axes.x_range[0]) * axes.width
    right, y = axes.left + axes.width - 12, axes.top + axes.height - 12
    bar = [[right - length, y - 5], [right - length, y], [right, y], [right, y - 5]]
    panel.line(np.array(bar), "scale-bar")
    panel.text(right - length / 2, y - 4, f"{number(length_m, 2)} m", "scale-label")


def error_panel(distances_m: Array, errors_m: Array) -> Panel:
    """Position error over distance travelled."""
    panel = Panel(520.0, 300.0, "Position error over distance travelled", "chart")
    top = float(errors_m.max())
    highest = nice_step(top, 5) * np.ceil(top / nice_step(top, 5)) if top > 0 else 0.1
    axes = Axes(52.0, 14.0, 450.0, 252.0, (0.0, max(float(distances_m.max()), 0.1)), (0.0, float(highest)))
    axes.draw(panel, x_unit="m", y_unit="m", x_most=6, y_most=5)
    kept = thin(np.stack([distances_m, errors_m], axis=1), 500)
    placed = axes.place(kept)
    floor = axes.top + axes.height
    panel.line(np.concatenate([[[placed[0, 0], floor]], placed, [[placed[-1, 0], floor]]]), "error-area", closed=True)
    panel.line(placed, "error-line")
    return panel


def place_percent(panel: Panel, axes: Axes, point: Array) -> tuple[float, float]:
    """Where a value lies in a panel, in percent of its width and height: for the marker that the page moves."""
    x, y = axes.place(point.reshape(1, 2))[0].tolist()
    return round(100 * x / panel.width, 2), round(100 * y / panel.height, 2)


def pose_at(estimate: Trajectory, stamp_ns: int, slack_ns: int) -> Array | None:
    """The estimated position (3,) at a stamp, if there is one."""
    try:
        return np.asarray(estimate.at(stamp_ns, slack_ns=slack_ns)[:3, 3])
    except KeyError:
        return None
