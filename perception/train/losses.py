"""What the network is trained to do: class scores that tell the overlap, boxes that overlap, and the teacher's view.

Both heads learn the true boxes through their own assignment. The one-to-many head's share falls from 0.8 to 0.1 over
the training, max(1 - progress, 0) * 0.7 + 0.1, and the one-to-one head has the rest (YOLO26): many positives teach the
features early, the head that is released sharpens late.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from perception.train.assign import assign
from perception.train.network import STRIDES_PX

CLASS_WEIGHT, OVERLAP_WEIGHT, SIDE_WEIGHT = 1.0, 2.5, 0.25


class Batch(NamedTuple):
    """pictures (B, 3, H, W) float32 0..255 BGR, truth_px (B, G, 4), truth_labels (B, G) int64, -1 fills up;
    teacher (B, N, T) class probabilities of the teacher's cells, and taught (B,) bool: where there is one."""

    pictures: Tensor
    truth_px: Tensor
    truth_labels: Tensor
    teacher: Tensor
    taught: Tensor


def middles_and_strides(height_px: int, width_px: int) -> tuple[Tensor, Tensor]:
    """Middles (N, 2) x y in pixels and strides (N, 1), stride by stride, row by row."""
    middles, strides = [], []
    for stride in STRIDES_PX:
        rows, columns = torch.meshgrid(
            torch.arange(height_px // stride), torch.arange(width_px // stride), indexing="ij"
        )
        middles.append((torch.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * stride)
        strides.append(torch.full((len(middles[-1]), 1), float(stride)))
    return torch.cat(middles), torch.cat(strides)


def flatten(outputs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A head's outputs at each stride -> logits (B, N, C), sides (B, N, 4) in strides."""
    logits = torch.cat([one.flatten(2) for one, _ in outputs], 2).transpose(1, 2)
    sides = torch.cat([one.flatten(2) for _, one in outputs], 2).transpose(1, 2)
    return logits, sides


def head_loss(outputs: list[tuple[Tensor, Tensor]], batch: Batch, *, one_to_one: bool) -> Tensor:
    """The loss of one head; a scalar."""
    middles, strides = middles_and_strides(*batch.pictures.shape[2:])
    logits, sides = flatten(outputs)
    reach = functional.relu(sides) * strides
    boxes = torch.cat([middles - reach[..., :2], middles + reach[..., 2:]], -1)
    owner, quality = assign(
        logits.sigmoid().detach(), boxes.detach(), middles, batch.truth_px, batch.truth_labels, one_to_one=one_to_one
    )
    positive = owner >= 0
    target = torch.zeros_like(logits)
    if batch.truth_px.shape[1]:
        labels = batch.truth_labels.gather(1, owner.clamp(min=0))
        target[positive] = functional.one_hot(labels[positive], logits.shape[2]).to(target) * quality[positive][:, None]
    scale = target.sum().clamp(min=1.0)
    loss: Tensor = CLASS_WEIGHT * _focal(logits, target).sum() / scale
    if positive.any():
        truth = batch.truth_px.gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 4))[positive]
        weight = quality[positive].clamp(min=0.1)
        steps = strides.expand(len(owner), -1, -1)[positive]
        centre = middles.expand(len(owner), -1, -1)[positive]
        wanted = torch.cat([centre - truth[:, :2], truth[:, 2:] - centre], -1) / steps
        off = functional.smooth_l1_loss(sides[positive], wanted, reduction="none", beta=0.5).mean(-1)
        overlap = 1.0 - generalised_iou(boxes[positive], truth)
        loss = loss + ((OVERLAP_WEIGHT * overlap + SIDE_WEIGHT * off) * weight).sum() / scale
    return loss


def teacher_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy (binary, over all cells and the teacher's classes) to the teacher's probabilities.

    logits (B, N, T) of an auxiliary head. Cells in which the teacher sees nothing are many: they weigh as much together
    as those in which it does.
    """
    if not batch.taught.any():
        return logits.sum() * 0.0
    logits, target = logits[batch.taught], batch.teacher[batch.taught]
    strength = target.amax(-1, keepdim=True)
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") - _entropy(target)
    weight = 0.05 + strength
    return (loss * weight).sum() / (strength.sum() + 1.0)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (arXiv 1902.09630) of paired boxes (N, 4): (N,) in -1..1."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(-1) for box in (first, second)]
    union = areas[0] + areas[1] - overlap + 1e-9
    hull = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).prod(-1) + 1e-9
    return overlap / union - (hull - union) / hull


def total_loss(heads: dict[str, list[tuple[Tensor, Tensor]]], batch: Batch, progress: float) -> Tensor:
    """Both heads' losses, weighted by how far the training is (0..1)."""
    many = max(1.0 - progress, 0.0) * 0.7 + 0.1
    return many * head_loss(heads["many"], batch, one_to_one=False) + (1.0 - many) * head_loss(
        heads["one"], batch, one_to_one=True
    )


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Quality focal loss (arXiv 2006.04388, eq. 5), power 1.5: cells that are right already count little."""
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss * (logits.sigmoid() - target).abs().pow(1.5)


def _entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())
