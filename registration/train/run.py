"""Train the descriptor within a time budget; interrupted, it goes on from its checkpoint.

The learning rate follows the share of the budget that is spent, and so does the distance between the scans of a group
if `extend` is on, as in EYOC (Liu et al., "Extend your own correspondences", CVPR 2024): near pairs first. Weights are
averaged over the latest steps (EYOC's labeler is such an average), and the average is what is exported. A checkpoint is
arrays in an .npz file; nothing is pickled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from registration.train import losses
from registration.train.data import APART_M, Batch, World, draw_batch
from registration.train.network import Completion, Descriptor

AVERAGE = 0.99


@dataclass(frozen=True)
class Settings:
    """How to train. budget_min: wall time; most_steps: a budget in steps instead, for comparisons.

    views: scans of a group, 2 for pairs; group_weight: GCL's loss; completion_weight: APR's; extend: begin with groups
    of at most nearest_m + 10 m and come to farthest_m after half of the budget.
    """

    width: int = 48
    groups: int = 2
    views: int = 4
    places: int = 72
    others: int = 48
    group_weight: float = 0.5
    completion_weight: float = 0.2
    extend: bool = True
    nearest_m: float = 5.0
    farthest_m: float = 55.0
    temperature: float = 0.07
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    budget_min: float = 30.0
    most_steps: int | None = None
    seed: int = 0
    threads: int = 1

    def farthest_at(self, progress: float) -> float:
        """How far apart the scans of a group may be after this share of the budget."""
        share = min(1.0, 2.0 * progress) if self.extend else 1.0
        return min(self.farthest_m, self.nearest_m + 10.0 + share * (self.farthest_m - self.nearest_m - 10.0))


class Student(nn.Module):
    """The network, and the decoder that only teaches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.descriptor = Descriptor(width)
        self.completion = Completion(width)

    def loss(self, batch: Batch, settings: Settings) -> tuple[torch.Tensor, dict[str, float]]:
        """The whole loss of a batch, and its parts."""
        azimuths = self.descriptor.azimuths(torch.from_numpy(batch.patches))
        features = self.descriptor.pooled(azimuths, torch.from_numpy(batch.height_m))
        position_m, place, view = (torch.from_numpy(a) for a in (batch.position_m, batch.place, batch.view))
        kind: dict[str, Any] = {"apart_m": APART_M, "temperature": settings.temperature}
        total = losses.contrast(features, position_m, place, view, **kind)
        parts = {"contrast": float(total.detach())}
        if settings.group_weight > 0.0:
            grouped = losses.group(features, position_m, place, **kind)
            parts["group"] = float(grouped.detach())
            total = total + settings.group_weight * grouped
        if settings.completion_weight > 0.0:
            still = place >= 0
            completed = losses.completion(self.completion(azimuths[still]), torch.from_numpy(batch.dense)[still])
            parts["completion"] = float(completed.detach())
            total = total + settings.completion_weight * completed
        return total, parts


def train(
    settings: Settings,
    worlds: list[World],
    folder: Path,
    *,
    report: Callable[[str], None] = print,
    examine: Callable[[Descriptor], str] | None = None,
    every_min: float = 3.0,
) -> Descriptor:
    """Train until the budget is spent and return the averaged network. Goes on from folder/checkpoint.npz if there.

    examine is asked for a line about the averaged network whenever a checkpoint is written; it does not steer anything.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    student, average = Student(settings.width), Student(settings.width).requires_grad_(False)
    average.load_state_dict(student.state_dict())
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    step, spent_s = restore(folder / "checkpoint.npz", student, average, optimizer)
    began = saved = time.monotonic()
    latest: list[dict[str, float]] = []
    while (progress := _progress(settings, step, spent_s + time.monotonic() - began)) < 1.0:
        batch = draw_batch(
            worlds, np.random.default_rng([settings.seed, step]), groups=settings.groups, size=settings.views,
            places=settings.places, others=settings.others,
            nearest_m=settings.nearest_m, farthest_m=settings.farthest_at(progress),
        )  # fmt: skip
        for parameters in optimizer.param_groups:
            parameters["lr"] = settings.learning_rate * schedule(progress, step)
        student.train()
        loss, parts = student.loss(batch, settings)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        step += 1
        update_average(average, student, min(AVERAGE, (1 + step) / (10 + step)))
        latest = [*latest[-99:], parts]
        if step % 50 == 0:
            means = "  ".join(f"{name} {np.mean([p[name] for p in latest]):.3f}" for name in parts)
            report(f"step {step}  {100 * progress:5.1f} %  {means}")
        if time.monotonic() - saved > every_min * 60.0:
            saved = time.monotonic()
            save(folder / "checkpoint.npz", student, average, optimizer, step, spent_s + saved - began)
            if examine:
                report(f"step {step}  {examine(average.descriptor.eval())}")
    save(folder / "checkpoint.npz", student, average, optimizer, step, spent_s + time.monotonic() - began)
    return average.descriptor.eval()


def _progress(settings: Settings, step: int, spent_s: float) -> float:
    return spent_s / (60.0 * settings.budget_min) if settings.most_steps is None else step / settings.most_steps


def schedule(progress: float, step: int) -> float:
    """Share of the learning rate: 50 steps of warm-up, then a cosine down to 1 %."""
    return min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))


@torch.no_grad()
def update_average(average: nn.Module, student: nn.Module, keep: float) -> None:
    """average = keep * average + (1 - keep) * student, for weights and for the statistics of normalisation."""
    for mean, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if mean.dtype.is_floating_point:
            mean.lerp_(new, 1.0 - keep)
        else:
            mean.copy_(new)


def save(
    path: Path, student: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int, spent_s: float
) -> None:
    """Write the whole state of a training, replacing the file at once."""
    arrays: dict[str, Any] = {"step": np.array(step), "spent_s": np.array(spent_s)}
    for kind, module in (("student", student), ("average", average)):
        arrays |= {f"{kind}/{name}": value.numpy() for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{index}/{name}": value.numpy() for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.replace(path)


def restore(path: Path, student: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """(step, seconds spent) of the checkpoint, whose state the modules then have; (0, 0.0) if there is none."""
    if not path.exists():
        return 0, 0.0
    with np.load(path, allow_pickle=False) as arrays:
        for kind, module in (("student", student), ("average", average)):
            module.load_state_dict({name: torch.from_numpy(arrays[f"{kind}/{name}"]) for name in module.state_dict()})
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key in arrays.files:
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                state.setdefault(int(index), {})[name] = torch.from_numpy(arrays[key])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return int(arrays["step"]), float(arrays["spent_s"])


def weights_of(path: Path, width: int = 48) -> Descriptor:
    """The averaged network of a checkpoint."""
    average = Student(width)
    with np.load(path, allow_pickle=False) as arrays:
        average.load_state_dict({name: torch.from_numpy(arrays[f"average/{name}"]) for name in average.state_dict()})
    return average.descriptor.eval()
