"""What a cycle of predict and update costs, beside filterpy in a loop and beside what the core could do.

python tests/benchmarks/bench_kalman.py [--json FILE] [--tracks N]

All filters measure positions and run on one core. "ms" is the best of many cycles, "us a track" that by track. filterpy
runs the same system on some tracks of the same run. The floor is the larger of two times: that of copying all
covariances twice, and that of the multiply-adds that the equations need (symmetric halves once, zeros of F and H not at
all) at the speed of the core's matrix product. numpy passes over the covariances some ten times: hence the distance.

A process that has not freed an array of some megabytes yet, as any image is, pays the kernel for every temporary of
128 kB or more: glibc maps and unmaps it. The first row is measured so, all others after one such array.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from tracking import axis_kalman, extended, imm, kalman, motion_models  # noqa: E402

Array = NDArray[Any]

DT_S = 0.1
WORLD_T_CAMERA = np.array([[0, 0, 1, -20], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
INTRINSICS = np.array([[700, 0, 620], [0, 700, 180], [0, 0, 1]], dtype=np.float64)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    tracks: int
    cycle_ms: float
    us_per_track: float
    filterpy_us_per_track: float | None = None
    floor_ms: float | None = None


@dataclass(frozen=True)
class Case:
    """A filter of S states and D measured positions: its dynamics for one step."""

    name: str
    d: int
    dynamics: tuple[Array, Array]
    dtype: type = np.float64

    def start(self, count: int) -> tuple[kalman.KalmanState, Array, Array]:
        """States, measurements and their noise, seeded."""
        rng, size = np.random.default_rng(0), len(self.dynamics[0])
        mean, covariance = np.zeros((size, count)), np.zeros((size, size, count))
        mean[: self.d] = rng.normal(size=(self.d, count))
        covariance[np.arange(size), np.arange(size)] = 1.0
        noise = kalman.diagonal_noise(np.full((self.d, count), 0.1))
        state = kalman.KalmanState(mean.astype(self.dtype), covariance.astype(self.dtype))
        return state, mean[: self.d].astype(self.dtype), noise.astype(self.dtype)

    def multiply_adds(self) -> int:
        """Of one track's cycle."""
        s, d = len(self.dynamics[0]), self.d
        half, off_diagonal = s * (s + 1) // 2, int(np.count_nonzero(self.dynamics[0] - np.eye(s)))
        predicting = off_diagonal * (s + s / 2 + 1) + half  # F P, half of (F P) F', F x, and + Q
        updating = d**3 / 3 + d * d * s * 2 + 2 * d * half + 2 * d * s  # S^-1; K and K R; two rank-D updates; E and x
        return int(predicting + updating)


def cases() -> list[Case]:
    """The linear models, and the sizes in which they are used."""
    velocity, acceleration = motion_models.constant_velocity, motion_models.constant_acceleration
    return [
        Case("constant velocity, 6 states", 3, velocity(DT_S, 1.0, 3)),
        Case("constant velocity, 6 states, float32", 3, velocity(DT_S, 1.0, 3), np.float32),
        Case("constant velocity, 8 states", 4, velocity(DT_S, 1.0, 4)),
        Case("constant velocity, 8 states, float32", 4, velocity(DT_S, 1.0, 4), np.float32),
        Case("constant acceleration, 9 states", 3, acceleration(DT_S, 1.0, 3)),
        Case("coordinated turn, 4 states", 2, motion_models.coordinated_turn(DT_S, 0.5, 1.0)),
        Case("box with heading, 11 states", 7, motion_models.constant_velocity_box(DT_S, 1.0, 0.01)),
    ]


def best_s(call: Callable[[], object], seconds: float = 0.5) -> float:
    """The shortest of the runs that fit into some time: the least disturbed by others on the machine."""
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def cycle_s(case: Case, count: int) -> float:
    """Seconds of one predict and update of so many tracks."""
    state, z, R = case.start(count)
    angles = (motion_models.BOX_YAW_ROW,) if case.d == 7 else ()
    return best_s(lambda: kalman.update(kalman.predict(state, *case.dynamics), z, R, angles=angles))


def axis_cycle_s(d: int, count: int) -> float:
    """The same of `tracking.axis_kalman`, for coordinates that do not depend on each other."""
    z = np.random.default_rng(0).normal(size=(d, count))
    state, noise = axis_kalman.start(z, 0.1, 4.0), np.array([[3e-4], [5e-3], [0.1]])[:, None]
    return best_s(lambda: axis_kalman.update(axis_kalman.predict(state, DT_S, noise), z, 0.1))


def filterpy_s(case: Case, count: int = 50) -> float | None:
    """Seconds that filterpy takes for one track of so many; None where it is not installed."""
    try:
        from filterpy.kalman import KalmanFilter
    except ImportError:
        return None
    state, z, R = case.start(count)
    theirs = []
    for track in range(count):
        one = KalmanFilter(dim_x=len(state.mean), dim_z=case.d)
        one.x, one.P = state.mean[:, track : track + 1], state.covariance[:, :, track]
        one.F, one.Q = case.dynamics
        one.R, one.H = R[:, :, track], np.eye(case.d, len(state.mean))
        theirs.append(one)

    def cycle() -> None:
        for track, one in enumerate(theirs):
            one.predict()
            one.update(z[:, track : track + 1])

    return best_s(cycle) / count


def floor_s(case: Case, count: int) -> float:
    """Seconds below which a cycle of so many tracks cannot come on this core; see above."""
    state, _, _ = case.start(count)
    target = np.empty_like(state.covariance)
    copies_s = 2.0 * best_s(lambda: np.copyto(target, state.covariance), 0.1)
    square = np.ones((512, 512), dtype=case.dtype)
    multiply_add_s = best_s(lambda: square @ square, 0.2) / 512**3
    return max(copies_s, case.multiply_adds() * count * multiply_add_s)


def extended_cycles_s(count: int) -> dict[str, float]:
    """Cycles of 6 states with the sensors that are not linear."""
    dynamics = motion_models.constant_velocity(DT_S, 1.0, 3)
    state = kalman.start(np.random.default_rng(0).normal(0, 3, (3, count)), np.eye(3), 4.0)
    models: dict[str, tuple[extended.Measure, tuple[int, ...]]] = {
        "pixels": (extended.pixels(WORLD_T_CAMERA, INTRINSICS), ()),
        "bearings and range": (extended.bearings(np.eye(4), ranges=True), extended.AZIMUTH_ROWS),
    }
    result = {}
    for name, (measure, angles) in models.items():
        z = measure(state.mean)[0]
        R = 0.01 * np.eye(len(z))

        def cycle(
            measure: extended.Measure = measure, z: Array = z, R: Array = R, angles: tuple[int, ...] = angles
        ) -> None:
            extended.extended_update(kalman.predict(state, *dynamics), z, R, measure, angles=angles)

        result[f"extended: {name}, 6 states"] = best_s(cycle)
    return result


def imm_cycle_s(count: int) -> float:
    """A cycle of three models of 6 states in the plane: straight, accelerating, turning; with the combined state."""
    z, R = np.random.default_rng(0).normal(size=(2, count)), 0.1 * np.eye(2)
    state = imm.imm_start(kalman.start(z, R, 4.0, 4.0), [0.8, 0.1, 0.1])
    dynamics = [
        motion_models.constant_velocity(DT_S, 0.1, 2, accelerations=True),
        motion_models.constant_acceleration(DT_S, 1.0, 2),
        motion_models.coordinated_turn(DT_S, 0.5, 0.1, accelerations=True),
    ]
    transition = imm.switching(DT_S, [5.0, 1.0, 2.0])
    return best_s(lambda: imm.imm_combine(imm.imm_update(imm.imm_predict(state, dynamics, transition), z, R)))


def bench_small_heap(count: int) -> Row:
    """The first row: only true before any large array was freed."""
    case = cases()[0]
    seconds = cycle_s(case, count)
    array = np.ones(1_000_000)
    del array
    return Row(f"{case.name}, heap still small", count, seconds * 1e3, seconds / count * 1e6)


def bench(count: int) -> list[Row]:
    """All other rows for so many tracks."""
    rows = []
    for case in cases():
        ours, theirs = cycle_s(case, count), filterpy_s(case)
        floor_ms = floor_s(case, count) * 1e3
        theirs_us = None if theirs is None else theirs * 1e6
        rows.append(Row(case.name, count, ours * 1e3, ours / count * 1e6, theirs_us, floor_ms))
    others = {f"axis_kalman, {2 * d} states": axis_cycle_s(d, count) for d in (3, 4)}
    others |= extended_cycles_s(count) | {"IMM of 3 models, 6 states": imm_cycle_s(count)}
    rows += [Row(name, count, seconds * 1e3, seconds / count * 1e6) for name, seconds in others.items()]
    return rows


def print_rows(rows: list[Row]) -> None:
    """The table."""
    print(f"{'filter':46} {'tracks':>6} {'ms':>7} {'us a track':>10} {'filterpy us':>11} {'ratio':>6} {'floor ms':>8}")
    for row in rows:
        peer, ratio, floor = "", "", ""
        if row.filterpy_us_per_track is not None:
            peer, ratio = f"{row.filterpy_us_per_track:.1f}", f"{row.filterpy_us_per_track / row.us_per_track:.0f}x"
        if row.floor_ms is not None:
            floor = f"{row.floor_ms:.3f}"
        ours = f"{row.cycle_ms:7.3f} {row.us_per_track:10.3f}"
        print(f"{row.name:46} {row.tracks:6} {ours} {peer:>11} {ratio:>6} {floor:>8}")


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers there")
    parser.add_argument("--tracks", type=int, nargs="+", default=[1000, 100])
    options = parser.parse_args()
    print("$ python tests/benchmarks/bench_kalman.py", *sys.argv[1:])
    rows = [bench_small_heap(options.tracks[0])]
    rows += [row for count in options.tracks for row in bench(count)]
    print_rows(rows)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
