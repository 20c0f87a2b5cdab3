"""Which jobs a few lanes should run, in which order: as much gain as fits between releases and deadlines.

Choosing jobs with deadlines on one machine for the greatest weight is NP-hard already without releases (Karp 1972,
"sequencing"). Here jobs are taken by gain per time and put where they fit into a lane's row of jobs; one that fits
nowhere may take the place of others next to each other that gain less together. Whether an insertion is feasible is
known in one comparison from two numbers kept for each place, the earliest end before it and the latest start after it
(Savelsbergh 1985, for routes with time windows).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

_NEVER_NS = 1 << 62


class Job(NamedTuple):
    """One way to use a lane. ready_ns, due_ns: within which it must run, took_ns: what it takes of the lane.

    gain: over leaving it; id: of the task, of which one job is chosen at most; tag: the caller's.
    """

    id: int
    ready_ns: int
    due_ns: int
    took_ns: int
    gain: float
    tag: Any = None


class Lane:
    """One lane's row of jobs, free from free_ns on."""

    def __init__(self, free_ns: int) -> None:
        self.jobs: list[Job] = []
        self.ends_ns = [free_ns]
        self.latest_ns = [_NEVER_NS]
        self._dues_ns: list[int] = []
        self._least_gain = 0.0

    def place(self, job: Job) -> int:
        """Where the job can be put, in order of due times, so that it and all after it are in time; or -1."""
        place = bisect(self._dues_ns, job.due_ns)
        end_ns = max(self.ends_ns[place], job.ready_ns) + job.took_ns
        return place if end_ns <= job.due_ns and end_ns <= self.latest_ns[place] else -1

    def displaced(self, job: Job, most: int = 3) -> tuple[int, int, float] | None:
        """(first, last + 1, gain) of the neighbours that gain least together and whose place the job can take."""
        best = None
        if job.gain <= self._least_gain:
            return None
        for first in range(len(self.jobs)):
            end_ns = max(self.ends_ns[first], job.ready_ns) + job.took_ns
            if end_ns > job.due_ns:
                break
            gain = 0.0
            for last in range(first + 1, min(first + most, len(self.jobs)) + 1):
                gain += self.jobs[last - 1].gain
                if gain >= job.gain or (best is not None and gain >= best[2]):
                    break
                if end_ns <= self.latest_ns[last]:
                    best = (first, last, gain)
                    break
        return best

    def put(self, job: Job, first: int, last: int) -> None:
        """Put the job in the place of jobs[first:last]."""
        self.jobs[first:last] = [job]
        self._dues_ns[first:last] = [job.due_ns]
        self._least_gain = min([other.gain for other in self.jobs])
        ends_ns = self.ends_ns[: first + 1]
        for other in self.jobs[first:]:
            ends_ns.append(max(ends_ns[-1], other.ready_ns) + other.took_ns)
        latest_ns = [_NEVER_NS]
        for other in reversed(self.jobs):
            latest_ns.append(min(other.due_ns, latest_ns[-1]) - other.took_ns)
        latest_ns.reverse()
        self.ends_ns, self.latest_ns = ends_ns, latest_ns


def plan(jobs: Iterable[Job], free_ns: Sequence[int]) -> list[Lane]:
    """Rows of jobs for lanes that are free from free_ns on. Jobs that gain nothing are left out.

    Of a task's jobs the one with most gain per time is taken first; one with more gain takes its place where it fits.
    """
    lanes = [Lane(at_ns) for at_ns in free_ns]
    soonest_ns = min(free_ns)
    ranked = sorted([job for job in jobs if job.gain > 0.0], key=lambda job: _rank(job, soonest_ns))
    lane_of: dict[int, Lane] = {}
    for job in ranked:
        if job.id in lane_of:
            _improve(lane_of[job.id], job)
            continue
        for lane in lanes:
            place = lane.place(job)
            if place >= 0:
                lane.put(job, place, place)
                lane_of[job.id] = lane
                break
        else:
            _displace(lanes, job, lane_of)
    return lanes


def _improve(lane: Lane, job: Job) -> None:
    """Let a job take the place of another of the same task that gains less."""
    place = next(place for place, other in enumerate(lane.jobs) if other.id == job.id)
    end_ns = max(lane.ends_ns[place], job.ready_ns) + job.took_ns
    if job.gain > lane.jobs[place].gain and end_ns <= min(job.due_ns, lane.latest_ns[place + 1]):
        lane.put(job, place, place + 1)


def _displace(lanes: list[Lane], job: Job, lane_of: dict[int, Lane]) -> None:
    """Let a job take the place of neighbours that gain less together, if there are such."""
    found = [(best, number) for number, lane in enumerate(lanes) if (best := lane.displaced(job)) is not None]
    if not found:
        return
    (first, last, _gain), number = min(found, key=lambda item: item[0][2])
    lane = lanes[number]
    for other in lane.jobs[first:last]:
        del lane_of[other.id]
    lane.put(job, first, last)
    lane_of[job.id] = lane


def _rank(job: Job, soonest_ns: int) -> tuple[float, int, int, int]:
    """Most gain per time first; time that a lane would stand idle for a job counts as the job's."""
    idle_ns = job.ready_ns - soonest_ns
    lane_ns = job.took_ns + idle_ns if idle_ns > 0 else job.took_ns
    return -job.gain / lane_ns, job.due_ns, job.id, job.took_ns
