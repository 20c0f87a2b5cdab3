"""All measures of a sequence together: HOTA, CLEAR MOT, identity and the counts, as TrackEval reports them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tracking.evaluation.clear import Clear, clear
from tracking.evaluation.hota import ALPHAS, Hota, hota
from tracking.evaluation.identity import Identity, identity
from tracking.evaluation.overlaps import Overlaps


@dataclass(frozen=True)
class Count:
    """Boxes and identities; sequences add up with `+`."""

    tracks: int = 0
    truths: int = 0
    track_ids: int = 0
    truth_ids: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def summary(self) -> dict[str, int]:
        """The counts under TrackEval's names."""
        return {"Dets": self.tracks, "GT_Dets": self.truths, "IDs": self.track_ids, "GT_IDs": self.truth_ids}


@dataclass(frozen=True, eq=False)
class Scores:
    """What one sequence, or with `+` several, scored."""

    hota: Hota = field(default_factory=Hota)
    clear: Clear = field(default_factory=Clear)
    identity: Identity = field(default_factory=Identity)
    count: Count = field(default_factory=Count)

    def __add__(self, other: Scores) -> Scores:
        return Scores(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def summary(self) -> dict[str, int | float]:
        """Every measure and count by TrackEval's name; ratios are fractions, HOTA's are means over the thresholds."""
        parts: tuple[Any, ...] = (self.hota, self.clear, self.identity, self.count)
        return {name: value for part in parts for name, value in part.summary().items()}

    def curves(self) -> dict[str, list[float]]:
        """HOTA's measures at each threshold alpha."""
        values = {name: curve.tolist() for name, curve in self.hota.per_alpha().items()}
        return {"alpha": ALPHAS.round(2).tolist(), **values}


def score(overlaps: Overlaps, *, threshold: float = 0.5) -> Scores:
    """All measures of one sequence; threshold: of CLEAR and identity."""
    return Scores(
        hota=hota(overlaps),
        clear=clear(overlaps, threshold=threshold),
        identity=identity(overlaps, threshold=threshold),
        count=Count(
            tracks=len(overlaps.track_ids),
            truths=len(overlaps.truth_ids),
            track_ids=int(overlaps.track_ids.max(initial=-1)) + 1,
            truth_ids=int(overlaps.truth_ids.max(initial=-1)) + 1,
        ),
    )
