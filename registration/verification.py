"""Whether two clouds fit at a pose: what each holds of the other's, and how likely that makes the pose.

Alignments go wrong in ways that their residuals do not show: on a street every wall is parallel to some wall, and the
ground fits everywhere. So only what stands on the ground counts, and two questions are asked of it, both ways:

- how much of it lies flush with a surface of the other cloud?
- how much of it stands where the other sensor looked right through (registration.distant.visibility)?

A logistic function weighs the answers. Its weights were fitted on simulated worlds only (bench_global.py --fit, in
tests/benchmarks, makes them anew); how well it parts right from wrong on real scans is that benchmark's to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import small_gicp
from numpy.typing import NDArray

from registration.distant import visibility
from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]

NEAR_M = 0.6  # a partner is no farther than this,
FLUSH_M = 0.1  # and no farther than this along its normal
_NEIGHBOURS = 10
_MAX_STRUCTURE = 8000
_PRIOR_POINTS = 100  # seen through in any case, so that a handful that was not proves nothing

# What bench_global.py --fit --pairs 6 printed: weights of Evidence.features and the constant. One in 1000 of the wrong
# candidates there was above 0.16; what is shipped asks for more.
WEIGHTS = np.array([0.76, -6.15])
CONSTANT = -7.65
THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class View:
    """A cloud made ready to be compared. structure_m (N, 3) float64: what stands on the ground, in the sensor's frame;
    normals (N, 3); tree: its search tree; sight: how far the sensor saw in each direction, None for a map, which was
    not seen from one place."""

    structure_m: Array
    normals: Array
    tree: small_gicp.KdTree
    sight: visibility.View | None


@dataclass(frozen=True)
class Evidence:
    """flush: share of the structure that lies flush with the other's, mean of both ways. seen_through: share of the
    structure that the other sensor could judge and that it looked through, both ways together; 1 if there was none."""

    flush: float
    seen_through: float

    def features(self) -> Array:
        """(2,) float64, what the logistic function weighs; the addends are what cannot be told from nothing."""
        return np.array([np.log(self.flush + 0.01), np.log(self.seen_through + 0.01)])


def view_of(points_m: Array, structure_m: Array, *, from_one_place: bool = True) -> View:
    """A scan (N, 3), and what of it stands on the ground (M, 3), in the sensor's frame.

    from_one_place: whether the sensor was at the origin all the time. Of a large structure only every so many points
    are taken.
    """
    cloud = small_gicp.PointCloud(structure_m[:: 1 + len(structure_m) // _MAX_STRUCTURE].astype(np.float64))
    tree = small_gicp.KdTree(cloud)
    small_gicp.estimate_normals(cloud, tree, _NEIGHBOURS)
    sight = visibility.view_of(points_m) if from_one_place else None
    return View(cloud.points()[:, :3].copy(), cloud.normals()[:, :3].copy(), tree, sight)


def evidence(target: View, source: View, target_T_source: Array) -> Evidence:
    """What two views say about a pose; neither may be without structure. Through a map nobody looked: of a scan and
    a map only the scan judges, and two maps are never credible."""
    there = _flush(target, transform_points(target_T_source, source.structure_m))
    back = _flush(source, transform_points(inverse(target_T_source), target.structure_m))
    blind = visibility.view_of(np.zeros((0, 3)))
    agreed = visibility.agreement(
        target.sight or blind, source.sight or blind, target.structure_m, source.structure_m, target_T_source
    )
    judged = agreed.contradicting + agreed.supporting
    return Evidence(0.5 * (there + back), (agreed.contradicting + _PRIOR_POINTS) / (judged + _PRIOR_POINTS))


def confidence(found: Evidence) -> float:
    """How likely the pose is right, 0..1."""
    return float(1.0 / (1.0 + np.exp(-(WEIGHTS @ found.features() + CONSTANT))))


def _flush(view: View, structure_m: Array) -> float:
    """The share of structure (N, 3), moved into a view's frame, that lies flush with the view's surfaces."""
    indices, squared = view.tree.batch_nearest_neighbor_search(structure_m)
    nearest = np.asarray(indices).astype(np.int64)
    off_m = np.abs(np.einsum("ij,ij->i", structure_m - view.structure_m[nearest], view.normals[nearest]))
    return float(((np.asarray(squared) < NEAR_M**2) & (off_m < FLUSH_M)).mean())
