"""The world `street`: a car drives along an endless street with houses, trees, parked cars, traffic and people.

Scenery is made in chunks of the road, each from its own random stream, when the car comes near, and dropped when it has
passed: any length of drive takes the same memory, and a chunk looks the same however one arrives. Traffic and walkers
are endless queues: slot j of a queue has its own model, gap and pace, and is where arithmetic says at time t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated import models
from devices.sensors.simulated.models import Model
from devices.sensors.simulated.motion import Progress, Road, Trajectory, Waves, random_waves, stream
from devices.sensors.simulated.primitives import Part, Placement, standing
from devices.sensors.simulated.scene import Look, Snapshot, merge, put, scenery, sun_direction
from devices.sensors.simulated.texture import grain, speckle

Array = NDArray[Any]

CHUNK_M = 40.0
BEHIND_M, AHEAD_M = 110.0, 190.0  # how much of the road is there at once
OBJECTS_M = 110.0
LANE_M = 1.75  # a lane's middle from the road's
ROAD_EDGE_M = 5.5
HOUSES_M = 9.5
PARKED_M = 4.55
STRIDE_M = 1.5
FIRST_SLOT = 1 << 20  # makes slot and chunk numbers positive

_NO_WAVES = Waves((), (), ())
_SCENERY, _PARKED, _QUEUE = 10, 11, 12


@dataclass(frozen=True)
class Queue:
    """Slots every spacing_m along the road, moving at rate_mps of u; a share of them is empty."""

    number: int
    lateral_m: float
    rate_mps: float
    spacing_m: float
    empty: float
    walkers: bool = False
    with_ego: bool = False


QUEUES = (
    Queue(1, -LANE_M, 0.0, 44.0, 0.25, with_ego=True),
    Queue(2, LANE_M, -8.5, 46.0, 0.25),
    Queue(3, 7.0, 1.3, 24.0, 0.25, walkers=True),
    Queue(4, 8.1, -1.2, 24.0, 0.25, walkers=True),
    Queue(5, -7.0, 1.4, 22.0, 0.25, walkers=True),
    Queue(6, -8.1, -1.1, 22.0, 0.25, walkers=True),
)


class Street:
    """See the module's docstring. seed: any non-negative integer."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        rng = stream(seed, 1)
        self.road = Road(random_waves(rng, (36.0, 9.0), (420.0, 150.0)))
        swell = random_waves(rng, (4.0,), (130.0,))
        self.trajectory = Trajectory(
            path=self.road,
            lateral_m=-LANE_M,
            progress=Progress(8.0, swell),
            height_m=0.0,
            height=random_waves(rng, (0.012, 0.006), (9.0, 3.1)),
            sway=(
                random_waves(rng, (0.006, 0.003), (14.0, 4.3)),
                random_waves(rng, (0.007, 0.003), (11.0, 3.7)),
                _NO_WAVES,
            ),
            hover=(_NO_WAVES, _NO_WAVES),
            lean=(0.006, -0.008),
        )
        self._traffic = Progress(8.0, _NO_WAVES)
        self.look = Look(sun=sun_direction(rng, (2.45, 2.9)), haze_m=260.0, hills_rad=0.03)
        self._chunk = lru_cache(maxsize=24)(self._make_chunk)
        self._static = lru_cache(maxsize=2)(self._make_static)
        self._model = lru_cache(maxsize=512)(self._make_model)

    def snapshot(self, time_s: float) -> Snapshot:
        """Everything near the car; objects out to 110 m along the road."""
        u = float(self.trajectory.progress(np.array([time_s]))[0][0])
        static = self._static(int((u - BEHIND_M) // CHUNK_M), int((u + AHEAD_M) // CHUNK_M))
        return merge([static, self._moving(u, time_s)])

    def _make_static(self, first: int, last: int) -> Snapshot:
        return merge([self._chunk(i) for i in range(first, last + 1)])

    def _make_chunk(self, number: int) -> Snapshot:
        """Houses, pavement, trees, lamps and parked cars of 40 m of road."""
        rng = stream(self._seed, _SCENERY, number + FIRST_SLOT)
        start = number * CHUNK_M
        parts: list[Part] = []
        for side in (1.0, -1.0):
            parts += self._houses(rng, start, side)
            for u in (start + 4 + 8 * np.arange(5)).tolist():
                x, y, yaw, stretch = self._at(u, side * (ROAD_EDGE_M + 2.0))
                parts += models.pavement(x, y, yaw, 8.0 * stretch + 0.3, 4.0)
            for u in (start + 6 + 13.0 * np.arange(3) + rng.uniform(-2, 2, 3)).tolist():
                x, y, _, _ = self._at(u, side * 6.05)
                parts += models.street_tree(rng, x, y) if rng.random() < 0.75 else []
            x, y, yaw, _ = self._at(start + (12.0 if side > 0 else 32.0), side * 5.9)
            parts += models.lamp(x, y, yaw - side * np.pi / 2)
        return merge([scenery(parts, pattern=number & 0xFFFF), self._parked(number)])

    def _at(self, u: float, lateral_m: float) -> tuple[float, float, float, float]:
        """x, y, heading and metres per unit of u, beside the road."""
        curve = self.road(np.array(u), lateral_m)
        (x, y), (tx, ty) = curve.point, curve.tangent
        return float(x), float(y), float(curve.heading_rad), float(np.hypot(tx, ty))

    def _houses(self, rng: np.random.Generator, start: float, side: float) -> list[Part]:
        """Two or three houses, wall to wall or with a gap."""
        count = int(rng.integers(2, 4))
        share = rng.uniform(0.8, 1.2, count)
        ends = start + CHUNK_M * np.concatenate([[0.0], np.cumsum(share) / share.sum()])
        parts: list[Part] = []
        for left, right in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            depth = rng.uniform(9.0, 13.0)
            setback = HOUSES_M + rng.choice([0.0, 0.4, 2.5]) + depth / 2
            x, y, yaw, _ = self._at((left + right) / 2, side * setback)
            stretch = self._at((left + right) / 2, side * HOUSES_M)[3]
            gap = rng.choice([0.0, 0.3, 4.0])
            parts += models.building(rng, x, y, yaw, ((right - left) * stretch - gap, depth), -side)
        return parts

    def _parked(self, number: int) -> Snapshot:
        """Cars at the kerb on both sides; most places are taken."""
        rng = stream(self._seed, _PARKED, number + FIRST_SLOT)
        cars: list[Model] = []
        positions, yaws = [], []
        for place in range(10):
            side = 1.0 if place % 2 else -1.0
            u = number * CHUNK_M + 8.0 * (place // 2) + 4.0 + rng.uniform(-0.5, 0.5)
            taken, askew = rng.random() < 0.6, rng.normal(0.0, 0.02)
            if not taken or -14.0 < u < 8.0:
                continue
            x, y, yaw, _ = self._at(u, side * (PARKED_M + rng.uniform(-0.1, 0.1)))
            cars.append(models.car(rng, 1_000_000 + (number + 1000) * 10 + place))
            positions.append([x, y, 0.0])
            yaws.append(yaw + askew + (np.pi if side > 0 else 0.0))
        return put(cars, standing(np.array(positions).reshape(-1, 3), np.array(yaws)))

    def _moving(self, u: float, time_s: float) -> Snapshot:
        """Traffic and walkers near u."""
        found: list[Model] = []
        rows = []
        for queue in QUEUES:
            advance, rate = queue.rate_mps * time_s, queue.rate_mps
            if queue.with_ego:
                base, base1, _ = self._traffic(np.array([time_s]))
                advance, rate = float(base[0]), float(base1[0])
            first = int(np.ceil((u - OBJECTS_M - advance) / queue.spacing_m))
            last = int(np.floor((u + OBJECTS_M - advance) / queue.spacing_m))
            for slot in range(first, last + 1):
                model, jitter, lateral, pace = self._model(queue, slot)
                if model is None:
                    continue
                # Walkers dawdle with time; cars that start with ours swing with the way gone, so they start at rest.
                phase, turn = (0.04 * advance, 0.04 * rate) if queue.with_ego else (0.35 * time_s, 0.35)
                where = slot * queue.spacing_m + jitter + advance + pace * float(np.sin(phase + jitter))
                speed = rate + turn * pace * float(np.cos(phase + jitter))
                found.append(model)
                rows.append((where, speed, queue.lateral_m + lateral, float(queue.walkers)))
        return put(found, self._placement(np.array(rows, dtype=np.float64).reshape(-1, 4)))

    def _make_model(self, queue: Queue, slot: int) -> tuple[Model | None, float, float, float]:
        """The slot's model (None: empty), its place in the gap, its distance from the queue's line, its dawdling."""
        rng = stream(self._seed, _QUEUE + queue.number, slot + FIRST_SLOT)
        object_id = (queue.number + 1) * 1_000_000 + slot + 100_000
        if rng.random() < queue.empty or (queue.with_ego and slot == 0):
            return None, 0.0, 0.0, 0.0
        if queue.walkers:
            jitter, lateral = rng.uniform(-8, 8), rng.uniform(-0.4, 0.4)
            return models.person(rng, object_id), float(jitter), float(lateral), 0.9
        jitter, lateral = rng.uniform(-9, 9), rng.uniform(-0.15, 0.15)
        build = models.truck if rng.random() < 0.18 else models.car
        return build(rng, object_id), float(jitter), float(lateral), 3.0 if queue.with_ego else 0.0

    def _placement(self, rows: Array) -> Placement:
        """From u, du/dt, distance from the middle line and whether it walks (N, 4) to the world."""
        u, rate, lateral, walks = rows.T
        curve = self.road(u, lateral)
        velocity = np.zeros((len(u), 3))
        velocity[:, :2] = curve.tangent * rate[:, None]
        position = np.concatenate([curve.point, 0.14 * walks[:, None]], axis=1)
        # A walker's pace never changes sign; a waiting car looks along its lane.
        backwards = np.where(walks > 0, rate < 0, lateral > 0)
        stride = 2 * np.pi / STRIDE_M
        return Placement(
            position,
            curve.heading_rad + np.pi * backwards,
            velocity,
            curve.turn * rate,
            stride * u * walks,
            stride * rate * walks,
        )

    def ground_bgr(self, x: Array, y: Array, distance_m: Array) -> Array:
        """Asphalt with a dashed middle line, parking lines and patches; grass and gravel beyond the pavement."""
        u, lateral = self.road.locate(x, y)
        across = np.abs(lateral)
        dashed = (across < 0.07) & (np.mod(u, 9.0) < 4.0)
        parking = (np.abs(across - 3.55) < 0.06) | ((across > 3.55) & (across < ROAD_EDGE_M) & (np.mod(u, 8.0) < 0.12))
        paint = (dashed | parking) & (speckle(x, y, 14.0) > 0.12)
        tone = 0.30 + 0.10 * grain(x, y, distance_m) + 0.05 * (speckle(x, y, 1.3) - 0.5)
        wheel_track = np.abs(np.abs(across - LANE_M) - 0.75) < 0.28
        tone = (tone - np.where(wheel_track, 0.025, 0.0)).astype(np.float32)
        color = tone[:, None] * np.array([1.02, 1.0, 0.98], dtype=np.float32)
        color[paint] = np.array([0.82, 0.84, 0.84], dtype=np.float32)
        off = np.flatnonzero(across > ROAD_EDGE_M)
        grass = (0.75 + 0.5 * grain(x[off], y[off], distance_m[off])).astype(np.float32)
        color[off] = grass[:, None] * np.array([0.22, 0.42, 0.32], dtype=np.float32)
        return color
