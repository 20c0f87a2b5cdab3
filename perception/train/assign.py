"""Which cells of the grid learn which true box: task-aligned assignment (TOOD, arXiv 2108.07755).

A cell may learn a box that holds its middle. Its alignment is score^0.5 * IoU^6, with the score that it gives the box's
class now. The top cells of each box learn it; a cell that several boxes want goes to the one it overlaps most. The cell
should then give the class the score alignment / (best alignment of the box) * (best IoU of the box).

One-to-many takes the 10 best cells. One-to-one takes 7 in the same way and keeps the best of them (YOLO26), so that no
non-maximum suppression is needed. A box under 8 px a side is grown to 16 px about its middle for the question which
cells' middles it holds: otherwise it may hold none.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL_PX, GROWN_PX = 8.0, 16.0
SCORE_POWER, IOU_POWER = 0.5, 6.0
MANY, ONE_CANDIDATES = 10, 7


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes x1 y1 x2 y2 (..., 4), broadcast."""
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap + 1e-9)


@torch.no_grad()
def assign(
    scores: Tensor, boxes_px: Tensor, middles_px: Tensor, truth_px: Tensor, truth_labels: Tensor, *, one_to_one: bool
) -> tuple[Tensor, Tensor]:
    """For B pictures of N cells: which true box each cell learns, and how well.

    scores (B, N, C) in 0..1, boxes_px (B, N, 4) as the cells give them now, middles_px (N, 2), truth_px (B, G, 4),
    truth_labels (B, G) int64, -1 in the rows that only fill up. Returns owner (B, N) int64, the true box's row or -1,
    and quality (B, N) in 0..1.
    """
    batch, cells = scores.shape[:2]
    real = truth_labels >= 0
    if truth_px.shape[1] == 0:
        return torch.full((batch, cells), -1, dtype=torch.int64), torch.zeros(batch, cells)
    size = truth_px[..., 2:] - truth_px[..., :2]
    centre = (truth_px[..., 2:] + truth_px[..., :2]) / 2
    half = torch.where(size < SMALL_PX, torch.full_like(size, GROWN_PX), size) / 2
    offset = (middles_px[None, None] - centre[:, :, None]).abs()
    inside = (offset < half[:, :, None]).all(-1) & real[..., None]  # (B, G, N)
    picture, row, cell = inside.nonzero(as_tuple=True)  # few of all: the rest of the work is on these alone
    overlaps = paired_iou(truth_px[picture, row], boxes_px[picture, cell])
    class_scores = scores[picture, cell, truth_labels[picture, row]].clamp(min=1e-6)
    iou, alignment = torch.zeros(inside.shape), torch.zeros(inside.shape)
    iou[picture, row, cell] = overlaps
    alignment[picture, row, cell] = class_scores**SCORE_POWER * overlaps.clamp(min=1e-4) ** IOU_POWER
    wanted = _top(alignment, ONE_CANDIDATES if one_to_one else MANY)
    contested = wanted.sum(1) > 1
    favourite = torch.zeros_like(wanted).scatter_(1, (iou + wanted).argmax(1, keepdim=True), True)
    wanted = torch.where(contested[:, None], wanted & favourite, wanted)
    if one_to_one:
        wanted = wanted & _top(alignment * wanted, 1)
    owner = torch.where(wanted.any(1), wanted.int().argmax(1), -1)
    kept = alignment * wanted
    best = kept.amax(2, keepdim=True)
    best_iou = (iou * wanted).amax(2, keepdim=True)
    quality = (kept / (best + 1e-12) * best_iou).amax(1)
    return owner, quality


def _top(alignment: Tensor, count: int) -> Tensor:
    """(B, G, N) bool: the count best cells of each box, among those with any alignment."""
    values, cells = alignment.topk(min(count, alignment.shape[2]), dim=2)
    return torch.zeros_like(alignment, dtype=torch.bool).scatter_(2, cells, values > 0)
