"""From recordings to batches: keypoints of several scans at the same places, with what surrounds each.

A place is a still keypoint that at least two scans of a group have within MATCH_M of each other. Groups are drawn from
one world, at distances up to what the training has come to (see registration.train.extend).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.distant.keypoints import Prepared, prepare
from registration.distant.patches import (
    AZIMUTHS,
    BITS,
    CELL_M,
    RINGS_M,
    SIDE,
    SLABS_M,
    Pyramid,
    grid_of,
    mark,
    patches,
    pyramid,
)
from registration.train.worlds import Recording, read_recording
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, transform_points, yaw_from_rotation

Array = NDArray[Any]

MATCH_M = 1.0  # keypoints of two scans this near each other are one place
APART_M = 2.0  # and farther than this are not
_ELSEWHERE_M = 1e4  # between the worlds of one batch


@dataclass(frozen=True, eq=False)
class View:
    """One scan, ready for patches. grid (SIDE, SIDE) uint16; keypoints_m (K, 3), height_m (K,) as Prepared has them;
    still (K,) bool; world_T_level (4, 4)."""

    grid: Array
    keypoints_m: Array
    height_m: Array
    still: Array
    world_T_level: Array

    @property
    def world_m(self) -> Array:
        """Keypoints (K, 3) float32 in the world."""
        return transform_points(self.world_T_level, self.keypoints_m.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class World:
    """The views of one recording. dense (L, L) uint16: the lower eight bits of a grid of all its still points together,
    about dense_middle_m (2,) in the world."""

    views: tuple[View, ...]
    dense: Array
    dense_middle_m: Array

    @cached_property
    def around(self) -> Pyramid:
        """The accumulated cloud's pyramid."""
        return pyramid(self.dense)

    @property
    def positions_m(self) -> Array:
        """Where the sensors were, (V, 3)."""
        return np.stack([view.world_T_level[:3, 3] for view in self.views])


@dataclass(frozen=True, eq=False)
class Batch:
    """M keypoints of several views. patches (M, AZIMUTHS, rings * BITS) uint8, height_m (M,), position_m (M, 3) in the
    world (worlds of one batch lie far apart), place (M,) int64, the same for the same place and -1 for none, view (M,)
    int64, dense (M, AZIMUTHS, rings * 8) uint8: what the accumulated cloud holds where the patch looks."""

    patches: Array
    height_m: Array
    position_m: Array
    place: Array
    view: Array
    dense: Array


def world_of(recording: Recording) -> World:
    """Prepare every scan of a recording; those that are Rejected are left out."""
    views, still_m = [], []
    for points_m, still, world_T_sensor in zip(
        recording.points_m, recording.still, recording.world_T_sensor, strict=True
    ):
        try:
            prepared = prepare(points_m)
        except Rejected:
            continue
        world_T_level = world_T_sensor @ inverse(prepared.scene.level_T_sensor)
        views.append(view_of(prepared, still, points_m, world_T_level))
        scene = prepared.scene
        kept = _nearest(points_m, still, inverse(scene.level_T_sensor), scene.structure_m)
        at_world = transform_points(world_T_level, scene.structure_m[kept].astype(np.float64))
        still_m.append(np.column_stack([at_world[:, :2], scene.height_m[kept]]))
    together = np.concatenate(still_m) if still_m else np.zeros((0, 3))
    middle_m = (together[:, :2].min(axis=0) + together[:, :2].max(axis=0)) / 2 if len(together) else np.zeros(2)
    half_m = float(np.abs(together[:, :2] - middle_m).max()) + RINGS_M[-1] + 2.0 if len(together) else 1.0
    dense = np.zeros(2 * [2 * int(np.ceil(half_m / CELL_M))], np.uint16)
    slab = np.searchsorted(SLABS_M, together[:, 2], side="right") - 1
    stands = slab >= 0
    mark(dense, together[stands, :2] - middle_m, slab[stands])
    return World(tuple(views), dense, middle_m)


def view_of(prepared: Prepared, still: Array, points_m: Array, world_T_level: Array) -> View:
    """The view of a prepared scan whose points (N, 3) of the sensor frame are still or not, (N,) bool."""
    keypoints_m = prepared.keypoints_m
    kept = _nearest(points_m, still, inverse(prepared.scene.level_T_sensor), keypoints_m)
    return View(grid_of(prepared.scene), keypoints_m, prepared.height_m, kept, world_T_level)


def _nearest(points_m: Array, values: Array, sensor_T_level: Array, level_m: Array) -> Array:
    """The value of the scan's point that is nearest to each point of the level frame."""
    if values.all():
        return np.ones(len(level_m), dtype=bool)
    tree = small_gicp.KdTree(points_m[::2].astype(np.float64))
    index, _ = tree.batch_nearest_neighbor_search(transform_points(sensor_T_level, level_m.astype(np.float64)))
    result: Array = values[::2][index]
    return result


def write_world(path: Path, world: World) -> None:
    """As an .npz file, replaced at once."""
    parts = {name: [getattr(view, name) for view in world.views] for name in View.__dataclass_fields__}
    part = path.with_suffix(".part.npz")
    np.savez_compressed(
        part, sizes=np.array([len(view.still) for view in world.views]), grid=np.stack(parts["grid"]),
        keypoints_m=np.concatenate(parts["keypoints_m"]), height_m=np.concatenate(parts["height_m"]),
        still=np.concatenate(parts["still"]), world_T_level=np.stack(parts["world_T_level"]),
        dense=world.dense, dense_middle_m=world.dense_middle_m,
    )  # fmt: skip
    part.replace(path)


def read_world(path: Path) -> World:
    """What write_world wrote."""
    with np.load(path, allow_pickle=False) as file:
        bounds = np.cumsum(file["sizes"])[:-1]
        split = [np.split(file[name], bounds) for name in ("keypoints_m", "height_m", "still")]
        views = zip(file["grid"], *split, file["world_T_level"], strict=True)
        return World(tuple(View(*parts) for parts in views), file["dense"], file["dense_middle_m"])


def prepared_worlds(recordings: list[Path], folder: Path) -> list[World]:
    """The worlds of recording files; each is prepared once and kept in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    worlds = []
    for path in recordings:
        if not (folder / path.name).exists():
            write_world(folder / path.name, world_of(read_recording(path)))
        worlds.append(read_world(folder / path.name))
    return worlds


def draw_group(world: World, rng: np.random.Generator, size: int, nearest_m: float, farthest_m: float) -> list[int]:
    """Indices of up to `size` views: one, and others between two distances of it; far ones as often as near ones."""
    positions = world.positions_m
    first = int(rng.integers(len(positions)))
    distance_m = np.linalg.norm(positions - positions[first], axis=1)
    possible = (distance_m >= nearest_m) & (distance_m <= farthest_m)
    possible[first] = False
    allowed = np.flatnonzero(possible)
    if not len(allowed):
        return [first]
    wanted = rng.uniform(nearest_m, farthest_m, size - 1)
    nearest = allowed[np.abs(distance_m[allowed][None] - wanted[:, None]).argmin(axis=1)]
    return [first, *dict.fromkeys(int(index) for index in nearest)]


def draw_places(world: World, views: list[int], rng: np.random.Generator, count: int) -> Array:
    """(G, P) int64: for each of P places, at most `count`, the keypoint of each view that lies there, or -1."""
    positions = [world.views[index].world_m for index in views]
    found = []
    for own, index in enumerate(views):
        chosen = np.flatnonzero(world.views[index].still)
        chosen = rng.permutation(chosen)[:count]
        column = np.full((len(views), len(chosen)), -1)
        for other, points in enumerate(positions):
            if other == own:
                column[other] = chosen
            elif len(points):
                squared = _squared_distances(positions[own][chosen], points)
                nearest = squared.argmin(axis=1)
                good = squared[np.arange(len(chosen)), nearest] < MATCH_M**2
                column[other] = np.where(good, nearest, -1)
        found.append(column[:, (column >= 0).sum(axis=0) >= 2])
    places = np.concatenate(found, axis=1)
    return places[:, rng.permutation(places.shape[1])[:count]]


def _squared_distances(a: Array, b: Array) -> Array:
    """(A, B) m^2; relative to a's mean, since single precision has few digits far from the origin."""
    middle = a.mean(axis=0) if len(a) else np.zeros(3, np.float32)
    a, b = a - middle, b - middle
    result: Array = np.maximum((a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2.0 * (a @ b.T), 0.0)
    return result


def draw_batch(
    worlds: list[World], rng: np.random.Generator, *, groups: int, size: int, places: int, others: int,
    nearest_m: float, farthest_m: float,
) -> Batch:  # fmt: skip
    """Some groups of views from as many worlds, with places and with other keypoints, which are only negatives."""
    parts: list[tuple[Array, ...]] = []
    for group in range(groups):
        world = worlds[int(rng.integers(len(worlds)))]
        chosen = draw_group(world, rng, size, nearest_m, farthest_m)
        at = draw_places(world, chosen, rng, places)
        for own, index in enumerate(chosen):
            view = world.views[index]
            seen = np.flatnonzero(at[own] >= 0)
            rest = rng.permutation(len(view.still))[:others]
            keypoints = np.concatenate([at[own][seen], rest])
            place = np.concatenate([seen + group * places, np.full(len(rest), -1)])
            masked, dense = looks(world, view, keypoints, rng)
            moved = view.world_m[keypoints] + np.float32(group * _ELSEWHERE_M)
            parts.append((masked, view.height_m[keypoints], moved, place, np.full(len(keypoints), len(parts)), dense))
    return Batch(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def looks(world: World, view: View, keypoints: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Patches of some keypoints of a view, spoilt a little, and the accumulated cloud's, both turned alike."""
    at = view.keypoints_m[keypoints]
    turn_rad = float(rng.uniform(-np.pi, np.pi))
    jitter_m = rng.normal(0.0, 0.15, (len(at), 2)).astype(np.float32)
    seen = patches(pyramid(spoilt(view.grid, rng)), at[:, :2] + jitter_m, turn_rad)
    middle_m = world.dense_middle_m.astype(np.float32)
    heading_rad = float(yaw_from_rotation(view.world_T_level[:3, :3]))
    dense = patches(world.around, view.world_m[keypoints][:, :2] - middle_m, turn_rad + heading_rad)
    lower = dense.reshape(len(at), AZIMUTHS, len(RINGS_M), BITS)[..., : BITS // 2]
    return partly_hidden(seen, rng), lower.reshape(len(at), AZIMUTHS, -1)


def spoilt(grid: Array, rng: np.random.Generator) -> Array:
    """A grid with some of its bits lost, things invented, free space now and then unknown, and a sector hidden.

    A simulated world is cleaner than any street; what is spoilt here the network cannot rely on there.
    """
    lost = rng.integers(0, 256, grid.shape, dtype=np.uint8) < rng.integers(0, 120)
    result = grid.copy()
    result[lost] &= np.uint16(0xFF00)
    for _ in range(int(rng.integers(0, 120))):
        x, y = rng.integers(0, SIDE - 6, 2)
        width, length, slabs = rng.integers(1, 5, 3)
        result[x : x + width, y : y + length] |= np.uint16((1 << int(slabs)) - 1)
    if rng.random() < 0.2:
        result &= np.uint16(0x80FF)
    if rng.random() < 0.3:
        azimuth, distance_m = _polar_cells()
        width, towards = rng.uniform(0.2, 1.2), rng.uniform(-np.pi, np.pi)
        hidden = np.cos(azimuth - np.float32(towards)) > np.cos(width / 2)
        result[hidden & (distance_m > rng.uniform(3.0, 15.0))] = 0
    return result


def partly_hidden(seen: Array, rng: np.random.Generator) -> Array:
    """Patches (K, AZIMUTHS, rings * BITS), of half of which one side is unknown from some ring on."""
    count = len(seen)
    first, width = rng.integers(0, AZIMUTHS, count), rng.integers(2, AZIMUTHS // 2, count)
    nearest = rng.integers(2, len(RINGS_M) - 2, count)
    nearest[rng.random(count) < 0.5] = len(RINGS_M)
    side = np.mod(np.arange(AZIMUTHS)[None] - first[:, None], AZIMUTHS) < width[:, None]
    far = np.arange(len(RINGS_M))[None] >= nearest[:, None]
    hidden = (side[:, :, None] & far[:, None, :]).repeat(BITS, axis=2)
    result: Array = np.where(hidden, np.uint8(0), seen)
    return result


@lru_cache(maxsize=1)
def _polar_cells() -> tuple[Array, Array]:
    middle = (np.arange(SIDE) + 0.5 - SIDE / 2).astype(np.float32)
    return np.arctan2(middle[None, :], middle[:, None]), np.hypot(middle[:, None], middle[None, :]) * CELL_M
