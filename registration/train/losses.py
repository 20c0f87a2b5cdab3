"""What the descriptor is trained for. Each loss takes unit descriptors (M, D) and says which rows are alike.

contrast: every view of a place is nearer to its other views than to anything else: InfoNCE (van den Oord et al., 2018).
group: GCL's (Liu et al., "Density-invariant features for distant point cloud registration", ICCV 2023): the views of a
place, however many and however far apart, lie around their mean, and the mean is nearer than other places' means.
completion: APR's, the accumulated cloud's occupancy from one view's features.
"""

from __future__ import annotations

import torch
from torch import nn

_FAR = -1e4  # in place of minus infinity, which has no gradient worth having
_MARGIN = 0.1  # squared distance to the group's mean that costs nothing
_RARE = 6.0  # weight of an occupied cell: about one in ten is


def contrast(
    features: torch.Tensor, position_m: torch.Tensor, place: torch.Tensor, view: torch.Tensor, *,
    apart_m: float, temperature: float,
) -> torch.Tensor:  # fmt: skip
    """Mean over all pairs of views of a place; rows less than apart_m apart are no negatives of each other."""
    score = features @ features.T / temperature
    alike = (place[:, None] == place[None]) & (place >= 0)[:, None] & (view[:, None] != view[None])
    apart = torch.cdist(position_m, position_m, compute_mode="donot_use_mm_for_euclid_dist") > apart_m
    negatives = torch.logsumexp(score.masked_fill(~apart, _FAR), dim=1)
    each = torch.logaddexp(score, negatives[:, None]) - score
    return each[alike].mean() if bool(alike.any()) else features.sum() * 0.0


def group(
    features: torch.Tensor, position_m: torch.Tensor, place: torch.Tensor, *, apart_m: float, temperature: float
) -> torch.Tensor:
    """Spread of each place's views about their mean, and InfoNCE of every view against the means of all places."""
    chosen = place >= 0
    if not bool(chosen.any()):
        return features.sum() * 0.0
    own, index = torch.unique(place[chosen], return_inverse=True)
    rows, at = features[chosen], position_m[chosen]
    count = torch.zeros(len(own)).index_add_(0, index, torch.ones(len(index)))
    sums = torch.zeros(len(own), features.shape[1]).index_add_(0, index, rows)
    middle = torch.zeros(len(own), 3).index_add_(0, index, at) / count[:, None]
    mean = nn.functional.normalize(sums, dim=1)
    spread = torch.relu(((rows - mean[index]) ** 2).sum(dim=1) - _MARGIN).mean()
    score = rows @ mean.T / temperature
    near = torch.cdist(at, middle, compute_mode="donot_use_mm_for_euclid_dist") <= apart_m
    right = torch.arange(len(own))[None] == index[:, None]
    score = score.masked_fill(near & ~right, _FAR)
    return spread + nn.functional.cross_entropy(score, index)


def completion(logits: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """Weighted binary cross-entropy of logits against the accumulated cloud's bits, both (K, AZIMUTHS, C)."""
    return nn.functional.binary_cross_entropy_with_logits(
        logits, dense.to(torch.float32), pos_weight=torch.tensor(_RARE)
    )
