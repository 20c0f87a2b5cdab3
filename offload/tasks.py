"""What is scheduled: kinds of inference task, the ways to run one, single tasks, and what became of them.

Utility follows DEMS (arXiv 2412.20860, section 3): a result in time earns benefit - cost, one that is late -cost, a
task that was dropped nothing. Every task ends in exactly one `Fate`. All times are nanoseconds of the board's clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Literal

Place = Literal["edge", "cloud", "split"]


class Fate(str, Enum):
    """How a task ended."""

    DONE_EDGE = "done-edge"
    DONE_CLOUD = "done-cloud"
    DONE_SPLIT = "done-split"
    LATE = "late"
    DROPPED = "dropped"


DONE: dict[Place, Fate] = {"edge": Fate.DONE_EDGE, "cloud": Fate.DONE_CLOUD, "split": Fate.DONE_SPLIT}


@dataclass(frozen=True)
class Option:
    """One way to run a task: whole on the board, whole in the cloud, or a head here and a tail there.

    name: of the model variant, as executors know it. benefit: of a result in time; cost: of running it, in time or
    late. edge_ns: time on a lane of the board (edge and split). expected_ns: mean time from start to result, all in,
    on the link where it was profiled. server_ns: what the server takes of it. upload_bytes: what goes up the link; 0:
    the task's own size. edge_spread, remote_spread: standard deviations over the mean of the board's time and of the
    rest.
    """

    place: Place
    benefit: float
    cost: float
    expected_ns: int
    edge_ns: int = 0
    server_ns: int = 0
    upload_bytes: int = 0
    edge_spread: float = 0.0
    remote_spread: float = 0.0
    name: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.benefit) and math.isfinite(self.cost) and self.cost >= 0):
            raise ValueError(f"benefit {self.benefit} must be finite and cost {self.cost} at least 0")
        if min(self.expected_ns, self.edge_ns, self.server_ns, self.upload_bytes) < 0 or self.expected_ns == 0:
            raise ValueError("times must be positive and sizes at least 0")
        if not (0 <= self.edge_spread <= 2 and 0 <= self.remote_spread <= 2):
            raise ValueError(f"spreads {self.edge_spread}, {self.remote_spread} must be in 0..2")
        if (self.place != "cloud") != (self.edge_ns > 0):
            raise ValueError(f"an option on {self.place} has edge_ns {self.edge_ns}")
        if self.place == "edge" and self.expected_ns != self.edge_ns:
            raise ValueError("on the edge expected_ns is edge_ns")
        if self.place != "edge" and self.edge_ns + self.server_ns > self.expected_ns:
            raise ValueError("edge_ns and server_ns are parts of expected_ns")

    @property
    def utility(self) -> float:
        """Of a result in time."""
        return self.benefit - self.cost

    def quantile_ns(self, z: float | None) -> int:
        """The time from start to result that a normal deviate z away from the median takes; None: the mean.

        Each part is log-normal with its spread (1.645: the 95th percentile). Of the link's time only its mean is in.
        """
        if z is None:
            return self.expected_ns
        remote_ns = self.expected_ns - self.edge_ns
        edge_ns = self.edge_ns * lognormal_factor(z, self.edge_spread)
        return round(edge_ns + remote_ns * lognormal_factor(z, self.remote_spread))


def lognormal_factor(z: float, spread: float) -> float:
    """The factor on a log-normal's mean at the normal deviate z, its standard deviation being spread times the mean."""
    variance = math.log1p(spread * spread)
    return math.exp(z * math.sqrt(variance) - variance / 2)


@dataclass(frozen=True, eq=False)
class TaskKind:
    """A network with a deadline and the ways to run it.

    deadline_ns: from creation. options: first the preferred one of each place. qoe_bonus: utility of a window in which
    at least qoe_target of the kind's tasks were done in time (GEMS).
    """

    name: str
    deadline_ns: int
    options: tuple[Option, ...]
    qoe_bonus: float = 0.0
    qoe_target: float = 0.9

    def __post_init__(self) -> None:
        if self.deadline_ns <= 0 or not self.options:
            raise ValueError(f"{self.name}: the deadline must be above 0 and there must be an option")
        if not 0 < self.qoe_target <= 1 or self.qoe_bonus < 0:
            raise ValueError(f"{self.name}: qoe_target must be in 0..1, qoe_bonus at least 0")

    @cached_property
    def edge(self) -> Option | None:
        """The first option on the board."""
        return next((option for option in self.options if option.place == "edge"), None)

    @cached_property
    def cloud(self) -> Option | None:
        """The first option in the cloud."""
        return next((option for option in self.options if option.place == "cloud"), None)


@dataclass(eq=False)
class Task:
    """One inference that is wanted by deadline_ns.

    weight multiplies the benefit (a hint of the tracker: 1 as usual, less where a look at this frame says little new).
    size_bytes: the input as it would go up the link. payload is handed to the executors and never looked at.
    """

    __slots__ = ("created_ns", "deadline_ns", "id", "kind", "payload", "size_bytes", "source", "weight")

    id: int
    kind: TaskKind
    created_ns: int
    deadline_ns: int
    size_bytes: int
    source: int
    weight: float
    payload: Any

    def __init__(
        self,
        id: int,  # noqa: A002
        kind: TaskKind,
        created_ns: int,
        *,
        deadline_ns: int | None = None,
        size_bytes: int = 0,
        source: int = 0,
        weight: float = 1.0,
        payload: Any = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.created_ns = created_ns
        self.deadline_ns = created_ns + kind.deadline_ns if deadline_ns is None else deadline_ns
        self.size_bytes = size_bytes
        self.source = source
        self.weight = weight
        self.payload = payload

    def utility(self, option: Option) -> float:
        """Of a result in time."""
        return self.weight * option.benefit - option.cost

    def upload_bytes(self, option: Option) -> int:
        """What goes up the link."""
        return option.upload_bytes or self.size_bytes


@dataclass(frozen=True)
class Timing:
    """Where a run's time went. started_ns, ended_ns; edge_ns on the lane; upload_ns and upload_bytes on the link, queue
    excluded; rtt_ns; server_ns as the server says. Zero where there was no such part or nothing is known.
    """

    started_ns: int
    ended_ns: int
    edge_ns: int = 0
    upload_ns: int = 0
    upload_bytes: int = 0
    rtt_ns: int = 0
    server_ns: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its fate, why (for late and dropped), the option and timing if it was run, the utility."""

    task: Task
    fate: Fate
    ended_ns: int
    reason: str = ""
    option: Option | None = None
    timing: Timing | None = None
    utility: float = 0.0
    outputs: Any = None

    @property
    def on_time(self) -> bool:
        """Whether it was done by its deadline."""
        return self.fate not in (Fate.LATE, Fate.DROPPED)
