"""Registration of pairs of scans by their distance, held against recordings' truth: `tercel evaluate registration`.

Pairs are drawn from each recording by its true poses, the source is turned by any yaw, and what a method finds is right
if it is less than 2 m and 5 degrees off (see registration.distant.evaluation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tercel
from registration.distant import evaluation
from registration.distant.evaluation import Outcome
from registration.distant.pairs import BINS_M, Pair
from registration.global_ import GlobalRegistration
from tercel.core.errors import UserError, nearest_hint
from tercel.core.geometry import transform_points
from tercel.report.registration_pairs import read_pairs
from tercel.terminal import printable

Array = NDArray[Any]
Progress = Callable[[float], None]

METHODS = ("distant", "learned", "global")
MAX_PER_BIN = 200


@dataclass(frozen=True)
class RegistrationOptions:
    """What the user asked for. per_bin: pairs of each distance from each recording."""

    recordings: Sequence[Path]
    methods: Sequence[str] = ("distant",)
    per_bin: int = 20
    seed: int = 0
    topic: str | None = None
    command: str = ""


@dataclass(frozen=True)
class Judged:
    """A pair's outcome, and whether the method itself believed in it."""

    outcome: Outcome
    believed: bool


@dataclass(frozen=True, eq=False)
class RegistrationRun:
    """What was found: by method and recording, the pairs."""

    options: RegistrationOptions
    judged: dict[str, dict[str, list[Judged]]]
    notes: list[str] = field(default_factory=list)

    def all_of(self, method: str) -> list[Judged]:
        """The pairs of all recordings."""
        return [one for pairs in self.judged[method].values() for one in pairs]

    def bins(self) -> dict[str, dict[str, dict[str, float]]]:
        """By method, and where there are several recordings by method and recording: a summary for each distance."""
        found = {method: evaluation.by_distance(_outcomes(self.all_of(method))) for method in self.judged}
        for method, recordings in self.judged.items():
            if len(recordings) > 1:
                for name, pairs in recordings.items():
                    found[f"{name}, {method}"] = evaluation.by_distance(_outcomes(pairs))
        return found

    def summary(self) -> dict[str, Any]:
        """For a JSON file; what is not known is null."""
        return {
            "by_distance": _plain(self.bins()),
            "confidence": _plain({method: self.confidence(method) for method in self.judged}),
            "recordings": [path.name for path in self.options.recordings],
            "per_bin": self.options.per_bin,
            "seed": self.options.seed,
            "notes": self.notes,
            "command": self.options.command,
            "tercel": tercel.__version__,
        }

    def confidence(self, method: str) -> dict[str, float]:
        """How well the method knows when it is right: counts, and the ROC of its confidence."""
        pairs = self.all_of(method)
        right, wrong = ([p for p in pairs if p.outcome.right is is_right] for is_right in (True, False))
        return {
            "right": len(right),
            "right_believed": sum(p.believed for p in right),
            "wrong": len(wrong),
            "wrong_believed": sum(p.believed for p in wrong),
            **evaluation.roc([p.outcome.confidence for p in right], [p.outcome.confidence for p in wrong]),
        }

    def table(self) -> str:
        """For a terminal."""
        lines = [evaluation.table(self.bins()), ""]
        for method in self.judged:
            c = self.confidence(method)
            lines.append(
                f"{method}: believed {c['right_believed']:.0f} of {c['right']:.0f} right poses and "
                f"{c['wrong_believed']:.0f} of {c['wrong']:.0f} wrong ones"
                + (f"; area under the ROC {c['auc']:.4f}" if np.isfinite(c["auc"]) else "")
            )
        return "\n".join([*lines, *(f"note: {printable(note)}" for note in self.notes)])


def run_registration(options: RegistrationOptions, progress: Progress = lambda _share: None) -> RegistrationRun:
    """Draw pairs from every recording and register them by every method.

    Raises UserError for unknown methods, and recordings without scans, without truth or without any pair.
    """
    methods = {name: _method(name) for name in options.methods}
    if not 1 <= options.per_bin <= MAX_PER_BIN:
        raise UserError(f"--pairs {options.per_bin}: 1 to {MAX_PER_BIN} is wanted")
    run = RegistrationRun(options, {name: {} for name in methods})
    for number, path in enumerate(options.recordings):
        pairs, scans = read_pairs(path, options.topic, options.per_bin, options.seed)
        missing = set(BINS_M) - {pair.bin_m for pair in pairs}
        if missing:
            far = ", ".join(f"{low:g}-{high:g} m" for low, high in sorted(missing))
            run.notes.append(f"{path.name} has no pairs {far} apart")
        label = path.name if len(options.recordings) < 2 else f"{number + 1} {path.name}"
        for index, (name, method) in enumerate(methods.items()):
            part = _part(progress, number * len(methods) + index, len(methods) * len(options.recordings))
            run.judged[name][label] = _judge(method, pairs, scans, part)
    return run


def _part(progress: Progress, index: int, count: int) -> Progress:
    """The progress of one of several parts as that of them all."""
    return lambda share: progress((index + share) / count)


def _judge(
    method: Callable[[Array, Array], GlobalRegistration],
    pairs: Sequence[Pair],
    scans: dict[int, Array],
    progress: Progress,
) -> list[Judged]:
    believed: list[bool] = []

    def register(target_m: Array, source_m: Array) -> tuple[Array, float]:
        found = method(target_m, source_m)
        believed.append(bool(found.converged))
        progress(len(believed) / len(pairs))
        return found.target_T_source, found.confidence

    def clouds() -> Iterator[tuple[Array, Array, Array, tuple[float, float]]]:
        for pair in pairs:
            source_m = transform_points(pair.turned_T_source, scans[pair.source])
            yield scans[pair.target], source_m, pair.target_T_turned, pair.bin_m

    outcomes = evaluation.measure(register, clouds())
    return [Judged(outcome, was) for outcome, was in zip(outcomes, believed, strict=True)]


def _method(name: str) -> Callable[[Array, Array], GlobalRegistration]:
    if name == "global":
        from registration.global_ import register_global

        return register_global
    if name not in METHODS:
        raise UserError(f"unknown method {name!r}; {nearest_hint(name, METHODS)}")
    from registration.distant.register import register_distant

    if name == "learned":
        return lambda target_m, source_m: register_distant(target_m, source_m, descriptor="learned")
    return register_distant


def _outcomes(pairs: Sequence[Judged]) -> list[Outcome]:
    return [pair.outcome for pair in pairs]


def _plain(value: Any) -> Any:
    """The same with null for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value if not isinstance(value, float) or np.isfinite(value) else None
