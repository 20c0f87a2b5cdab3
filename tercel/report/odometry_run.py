"""Odometry of a recording from end to end: read, follow, write, account. What `tercel odometry` calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import tercel
from registration.stamps import longest_rising
from registration.trajectory import umeyama
from registration.trajectory_files import write_kitti, write_tum
from tercel.core.errors import Rejected, UserError
from tercel.core.frames import StaticFrames
from tercel.core.geometry import from_rotation_translation
from tercel.core.messages import Odometry, PointCloud, Transforms
from tercel.report.frames import Trajectory
from tercel.report.odometry_followers import NOT_CONNECTED, Follower, make_follower
from tercel.report.odometry_input import Feed, Item, open_feed
from tercel.report.odometry_scores import Measure, OdometryScores, counts_text, rows_text, score

Array = NDArray[Any]
Progress = Callable[[float], None]

SLACK_NS = 50_000_000
_POINTS_PER_KEYFRAME = 1500
_MAX_MAPPED_SCANS = 240
_MAPPED_RANGE_M = 50.0


@dataclass(frozen=True)
class OdometryOptions:
    """What the user asked for. settings: of the odometry's config, as written. rate_hz: of a folder of clouds."""

    recording: Path
    out: Path | None = None
    format: Literal["tum", "kitti"] = "tum"
    inertial: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    topic: str | None = None
    rate_hz: float = 10.0
    report: bool = False
    command: str = ""


@dataclass(eq=False)
class Account:
    """What became of each scan. One entry for each that has a pose, in order; rejected scans are counted by reason.

    rejected_at: how many poses there were, and the log time, when a scan was rejected.
    """

    stamps_ns: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)
    covariances: list[Array] = field(default_factory=list)
    healths: list[str] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    took_ms: list[float] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    rejected_at: list[tuple[int, int]] = field(default_factory=list)
    keyframes: int = 0
    degenerate: int = 0
    inertial_rejected: Counter[str] = field(default_factory=Counter)
    counters: Mapping[str, int] = field(default_factory=dict)
    mapped: list[Array] = field(default_factory=list)

    @property
    def scans(self) -> int:
        """All that came."""
        return len(self.poses) + self.rejected.total()

    def keep(self, rows: list[int]) -> int:
        """Only these poses, in ascending order; the others count as rejected. Returns how many these are."""
        kept = set(rows)
        others = [row for row in range(len(self.poses)) if row not in kept]
        if not others:
            return 0
        next_kept = np.searchsorted(rows, range(len(self.poses) + 1)).tolist()
        moved = [(next_kept[before], at_ns) for before, at_ns in self.rejected_at]
        gone = [(next_kept[row], self.stamps_ns[rows[min(next_kept[row], len(rows) - 1)]]) for row in others]
        self.rejected_at = sorted([*moved, *gone])
        self.rejected["stamp does not rise with the others"] += len(others)
        for name in ("stamps_ns", "poses", "covariances", "healths", "overlaps", "took_ms"):
            values = getattr(self, name)
            setattr(self, name, [values[row] for row in rows])
        return len(others)


@dataclass(frozen=True, eq=False)
class OdometryRun:
    """What was done. stamps_ns (N,), poses odom_T_sensor (N, 4, 4). scores: where the recording has truth; truth: its
    poses (M, 4, 4) laid over the odometry as a whole. notes: what people should know."""

    options: OdometryOptions
    feed: Feed
    account: Account
    stamps_ns: Array
    poses: Array
    frame: str
    scores: OdometryScores | None
    truth: Trajectory | None
    notes: list[str]

    @property
    def path_m(self) -> float:
        """How long the way is."""
        return float(np.linalg.norm(np.diff(self.poses[:, :3, 3], axis=0), axis=1).sum()) if len(self.poses) else 0.0

    @property
    def duration_s(self) -> float:
        """From the first to the last pose."""
        return float(self.stamps_ns[-1] - self.stamps_ns[0]) / 1e9 if len(self.stamps_ns) else 0.0

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        account = self.account
        health = Counter(account.healths)
        return {
            "tercel": tercel.__version__,
            "command": self.options.command,
            "recording": self.feed.name,
            "topic": self.feed.topic,
            "scans": account.scans,
            "posed": len(account.poses),
            "rejected": dict(sorted(account.rejected.items())),
            "health": {name: health[name] for name in ("tracking", "degraded", "lost")},
            "degenerate": account.degenerate,
            "keyframes": account.keyframes,
            "imu_rejected": dict(sorted(account.inertial_rejected.items())),
            "imu_counters": dict(account.counters),
            "path_m": self.path_m,
            "duration_s": self.duration_s,
            "latency_ms": _quantiles(account.took_ms),
            "truth": None if self.scores is None else self.scores.summary(),
            "notes": self.notes,
            "problems": list(self.feed.problems),
        }

    def table(self) -> str:
        """For a terminal."""
        account, health = self.account, Counter(self.account.healths)
        states = ", ".join(f"{health[name]:,} {name}" for name in ("tracking", "degraded", "lost"))
        rows = [
            ("scans", f"{account.scans:,}: {len(account.poses):,} with a pose, {account.rejected.total():,} rejected"),
            ("rejected", counts_text(account.rejected)),
            ("health", states + (f"; {account.degenerate:,} degenerate" if account.degenerate else "")),
            ("path", f"{self.path_m:,.1f} m in {self.duration_s:,.1f} s, {account.keyframes:,} keyframes"),
        ]
        if account.inertial_rejected:
            rows.append(("IMU rejected", counts_text(account.inertial_rejected)))
        rows += [(name.replace("_", " "), f"{count:,}") for name, count in account.counters.items()]
        if account.took_ms:
            took = _quantiles(account.took_ms)
            rows.append(("a scan took", f"{took['p50']:.1f} ms, p95 {took['p95']:.1f}, at most {took['max']:.1f}"))
        rows += [(f"truth: {name}", value) for name, value in self.scores.rows()] if self.scores else []
        rows += [("note", note) for note in self.notes]
        rows += [("problem", problem) for problem in self.feed.problems]
        return rows_text(rows)


def run_odometry(options: OdometryOptions, progress: Progress = lambda _share: None) -> OdometryRun:
    """Follow the sensor through a recording, and write the trajectory if options.out says where.

    Raises UserError for anything that the user can mend, before the first scan where that can be known.
    """
    follower = make_follower(options.settings, inertial=options.inertial)
    feed = open_feed(options.recording, topic=options.topic, inertial=options.inertial, rate_hz=options.rate_hz)
    account = Account()
    statics, truths, frame = _follow(feed, follower, account, options.report, progress)
    account.counters = {name: count for name, count in follower.counters().items() if count}
    if not account.poses:
        for reason in account.rejected:
            if reason.startswith(NOT_CONNECTED):
                raise UserError(f"{reason}; record it, or leave --inertial out")
        return OdometryRun(
            options, feed, account, np.zeros(0, np.int64), np.zeros((0, 4, 4)), frame, None, None,
            ["no scan could be used"],
        )  # fmt: skip
    notes: list[str] = []
    # a clock that was set back leaves poses that no file with stamps has room for; KITTI's has none
    left_out = 0 if options.format == "kitti" else account.keep(longest_rising(account.stamps_ns))
    if left_out:
        poses_are = "1 pose is" if left_out == 1 else f"{left_out:,} poses are"
        notes.append(f"{poses_are} left out: the stamps do not rise with those of the others")
    stamps_ns, poses = np.array(account.stamps_ns, dtype=np.int64), np.stack(account.poses)
    estimate = Trajectory("odometry", "odom", frame, stamps_ns, poses)
    scores, truth = _against_truth(estimate, truths, statics, notes)
    run = OdometryRun(options, feed, account, stamps_ns, poses, frame, scores, truth, notes)
    if options.out is not None:
        _write(options.out, run)
    return run


def _follow(
    feed: Feed, follower: Follower, account: Account, mapped: bool, progress: Progress
) -> tuple[list[Transforms], list[Odometry], str]:
    """Feed all items to the follower. Returns fixed transforms, true poses, and the sensor's frame."""
    statics: list[Transforms] = []
    truths: list[Odometry] = []
    frame = ""
    for item in feed.items():
        message = item.message
        if isinstance(message, Transforms):
            statics.append(message)
            follower.learn(message)
        elif isinstance(message, Odometry):
            truths.append(message)
        elif item.role == "cloud":
            frame = _step(item, follower, account, frame, mapped)
            progress(account.scans / max(feed.scans, 1))
        elif message is not None:
            try:
                follower.learn(message)
            except Rejected as rejection:
                account.inertial_rejected[str(rejection)] += 1
        elif item.role == "imu":
            account.inertial_rejected[item.reason] += 1
    return statics, truths, frame


def _step(item: Item, follower: Follower, account: Account, frame: str, mapped: bool) -> str:
    """One scan: a pose, or a reason why there is none. Returns the sensor's frame, which the first pose settles."""
    cloud = item.message
    try:
        if not isinstance(cloud, PointCloud):
            raise Rejected(item.reason or "message is no cloud")
        if account.poses and cloud.frame_id != frame:
            raise Rejected("frame changed within the stream")
        began_s = time.perf_counter()
        result = follower.step(cloud)
        account.took_ms.append(1e3 * (time.perf_counter() - began_s))
    except Rejected as rejection:
        account.rejected[str(rejection)] += 1
        account.rejected_at.append((len(account.poses), item.log_time_ns))
        return frame
    account.stamps_ns.append(cloud.stamp_ns)
    account.poses.append(result.odom_T_sensor)
    account.overlaps.append(result.overlap)
    account.healths.append(result.health)
    covariance = follower.pose_covariance()
    account.covariances.append(np.full((6, 6), np.nan) if covariance is None else covariance)
    account.degenerate += len(result.degenerate_directions) > 0
    account.keyframes += result.keyframe
    if mapped and result.keyframe:
        _map(account, cloud, result.odom_T_sensor)
    return cloud.frame_id


def _map(account: Account, cloud: PointCloud, odom_T_sensor: Array) -> None:
    """Keep some of a keyframe's points for the picture; when there are very many scans, of every second one."""
    near = cloud.points_m[(np.abs(cloud.points_m) < _MAPPED_RANGE_M).all(axis=1)]
    points = near[:: max(1, len(near) // _POINTS_PER_KEYFRAME)].astype(np.float64)
    account.mapped.append((points @ odom_T_sensor[:3, :3].T + odom_T_sensor[:3, 3]).astype(np.float32))
    if len(account.mapped) > _MAX_MAPPED_SCANS:
        del account.mapped[1::2]


# --- truth and files -------------------------------------------------------------------------------------------------


def _against_truth(
    estimate: Trajectory, truths: list[Odometry], statics: list[Transforms], notes: list[str]
) -> tuple[OdometryScores | None, Trajectory | None]:
    """The scores, aligned, and the truth as a whole laid over the odometry likewise; None where there is none."""
    if not truths:
        return None, None
    try:
        given = Trajectory.of("/truth/odometry", truths)
        truthchild_T_child = StaticFrames(statics).lookup(given.child_frame_id, estimate.child_frame_id)
        truth = replace(
            given, child_frame_id=estimate.child_frame_id, frame_T_child=given.frame_T_child @ truthchild_T_child
        )
        rows, true = _at(estimate.stamps_ns, truth)
        found = estimate.frame_T_child[rows]
        scores = score(true, found, Measure(aligned=True), stamps_ns=estimate.stamps_ns[rows])
        rotation, translation, _ = umeyama(found[:, :3, 3], true[:, :3, 3])
    except (ValueError, KeyError) as error:
        notes.append(f"not compared with truth: {error.args[0]}")
        return None, None
    if len(rows) < len(estimate.stamps_ns):
        notes.append(f"{len(estimate.stamps_ns) - len(rows):,} poses have no true pose at their time")
    odom_T_truth = from_rotation_translation(rotation, translation)
    return scores, replace(truth, frame_id=estimate.frame_id, frame_T_child=odom_T_truth @ truth.frame_T_child)


def _at(stamps_ns: Array, truth: Trajectory) -> tuple[list[int], Array]:
    """Which stamps (N,) have a true pose, and those poses (M, 4, 4). Raises KeyError if none has."""
    rows, poses = [], []
    for row, stamp_ns in enumerate(stamps_ns.tolist()):
        try:
            poses.append(truth.at(stamp_ns, slack_ns=SLACK_NS))
        except KeyError:
            continue
        rows.append(row)
    if not rows:
        raise KeyError("it has no pose at the time of a scan")
    return rows, np.stack(poses)


def _write(path: Path, run: OdometryRun) -> None:
    """TUM: a line for each pose. KITTI: a line for each scan, since nothing else says which scan it is."""
    if run.options.format == "tum":
        write_tum(path, run.stamps_ns, run.poses)
        return
    rows = list(range(len(run.poses)))
    for before, _ in reversed(run.account.rejected_at):
        rows.insert(before, max(before - 1, 0))
    write_kitti(path, run.poses[rows])
    if run.account.rejected_at:
        count = len(run.account.rejected_at)
        run.notes.append(f"KITTI's format has a row for each scan: {count:,} rejected ones repeat the pose before them")


def _quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"p50": round(p50, 3), "p95": round(p95, 3), "p99": round(p99, 3), "max": round(max(values), 3)}
