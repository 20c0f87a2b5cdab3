"""Merging of two recordings from end to end: read, follow, find loops, write. What `tercel merge` calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tercel
from registration.keyframes import Recorded, Scan, record, thin
from registration.loop_closure import Loop
from registration.merge import MergeConfig, Merged, merge
from registration.place import ground_height_m
from registration.trajectory_files import write_tum
from tercel.core.errors import UserError, require
from tercel.core.geometry import so3_log, transform_points
from tercel.core.messages import PointCloud
from tercel.report.odometry_input import Feed, open_feed
from tercel.report.odometry_scores import rows_text
from tercel.terminal import require_writable, write_json

Array = NDArray[Any]
Progress = Callable[[float], None]

OUTPUTS = ("merged.json", "a.txt", "b.txt", "merged.ply", "report.html")
COLOURS = ((74, 144, 226), (240, 138, 44))
"""Of A's and of B's points: blue and orange."""
_KEYFRAMES_AT_ONCE = 64
_SHARE_OF_ODOMETRY = 0.3  # of the progress, for each recording


@dataclass(frozen=True)
class MergeOptions:
    """What the user asked for. rate_hz: of folders of clouds. voxel_m: grid that thins the merged cloud."""

    first: Path
    second: Path
    out: Path
    topic: str | None = None
    rate_hz: float = 10.0
    voxel_m: float = 0.3
    min_loops: int = 3
    command: str = ""


@dataclass(frozen=True, eq=False)
class MergeRun:
    """What was done. recordings: A's and B's ways by odometry alone. rejected: scans without a pose, by reason."""

    options: MergeOptions
    feeds: tuple[Feed, Feed]
    recordings: tuple[Recorded, Recorded]
    rejected: tuple[Counter[str], Counter[str]]
    merged: Merged

    @property
    def names(self) -> tuple[str, str]:
        """What the recordings are called."""
        return self.feeds[0].name, self.feeds[1].name

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        merged = self.merged
        return {
            "tercel": tercel.__version__,
            "command": self.options.command,
            "status": merged.status,
            "reason": merged.reason,
            "confidence": merged.confidence,
            "A_T_B": None if merged.A_T_B is None else merged.A_T_B.tolist(),
            "covariance": None if merged.covariance is None else merged.covariance.tolist(),
            "verified_loops": merged.verified,
            "loops": self._loops(merged.loops, 0, 1),
            "loops_within": {"a": self._loops(merged.own_loops[0], 0, 0), "b": self._loops(merged.own_loops[1], 1, 1)},
            "recordings": {side: self._recording(k) for k, side in enumerate("ab")},
        }

    def _recording(self, index: int) -> dict[str, Any]:
        recorded, feed = self.recordings[index], self.feeds[index]
        return {
            "name": feed.name,
            "topic": feed.topic,
            "scans": feed.scans,
            "posed": len(recorded.stamps_ns),
            "rejected": dict(sorted(self.rejected[index].items())),
            "keyframes": len(recorded.keyframes),
            "path_m": path_m(recorded.odom_T_sensor),
            "problems": list(feed.problems),
        }

    def _loops(self, loops: list[Loop], known: int, asked: int) -> list[dict[str, Any]]:
        return [
            {
                "known_stamp_ns": self.stamp_ns(known, loop.known),
                "asked_stamp_ns": self.stamp_ns(asked, loop.asked),
                "known_T_asked": loop.known_T_asked.tolist(),
                "confidence": loop.confidence,
                "agreement": loop.agreement,
                "score": loop.score,
            }
            for loop in loops
        ]

    def stamp_ns(self, index: int, keyframe: int) -> int:
        """When a keyframe of A (index 0) or B (1) was recorded."""
        recorded = self.recordings[index]
        return int(recorded.stamps_ns[recorded.keyframes[keyframe].row])

    def table(self) -> str:
        """For a terminal."""
        merged = self.merged
        rows = [("status", merged.status + (f": {merged.reason}" if merged.reason else ""))]
        for side, index in (("A", 0), ("B", 1)):
            row = self._recording(index)
            text = f"{row['name']}, {row['path_m']:,.1f} m, {row['posed']:,} of {row['scans']:,} scans with a pose"
            rows.append((side, f"{text}, {row['keyframes']:,} keyframes"))
        rows += [("rejected", f"{count:,} {why}") for each in self.rejected for why, count in sorted(each.items())]
        between = f"{len(merged.loops):,} agree of {merged.verified:,} verified"
        rows.append(("loops between", between))
        if merged.A_T_B is not None and merged.covariance is not None:
            turned_deg = np.degrees(np.linalg.norm(so3_log(merged.A_T_B[:3, :3])))
            sigma_m, sigma_deg = sigmas(merged.covariance)
            rows.append(("loops within", f"{len(merged.own_loops[0]):,} in A, {len(merged.own_loops[1]):,} in B"))
            rows.append(("B began", f"{np.linalg.norm(merged.A_T_B[:3, 3]):.2f} m from A, turned by {turned_deg:.1f}°"))
            rows.append(("known to", f"{sigma_m:.2f} m, {sigma_deg:.2f}° (standard deviation)"))
        rows.append(("confidence", f"{merged.confidence:.3f}"))
        rows += [("problem", problem) for feed in self.feeds for problem in feed.problems]
        return rows_text(rows)


def run_merge(options: MergeOptions, progress: Progress = lambda _share: None) -> MergeRun:
    """Follow both recordings, merge them, and write everything but the report.

    Raises UserError for anything that the user can mend, before the first scan where that can be known.
    """
    require("scipy.sparse", extra="merge")
    config = _checked(options)
    paths = (options.first, options.second)
    feeds = [open_feed(path, topic=options.topic, inertial=False, rate_hz=options.rate_hz) for path in paths]
    recordings, rejected = [], []
    for index, feed in enumerate(feeds):
        unreadable: Counter[str] = Counter()
        recorded = record(_scans(feed, unreadable, _part(progress, index)))
        recordings.append(recorded)
        rejected.append(unreadable + recorded.rejected)
    begin = 2 * _SHARE_OF_ODOMETRY
    merged = merge(recordings[0], recordings[1], config, lambda share: progress(begin + (1.0 - begin) * share))
    run = MergeRun(options, (feeds[0], feeds[1]), (recordings[0], recordings[1]), (rejected[0], rejected[1]), merged)
    _write(run)
    return run


def path_m(poses: Array) -> float:
    """Length of the way along poses (N, 4, 4)."""
    return float(np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).sum())


def sigmas(covariance: Array) -> tuple[float, float]:
    """Standard deviations of position, m, and of rotation, degrees, from a covariance (6, 6): roots of the traces."""
    return float(np.sqrt(np.trace(covariance[:3, :3]))), float(np.degrees(np.sqrt(np.trace(covariance[3:, 3:]))))


def keyframe_cloud(
    recorded: Recorded, keyframe_poses: Array, voxel_m: float, *, above_ground_m: float = -np.inf
) -> Array:
    """All keyframes' points (N, 3) float32 at these poses (K, 4, 4), one a voxel, without those nearer to the ground.

    Thinned by parts, so that memory is bounded by the map and not by the number of keyframes.
    """
    cloud = np.zeros((0, 3), np.float32)
    waiting: list[Array] = []
    for keyframe, pose in zip(recorded.keyframes, keyframe_poses, strict=True):
        points = keyframe.points_m
        waiting.append(transform_points(pose, points[points[:, 2] > ground_height_m(points) + above_ground_m]))
        if len(waiting) == _KEYFRAMES_AT_ONCE:
            cloud, waiting = thin(np.concatenate([cloud, *waiting]), voxel_m), []
    return thin(np.concatenate([cloud, *waiting]), voxel_m)


def _part(progress: Progress, index: int) -> Progress:
    return lambda share: progress(_SHARE_OF_ODOMETRY * (index + share))


def _scans(feed: Feed, unreadable: Counter[str], progress: Progress) -> Iterator[Scan]:
    """The clouds of one sensor; what cannot be read is counted."""
    frame_id: str | None = None
    for number, item in enumerate(item for item in feed.items() if item.role == "cloud"):
        progress(number / max(feed.scans, 1))
        cloud = item.message
        if not isinstance(cloud, PointCloud):
            unreadable[item.reason or "message is no cloud"] += 1
        elif cloud.frame_id != (frame_id or cloud.frame_id):
            unreadable["frame changed within the stream"] += 1
        else:
            frame_id = cloud.frame_id
            yield Scan(cloud.stamp_ns, cloud.points_m, cloud.time_offset_s)


def _checked(options: MergeOptions) -> MergeConfig:
    """Raises UserError for options that cannot be."""
    if options.min_loops < 2:
        raise UserError(f"--min-loops {options.min_loops}: 2 or more are wanted, one has nothing to agree with")
    if not 0.01 <= options.voxel_m <= 100.0:
        raise UserError(f"--voxel-m {options.voxel_m:g}: from 0.01 to 100 m is wanted")
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"-o {options.out} is a file; a folder is wanted")
    inputs = (options.first, options.second)
    for name in OUTPUTS:
        path = options.out / name
        require_writable(path)
        if any(path.exists() and file.exists() and path.samefile(file) for file in inputs):
            raise UserError(f"{path} would be written over a recording; name another folder with -o")
    if options.first.exists() and options.second.exists() and options.first.samefile(options.second):
        raise UserError(f"{options.second} is the same recording as the first; name two")
    return MergeConfig(min_loops=options.min_loops)


def _write(run: MergeRun) -> None:
    """Numbers always; trajectories and cloud where there is something merged, and no stale ones where there is not."""
    out, merged = run.options.out, run.merged
    write_json(out / "merged.json", run.summary())
    if merged.a_poses is None or merged.b_poses is None:
        for name in ("a.txt", "b.txt", "merged.ply"):
            (out / name).unlink(missing_ok=True)
        return
    write_tum(out / "a.txt", run.recordings[0].stamps_ns, merged.a_poses)
    write_tum(out / "b.txt", run.recordings[1].stamps_ns, merged.b_poses)
    keyframe_poses = (merged.a_keyframe_poses, merged.b_keyframe_poses)
    clouds = [
        keyframe_cloud(recorded, poses, run.options.voxel_m)
        for recorded, poses in zip(run.recordings, keyframe_poses, strict=True)
        if poses is not None
    ]
    write_ply(out / "merged.ply", clouds)


def write_ply(path: Path, clouds: list[Array]) -> None:
    """Write clouds (N, 3) as one binary PLY with COLOURS; whole or not at all."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    rows = np.zeros(sum(map(len, clouds)), dtype=fields)
    for axis, name in enumerate("xyz"):
        rows[name] = np.concatenate([cloud[:, axis] for cloud in clouds])
    for channel, name in enumerate(("red", "green", "blue")):
        rows[name] = np.repeat([colour[channel] for colour in COLOURS[: len(clouds)]], list(map(len, clouds)))
    kinds = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {kinds[kind]} {name}\n" for name, kind in fields)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n{properties}end_header\n"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(header.encode("ascii") + rows.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
