"""Adapt a descriptor to a drive without poses: EYOC (Liu et al., "Extend your own correspondences", CVPR 2024).

A labeler, the slow average of what is trained, matches two scans of the drive; a robust transform through its matches
says which keypoints are the same places; on those the student learns. Scans near each other in time come first, and the
interval grows step by step. Two filters keep wrong labels out, before and after the transform:

- EYOC finds that matches are best where a place is about as far from one sensor as from the other, since its density
  is then alike. Here a match must be at most NEARER times as far from one sensor as from the other.
- A transform counts only if enough matches agree with it, and if it leaves both scans level.

EYOC labels by SC2-PCR; here it is registration.robust, which the suite has anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from devices.sensors.recorded.cloud_files import read_kitti_bin
from registration.distant.keypoints import prepare
from registration.robust import transform_from_correspondences
from registration.train.data import Batch, View, World, draw_batch, view_of
from registration.train.losses import contrast, group
from registration.train.measure import described, mutual_matches
from registration.train.network import Descriptor
from registration.train.run import update_average
from tercel.core.errors import UserError

Array = NDArray[Any]

NEARER = 4.0  # how many times as far from one sensor as from the other a match may be
NOISE_M = 1.0
_MAX_TILT = np.cos(np.radians(5.0))


@dataclass(frozen=True)
class Adaptation:
    """How to adapt. least_interval, most_interval: scans between the two of a pair, at the beginning and at the end.
    least_matches: matches that must agree with a pair's transform. keep: of the labeler's average. refresh: after so
    many steps the labeler's descriptors are computed anew. spatial: the first filter."""

    steps: int = 400
    pairs: int = 2
    places: int = 128
    others: int = 96
    least_interval: int = 1
    most_interval: int = 60
    least_matches: int = 12
    keep: float = 0.99
    refresh: int = 50
    spatial: bool = True
    learning_rate: float = 5e-4
    temperature: float = 0.07
    seed: int = 0
    threads: int = 1

    def interval_at(self, progress: float) -> int:
        """The largest interval after this share of the steps."""
        share = min(1.0, 1.5 * progress)
        return self.least_interval + round(share * (self.most_interval - self.least_interval))


def views_of(scans: list[Path]) -> list[View]:
    """Views of a drive's scans (KITTI .bin); their poses are not known, and are the identity. Raises UserError."""
    if len(scans) < 2:
        raise UserError("a drive needs two scans or more: a folder of KITTI .bin files")
    clouds = (read_kitti_bin(path)[0] for path in scans)
    return [view_of(prepare(points_m), np.ones(len(points_m), dtype=bool), points_m, np.eye(4)) for points_m in clouds]


def label(target: View, source: View, descriptors: tuple[Array, Array], plan: Adaptation) -> Array | None:
    """target_T_source (4, 4) between level frames, as the labeler's descriptors have it; None if too few agree."""
    rows, columns = mutual_matches(*descriptors)
    at_target, at_source = target.keypoints_m[rows], source.keypoints_m[columns]
    if plan.spatial:
        ranges = np.stack([np.linalg.norm(at_target[:, :2], axis=1), np.linalg.norm(at_source[:, :2], axis=1)])
        balanced = ranges.max(axis=0) < NEARER * ranges.min(axis=0)
        at_target, at_source = at_target[balanced], at_source[balanced]
    if len(at_target) < plan.least_matches:
        return None
    target_T_source, agree = transform_from_correspondences(at_target, at_source, noise_m=NOISE_M)
    if int(agree.sum()) < plan.least_matches or target_T_source[2, 2] < _MAX_TILT:
        return None
    return target_T_source


def adapt(
    network: Descriptor, views: list[View], plan: Adaptation, *, report: Callable[[str], None] = print
) -> Descriptor:
    """The labeler at the end. Statistics of normalisation stay the network's own: a batch of one street has others."""
    torch.manual_seed(plan.seed)
    torch.set_num_threads(plan.threads)
    student, labeler = copy.deepcopy(network).eval(), copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=plan.learning_rate, weight_decay=1e-3)
    known: dict[int, Array] = {}
    tried = labelled = 0
    losses: list[float] = []
    for step in range(plan.steps):
        if step % plan.refresh == 0:
            known = {}
        rng = np.random.default_rng([plan.seed, step])
        worlds = []
        for _ in range(plan.pairs):
            pair = _draw_pair(len(views), plan.interval_at(step / plan.steps), rng)
            for index in pair:
                known[index] = described(labeler, views[index]) if index not in known else known[index]
            first, second = (views[index] for index in pair)
            found = label(first, second, (known[pair[0]], known[pair[1]]), plan)
            tried += 1
            if found is not None:
                labelled += 1
                worlds.append(_world_of(first, replace(second, world_T_level=found)))
        if worlds:
            losses.append(_learn(student, optimizer, _batch(worlds, rng, plan), plan))
            update_average(labeler, student, plan.keep)
        if (step + 1) % 50 == 0:
            report(f"step {step + 1}  loss {np.mean(losses[-50:]):.3f}  pairs labelled {labelled} of {tried}")
    return labeler


def _draw_pair(count: int, interval: int, rng: np.random.Generator) -> tuple[int, int]:
    apart = int(rng.integers(max(1, interval // 2), interval + 1))
    first = int(rng.integers(max(count - apart, 1)))
    return first, min(first + apart, count - 1)


def _world_of(first: View, second: View) -> World:
    """Two scans as a world; nothing is known of what both leave out."""
    return World((first, second), np.zeros((8, 8), np.uint16), np.zeros(2))


def _batch(worlds: list[World], rng: np.random.Generator, plan: Adaptation) -> Batch:
    return draw_batch(
        worlds, rng, groups=len(worlds), size=2, places=plan.places, others=plan.others,
        nearest_m=0.0, farthest_m=1e3,
    )  # fmt: skip


def _learn(student: Descriptor, optimizer: torch.optim.Optimizer, batch: Batch, plan: Adaptation) -> float:
    position_m, place, view = (torch.from_numpy(a) for a in (batch.position_m, batch.place, batch.view))
    features = student(torch.from_numpy(batch.patches), torch.from_numpy(batch.height_m))
    loss = contrast(features, position_m, place, view, apart_m=2.0, temperature=plan.temperature)
    loss = loss + 0.5 * group(features, position_m, place, apart_m=2.0, temperature=plan.temperature)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(student.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())
