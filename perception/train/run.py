"""Train `tercel-nano` within a time budget; it can be interrupted and goes on where it was.

The learning rate, the share of the one-to-many head and the end of the strong augmentation follow the share of the
budget that is spent, so a budget of ten minutes and one of ten hours are both whole trainings. Weights are averaged
over the latest steps (exponential moving average), and the average is what is exported. A checkpoint is arrays in an
.npz file; nothing is pickled.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from perception.train.losses import Batch, flatten, teacher_loss, total_loss
from perception.train.network import Head, Shape, TercelNano
from perception.train.teacher import TEACHER_CLASSES

AVERAGE = 0.9995


@dataclass(frozen=True)
class Settings:
    """How to train. The budget is wall time in minutes; learning rate and weight decay are AdamW's.

    For the early share of the budget pictures are smaller, which makes more steps of the same time. most_steps: a
    budget in steps instead, for comparisons.
    """

    shape: Shape = field(default_factory=Shape)
    class_count: int = 6
    side_px: int = 320
    early_side_px: int = 256
    early_share: float = 0.6
    batch: int = 8
    new_in_batch: int = 2
    pool: int = 3000
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    teacher_weight: float = 2.0
    budget_min: float = 60.0
    most_steps: int | None = None
    seed: int = 0
    threads: int = 1

    def side_at(self, progress: float) -> int:
        """The pictures' side in pixels after this share of the budget."""
        return self.early_side_px if progress < self.early_share else self.side_px


class Student(nn.Module):
    """The network, and the head that answers the teacher, which is not released."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.network = TercelNano(settings.shape, settings.class_count)
        self.pupil = Head(settings.shape, TEACHER_CLASSES)

    def loss(self, batch: Batch, progress: float, teacher_weight: float) -> torch.Tensor:
        """The whole loss of a batch."""
        features = self.network.features(batch.pictures)
        heads = {"one": self.network.one_to_one(features), "many": self.network.one_to_many(features)}
        loss = total_loss(heads, batch, progress)
        if teacher_weight > 0.0 and bool(batch.taught.any()):
            logits, _ = flatten(self.pupil(features))
            loss = loss + teacher_weight * teacher_loss(logits, batch)
        return loss


def train(
    settings: Settings,
    stream_of: Callable[[int], Iterator[Batch]],
    folder: Path,
    *,
    report: Callable[[str], None] = print,
    examine: Callable[[TercelNano], str] | None = None,
    every_min: float = 5.0,
) -> TercelNano:
    """Train until the budget is spent and return the averaged network. Goes on from folder/checkpoint.npz if there.

    stream_of gives endless batches of pictures of a side in pixels.

    examine is asked for a line about the averaged network whenever a checkpoint is written; it does not steer anything.
    """
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    student = Student(settings).to(device, memory_format=torch.channels_last)
    average = Student(settings).to(device).requires_grad_(False)
    average.load_state_dict(student.state_dict())
    decayed = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}],
                                  lr=settings.learning_rate, weight_decay=settings.weight_decay)  # fmt: skip
    step, spent_s = restore(folder / "checkpoint.npz", student, average, optimizer)
    began = saved = time.monotonic()
    losses: list[float] = []
    side_px = 0
    stream: Iterator[Batch] = iter(())
    while (progress := _progress(settings, step, spent_s + time.monotonic() - began)) < 1.0:
        if side_px != settings.side_at(progress):
            side_px = settings.side_at(progress)
            stream = stream_of(side_px)
        batch = Batch(*(part.to(device) for part in next(stream)))
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(progress, step)
        student.train()
        loss = student.loss(batch, progress, settings.teacher_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 10.0)
        optimizer.step()
        step += 1
        update_average(average, student, min(AVERAGE, (1 + step) / (20 + step)))
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            report(f"step {step}  {100 * progress:5.1f} %  loss {np.mean(losses[-100:]):.3f}")
        if time.monotonic() - saved > every_min * 60.0:
            saved = time.monotonic()
            save(folder / "checkpoint.npz", student, average, optimizer, step, spent_s + saved - began)
            if examine:
                report(f"step {step}  {examine(average.network.eval())}")
    save(folder / "checkpoint.npz", student, average, optimizer, step, spent_s + time.monotonic() - began)
    return average.network.eval()


def _progress(settings: Settings, step: int, spent_s: float) -> float:
    return spent_s / (60.0 * settings.budget_min) if settings.most_steps is None else step / settings.most_steps


def schedule(progress: float, step: int) -> float:
    """Share of the learning rate: 200 steps of warm-up, then a cosine down to 1 %."""
    return min(1.0, (step + 1) / 200) * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))


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
        arrays |= {f"{kind}/{name}": value.cpu().numpy() for name, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer/{index}/{name}": value.cpu().numpy() for name, value in state.items()}
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


def weights_of(path: Path, settings: Settings) -> TercelNano:
    """The averaged network of a checkpoint."""
    average = Student(settings)
    with np.load(path, allow_pickle=False) as arrays:
        average.load_state_dict({name: torch.from_numpy(arrays[f"average/{name}"]) for name in average.state_dict()})
    return average.network.eval()
