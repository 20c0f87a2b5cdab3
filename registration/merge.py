"""Two recordings in one frame: loops between them, held against each other, and one pose graph over both.

Each recording is followed by itself (registration.keyframes), loops are sought within each and between the two
(registration.loop_closure), and all poses are optimised together (registration.pose_graph). Where too few loops between
the two agree, nothing is merged and the answer says why: a wrong merge does more harm than none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registration.keyframes import Recorded
from registration.loop_closure import (
    Loop,
    LoopConfig,
    consistent,
    find_distant_loops,
    find_loops,
    loop_edges,
    odometry_edges,
)
from registration.pose_graph import Edges, marginal_covariance, optimise
from tercel.core.geometry import inverse

Array = NDArray[Any]
Progress = Callable[[float], None]
Status = Literal["merged", "no overlap"]


@dataclass(frozen=True)
class MergeConfig:
    """min_loops: so many loops between the recordings must agree. min_confidence: of the merge as a whole.
    loops: how loops are found.
    """

    min_loops: int = 3
    min_confidence: float = 0.9
    loops: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.min_loops < 2:
            raise ValueError(f"min_loops must be 2 or more, not {self.min_loops}: one loop has nothing to agree with")
        if not 0.0 < self.min_confidence < 1.0:
            raise ValueError(f"min_confidence must be between 0 and 1, not {self.min_confidence}")


@dataclass(frozen=True, eq=False)
class Closed:
    """One recording after its own loops: odom_T_sensor (N, 4, 4), odom_T_keyframe (K, 4, 4), the loops that hold."""

    poses: Array
    keyframe_poses: Array
    loops: list[Loop]


@dataclass(frozen=True, eq=False)
class Merged:
    """Where recording B lies in A.

    status: "merged", or "no overlap" with the reason; then A_T_B, covariance, a_poses and b_poses are None.
    A_T_B (4, 4): B's odometry frame in A's, at B's first pose; covariance (6, 6), m^2 and rad^2, x y z rx ry rz, of its
    tangent on the right. a_poses (N, 4, 4), b_poses (M, 4, 4): every scan of either, in A's frame; a_keyframe_poses,
    b_keyframe_poses (K, 4, 4) those of the keyframes. loops: those between the two that hold, known of A and asked of
    B; own_loops: those within A and within B. verified: how many passed verification, whether or not they agreed.
    confidence 0..1 that the loops between them are right.
    """

    status: Status
    reason: str
    A_T_B: Array | None
    covariance: Array | None
    confidence: float
    a_poses: Array | None
    b_poses: Array | None
    a_keyframe_poses: Array | None
    b_keyframe_poses: Array | None
    loops: list[Loop]
    own_loops: tuple[list[Loop], list[Loop]]
    verified: int


def close_loops(
    recorded: Recorded, config: LoopConfig | None = None, progress: Progress = lambda _share: None
) -> Closed:
    """One recording's trajectory with the drift taken out at the places that it comes back to."""
    loops = consistent(find_loops(recorded, recorded, config, progress), recorded, recorded, config)
    poses = recorded.keyframe_poses
    if not loops:
        return Closed(recorded.odom_T_sensor, poses, [])
    found = optimise(poses, Edges.joined([odometry_edges(recorded), loop_edges(loops)]))
    kept = [loop for loop, weight in zip(loops, found.weights[-len(loops) :], strict=True) if weight > 0]
    return Closed(recorded.carried(found.poses), found.poses, kept)


def merge(
    a: Recorded, b: Recorded, config: MergeConfig | None = None, progress: Progress = lambda _share: None
) -> Merged:
    """Put B into A's frame, or say that they do not overlap. progress gets the share of the work that is done."""
    config = MergeConfig() if config is None else config
    between = find_loops(a, b, config.loops, _part(progress, 0.0))
    loops = consistent(between, a, b, config.loops)
    if len(loops) < config.min_loops:
        between += find_distant_loops(a, b, config.loops, _part(progress, 0.25))
        loops = consistent(between, a, b, config.loops)
    confidence = confidence_of(loops, len(between))
    if len(loops) < config.min_loops or confidence < config.min_confidence:
        return _apart(_reason(a, b, len(between), loops, config), confidence, len(between))
    own = [
        consistent(find_loops(r, r, config.loops, _part(progress, 0.5 + 0.25 * k)), r, r, config.loops)
        for k, r in enumerate((a, b))
    ]
    return _joined(a, b, loops, (own[0], own[1]), config, len(between))


def confidence_of(loops: Sequence[Loop], verified: int) -> float:
    """That the loops which agree are right: one of them is, or all are wrong; less if many others disagree."""
    if not loops:
        return 0.0
    all_wrong = float(np.prod([1.0 - loop.confidence for loop in loops]))
    return (1.0 - all_wrong) * len(loops) / max(verified, len(loops))


def _joined(
    a: Recorded, b: Recorded, loops: list[Loop], own: tuple[list[Loop], list[Loop]], config: MergeConfig, verified: int
) -> Merged:
    """The pose graph of both, B's nodes after A's; loops that it finds wrong are dropped."""
    count = len(a.keyframes)
    best = max(loops, key=lambda loop: loop.confidence)
    A_T_B = a.keyframe_poses[best.known] @ best.known_T_asked @ inverse(b.keyframe_poses[best.asked])
    poses = np.concatenate([a.keyframe_poses, A_T_B @ b.keyframe_poses])
    edges = Edges.joined(
        [
            odometry_edges(a),
            odometry_edges(b, count),
            loop_edges(loops, 0, count),
            loop_edges(own[0]),
            loop_edges(own[1], count, count),
        ]
    )
    found = optimise(poses, edges)
    right = found.weights[len(edges) - len(loops) - len(own[0]) - len(own[1]) :] > 0
    kept = [loop for loop, good in zip(loops, right[: len(loops)], strict=True) if good]
    own_right = np.split(right[len(loops) :], [len(own[0])])
    own_kept = [
        [k for k, good in zip(part, goods, strict=True) if good] for part, goods in zip(own, own_right, strict=True)
    ]
    confidence = confidence_of(kept, verified)
    if len(kept) < config.min_loops or confidence < config.min_confidence:
        return _apart("the loops between the recordings contradict their odometry", confidence, verified)
    return Merged(
        "merged",
        "",
        found.poses[count],
        marginal_covariance(found.poses, edges, found.weights, count),
        confidence,
        a.carried(found.poses[:count]),
        b.carried(found.poses[count:]),
        found.poses[:count],
        found.poses[count:],
        kept,
        (own_kept[0], own_kept[1]),
        verified,
    )


def _apart(reason: str, confidence: float, verified: int) -> Merged:
    return Merged("no overlap", reason, None, None, confidence, None, None, None, None, [], ([], []), verified)


def _reason(a: Recorded, b: Recorded, verified: int, loops: Sequence[Loop], config: MergeConfig) -> str:
    """Why nothing is merged, in words for people."""
    for name, recorded in (("first", a), ("second", b)):
        if not recorded.keyframes:
            return f"the {name} recording has no scan that can be used"
    if not verified:
        return "no two scans of the recordings show the same place"
    if len(loops) < config.min_loops:
        return f"{len(loops)} of {verified} pairs of scans that look alike agree; {config.min_loops} are wanted"
    return "too many pairs of scans that look alike contradict each other"


def _part(progress: Progress, begin: float) -> Progress:
    """A quarter of the work, from its beginning."""
    return lambda share: progress(begin + 0.25 * share)
