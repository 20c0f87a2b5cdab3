"""The world `orchard`: a drone flies an ellipse, again and again, along and across rows of fruit trees.

It banks and pitches as its accelerations demand, sways in the wind, and looks around. People walk the alleys, a tractor
works up and down one of them, a pickup is parked at the shed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated import models
from devices.sensors.simulated.models import Model
from devices.sensors.simulated.motion import GRAVITY_MPS2, Loop, Progress, Trajectory, Waves, random_waves, stream
from devices.sensors.simulated.primitives import BOX, CYLINDER, FACADE, PLAIN, Part, Placement, standing
from devices.sensors.simulated.scene import Look, Snapshot, merge, put, scenery, sun_direction
from devices.sensors.simulated.texture import grain, speckle

Array = NDArray[Any]

ROW_M, TREE_M = 6.0, 4.4  # between rows (alleys lie at multiples of ROW_M, rows half way), and between trees
HALF_LENGTH_M, HALF_WIDTH_M = 66.0, 39.0
LOOP_M = (46.0, 18.0)
PEOPLE = 21  # three in each of the seven middle alleys
STRIDE_M = 1.4
_TREES, _PEOPLE, _YARD = 20, 21, 22


class Orchard:
    """See the module's docstring. seed: any non-negative integer."""

    def __init__(self, seed: int) -> None:
        rng = stream(seed, 2)
        self.trajectory = Trajectory(
            path=Loop(*LOOP_M),
            lateral_m=0.0,
            progress=Progress(0.095, Waves((0.05,), (5.0,), (float(rng.uniform(0, 6)),))),
            height_m=5.3,
            height=random_waves(rng, (0.7, 0.25), (2.9, 0.9)),
            sway=(Waves((), (), ()), Waves((), (), ()), random_waves(rng, (0.22, 0.10), (1.9, 0.55))),
            hover=(random_waves(rng, (0.07, 0.02), (3.1, 1.1)), random_waves(rng, (0.06, 0.02), (3.7, 1.3))),
            lean=(-1.0 / GRAVITY_MPS2, 1.0 / GRAVITY_MPS2),
        )
        self.look = Look(sun=sun_direction(rng, (-2.6, -1.6)), haze_m=320.0, hills_rad=0.09)
        self._static = merge([self._trees(seed), self._yard(seed)])
        self._walkers = [models.person(stream(seed, _PEOPLE, i), 2_000_001 + i) for i in range(PEOPLE)]
        self._tractor = models.tractor(stream(seed, _YARD, 1), 3_000_001)
        draw = stream(seed, _PEOPLE)
        alley, turn = np.arange(PEOPLE) % 7 - 3.0, np.arange(PEOPLE) // 7
        self._walk_center = np.stack([draw.uniform(-12, 12, PEOPLE) + 32.0 * (turn - 1.0), ROW_M * alley], axis=1)
        self._walk_rate = draw.uniform(0.085, 0.13, PEOPLE)
        self._walk_phase = draw.uniform(0, 2 * np.pi, PEOPLE)
        self._tractor_phase = float(draw.uniform(0, 2 * np.pi))

    def snapshot(self, time_s: float) -> Snapshot:
        """The whole orchard."""
        return merge([self._static, self._people(time_s), self._tractor_at(time_s)])

    def _trees(self, seed: int) -> Snapshot:
        """Rows of trees with a few gaps, and a post at the end of each row."""
        rng = stream(seed, _TREES)
        parts: list[Part] = []
        for y in np.arange(-HALF_WIDTH_M, HALF_WIDTH_M + 0.1, ROW_M).tolist():
            for x in np.arange(-HALF_LENGTH_M, HALF_LENGTH_M + 0.1, TREE_M).tolist():
                dx, dy = rng.uniform(-0.25, 0.25, 2)
                tree = models.fruit_tree(rng, x + dx, y + dy)
                parts += tree if rng.random() > 0.07 else []
            for x in (-HALF_LENGTH_M - 2.5, HALF_LENGTH_M + 2.5):
                parts.append(Part(CYLINDER, (x, y, 1.0), (0.14, 0.14, 2.0), (0.45, 0.55, 0.62)))
        return scenery(parts, pattern=1)

    def _yard(self, seed: int) -> Snapshot:
        """A shed with crates and a parked pickup beyond the rows' eastern end, and a house in the north."""
        rng = stream(seed, _YARD)
        east = HALF_LENGTH_M + 12.0
        parts = [
            Part(BOX, (east + 4.0, 6.0, 2.2), (8.0, 14.0, 4.4), (0.32, 0.38, 0.58), PLAIN),
            Part(BOX, (east + 4.0, 6.0, 4.5), (9.0, 15.0, 0.25), (0.36, 0.34, 0.34), PLAIN),
            Part(BOX, (-0.02 + east, 6.0, 1.6), (0.1, 4.0, 3.2), (0.22, 0.22, 0.26), PLAIN),
            Part(BOX, (10.0, HALF_WIDTH_M + 14.0, 3.4), (14.0, 9.0, 6.8), (0.74, 0.80, 0.84), FACADE),
            Part(BOX, (10.0, HALF_WIDTH_M + 14.0, 6.95), (15.0, 10.0, 0.3), (0.26, 0.30, 0.52), PLAIN),
        ]
        for i in range(10):
            crate = (float(rng.uniform(-60, 60)), ROW_M * float(rng.integers(-5, 6)) + 1.3)
            yaw = float(rng.uniform(0, 1.5))
            parts.append(Part(BOX, (*crate, 0.35), (1.2, 1.0, 0.7), (0.32, 0.50, 0.70), PLAIN, yaw))
            if i % 2:
                parts.append(Part(BOX, (*crate, 1.05), (1.2, 1.0, 0.7), (0.30, 0.46, 0.66), PLAIN, yaw + 0.1))
        pickup = models.car(rng, 1_000_001)
        parked = put([pickup], standing(np.array([[east - 4.0, -6.0, 0.0]]), np.array([2.0])))
        return merge([scenery(parts, pattern=5000), parked])

    def _people(self, time_s: float) -> Snapshot:
        """People on long thin ellipses in the alleys."""
        u = self._walk_phase + self._walk_rate * time_s
        path = Loop(11.0, 0.9)(u)
        zero = np.zeros(PEOPLE)
        velocity = np.concatenate([path.tangent * self._walk_rate[:, None], zero[:, None]], axis=1)
        stride = 2 * np.pi / STRIDE_M * 8.0  # the ellipse is some 8 m long for each radian, on average
        placement = Placement(
            np.concatenate([self._walk_center + path.point, zero[:, None]], axis=1),
            path.heading_rad,
            velocity,
            path.turn * self._walk_rate,
            stride * u,
            stride * self._walk_rate,
        )
        return put(self._walkers, placement)

    def _tractor_at(self, time_s: float) -> Snapshot:
        """The tractor drives to one end of its alley and backs to the other."""
        rate, reach = 0.1, 30.0
        phase = self._tractor_phase + rate * time_s
        position = np.array([[reach * np.sin(phase), -2 * ROW_M, 0.0]])
        velocity = np.array([[reach * rate * np.cos(phase), 0.0, 0.0]])
        zero = np.zeros(1)
        model: Model = self._tractor
        return put([model], Placement(position, zero, velocity, zero, zero, zero))

    def ground_bgr(self, x: Array, y: Array, distance_m: Array) -> Array:
        """Meadow; bare soil under the rows, and two wheel tracks in each alley."""
        inside = (np.abs(x) < HALF_LENGTH_M + 3) & (np.abs(y) < HALF_WIDTH_M + 3)
        from_alley = np.abs(np.mod(y + ROW_M / 2, ROW_M) - ROW_M / 2)
        ragged = 0.35 * (speckle(x, y, 5.0) - 0.5)
        fine = grain(x, y, distance_m)
        patches = speckle(x, y, 0.35)
        grass = np.stack([0.15 + 0.06 * patches, 0.38 + 0.10 * patches, 0.25 + 0.14 * patches], axis=1)
        soil = np.array([0.26, 0.36, 0.46])
        track = np.array([0.28, 0.42, 0.46])
        bare = inside & (from_alley + ragged > ROW_M / 2 - 0.75)
        wheels = inside & (np.abs(from_alley - 0.8) < 0.22 + 0.4 * ragged)
        color = np.where(bare[:, None], soil, np.where(wheels[:, None], track, grass))
        result: Array = (color * (1.0 + 0.9 * fine)[:, None]).astype(np.float32)
        return result
