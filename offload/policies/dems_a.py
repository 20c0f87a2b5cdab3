"""DEMS-A: DEMS that adapts to the cloud's times (arXiv 2412.20860).

Per kind, the mean of the last 10 cloud times replaces the expected one when it differs from it by more than 10 ms. As
soon as a task is found that cannot make it in the cloud, the kind cools: for 10 s such tasks are dropped. The first
such task after that is the probe: it is judged by the time that was expected at the start, so that the cloud gets a
chance to have recovered. A result in time ends cooling; a probe's also becomes all ten of the last times.

Departures: with `PolicyContext.deviate`, the mean is replaced and the quantile keeps its ratio to it. A run that was
late was cut off at its deadline, so it is only known to have taken longer than it was let. One such run counts as it
stands: a few are late by chance. The next in a row count as twice that, as a retransmission timer backs off: a run that
began at its trigger is 10 ms above the estimate when it is cut off, so as they stand any number of them would be no
reason to change it. A probe's result counts as that also if the kind has begun to cool again meanwhile. What the cloud
refused or lost tells no time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from offload.policies.dems import Dems
from offload.policies.policy import NO_PLACE, Decision, PolicyContext
from offload.tasks import Option, Outcome, Task

SAMPLES = 10
DEAD_BAND_NS = 10_000_000
COOLING_NS = 10_000_000_000


class CloudTimes:
    """What is known of a kind's times in the cloud."""

    def __init__(self, option: Option, deviate: float | None) -> None:
        self.initial_ns = max(1, option.quantile_ns(deviate))
        self.cooling_since_ns: int | None = None
        self._was_cut_off = False
        self._mean_ns = option.expected_ns
        self._ratio = self.initial_ns / option.expected_ns
        self._last_ns: deque[int] = deque(maxlen=SAMPLES)

    @property
    def expected_ns(self) -> int:
        """The time to count on."""
        return max(1, round(self._mean_ns * self._ratio))

    def add(self, took_ns: int, times: int = 1) -> None:
        """Count a run, or as many that took as long."""
        self._was_cut_off = False
        self._count(took_ns, times)

    def add_cut_off(self, after_ns: int) -> None:
        """Count a run that had not ended after so long."""
        self._count(2 * after_ns if self._was_cut_off else after_ns, 1)
        self._was_cut_off = True

    def _count(self, took_ns: int, times: int) -> None:
        self._last_ns.extend([took_ns] * times)
        mean_ns = sum(self._last_ns) // len(self._last_ns)
        if len(self._last_ns) == SAMPLES and abs(mean_ns - self._mean_ns) > DEAD_BAND_NS:
            self._mean_ns = mean_ns


class DemsA(Dems):
    """DEMS that adapts."""

    def __init__(self, context: PolicyContext) -> None:
        super().__init__(context)
        self._times = {kind: CloudTimes(cloud, context.deviate) for kind, cloud in self._cloud.items()}
        self._probes: set[int] = set()

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """Learn from a run in the cloud."""
        if outcome.option is not None and outcome.option.place == "cloud" and outcome.timing is not None:
            took_ns = outcome.timing.ended_ns - outcome.timing.started_ns
            self._learn(outcome.task, took_ns, on_time=outcome.on_time)
        self._probes.discard(outcome.task.id)
        return super().ended(now_ns, outcome)

    def _learn(self, task: Task, took_ns: int, *, on_time: bool) -> None:
        times = self._times[task.kind]
        if not on_time:
            times.add_cut_off(took_ns)
        else:
            times.cooling_since_ns = None
            times.add(took_ns, SAMPLES if task.id in self._probes else 1)
        self._cloud_ns[task.kind] = times.expected_ns

    def _too_late_for_cloud(self, now_ns: int, task: Task, decisions: list[Decision]) -> None:
        """Begin to cool, go on, or probe."""
        times = self._times[task.kind]
        if times.cooling_since_ns is None:
            times.cooling_since_ns = now_ns
        elif now_ns - times.cooling_since_ns > COOLING_NS:
            times.cooling_since_ns = None
            if now_ns + times.initial_ns <= task.deadline_ns:
                self._probes.add(task.id)
                self._defer(task, times.initial_ns)
                return
        self._drop(task, NO_PLACE, decisions)
