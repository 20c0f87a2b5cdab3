"""The learned policy: a small network decides on each task when it arrives, and again when a lane could take it.

MEC-MORL decides once, on arrival, between the cloud and the edge servers. Departures: a task that is to run on the
board waits in a queue that the policy holds, and when a lane is free the network is asked again (run, cloud, drop, or
let it wait), first of all about what gains the board most per time; tasks may be dropped; the tasks of one camera's
frame are decided on at the end of their instant, those that gain the board most per time first.

Inference is numpy; the network takes what `view` says, standardised, through two tanh layers to the logits of the four
actions. Without a generator the likeliest action is taken, so that a decision follows from weights and events alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from offload.policies.policy import EXPIRED, Decision, Drop, Policy, PolicyContext, Start
from offload.tasks import Option, Outcome, Task
from tercel.core.errors import UserError
from tests.benchmarks.learned_offload.view import ACTIONS, BOARD, CLOUD, DROP, FEATURES, WAIT, View

Array = NDArray[Any]

LEFT_OUT = "left out by the network"
MOST_ASKED = 12
"""Waiting tasks that the network is asked about when a lane is free, so that a decision's time is bounded."""
MAX_WEIGHTS_BYTES = 4 << 20
_FORBIDDEN = np.float32(-1e9)


@dataclass(frozen=True)
class Network:
    """Standardisation center, scale (F,), and layers [(weight (in, out), bias (out,)), ...], all float32."""

    center: Array
    scale: Array
    layers: tuple[tuple[Array, Array], ...]

    def __post_init__(self) -> None:
        widths = [FEATURES, *(len(bias) for _, bias in self.layers)]
        shapes = [weight.shape for weight, _ in self.layers]
        if shapes != list(pairwise(widths)) or widths[-1] != ACTIONS:
            raise ValueError(f"layers {shapes} do not lead from {FEATURES} features to {ACTIONS} actions")
        if self.center.shape != (FEATURES,) or self.scale.shape != (FEATURES,):
            raise ValueError(f"{FEATURES} centers and scales are wanted")

    def logits(self, features: Array) -> Array:
        """(..., F) to (..., ACTIONS)."""
        x = np.clip((features - self.center) * self.scale, -5.0, 5.0)
        for weight, bias in self.layers[:-1]:
            x = np.tanh(x @ weight + bias)
        weight, bias = self.layers[-1]
        result: Array = x @ weight + bias
        return result


def save_network(path: Path, network: Network) -> None:
    """Write weights as npz, in half precision: what is loaded, and measured, are these."""
    arrays = {f"weight{i}": weight for i, (weight, _) in enumerate(network.layers)}
    arrays |= {f"bias{i}": bias for i, (_, bias) in enumerate(network.layers)}
    arrays |= {"center": network.center, "scale": network.scale}
    halves = {name: array.astype(np.float16) for name, array in arrays.items()}
    np.savez_compressed(path, **halves)  # type: ignore[arg-type]


def load_network(path: Path) -> Network:
    """Read weights. Raises UserError for what is no such file."""
    try:
        with ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_WEIGHTS_BYTES:
                raise ValueError(f"larger than {MAX_WEIGHTS_BYTES} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name], np.float32) for name in file.files}
        count = sum(name.startswith("weight") for name in arrays)
        layers = tuple((arrays[f"weight{i}"], arrays[f"bias{i}"]) for i in range(count))
        return Network(arrays["center"], arrays["scale"], layers)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror or 'cannot be read'}; train it with learned_offload/train.py"
        ) from None
    except (BadZipFile, ValueError, KeyError) as error:
        raise UserError(f"{path}: no weights of this policy ({error}); train them anew") from None


class Step(NamedTuple):
    """One decision, for training."""

    now_ns: int
    task_id: int
    features: Array
    allowed: Array
    action: int
    log_chance: float


@dataclass
class Steps:
    """The decisions of one box, in order."""

    steps: list[Step] = field(default_factory=list)

    def corrected(self, in_cloud: set[int]) -> list[Step]:
        """A teacher's steps, where tasks that waited for the link at first are CLOUD from the start."""
        return [
            step._replace(action=CLOUD)
            if step.action == BOARD and step.task_id in in_cloud and step.allowed[CLOUD]
            else step
            for step in self.steps
        ]


class LearnedPolicy:
    """See the module.

    preference: in 0..1, what of the first objective counts; generator: draws actions by their chances, for training;
    steps: where decisions are noted; may_drop: whether a task may be dropped that could still run somewhere.
    """

    def __init__(
        self,
        context: PolicyContext,
        network: Network,
        preference: float,
        *,
        generator: np.random.Generator | None = None,
        steps: Steps | None = None,
        may_drop: bool = True,
    ) -> None:
        self.wake_ns: int | None = None
        self._network = network
        self._generator = generator
        self._steps = steps
        self._may_drop = may_drop
        self._kinds = context.kinds
        self._view = View(context, preference)
        self._new: list[Task] = []

    # --- events ------------------------------------------------------------------------------------------------------

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """It waits until the end of the instant."""
        self._view.arrived(task)
        self._new.append(task)
        self.wake_ns = now_ns
        return ()

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        """The far side has refused or lost a task: the board is left."""
        self._view.returned(now_ns, task)
        self._new.append(task)
        return self._decide(now_ns)

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        """A lane is free."""
        self._view.lane_freed(now_ns, task, took_ns)
        return self._decide(now_ns)

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """The link's estimate learns from it."""
        self._view.uploaded(now_ns, task)
        return ()

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """Estimates learn from it."""
        self._view.ended(now_ns, outcome)
        return ()

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """The instant's arrivals are complete, or a task can no longer make it."""
        return self._decide(now_ns)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        self._expire(now_ns, decisions)
        new, self._new = self._new, []
        for task in self._ranked(new):
            if task.id in self._view.waiting:
                self._ask(now_ns, task, decisions, may_wait=False)
        if self._view.lane_is_free:
            for task in self._ranked(self._view.waiting.values())[:MOST_ASKED]:
                self._ask(now_ns, task, decisions, may_wait=True)
                if not self._view.lane_is_free:
                    break
        self._set_wake(now_ns)
        return decisions

    def _ranked(self, tasks: Any) -> list[Task]:
        return sorted(tasks, key=lambda task: (-self._view.density(task), task.deadline_ns, task.id))

    def _expire(self, now_ns: int, decisions: list[Decision]) -> None:
        """Drop what has no place left: too late for the board, and the network did not want it in the cloud."""
        arriving = {task.id for task in self._new}
        for task, latest_ns in self._latest_ns(now_ns):
            if latest_ns < now_ns and task.id not in arriving:
                del self._view.waiting[task.id]
                decisions.append(Drop(task, EXPIRED))

    def _ask(self, now_ns: int, task: Task, decisions: list[Decision], *, may_wait: bool) -> None:
        view = self._view
        allowed = view.allowed(now_ns, task, may_wait=may_wait)
        if not self._may_drop and allowed[:DROP].any():
            allowed[DROP] = False
        action = int(allowed.argmax())
        if allowed.sum() > 1:
            action = self._choose(now_ns, task, allowed, may_wait=may_wait)
        if action == CLOUD:
            self._start(now_ns, task, task.kind.cloud, decisions)
        elif action == BOARD and view.lane_is_free:
            self._start(now_ns, task, task.kind.edge, decisions)
        elif action == DROP:
            del view.waiting[task.id]
            decisions.append(Drop(task, LEFT_OUT))

    def _choose(self, now_ns: int, task: Task, allowed: Array, *, may_wait: bool) -> int:
        features = self._view.features(now_ns, task, may_wait=may_wait)
        logits = np.where(allowed, self._network.logits(features), _FORBIDDEN)
        if self._generator is None:
            action = int(logits.argmax())
        else:
            action = int((logits + self._generator.gumbel(size=ACTIONS)).argmax())
        if self._steps is not None:
            highest = logits.max()
            log_chance = logits[action] - highest - np.log(np.exp(logits - highest).sum())
            self._steps.steps.append(Step(now_ns, task.id, features, allowed, action, float(log_chance)))
        return action

    def _start(self, now_ns: int, task: Task, option: Option | None, decisions: list[Decision]) -> None:
        if option is None:
            raise ValueError(f"task {task.id} has no such option")
        self._view.started(now_ns, task, option)
        decisions.append(Start(task, option))

    def _set_wake(self, now_ns: int) -> None:
        latest_ns = min((at_ns for _, at_ns in self._latest_ns(now_ns)), default=None)
        self.wake_ns = None if latest_ns is None else max(now_ns, latest_ns) + 1

    def _latest_ns(self, now_ns: int) -> list[tuple[Task, int]]:
        """The waiting tasks, and when each must be on a lane; creation for one that cannot run there."""
        slow, waiting = self._view.slowness(now_ns), self._view.waiting.values()
        takes_ns = {kind: round(kind.edge.edge_ns * slow) if kind.edge else kind.deadline_ns for kind in self._kinds}
        return [(task, task.deadline_ns - takes_ns[task.kind]) for task in waiting]


class Watched:
    """A teacher that goes about its business while each of its decisions is noted with what the view would have shown.

    A task that it lets wait on arrival is noted as BOARD; what comes of it later, `Steps.corrected` knows.
    """

    def __init__(self, context: PolicyContext, teacher: Callable[[PolicyContext], Policy], steps: Steps) -> None:
        self._teacher = teacher(context)
        self._steps = steps
        self._view = View(context, 0.5)
        self._new: list[Task] = []
        self.wake_ns = self._teacher.wake_ns

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """Noted once the teacher has decided on anything, or the instant is over."""
        self._view.arrived(task)
        self._new.append(task)
        decisions = self._teacher.arrived(now_ns, task)
        self.wake_ns = self._teacher.wake_ns
        return self._carried(now_ns, decisions) if decisions else ()

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:
        """See Policy."""
        self._view.returned(now_ns, task)
        return self._carried(now_ns, self._teacher.returned(now_ns, task, option, reason))

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        """See Policy."""
        self._view.lane_freed(now_ns, task, took_ns)
        return self._carried(now_ns, self._teacher.lane_freed(now_ns, task, took_ns))

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """See Policy."""
        self._view.uploaded(now_ns, task)
        return self._carried(now_ns, self._teacher.uploaded(now_ns, task))

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """See Policy."""
        self._view.ended(now_ns, outcome)
        return self._carried(now_ns, self._teacher.ended(now_ns, outcome))

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """See Policy."""
        return self._carried(now_ns, self._teacher.woken(now_ns))

    def _note(self, now_ns: int, task: Task, action: int, *, may_wait: bool) -> None:
        allowed = self._view.allowed(now_ns, task, may_wait=may_wait)
        if allowed[action] and allowed.sum() > 1:
            features = self._view.features(now_ns, task, may_wait=may_wait)
            self._steps.steps.append(Step(now_ns, task.id, features, allowed, action, 0.0))

    def _carried(self, now_ns: int, decisions: Sequence[Decision]) -> Sequence[Decision]:
        """Note what the teacher does with arrivals, and with a free lane: what it passes over, runs, gives away."""
        self.wake_ns = self._teacher.wake_ns
        new, self._new = self._new, []
        by_task = {decision.task.id: decision for decision in decisions}
        for task in sorted(new, key=lambda task: (-self._view.density(task), task.deadline_ns, task.id)):
            decision = by_task.pop(task.id, None)
            if decision is None:
                self._note(now_ns, task, BOARD, may_wait=False)
            elif isinstance(decision, Drop):
                self._note(now_ns, task, DROP, may_wait=False)
                self._view.waiting.pop(task.id, None)
            else:
                action = BOARD if decision.option.place == "edge" else CLOUD
                self._note(now_ns, task, action, may_wait=False)
                self._view.started(now_ns, task, decision.option)
        for decision in by_task.values():
            self._waited(now_ns, decision)
        return decisions

    def _waited(self, now_ns: int, decision: Decision) -> None:
        task = decision.task
        if isinstance(decision, Drop):
            self._view.waiting.pop(task.id, None)
            return
        if self._view.lane_is_free:
            if decision.option.place == "edge":
                self._note_lane(now_ns, task)
            else:
                self._note(now_ns, task, CLOUD, may_wait=True)
        self._view.started(now_ns, task, decision.option)

    def _note_lane(self, now_ns: int, chosen: Task) -> None:
        rank = self._view.density(chosen)
        for other in list(self._view.waiting.values())[:MOST_ASKED]:
            if other is not chosen and self._view.density(other) > rank:
                self._note(now_ns, other, WAIT, may_wait=True)
        self._note(now_ns, chosen, BOARD, may_wait=True)
