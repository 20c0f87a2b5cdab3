"""Simulation of offloading from end to end: policies by workloads by seeds, scored. What `tercel simulate` calls.

A seed is one drawn day, the same for every policy. Figures are medians over the seeds, with the 10th and the 90th
percentile beside them; counts are of all seeds together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offload.fleets import Workload, read_fleets
from offload.policies import POLICIES, make_policy
from offload.policies.policy import Policy, PolicyContext
from offload.scenario import Day
from offload.scores import Scores, score
from offload.simulator import Run, simulate
from tercel.core.errors import UserError, nearest_hint
from tercel.terminal import printable, require_writable

Progress = Callable[[float], None]

DEVIATES = {"mean": None, "p95": 1.645}
"""Where in their distribution a policy takes the times that it expects, as a normal deviate; None: their mean."""
INTERVAL = "10th to 90th percentile over seeds"
MAX_SEEDS = 1000
METRICS = ("completion", "qos_utility", "qoe_utility", "total_utility", "energy_j", "of_bound", "qoe_of_bound")


@dataclass(frozen=True)
class SimulationOptions:
    """What the user asked for. workloads, policies: all where empty. trace: a link instead of the file's, see
    `offload.link.link_from_text`. estimates: a key of DEVIATES. command: the one that does this again.
    """

    fleets: Path
    workloads: Sequence[str] = ()
    policies: Sequence[str] = ()
    trace: str | None = None
    seeds: Sequence[int] = (0,)
    estimates: str = "p95"
    bound: bool = False
    report: Path | None = None
    json: Path | None = None
    command: str = ""


@dataclass(frozen=True)
class Best:
    """What nobody can pass on a day, in QoS and in QoE; achieved: a QoS that can be had."""

    qos_utility: float
    achieved: float
    qoe_utility: float


@dataclass
class Result:
    """One workload under one policy: the scores of each seed and, if asked for, what was best on the same days."""

    scores: list[Scores] = field(default_factory=list)
    best: list[Best] = field(default_factory=list)

    def values(self, metric: str) -> list[float]:
        """One of METRICS or a fate for each seed; empty where it is not known."""
        if metric == "of_bound":
            return [s.qos_utility / b.qos_utility for s, b in self._beside_best() if b.qos_utility > 0]
        if metric == "qoe_of_bound":
            return [s.qoe_utility / b.qoe_utility for s, b in self._beside_best() if b.qoe_utility > 0]
        if metric in METRICS:
            return [float(getattr(s, metric)) for s in self.scores]
        return [float(s.fates[metric]) for s in self.scores]

    def _beside_best(self) -> Iterable[tuple[Scores, Best]]:
        return zip(self.scores, self.best, strict=True) if self.best else ()

    def median(self, metric: str) -> float | None:
        """The median over seeds."""
        values = self.values(metric)
        return float(np.median(values)) if values else None

    def interval(self, metric: str) -> tuple[float, float] | None:
        """See INTERVAL."""
        values = self.values(metric)
        return (float(np.percentile(values, 10)), float(np.percentile(values, 90))) if values else None

    def of_kind(self, kind: str, what: str) -> float:
        """The median over seeds of one of a kind's scores."""
        return float(np.median([s.kinds[kind][what] for s in self.scores]))

    def fates(self) -> dict[str, int]:
        """How many tasks of all seeds ended how."""
        return {fate: sum(s.fates[fate] for s in self.scores) for fate in self.scores[0].fates}

    def reasons(self) -> dict[str, int]:
        """Why tasks of all seeds were late or dropped."""
        return dict(sorted(sum((Counter(s.reasons) for s in self.scores), Counter()).items()))

    def summary(self) -> dict[str, Any]:
        """For JSON: medians, intervals, counts."""
        intervals = {metric: self.interval(metric) for metric in METRICS}
        kinds = self.scores[0].kinds
        return {
            **{metric: _rounded(self.median(metric)) for metric in METRICS},
            "seeds": len(self.scores),
            "interval": INTERVAL,
            "intervals": {key: [_rounded(v) for v in value] for key, value in intervals.items() if value is not None},
            "tasks": sum(s.tasks for s in self.scores),
            "fates": self.fates(),
            "reasons": self.reasons(),
            "kinds": {kind: {what: _rounded(self.of_kind(kind, what)) for what in kinds[kind]} for kind in kinds},
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


@dataclass(frozen=True)
class Shown:
    """The first seed's day of a workload and how each policy ran it, for the report's pictures."""

    day: Day
    runs: dict[str, Run]


@dataclass(frozen=True, eq=False)
class SimulationRun:
    """What was done. results: by workload and policy. shown: by workload, only where a report wants it."""

    options: SimulationOptions
    workloads: dict[str, Workload]
    policies: list[str]
    results: dict[str, dict[str, Result]]
    shown: dict[str, Shown]

    def summary(self) -> dict[str, dict[str, Any]]:
        """For a JSON file: WORKLOAD: POLICY: figures."""
        return {
            name: {policy: result.summary() for policy, result in of_workload.items()}
            for name, of_workload in self.results.items()
        }

    def table(self) -> str:
        """For a terminal."""
        return "\n\n".join(
            "\n".join([_title(self.workloads[name], of_workload), *_lines(of_workload)])
            for name, of_workload in self.results.items()
        )


def run_simulation(options: SimulationOptions, progress: Progress = lambda _fraction: None) -> SimulationRun:
    """Simulate every workload under every policy with every seed.

    Raises UserError for anything that the user can mend, before the first day for all that can be known by then.
    """
    for path in (options.json, options.report):
        if path is not None:
            require_writable(path)
    if options.json is not None and options.report is not None and options.json.resolve() == options.report.resolve():
        raise UserError(f"--json and --report both name {options.json}; give them two names")
    if options.estimates not in DEVIATES:
        raise UserError(f"--estimates {options.estimates}: {nearest_hint(options.estimates, DEVIATES)}")
    if not 1 <= len(options.seeds) <= MAX_SEEDS or min(options.seeds) < 0 or max(options.seeds) >= 2**31:
        raise UserError(f"1 to {MAX_SEEDS} seeds are wanted, each of 0 to {2**31 - 1}")
    known = read_fleets(options.fleets, options.trace)
    workloads = {name: known[name] for name in _chosen(options.workloads, known, "workload", options.fleets.name)}
    policies = _chosen(options.policies, POLICIES, "policy", "this version")
    run = SimulationRun(options, workloads, policies, {}, {})
    step = _Steps(progress, len(workloads) * len(options.seeds) * (len(policies) + options.bound))
    for name, workload in workloads.items():
        run.results[name] = {policy: Result() for policy in policies}
        for seed in options.seeds:
            _run_day(run, name, workload.day(seed), step)
    return run


def _run_day(run: SimulationRun, name: str, day: Day, step: _Steps) -> None:
    options, results = run.options, run.results[name]
    best = [_best(day, step)] if options.bound else []
    is_first = not next(iter(results.values())).scores
    runs = {}
    for policy, result in results.items():
        done = simulate(day, _maker(policy), deviate=DEVIATES[options.estimates], progress=step.part)
        step.done()
        result.scores.append(score(day, done))
        result.best.extend(best)
        if options.report is not None and is_first:
            runs[policy] = done
    if runs:
        run.shown[name] = Shown(day, runs)


def _best(day: Day, step: _Steps) -> Best:
    from offload.bound import qoe_bound, upper_bound

    bound = upper_bound(day, progress=step.part)
    step.done()
    return Best(bound.utility, bound.achieved, qoe_bound(day))


def _maker(policy: str) -> Callable[[PolicyContext], Policy]:
    return lambda context: make_policy(policy, context)


class _Steps:
    """The progress of one of many equal steps as that of them all."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._steps = steps
        self._done = 0

    def part(self, share: float) -> None:
        self._progress((self._done + min(share, 1.0)) / self._steps)

    def done(self) -> None:
        self._done += 1
        self.part(0.0)


def _chosen(asked: Sequence[str], known: Iterable[str], what: str, where: str) -> list[str]:
    """The names that were asked for, each once; all if none was."""
    names = list(known)
    for name in asked:
        if name not in names:
            raise UserError(f"--{what} {name}: {where} has none of this name; {nearest_hint(name, names)}")
    return list(dict.fromkeys(asked)) or names


# --- the table -------------------------------------------------------------------------------------------------------


def _title(workload: Workload, results: dict[str, Result]) -> str:
    scores = next(iter(results.values())).scores
    seeds = f"medians of {len(scores)} seeds (in brackets: {INTERVAL})" if len(scores) > 1 else "one seed"
    return printable(f"{workload.name}: {scores[0].tasks:,} tasks, link {workload.link_words}; {seeds}")


def _lines(results: dict[str, Result]) -> list[str]:
    rows = [["", "done %", "QoS utility", "QoE utility", "total", "of bound %", "energy J", "late", "dropped"]]
    for policy, result in results.items():
        rows.append(
            [
                policy,
                _figure(result, "completion", 100, 1),
                _figure(result, "qos_utility", spread=True),
                _figure(result, "qoe_utility", spread=True),
                _figure(result, "total_utility"),
                _figure(result, "of_bound", 100, 1),
                _figure(result, "energy_j"),
                _figure(result, "late"),
                _figure(result, "dropped"),
            ]
        )
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [
        "  ".join([f"  {row[0]:{first}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]


def _figure(result: Result, metric: str, factor: float = 1.0, digits: int = 0, *, spread: bool = False) -> str:
    median, interval = result.median(metric), result.interval(metric)
    if median is None or interval is None:
        return "-"
    text = f"{factor * median:,.{digits}f}"
    if spread and len(result.scores) > 1:
        text += f" ({factor * interval[0]:,.{digits}f}..{factor * interval[1]:,.{digits}f})"
    return text
