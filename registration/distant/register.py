"""Registration of two scans 10 to 50 m apart without a guess.

1. Both scans are made upright and equally dense (structure).
2. Candidates: the poses at which both look alike from above (correlation), and, if asked for, those on which matched
   descriptors of keypoints agree (matching).
3. Each is refined by local registration, the first few peaks of the correlation being a metre and a degree off.
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

# A logistic fit on pairs from simulated worlds, right candidates against wrong ones and pairs of different worlds:
# tests/benchmarks/bench_distant.py --fit prints these two numbers.
CONFIDENCE_SLOPE, CONFIDENCE_MIDDLE = 30.0, 0.73
THRESHOLD = 0.5
_PEAKS, _HYPOTHESES = 3, 2
_PRIOR_POINTS = 100  # contradicting ones that are always added: a handful that agree prove nothing
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
    """All candidates that local registration could refine; none if a scan has too few points."""
    try:
        target, source = prepare(target_m), prepare(source_m)
    except Rejected:
        return []
    guesses: list[Array] = []
    if correlation:
        guesses += [peak.target_T_source for peak in correlate(target.scene, source.scene, count=_PEAKS)]
    if descriptor is not None:
        guesses += _from_descriptors(target, source, descriptor)
    target_view, source_view = view_of(target_m), view_of(source_m)
    refined = []
    for level_guess in guesses:
        guess = inverse(target.scene.level_T_sensor) @ level_guess @ source.scene.level_T_sensor
        candidate = _judged(target, source, target_view, source_view, guess)
        if candidate is not None:
            refined.append(candidate)
    return refined


def credit(agreed: Agreement) -> float:
    """What the confidence is computed from, 0..1: the share of points that agree, less if there are few."""
    return agreed.supporting / (agreed.supporting + agreed.contradicting + _PRIOR_POINTS)


def confidence_of(agreed: Agreement) -> float:
    """How likely a pose is right, 0..1."""
    return float(1.0 / (1.0 + np.exp(-CONFIDENCE_SLOPE * (credit(agreed) - CONFIDENCE_MIDDLE))))


def _from_descriptors(target: Prepared, source: Prepared, descriptor: Descriptor) -> list[Array]:
    """Transforms between the level frames."""
    if descriptor == "classical":
        ours, theirs = describe(target), describe(source)
    else:
        from registration.distant.learned import describe_learned

        ours, theirs = describe_learned(target), describe_learned(source)
    found = hypotheses(target.keypoints_m, source.keypoints_m, ours, theirs, count=_HYPOTHESES)
    return [transform for transform, _ in found]


def _judged(target: Prepared, source: Prepared, target_view: View, source_view: View, guess: Array) -> Candidate | None:
    """The guess, refined on the thinned scans and held against both views; None if the refinement fails."""
    target_m, source_m = _whole(target), _whole(source)
    local = register_local(target_m, source_m, guess)
    if not local.converged or _leaves(guess, local.target_T_source):
        return None
    agreed = agreement(target_view, source_view, _standing(target), _standing(source), local.target_T_source)
    return Candidate(local, agreed, confidence_of(agreed))


def _leaves(guess: Array, found: Array) -> bool:
    """Whether a refinement has run away: gravity and the search fix the pose better than that."""
    moved = inverse(guess) @ found
    tilt_rad = np.arccos(np.clip(moved[2, 2], -1.0, 1.0))
    return bool(np.linalg.norm(moved[:3, 3]) > _HEIGHT_SLACK_M or tilt_rad > _TILT_SLACK_RAD)


def _standing(prepared: Prepared) -> Array:
    """The structure (N, 3) in the sensor's frame."""
    return transform_points(inverse(prepared.scene.level_T_sensor), prepared.scene.structure_m)


def _whole(prepared: Prepared) -> Array:
    """Structure and ground (N, 3) in the sensor's frame."""
    level_m = np.concatenate([prepared.scene.structure_m, prepared.scene.ground_m])
    return transform_points(inverse(prepared.scene.level_T_sensor), level_m)
