"""What a tracker made of every detection, in numbers: counted, added up, and as a table for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tercel.report.tracking_steps import NO_POSE, Tracked
from tercel.terminal import printable
from tracking.screening import Outcome

_KEPT = {"matched": Outcome.MATCHED, "new": Outcome.NEW, "tentative": Outcome.TENTATIVE}
_NAME_WIDTH = 16


@dataclass(frozen=True)
class Account:
    """Of one sequence or several: detections = matched + new + tentative + all rejected, by reason.

    left_out: detections of classes that were not asked for; unreadable: lines that could not be read. tracks: those
    that were reported at least once; began: all that began, also those that were never confirmed. boxes: reported.
    """

    frames: int = 0
    detections: int = 0
    matched: int = 0
    new: int = 0
    tentative: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    tracks: int = 0
    began: int = 0
    boxes: int = 0
    steps: int = 0
    seconds: float = 0.0

    def __add__(self, other: Account) -> Account:
        return Account(**{name: getattr(self, name) + getattr(other, name) for name in Account.__dataclass_fields__})

    @property
    def used(self) -> int:
        """The detections that took part in a track."""
        return self.detections - self.rejected.total()

    def summary(self) -> dict[str, Any]:
        """For a JSON file. What differs from run to run stands under "wall"."""
        counts = {name: getattr(self, name) for name in ("frames", "detections", *_KEPT)}
        rejected, left_out = dict(sorted(self.rejected.items())), dict(sorted(self.left_out.items()))
        counts |= {"rejected": rejected, "left_out": left_out}
        counts |= {name: getattr(self, name) for name in ("unreadable", "tracks", "began", "boxes", "steps")}
        return counts | {"wall": {"seconds": round(self.seconds, 4), "frames_per_s": round(self.frames_per_s, 1)}}

    @property
    def frames_per_s(self) -> float:
        """Calls of the tracker in a second of its own time."""
        return self.steps / self.seconds if self.seconds else 0.0


def account_of(tracked: Tracked) -> Account:
    """The account of one sequence."""
    loaded, outcomes = tracked.loaded, tracked.outcomes
    codes, counts = np.unique(outcomes, return_counts=True)
    by_code = dict(zip(codes.tolist(), counts.tolist(), strict=True))
    kept = {name: by_code.pop(int(outcome), 0) for name, outcome in _KEPT.items()}
    return Account(
        frames=len(loaded.frames),
        detections=len(outcomes),
        rejected=Counter({reason_of(code): count for code, count in by_code.items()}),
        left_out=Counter(loaded.left_out),
        unreadable=loaded.unreadable,
        tracks=len(np.unique(tracked.tracks.ids)),
        began=int((outcomes == Outcome.NEW).sum()),
        boxes=len(tracked.tracks),
        steps=len(tracked.frames),
        seconds=tracked.seconds,
        **kept,
    )


def reason_of(code: int) -> str:
    """An outcome in words: "too weak to start"."""
    return "no pose at this frame" if code == NO_POSE else Outcome(code).words.removeprefix("rejected: ")


def text_table(accounts: Mapping[str, Account]) -> str:
    """One line for each sequence and, if there are several, for all of them."""
    rows = dict(accounts)
    total = sum(accounts.values(), Account())
    if len(accounts) > 1:
        rows["all"] = total
    width = max([_NAME_WIDTH, *(len(printable(name)) for name in rows)])
    columns = ("frames", "detections", "matched", "new", "tentative", "rejected", "tracks", "boxes", "frames/s")
    lines = [" " * width + "".join(f"{name:>11}" for name in columns)]
    for name, row in rows.items():
        numbers = (row.frames, row.detections, row.matched, row.new, row.tentative, row.rejected.total(), row.tracks)
        cells = "".join(f"{value:>11}" for value in (*numbers, row.boxes))
        lines.append(f"{printable(name):{width}}{cells}{row.frames_per_s:>11.0f}")
    lines += [f"rejected, {reason}: {count}" for reason, count in sorted(total.rejected.items())]
    lines += [f"left out, of class {name}: {count}" for name, count in sorted(total.left_out.items())]
    if total.unreadable:
        lines.append(f"lines that could not be read: {total.unreadable}")
    return "\n".join(lines)
