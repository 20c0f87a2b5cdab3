"""What a world holds at one moment: solids for the sensors, and objects for the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from devices.sensors.simulated.models import Model
from devices.sensors.simulated.motion import Trajectory
from devices.sensors.simulated.primitives import Part, Placement, Primitives, concatenate, from_parts, place, standing

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Objects:
    """The truth about N objects: ids (N,) int64, labels (N,) int32 into models.CLASS_NAMES, centers_m (N, 3), sizes_m
    (N, 3), yaws_rad (N,), velocities_mps (N, 3), in the world frame."""

    ids: Array
    labels: Array
    centers_m: Array
    sizes_m: Array
    yaws_rad: Array
    velocities_mps: Array

    def take(self, index: Array) -> Objects:
        """The objects that an index or a mask names."""
        return Objects(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A world at one moment: primitives whose reference time is that moment, and the objects that they make up."""

    primitives: Primitives
    objects: Objects


@dataclass(frozen=True, eq=False)
class Look:
    """How a world's ground and air are drawn. sun: unit vector towards the sun; haze_m: where half the contrast is
    left; hills_rad: height of the horizon's hills."""

    sun: Array
    haze_m: float
    hills_rad: float


class Scene(Protocol):
    """A world: where the vehicle goes, and what is around it."""

    trajectory: Trajectory
    look: Look

    def snapshot(self, time_s: float) -> Snapshot:
        """Everything near the vehicle at a time since the world began."""
        ...

    def ground_bgr(self, x: Array, y: Array, distance_m: Array) -> Array:
        """The ground's colour (n, 3) float32 at world points (n,) float64, seen from a distance."""
        ...


def put(models: Sequence[Model], placement: Placement) -> Snapshot:
    """Models standing or moving in the world; row i of the placement belongs to models[i]."""
    parts = concatenate([model.parts for model in models])
    row = np.repeat(np.arange(len(models)), [len(model.parts) for model in models])
    sizes = np.array([model.size_m for model in models], dtype=np.float64).reshape(-1, 3)
    middle = placement.positions_m + sizes * [0.0, 0.0, 0.5]
    objects = Objects(
        ids=np.array([model.object_id for model in models], dtype=np.int64),
        labels=np.array([model.label for model in models], dtype=np.int32),
        centers_m=middle,
        sizes_m=sizes,
        yaws_rad=placement.yaws_rad,
        velocities_mps=placement.velocities_mps,
    )
    return Snapshot(place(parts, row, placement), objects)


def scenery(parts: Sequence[Part], *, pattern: int) -> Snapshot:
    """Parts of the world that are nobody's; each gets a texture of its own."""
    primitives = from_parts(parts, pattern=pattern)
    patterns = (primitives.pattern + 7919 * np.arange(len(parts), dtype=np.int32)) & 0xFFFF
    return Snapshot(replace(primitives, pattern=patterns), put([], standing(np.zeros((0, 3)), np.zeros(0))).objects)


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Several snapshots of one moment as one."""
    objects = [s.objects for s in snapshots]
    return Snapshot(
        concatenate([s.primitives for s in snapshots]),
        Objects(*(np.concatenate([getattr(o, name) for o in objects]) for name in Objects.__dataclass_fields__)),
    )


def sun_direction(rng: np.random.Generator, azimuth_rad: tuple[float, float]) -> Array:
    """A unit vector towards a sun 35 to 55 degrees high, its azimuth within the given bounds."""
    azimuth, height = rng.uniform(*azimuth_rad), rng.uniform(np.radians(35), np.radians(55))
    return np.array([np.cos(height) * np.cos(azimuth), np.cos(height) * np.sin(azimuth), np.sin(height)])
