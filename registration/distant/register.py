"""Registration of two scans 10 to 50 m apart without a guess.

1. Both scans are made upright and equally dense (structure).
2. Candidates: the poses at which both look alike from above (correlation), and, if asked for, those on which matched
   descriptors of keypoints agree (matching). In rows of trees dozens of poses look alike from above, so that many are
   taken and a short list is made: the best few by correlation, and the best few by step 4, which costs next to nothing.
3. Each of the list is refined by local registration; peaks of the correlation are a metre and a degree off.
4. Each is held against what the two scans saw through (visibility). The most credible one wins, and its credibility
   is the confidence.

Nothing is drawn at random: `seed` is taken because every global registration here takes one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from registration.distant.correlation import correlate
from registration.distant.keypoints import Prepared, describe, prepare
from registration.distant.matching import hypotheses
from registration.distant.visibility import Agreement, View, agreement, view_of
from registration.global_ import GlobalRegistration
from registration.local import Registration, register_local
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse, transform_points

Array = NDArray[Any]
Descriptor = Literal["classical", "learned"]

# Constant, weight of the credit, weight of the residual (1/m): a logistic fit on the candidates of pairs from simulated
# worlds, right ones against all others. tests/benchmarks/bench_distant.py --fit prints these numbers.
CONFIDENCE_WEIGHTS = (-13.0, 20.1, -20.7)
THRESHOLD = 0.5
_PEAKS, _BY_SCORE, _BY_CREDIT = 40, 2, 2
_HYPOTHESES = 3
_PRIOR_POINTS = 200  # contradicting ones that are always added: a handful that agree prove nothing
_MIN_OVERLAP = 0.03  # of all points, ground and all; at 50 m a right pose has 0.07
_HEIGHT_SLACK_M, _TILT_SLACK_RAD = 3.0, np.radians(8.0)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A refined pose and what speaks for it: local (its refinement), agreement (visibility), confidence 0..1."""

    local: Registration
    agreement: Agreement
    confidence: float


def register_distant(
    target_m: Array,
    source_m: Array,
    *,
    seed: int = 0,
    descriptor: Descriptor | None = None,
    correlation: bool = True,
) -> GlobalRegistration:
    """Align source (M, 3) with target (N, 3), both in their sensors' frames with z up to within 20 degrees.

    descriptor: take candidates from matched keypoints too; correlation=False leaves those as the only ones. The result
    is not converged if the confidence is below THRESHOLD, if there was no candidate, or if a scan has too few points.
    """
    del seed
    found = candidates(target_m, source_m, descriptor=descriptor, correlation=correlation)
    if not found:
        return GlobalRegistration(np.full((4, 4), np.nan), 0.0, False, 0, 0, None)
    best = max(found, key=lambda candidate: candidate.confidence)  # the first of equals
    return GlobalRegistration(
        target_T_source=best.local.target_T_source,
        confidence=best.confidence,
        converged=best.confidence >= THRESHOLD,
        correspondences=best.agreement.supporting + best.agreement.contradicting,
        inliers=best.agreement.supporting,
        local=best.local,
    )


def candidates(
    target_m: Array, source_m: Array, *, descriptor: Descriptor | None = None, correlation: bool = True
) -> list[Candidate]:
    """All candidates that local registration could refine; none if a scan has too few points.

    Raises ValueError for arrays of other shapes, an unknown descriptor, and if nothing is to make candidates.
    """
    if descriptor not in (None, "classical", "learned"):
        raise ValueError(f"descriptor is {descriptor!r}, not None, 'classical' or 'learned'")
    if descriptor is None and not correlation:
        raise ValueError("without correlation a descriptor must be named: nothing would make candidates")
    try:
        target, source = prepare(target_m), prepare(source_m)
    except Rejected:
        return []
    sides = _Side.of(target_m, target), _Side.of(source_m, source)
    guesses: list[Array] = []
    if correlation:
        peaks = [peak.target_T_source for peak in correlate(target.scene, source.scene, count=_PEAKS)]
        guesses += _short_list(*sides, [_between_sensors(target, source, peak) for peak in peaks])
    if descriptor is not None:
        guesses += [_between_sensors(target, source, pose) for pose in _from_descriptors(target, source, descriptor)]
    refined = [_judged(*sides, guess) for guess in guesses]
    return [candidate for candidate in refined if candidate is not None]


def credit(agreed: Agreement) -> float:
    """The share of points that agree, 0..1, less if there are few."""
    return agreed.supporting / (agreed.supporting + agreed.contradicting + _PRIOR_POINTS)


def confidence_of(agreed: Agreement, rmse_m: float) -> float:
    """How likely a pose is right, 0..1. Where walls of other houses fit by chance, they fit less closely."""
    constant, of_credit, of_residual = CONFIDENCE_WEIGHTS
    return float(1.0 / (1.0 + np.exp(-(constant + of_credit * credit(agreed) + of_residual * rmse_m))))


def _from_descriptors(target: Prepared, source: Prepared, descriptor: Descriptor) -> list[Array]:
    """Transforms between the level frames."""
    if descriptor == "classical":
        ours, theirs = describe(target), describe(source)
    else:
        from registration.distant.learned import describe_learned

        ours, theirs = describe_learned(target), describe_learned(source)
    found = hypotheses(target.keypoints_m, source.keypoints_m, ours, theirs, count=_HYPOTHESES)
    return [transform for transform, _ in found]


def _between_sensors(target: Prepared, source: Prepared, level_T_level: Array) -> Array:
    """A pose between the level frames as one between the sensors' frames."""
    return inverse(target.scene.level_T_sensor) @ level_T_level @ source.scene.level_T_sensor


@dataclass(frozen=True, eq=False)
class _Side:
    """One scan in its sensor's frame: what stands on the ground (N, 3), all of it (M, 3), thinned, and its view."""

    structure_m: Array
    whole_m: Array
    view: View

    @classmethod
    def of(cls, points_m: Array, prepared: Prepared) -> _Side:
        sensor_T_level = inverse(prepared.scene.level_T_sensor)
        structure_m = transform_points(sensor_T_level, prepared.scene.structure_m)
        ground_m = transform_points(sensor_T_level, prepared.scene.ground_m)
        return cls(structure_m, np.concatenate([structure_m, ground_m]), view_of(points_m))


def _short_list(target: _Side, source: _Side, guesses: list[Array]) -> list[Array]:
    """Of guesses, best first, the first few and the few that are contradicted least; each once."""
    ours, theirs = target.structure_m[::2], source.structure_m[::2]
    credited = [credit(agreement(target.view, source.view, ours, theirs, guess)) for guess in guesses]
    by_credit = np.argsort(-np.array(credited), kind="stable")[:_BY_CREDIT].tolist()
    first = list(range(min(_BY_SCORE, len(guesses))))
    return [guesses[k] for k in first + [k for k in by_credit if k not in first]]


def _judged(target: _Side, source: _Side, guess: Array) -> Candidate | None:
    """The guess, refined on the thinned scans and held against both views; None if the refinement fails."""
    local = register_local(target.whole_m, source.whole_m, guess, min_overlap=_MIN_OVERLAP)
    if not local.converged or _leaves(guess, local.target_T_source):
        return None
    agreed = agreement(target.view, source.view, target.structure_m, source.structure_m, local.target_T_source)
    return Candidate(local, agreed, confidence_of(agreed, local.rmse_m))


def _leaves(guess: Array, found: Array) -> bool:
    """Whether a refinement has run away: gravity and the search fix the pose better than that."""
    moved = inverse(guess) @ found
    tilt_rad = np.arccos(np.clip(moved[2, 2], -1.0, 1.0))
    return bool(np.linalg.norm(moved[:3, 3]) > _HEIGHT_SLACK_M or tilt_rad > _TILT_SLACK_RAD)
