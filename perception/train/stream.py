"""Batches for training: new samples from a worker process, mixed with ones that were seen before.

Drawing a sample and asking the teacher costs about as much as learning from it. So every batch has some new samples and
fills up from a pool of the latest ones; the pool is a ring, and every sample is learned from a few times, mirrored anew
by half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from perception.train.losses import Batch
from perception.train.network import STRIDES_PX
from perception.train.samples import Sampler, Source
from perception.train.teacher import TEACHER_CLASSES, Teacher

Array = NDArray[Any]

MAX_TRUTHS = 48


@dataclass(frozen=True, eq=False)
class Sample:
    """bgr (S, S, 3) uint8, boxes (G, 4) float32, labels (G,) int32, teacher (cells, 80) uint8 or None."""

    bgr: Array
    boxes: Array
    labels: Array
    teacher: Array | None


class _Samples(IterableDataset[Sample]):
    """Made in a worker process; the seed of each worker is its own."""

    def __init__(self, sources: list[Source], side_px: int, seed: int, teacher: Path | None) -> None:
        self._arguments = (sources, side_px, seed, teacher)

    def __iter__(self) -> Iterator[Sample]:
        import cv2

        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        sources, side_px, seed, path = self._arguments
        teacher = Teacher(path, side_px) if path else None
        sampler = Sampler(sources, side_px, seed)
        while True:
            bgr, boxes, labels, blended = sampler.draw()
            seen = teacher(bgr) if teacher else None
            if seen and blended:
                boxes, labels = seen.boxes_px, seen.labels
            probabilities = seen.probabilities if seen else None
            yield Sample(bgr, boxes[:MAX_TRUTHS], labels[:MAX_TRUTHS], probabilities)


def batches(
    sources: list[Source],
    *,
    side_px: int,
    size: int,
    new: int,
    pool: int,
    seed: int,
    teacher: Path | None,
) -> Iterator[Batch]:
    """Batches of `size` samples of which `new` were never seen; the others come from the latest `pool` ones."""
    loader = DataLoader(
        _Samples(sources, side_px, seed, teacher), batch_size=None, num_workers=1, prefetch_factor=4 * new
    )
    rng = np.random.default_rng(seed + 1)
    ring: list[Sample] = []
    written = 0
    stream = iter(loader)
    while True:
        fresh = [next(stream) for _ in range(size if len(ring) < size else new)]
        old = [ring[int(i)] for i in rng.integers(len(ring), size=size - len(fresh))] if ring else []
        for sample in fresh:
            if len(ring) < pool:
                ring.append(sample)
            else:
                ring[written % pool] = sample
            written += 1
        yield collate(fresh + [_mirrored(s) if rng.random() < 0.5 else s for s in old])


def collate(samples: list[Sample]) -> Batch:
    """Samples -> tensors; truths are filled up with label -1."""
    count = max(len(s.labels) for s in samples)
    side = samples[0].bgr.shape[0]
    cells = sum((side // stride) ** 2 for stride in STRIDES_PX)
    truth, labels = np.zeros((len(samples), count, 4), np.float32), np.full((len(samples), count), -1, np.int64)
    taught = np.array([s.teacher is not None for s in samples])
    seen = np.zeros((len(samples), cells, TEACHER_CLASSES), np.uint8)
    for index, sample in enumerate(samples):
        truth[index, : len(sample.labels)], labels[index, : len(sample.labels)] = sample.boxes, sample.labels
        if sample.teacher is not None:
            seen[index] = sample.teacher
    pictures = torch.from_numpy(np.stack([s.bgr for s in samples])).permute(0, 3, 1, 2).float()
    teacher = torch.from_numpy(seen).float() / 255.0
    return Batch(pictures, torch.from_numpy(truth), torch.from_numpy(labels), teacher, torch.from_numpy(taught))


def _mirrored(sample: Sample) -> Sample:
    side = sample.bgr.shape[0]
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = side - boxes[:, [2, 0]]
    teacher = None
    if sample.teacher is not None:
        parts, start = [], 0
        for stride in STRIDES_PX:
            n = side // stride
            grid = sample.teacher[start : start + n * n].reshape(n, n, -1)
            parts.append(grid[:, ::-1].reshape(n * n, -1))
            start += n * n
        teacher = np.concatenate(parts)
    return Sample(np.ascontiguousarray(sample.bgr[:, ::-1]), boxes, sample.labels, teacher)
