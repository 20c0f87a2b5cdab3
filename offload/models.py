"""A component's networks, run wherever the offload manager decides: `Models` on top of `Manager`.

Each call is a task of its model's kind, with the tensor as payload. What is done in time is the answer; what is late or
dropped raises Rejected with the reason that the manager gave, so that the host counts it. The component never learns
where its network ran.

Under the replay host `offload.profiled` puts the executors in; in flight `live_models` does.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

import numpy as np

from offload.executors import Clock, Executor, LocalExecutor, Ran, Remote, TaskLost, WallClock
from offload.manager import Manager
from offload.policies import make_policy
from offload.policies.policy import Policy, PolicyContext
from offload.remote import RemoteExecutor
from offload.remote_stream import RemoteCounts
from offload.setup import OffloadSetup
from offload.tasks import Fate, Option, Outcome, Task
from tercel.core.component import Models
from tercel.core.errors import Rejected, UserError, nearest_hint
from tercel.core.messages import NextLook

Hint = Callable[[str, int], float]
"""(model, now in ns) -> the weight of a task that is created now."""

OTHER_OUTPUTS = "the server's model has other outputs"
UNREACHABLE = ("unavailable", "connection lost", "not let in", "the server drains")


class BoardModels(Models, Protocol):
    """The board's own models; `perception.runtime.LocalModels` is one."""

    def spec(self, model: str) -> Any:
        """What kind of network a model is."""
        ...


def always_one(_model: str, _now_ns: int) -> float:
    """The hint of one who has none."""
    return 1.0


class LookHint:
    """Weights by the tracker's word: 1 from the time on at which it wants to look again, `early_weight` before."""

    def __init__(self, early_weight: float = 0.3) -> None:
        if not 0.0 <= early_weight <= 1.0:
            raise ValueError(f"early_weight {early_weight} must be in 0..1")
        self._early_weight = early_weight
        self._due_ns: int | None = None

    def heard(self, look: NextLook) -> None:
        """The tracker has said when it wants to look again."""
        self._due_ns = look.due_ns

    def __call__(self, _model: str, now_ns: int) -> float:
        """The weight of a frame that has come now; 1 until the tracker has said anything."""
        return 1.0 if self._due_ns is None or now_ns >= self._due_ns else self._early_weight


class Account:
    """What became of tasks, counted as they end."""

    def __init__(self) -> None:
        self._fates: dict[str, Counter[Fate]] = {}
        self._reasons: Counter[str] = Counter()
        self._utility = 0.0
        self._upload_bytes = 0
        self._response_ms = array("d")

    def add(self, outcome: Outcome) -> None:
        """A task has ended."""
        task, option = outcome.task, outcome.option
        self._fates.setdefault(task.kind.name, Counter())[outcome.fate] += 1
        self._utility += outcome.utility
        if outcome.reason:
            self._reasons[outcome.reason] += 1
        if outcome.on_time:
            self._response_ms.append((outcome.ended_ns - task.created_ns) / 1e6)
        if option is not None and option.place != "edge" and outcome.fate is not Fate.DROPPED:
            told_bytes = outcome.timing.upload_bytes if outcome.timing else 0
            self._upload_bytes += told_bytes or task.upload_bytes(option)

    def summary(self) -> dict[str, Any]:
        """For JSON. The fates add up to tasks. upload_bytes: of tasks that were done or late there, a late one's whole
        input; response_ms: from creation to result, of those in time.
        """
        fates = sum(self._fates.values(), Counter[Fate]())
        tasks = fates.total()
        done = tasks - fates[Fate.LATE] - fates[Fate.DROPPED]
        times_ms = np.asarray(self._response_ms) if self._response_ms else np.zeros(1)
        return {
            "tasks": tasks,
            "completion": round(done / tasks, 6) if tasks else 0.0,
            "qos_utility": round(self._utility, 6),
            "fates": {fate.value: fates[fate] for fate in Fate},
            "reasons": dict(sorted(self._reasons.items())),
            "models": {
                name: {"tasks": counts.total(), **{fate.value: counts[fate] for fate in Fate}}
                for name, counts in sorted(self._fates.items())
            },
            "upload_bytes": self._upload_bytes,
            "response_ms": {f"p{q}": round(float(np.percentile(times_ms, q)), 3) for q in (50, 90, 99)},
        }


class OffloadedModels:
    """`Models` whose calls are the manager's tasks. All calls come from the event loop's thread.

    setup: kinds, policy and lanes. edge, remote: the executors; remote None if the board is alone. board: whose spec()
    is passed on. output_names: of each model, in its order, for servers answer by name; of a model that is not in it
    the server's order is taken. hint: the weight of each task. on_outcome: called once for each task.
    """

    def __init__(
        self,
        setup: OffloadSetup,
        clock: Clock,
        edge: Executor,
        remote: Remote | None,
        board: BoardModels,
        *,
        output_names: Mapping[str, Sequence[str]] | None = None,
        hint: Hint = always_one,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.account = Account()
        self.remote = remote
        self.policy = setup.policy
        self._kinds = setup.kinds
        self._clock = clock
        self._board = board
        self._output_names = output_names or {}
        self._hint = hint
        self._on_outcome = on_outcome
        self._ids = count()
        self._setup = setup
        self._manager = Manager(self._make_policy(setup.policy), clock, edge, remote, self._ended)

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        """All outputs of the named model, in the model's order. deadline_ns None: the kind's, from now.

        Raises Rejected for a task that was dropped or is late, UserError for a model that the setup does not name.
        """
        kind = self._kinds.get(model)
        if kind is None:
            raise UserError(f"the offload file names no model {model!r}; {nearest_hint(model, self._kinds)}")
        now_ns = self._clock.now_ns
        task = Task(
            next(self._ids),
            kind,
            now_ns,
            deadline_ns=deadline_ns,
            size_bytes=tensor.nbytes,
            weight=self._hint(model, now_ns),
            payload=tensor,
        )
        outcome = await self._manager.run(task)
        if not outcome.on_time:
            raise Rejected(outcome.reason)
        return self._listed(model, outcome.outputs)

    def set_policy(self, name: str) -> None:
        """Let another policy decide from now on; see `Manager.change_policy`. Raises UserError if there is none."""
        self._manager.change_policy(self._make_policy(name))
        self.policy = name

    def spec(self, model: str) -> Any:
        """As the board's own models say."""
        return self._board.spec(model)

    async def close(self) -> None:
        """Drop what is still open; it is accounted for."""
        await self._manager.close()

    def _make_policy(self, name: str) -> Policy:
        setup = self._setup
        context = PolicyContext(
            tuple(setup.kinds.values()), setup.lanes, window_ns=setup.window_ns, start_ns=self._clock.now_ns
        )
        return make_policy(name, context)

    def _ended(self, outcome: Outcome) -> None:
        self.account.add(outcome)
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _listed(self, model: str, outputs: Any) -> list[np.ndarray]:
        if not isinstance(outputs, Mapping):
            return list(outputs)
        try:
            return [outputs[name] for name in self._output_names.get(model, outputs)]
        except KeyError:
            raise Rejected(OTHER_OUTPUTS) from None


# --- in flight -----------------------------------------------------------------------------------------------------


class ReportedRemote:
    """A server that says, once each time, why it cannot be had, and that it answers again. lost: reasons, counted."""

    def __init__(self, remote: RemoteExecutor, address: str, say: Callable[[str], None]) -> None:
        self.lost: Counter[str] = Counter()
        self._remote = remote
        self._address = address
        self._say = say
        self._is_away = False

    @property
    def counts(self) -> RemoteCounts:
        """What became of the requests."""
        return self._remote.counts

    @property
    def on_upload(self) -> Callable[[Task], None]:
        """See Remote."""
        return self._remote.on_upload

    @on_upload.setter
    def on_upload(self, call: Callable[[Task], None]) -> None:
        self._remote.on_upload = call

    async def run(self, task: Task, option: Option, payload: Any) -> Ran:
        """See Executor."""
        try:
            ran = await self._remote.run(task, option, payload)
        except TaskLost as lost:
            self.lost[lost.reason] += 1
            if lost.reason in UNREACHABLE and not self._is_away:
                self._is_away = True
                self._say(f"server {self._address}: {lost.reason}; the board goes on alone")
            raise
        if self._is_away:
            self._is_away = False
            self._say(f"server {self._address}: answers again")
        return ran


def _alone(setup: OffloadSetup) -> OffloadSetup:
    """The setup without the ways that want a server, which no policy must take now. Raises UserError."""
    kinds = {}
    for name, kind in setup.kinds.items():
        options = tuple(option for option in kind.options if option.place == "edge")
        if not options:
            raise UserError(f"{setup.name}: models: {name}: runs at a server only, and none is named; add one")
        kinds[name] = replace(kind, options=options)
    return replace(setup, kinds=kinds)


@contextlib.asynccontextmanager
async def live_models(
    setup: OffloadSetup,
    board: BoardModels,
    infer: Callable[[str, Any], Any],
    *,
    output_names: Mapping[str, Sequence[str]] | None = None,
    hint: Hint = always_one,
    say: Callable[[str], None] = lambda _line: None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> AsyncIterator[OffloadedModels]:
    """The models of a board in flight, with its server if the setup names one. Deadlines are by `WallClock`.

    infer: (model, tensor) -> outputs, called in the lanes' threads. say: told in one line when the server is lost, and
    when it is back. Raises UserError for papers that cannot be read, and for a model that cannot run without a server.
    """
    setup = setup if setup.server is not None else _alone(setup)
    clock = WallClock()
    edge = LocalExecutor(infer, clock, setup.lanes)
    try:
        async with contextlib.AsyncExitStack() as stack:
            remote = None
            if setup.server is not None:
                server = setup.server
                executor = RemoteExecutor(
                    server.address, clock, access=setup.access(), stream=server.mode == "stream", codec=server.codec
                )
                remote = ReportedRemote(await stack.enter_async_context(executor), server.address, say)
            models = OffloadedModels(
                setup, clock, edge, remote, board, output_names=output_names, hint=hint, on_outcome=on_outcome
            )
            try:
                yield models
            finally:
                await models.close()
    finally:
        edge.close()
