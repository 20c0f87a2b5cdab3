"""What a decision costs: every policy, fed with a realistic mix of events while many tasks are queued.

    python tests/benchmarks/bench_offload_decision.py [--json FILE] [--policy NAME ...] [--seconds S]

Tasks of DEMS's six kinds, with their deadlines, arrive in frames on one lane and a link of 20 Mbit/s, so many that 10,
100 or 500 wait where a policy keeps them waiting; runs take their stated times with some spread, uploads are confirmed,
one run in fifty is refused. Each call of the policy is timed in the thread's own CPU time, so that neighbours count for
little. Tasks that arrive at one instant are decided together where a policy does so. The goal: for `tercel` the 99th
percentile with 500 queued is below 200 us.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from offload.fleets import read_fleets
from offload.policies import POLICIES, make_policy
from offload.policies.policy import Decision, PolicyContext, Start
from offload.tasks import DONE, Fate, Option, Outcome, Task, TaskKind, Timing

FLEETS = Path(__file__).resolve().parents[2] / "launch" / "fleets" / "dems.yaml"
QUEUED = (10, 100, 500)
BYTES_IN_NS = 0.0025
RTT_NS = 40_000_000
GOAL_US = 200.0


class Mill:
    """Feeds one policy and times it."""

    def __init__(self, name: str, kinds: tuple[TaskKind, ...], queued: int) -> None:
        self.costs_s: list[float] = []
        self.waiting: list[int] = []
        self._kinds = kinds
        self._queued = queued
        self._policy = make_policy(name, PolicyContext(kinds))
        self._chance = random.Random(queued)  # noqa: S311
        self._open: set[int] = set()
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._number = 0
        self._link_free_ns = 0
        self._wake_ns: int | None = None

    def run(self, until_ns: int) -> None:
        """Let time pass."""
        self._at(0, self._frame)
        while self._events and self._events[0][0] < until_ns:
            now_ns, _, happen = heapq.heappop(self._events)
            happen(now_ns)
            self.waiting.append(len(self._open))

    def _at(self, when_ns: int, happen: Callable[[int], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_ns, self._number, happen))

    def _frame(self, now_ns: int) -> None:
        """Tasks of all kinds at one instant, six or as many as fill the queue up; the next in 50 ms."""
        for _ in range(max(6, self._queued - len(self._open))):
            self._number += 1
            kind = self._kinds[self._number % len(self._kinds)]
            size_bytes = self._chance.randint(14_000, 44_000)
            source = self._number % 80
            task = Task(self._number, kind, now_ns, size_bytes=size_bytes, source=source)
            self._open.add(task.id)
            self._tell(now_ns, self._policy.arrived, task)
        self._at(now_ns + 50_000_000, self._frame)

    def _tell(self, now_ns: int, event: Callable[..., Sequence[Decision]], *about: Any) -> None:
        began_s = time.thread_time()
        decisions = event(now_ns, *about)
        self.costs_s.append(time.thread_time() - began_s)
        for decision in decisions:
            self._open.discard(decision.task.id)
            if isinstance(decision, Start):
                self._start(now_ns, decision.task, decision.option)
            else:
                outcome = Outcome(decision.task, Fate.DROPPED, now_ns, decision.reason)
                self._at(now_ns, partial(self._drop, outcome))
        wake_ns = self._policy.wake_ns
        if wake_ns is not None and wake_ns != self._wake_ns:
            self._wake_ns = wake_ns
            self._at(max(now_ns, wake_ns), self._wake)

    def _drop(self, outcome: Outcome, now_ns: int) -> None:
        self._tell(now_ns, self._policy.ended, outcome)

    def _wake(self, now_ns: int) -> None:
        if self._policy.wake_ns is not None and self._policy.wake_ns <= now_ns:
            self._wake_ns = None
            self._tell(now_ns, self._policy.woken)

    def _start(self, now_ns: int, task: Task, option: Option) -> None:
        if option.place == "edge":
            took_ns = round(option.edge_ns * self._chance.uniform(0.9, 1.1))
            self._at(now_ns + took_ns, lambda at_ns: self._edge_ends(at_ns, task, option, took_ns))
            return
        if self._chance.random() < 0.02:
            self._at(now_ns + RTT_NS, lambda at_ns: self._refuse(at_ns, task, option))
            return
        self._link_free_ns = max(now_ns, self._link_free_ns) + round(task.size_bytes / BYTES_IN_NS)
        sent_ns = self._link_free_ns + RTT_NS
        ended_ns = sent_ns + round(option.server_ns * self._chance.uniform(0.9, 1.2))
        self._at(sent_ns, lambda at_ns: self._tell(at_ns, self._policy.uploaded, task))
        self._at(max(sent_ns, ended_ns), lambda at_ns: self._end(at_ns, task, option, now_ns))

    def _refuse(self, now_ns: int, task: Task, option: Option) -> None:
        self._open.add(task.id)
        self._tell(now_ns, self._policy.returned, task, option, "refused")

    def _edge_ends(self, now_ns: int, task: Task, option: Option, took_ns: int) -> None:
        self._tell(now_ns, self._policy.lane_freed, task, took_ns)
        self._end(now_ns, task, option, now_ns - took_ns)

    def _end(self, now_ns: int, task: Task, option: Option, began_ns: int) -> None:
        server_ns = 0 if option.place == "edge" else option.server_ns
        timing = Timing(began_ns, now_ns, server_ns=server_ns, rtt_ns=RTT_NS)
        fate = DONE[option.place] if now_ns <= task.deadline_ns else Fate.LATE
        self._tell(now_ns, self._policy.ended, Outcome(task, fate, now_ns, option=option, timing=timing))


def measure(name: str, kinds: tuple[TaskKind, ...], queued: int, seconds: float) -> dict[str, float]:
    """Microseconds a call: median, 99th percentile, most; how many calls, and how many tasks waited in the median."""
    mill = Mill(name, kinds, queued)
    mill.run(round(seconds * 1e9))
    costs_us = np.array(mill.costs_s[len(mill.costs_s) // 10 :]) * 1e6
    p50_us, p99_us = np.percentile(costs_us, [50, 99])
    return {
        "p50_us": round(float(p50_us), 2),
        "p99_us": round(float(p99_us), 2),
        "max_us": round(float(costs_us.max()), 2),
        "calls": len(costs_us),
        "waiting": float(np.median(mill.waiting)),
    }


def main() -> None:
    """Print a table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--policy", nargs="+", choices=sorted(POLICIES), default=list(POLICIES))
    parser.add_argument("--seconds", type=float, default=30.0, help="simulated, for each cell")
    options = parser.parse_args()
    kinds = read_fleets(FLEETS)["2D-A"].fleet.kinds
    print(f"# {' '.join(['python', *sys.argv])}")
    print(f"{'policy':12}" + "".join(f"{f'{queued} queued: p50 / p99 us (waiting)':>38}" for queued in QUEUED))
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.policy:
        cells = {str(queued): measure(name, kinds, queued, options.seconds) for queued in QUEUED}
        results[name] = cells
        texts = [f"{cell['p50_us']:.1f} / {cell['p99_us']:.1f} ({cell['waiting']:.0f})" for cell in cells.values()]
        print(f"{name:12}" + "".join(f"{text:>38}" for text in texts), flush=True)
    if "tercel" in results:
        p99_us = results["tercel"]["500"]["p99_us"]
        print(
            f"goal: tercel, 500 queued, p99 {p99_us:.0f} us of {GOAL_US:.0f}: {'met' if p99_us < GOAL_US else 'MISSED'}"
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"decision_us": results, "goal_us": GOAL_US}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
