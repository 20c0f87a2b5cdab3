"""Our own policy: look ahead over all that waits, and use each resource where it gains the most.

The board's lanes and the uplink are both queues in which jobs take time, have due times and gain something. At each
event both are planned anew (`planning.plan`), over the tasks that wait and those that steady sources are about to send:

1. What would each task be worth if it were sent now? The probability of being in time (`estimates`: quantiles of link
   and server from their last runs, not means) times its benefit, less its cost, for each of its cloud options; the
   uplink is planned by that, so that of many the valuable ones count as sendable.
2. What gains the board over that? Lanes are planned by benefit less what the cloud would give, per time.
3. What the board has no room for goes up the link, first what loses most by waiting, and never faster than the link
   drains, so that what has not left the board can still be decided anew.

A task's benefit includes what it is worth to its kind's tumbling window (`qoe`). Smaller models, early exits and split
points are options like others. Nothing waits for a trigger: a task that is not planned on the board and worth sending
is sent, since the last moment at which it could be is late half of the time.

After many failures in a row the far side counts as gone: everything is planned without it, and one task at a time that
costs little is sent to see whether it is there again. Without that, an outage of minutes teaches that nothing is worth
sending, so that nothing is sent and nothing learnt; or all kinds pay for a slow server, each until it has learnt.

An arrival is not decided at once but at the end of its instant: a camera's frame makes several tasks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

from offload.estimates import BoardEstimate, Forecast, RemoteEstimate
from offload.policies.planning import Job, Lane, plan
from offload.policies.policy import FAILED, NO_PLACE, Decision, Drop, PolicyContext, Start
from offload.policies.qoe import Windows
from offload.policies.rhythm import Rhythm
from offload.tasks import Option, Outcome, Task, TaskKind

MOST_PLANNED = 16
CHOSEN_OF_MORE = 12
"""Tasks that one decision looks at: all, or of more than MOST_PLANNED these, half of them those that are due first, the
others those with most utility per time."""
MOST_EXPECTED = 8
AHEAD_NS = 500_000_000
"""How far ahead arrivals are expected: about as long as a long run on a lane."""
PACE_NS = 50_000_000
"""Beside a round trip, how much upload may be under way before more is sent."""
CAUTION = 1.0
"""Standard deviations that are kept before a deadline when the uplink is planned."""
FIRST_PAUSE_NS = 100_000_000
LAST_PAUSE_NS = 500_000_000
"""After the far side has refused or lost a task nothing is sent for a while, doubling until it answers."""
PROBE_NS = 250_000_000
"""After a failure, how long a far side that is in doubt is left alone before a task tries it again."""


class _Offer(NamedTuple):
    """A task's best cloud option if it were sent now, and what that is worth."""

    task: Task
    option: Option
    forecast: Forecast
    benefit: float
    value: float

    def value_after(self, remote: RemoteEstimate, now_ns: int, wait_ns: float) -> float:
        """What it is worth if its upload waits."""
        left_ns = self.task.deadline_ns - now_ns
        chance = remote.chance(self.forecast, left_ns, wait_ns)
        return max(0.0, chance * self.benefit - self.option.cost)


class Tercel:
    """See the module. qoe_weight: how much a window's bonus counts beside the utility of tasks."""

    def __init__(self, context: PolicyContext, *, qoe_weight: float = 3.0) -> None:
        self.wake_ns: int | None = None
        self._lanes = context.lanes
        self._qoe_weight = qoe_weight
        self._board = BoardEstimate()
        self._remote = RemoteEstimate()
        self._windows = Windows(context.window_ns, context.start_ns)
        self._rhythm = Rhythm()
        self._waiting: dict[int, Task] = {}
        self._by_worth: list[tuple[float, int]] = []
        self._by_due: list[tuple[int, int]] = []
        self._expiries: list[tuple[int, int]] = []
        self._running: dict[int, tuple[Option, int]] = {}
        self._refused: set[int] = set()
        self._pause_ns = 0
        self._paused_until_ns = 0
        self._unplaced = False

    # --- events ------------------------------------------------------------------------------------------------------

    def arrived(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """It waits until the end of the instant."""
        self._windows.created(task)
        self._rhythm.arrived(task)
        self._wait(task)
        self.wake_ns = now_ns
        return ()

    def returned(self, now_ns: int, task: Task, option: Option, reason: str) -> Sequence[Decision]:  # noqa: ARG002
        """The far side has refused or lost a task: the board is left, and the far side has a pause."""
        del self._running[task.id]
        self._remote.lost(now_ns, task)
        self._refused.add(task.id)
        self._pause_ns = min(max(2 * self._pause_ns, FIRST_PAUSE_NS), LAST_PAUSE_NS)
        self._paused_until_ns = now_ns + self._pause_ns
        self._wait(task)
        return self._decide(now_ns)

    def lane_freed(self, now_ns: int, task: Task, took_ns: int) -> Sequence[Decision]:
        """A lane is free; what was a head is on its way up now."""
        option, _ = self._running[task.id]
        self._board.observe(now_ns, option, took_ns)
        self._running[task.id] = option, -1
        if option.place == "split":
            self._remote.send(now_ns, task, option)
        return self._decide(now_ns)

    def uploaded(self, now_ns: int, task: Task) -> Sequence[Decision]:
        """There is room on the link."""
        self._remote.link.uploaded(now_ns, task)
        return self._decide(now_ns) if self._unplaced else ()

    def ended(self, now_ns: int, outcome: Outcome) -> Sequence[Decision]:
        """Learn from it."""
        task = outcome.task
        self._windows.ended(task, outcome.on_time)
        self._refused.discard(task.id)
        option, _ = self._running.pop(task.id, (None, -1))
        if option is None:
            return ()
        if outcome.timing is None:  # its deadline came first, or its input was rejected; that says nothing of places
            self._remote.given_up(now_ns, task)
            return self._decide(now_ns)
        if option.place == "edge":
            return ()  # a lane was freed, and decided on, before
        if outcome.on_time:
            self._remote.answered(now_ns, task, outcome.timing.server_ns, outcome.timing.rtt_ns)
            self._pause_ns = self._paused_until_ns = 0
        else:
            self._remote.cut_off(now_ns, task)
        return self._decide(now_ns) if self._unplaced else ()

    def woken(self, now_ns: int) -> Sequence[Decision]:
        """The instant's arrivals are complete, the link should have room, or a task is lost."""
        return self._decide(now_ns)

    # --- what waits --------------------------------------------------------------------------------------------------

    def _wait(self, task: Task) -> None:
        self._waiting[task.id] = task
        insort(self._by_worth, _worth(task))
        insort(self._by_due, (task.deadline_ns, task.id))
        heappush(self._expiries, (self._expiry_ns(task), task.id))

    def _leave(self, task: Task) -> None:
        del self._waiting[task.id]
        _remove(self._by_worth, _worth(task))
        _remove(self._by_due, (task.deadline_ns, task.id))

    def _expiry_ns(self, task: Task) -> int:
        """When none of its options can be in time any more. On the link and in the cloud that may be hoped for long."""
        latest_ns = task.created_ns
        for option in task.kind.options:
            if option.place == "edge":
                latest_ns = max(latest_ns, task.deadline_ns - option.edge_ns)
            elif task.id not in self._refused:
                latest_ns = max(latest_ns, task.deadline_ns - option.edge_ns - option.server_ns * 3 // 4)
        return latest_ns

    def _drop_hopeless(self, now_ns: int, decisions: list[Decision]) -> None:
        while self._expiries and self._expiries[0][0] < now_ns:
            _, number = heappop(self._expiries)
            task = self._waiting.get(number)
            if task is not None and self._expiry_ns(task) < now_ns:
                self._leave(task)
                decisions.append(Drop(task, FAILED if number in self._refused else NO_PLACE))

    def _considered(self) -> list[Task]:
        """The waiting tasks that a decision looks at."""
        if len(self._waiting) <= MOST_PLANNED:
            return list(self._waiting.values())
        numbers = dict.fromkeys(number for _, number in self._by_due[: CHOSEN_OF_MORE // 2])
        for _, number in self._by_worth[:CHOSEN_OF_MORE]:
            if len(numbers) < CHOSEN_OF_MORE:
                numbers[number] = None
        return [self._waiting[number] for number in numbers]

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, now_ns: int) -> list[Decision]:
        decisions: list[Decision] = []
        self._drop_hopeless(now_ns, decisions)
        self._unplaced = False
        if self._waiting:
            tasks = self._considered()
            prices = self._prices(tasks)
            offers = self._offers(now_ns, tasks, prices)
            sent = self._uplink(now_ns, offers)
            lanes = self._lane_plan(now_ns, tasks, prices, {offer.task.id: offer.value for offer in sent})
            placed = self._start_planned(now_ns, lanes, decisions)
            rest = [offer for offer in offers if offer.task.id not in placed and offer.task.id in self._waiting]
            self._send(now_ns, sent if len(rest) == len(offers) else self._uplink(now_ns, rest), decisions)
            self._probe(now_ns, [task for task in tasks if task.id not in placed], decisions)
            self._unplaced = len(self._waiting) > len(placed)
        self._set_wake(now_ns)
        return decisions

    def _prices(self, tasks: Iterable[Task]) -> dict[int, float]:
        """What each task is worth to its kind's bonus; those of one kind and window are worth the same."""
        known: dict[tuple[str, int], float] = {}
        prices = {}
        for task in tasks:
            key = (task.kind.name, self._windows.window(task))
            if key not in known:
                known[key] = self._qoe_weight * self._windows.price(task)
            prices[task.id] = known[key]
        return prices

    def _offers(self, now_ns: int, tasks: Iterable[Task], prices: dict[int, float]) -> list[_Offer]:
        """What tasks are worth if sent now; those that are worth nothing are left out."""
        if not self._trusted(now_ns):
            return []
        rate = self._remote.link.rate(now_ns)
        offers = []
        for task in tasks:
            offer = None if task.id in self._refused else self._offer(now_ns, task, prices[task.id], rate)
            if offer is not None:
                offers.append(offer)
        return offers

    def _offer(self, now_ns: int, task: Task, price: float, rate: float) -> _Offer | None:
        best = None
        for option in task.kind.options:
            if option.place == "cloud" and task.deadline_ns - now_ns > option.server_ns // 2:
                forecast = self._remote.forecast(now_ns, task, option, rate)
                benefit = task.weight * option.benefit + price
                value = self._remote.chance(forecast, task.deadline_ns - now_ns) * benefit - option.cost
                if value > 0.0 and (best is None or value > best.value):
                    best = _Offer(task, option, forecast, benefit, value)
        return best

    def _uplink(self, now_ns: int, offers: list[_Offer]) -> list[_Offer]:
        """The offers that the uplink has room for, each in time by itself with some caution."""
        link = self._remote.link
        rate = link.rate(now_ns)
        if len(offers) < 2:
            return offers
        free_ns = now_ns + round(link.backlog_bytes / rate)
        jobs = []
        for offer in offers:
            took_ns = round(offer.task.upload_bytes(offer.option) / rate)
            forecast = offer.forecast
            spare_ns = offer.task.deadline_ns - now_ns - forecast.network_ns - forecast.server_ns
            spare_ns = max(0.0, spare_ns - CAUTION * self._remote.deviation_ns(forecast))
            due_ns = free_ns + took_ns + round(spare_ns) + 1
            jobs.append(Job(offer.task.id, now_ns, due_ns, max(1, took_ns), offer.value, offer))
        return [job.tag for job in plan(jobs, [free_ns])[0].jobs]

    def _lane_plan(
        self, now_ns: int, tasks: Iterable[Task], prices: dict[int, float], sendable: dict[int, float]
    ) -> list[Lane]:
        """Lanes planned by what the board gains over the cloud."""
        jobs = []
        rate = self._remote.link.rate(now_ns)
        slower = self._board.factor(now_ns)
        for task in tasks:
            fallback = sendable.get(task.id, 0.0)
            for option in task.kind.options:
                if option.place == "edge":
                    gain = task.utility(option) + prices[task.id] - fallback
                    took_ns = max(1, round(option.edge_ns * slower))
                    jobs.append(Job(task.id, now_ns, task.deadline_ns, took_ns, gain, (task, option)))
                elif option.place == "split" and task.id not in self._refused and self._trusted(now_ns):
                    jobs.append(self._head(now_ns, task, option, prices[task.id], fallback, rate))
        jobs += self._expected_jobs(now_ns, rate)
        busy = sorted(max(now_ns, until_ns) for _, until_ns in self._running.values() if until_ns >= 0)
        return plan(jobs, [now_ns] * (self._lanes - len(busy)) + busy)

    def _head(self, now_ns: int, task: Task, option: Option, price: float, fallback: float, rate: float) -> Job:
        """The head of a split run as a job; its tail must still be in time."""
        took_ns = self._board.edge_ns(now_ns, option)
        forecast = self._remote.forecast(now_ns, task, option, rate)
        left_ns = task.deadline_ns - now_ns - took_ns
        gain = self._remote.chance(forecast, left_ns) * (task.weight * option.benefit + price) - option.cost - fallback
        spare_ns = left_ns - forecast.network_ns - forecast.server_ns - CAUTION * self._remote.deviation_ns(forecast)
        return Job(task.id, now_ns, now_ns + took_ns + max(0, round(spare_ns)), took_ns, gain, (task, option))

    def _expected_jobs(self, now_ns: int, rate: float) -> list[Job]:
        """What steady sources are about to send, as jobs without a tag, worth what they gain over the cloud."""
        fallbacks: dict[TaskKind, float] = {}
        jobs = []
        expected = self._rhythm.expected(now_ns, now_ns + AHEAD_NS)[:MOST_EXPECTED]
        for number, (at_ns, _source, _name, kind, size_bytes) in enumerate(expected):
            if kind.edge is None:
                continue
            if kind not in fallbacks:
                offer = self._offer(at_ns, Task(-1, kind, at_ns, size_bytes=size_bytes), 0.0, rate)
                fallbacks[kind] = offer.value if offer is not None and self._trusted(now_ns) else 0.0
            gain = kind.edge.utility - fallbacks[kind]
            jobs.append(Job(-1 - number, at_ns, at_ns + kind.deadline_ns, self._board.edge_ns(now_ns, kind.edge), gain))
        return jobs

    def _start_planned(self, now_ns: int, lanes: list[Lane], decisions: list[Decision]) -> set[int]:
        """Start what heads a free lane's row; returns the tasks that are planned for later."""
        placed = set()
        for lane in lanes:
            for place, job in enumerate(lane.jobs):
                if job.tag is None:
                    continue
                if place == 0 and lane.ends_ns[0] <= now_ns and self._free_lanes() > 0:
                    self._start(now_ns, job.tag[0], job.tag[1], decisions)
                else:
                    placed.add(job.id)
        return placed

    def _free_lanes(self) -> int:
        return self._lanes - sum(until_ns >= 0 for _, until_ns in self._running.values())

    def _send(self, now_ns: int, offers: list[_Offer], decisions: list[Decision]) -> None:
        """Send what loses most by waiting for the others, as long as the link drains soon."""
        link = self._remote.link
        while offers:
            rate = link.rate(now_ns)
            if link.backlog_bytes / rate > (PACE_NS + link.rtt_ns if link.backlog_bytes else 0.0):
                return
            offer = self._most_urgent(now_ns, offers, rate) if len(offers) > 1 else offers[0]
            offers = [other for other in offers if other is not offer]
            ahead_ns = link.backlog_bytes / rate + offer.task.upload_bytes(offer.option) / rate + link.rtt_ns
            if offer.value_after(self._remote, now_ns, max(0.0, ahead_ns - offer.forecast.network_ns)) > 0.0:
                self._start(now_ns, offer.task, offer.option, decisions)

    def _trusted(self, now_ns: int) -> bool:
        return now_ns >= self._paused_until_ns and not self._remote.in_doubt

    def _probe(self, now_ns: int, tasks: Iterable[Task], decisions: list[Decision]) -> None:
        """Send the task that costs least to a far side that is in doubt, if it would usually be in time."""
        remote = self._remote
        if not remote.in_doubt or remote.under_way or now_ns < max(remote.failed_ns + PROBE_NS, self._paused_until_ns):
            return
        ways = [
            (cloud.cost, task.id, task, cloud)
            for task in tasks
            if (cloud := task.kind.cloud) is not None
            and (task.id in self._waiting and task.id not in self._refused)
            and (task.utility(cloud) > 0 and task.deadline_ns - now_ns >= cloud.expected_ns)
        ]
        if ways:
            _, _, task, option = min(ways)
            self._start(now_ns, task, option, decisions)

    def _most_urgent(self, now_ns: int, offers: list[_Offer], rate: float) -> _Offer:
        total_ns = sum(offer.task.upload_bytes(offer.option) for offer in offers) / rate

        def rank(offer: _Offer) -> tuple[float, int, int]:
            own_bytes = offer.task.upload_bytes(offer.option)
            later = offer.value_after(self._remote, now_ns, total_ns - own_bytes / rate)
            return (later - offer.value) / max(1, own_bytes), offer.task.deadline_ns, offer.task.id

        return min(offers, key=rank)

    def _start(self, now_ns: int, task: Task, option: Option, decisions: list[Decision]) -> None:
        self._leave(task)
        if option.place == "cloud":
            self._running[task.id] = option, -1
            self._remote.send(now_ns, task, option)
        else:
            self._running[task.id] = option, now_ns + self._board.edge_ns(now_ns, option)
        decisions.append(Start(task, option))

    def _set_wake(self, now_ns: int) -> None:
        self.wake_ns = None
        if not self._waiting:
            self._expiries.clear()
            return
        while self._expiries[0][1] not in self._waiting:
            heappop(self._expiries)
        self.wake_ns = self._expiries[0][0] + 1
        link = self._remote.link
        if now_ns < self._paused_until_ns:
            self.wake_ns = min(self.wake_ns, self._paused_until_ns)
        elif self._unplaced and link.backlog_bytes:
            drained_ns = link.backlog_bytes / link.rate(now_ns) - PACE_NS - link.rtt_ns
            self.wake_ns = min(self.wake_ns, now_ns + max(5_000_000, round(drained_ns)))


def _worth(task: Task) -> tuple[float, int]:
    """Sorts tasks by their greatest utility for a unit of time on the board, or of bytes, most first."""
    best = max(task.utility(option) / (option.edge_ns or option.expected_ns) for option in task.kind.options)
    return -best, task.id


def _remove(ranked: list[Any], item: tuple[float, int]) -> None:
    del ranked[bisect_left(ranked, item)]
