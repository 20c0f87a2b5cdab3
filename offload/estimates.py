"""What the board knows of its own speed, of the link and of the server, from what its runs have shown so far.

Times are not means but distributions. A run on the board takes its stated time by a factor: an upper quantile over the
last runs. A remote run is in time with a probability, from the backlog on the uplink, its rate, the round trip and the
server's time, with the spreads that its own prediction errors have shown, and calibrated by how often such predictions
held. What was seen says less and less the longer nothing is seen: after a silence the usual is believed again, so that
a link that was down is tried again. After many failures in a row the far side is in doubt: what to expect of it cannot
be estimated, it can only be tried.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from offload.tasks import Option, Task

REVERT_NS = 3_000_000_000
"""After so much silence, 1 - 1/e of what is believed is the usual again."""
SILENCE_NS = 1_000_000_000
"""Pauses of this length are in the run of things."""
DOUBT = 8
"""Failures in a row after which the far side is in doubt. Fewer happen on mobile links that merely became slow."""
USUAL_NS = 20_000_000_000
"""The busy time over which the usual rate of a link is a mean."""

_LEAST_BUSY_NS = 10_000_000
_ROOT_HALF = 0.7071067811865476
_MOST_SQUARED_ERROR = 4.0
"""One prediction that was off by orders of magnitude must not blind the estimate for long."""


def normal_cdf(z: float) -> float:
    """The share of a standard normal below z."""
    return 0.5 * math.erfc(-z * _ROOT_HALF)


def longer_deviate(deviate: float) -> float:
    """The mean of a standard normal's part above a deviate, from its density and share there (inverse Mills ratio)."""
    if deviate > 5.0:
        return deviate + 1.0 / deviate
    return math.exp(-deviate * deviate / 2) / (math.sqrt(2 * math.pi) * normal_cdf(-deviate))


class BoardEstimate:
    """How much longer than stated runs on the board take: an upper quantile over the last ones.

    A board that runs hot is slower in all it does, so all options share the window. One that seems too slow for
    anything is given nothing and so shows nothing: after a silence the stated times are believed again.
    """

    def __init__(self, window: int = 12) -> None:
        self._factors: deque[float] = deque(maxlen=window)
        self._factor = 1.0
        self._seen_ns = 0

    def observe(self, now_ns: int, option: Option, took_ns: int) -> None:
        """A run on the board has ended."""
        if now_ns - self._seen_ns > SILENCE_NS:
            self._factors.clear()
        self._seen_ns = now_ns
        self._factors.append(took_ns / option.edge_ns)
        ranked = sorted(self._factors)
        self._factor = ranked[-1 - len(ranked) // 8]

    def factor(self, now_ns: int) -> float:
        """How much longer than stated runs are to be planned now."""
        silent_ns = now_ns - self._seen_ns - SILENCE_NS
        if silent_ns <= 0:
            return self._factor
        return 1.0 + math.exp(-silent_ns / REVERT_NS) * (self._factor - 1.0)

    def edge_ns(self, now_ns: int, option: Option) -> int:
        """The time on a lane to plan with, at least 1."""
        return max(1, round(option.edge_ns * self.factor(now_ns)))


@dataclass
class _Flight:
    """A task that is away: when it was sent, its size, how long its upload was predicted to take, when it was over."""

    sent_ns: int
    upload_bytes: int
    predicted_ns: float
    uploaded_ns: int = -1


class LinkEstimate:
    """Rate, round trip and backlog of the uplink, by what was acknowledged or answered when.

    The rate is bytes over busy time, both fading with a time constant. While bytes are under way and nothing is
    confirmed, the time that passes counts as busy, so that an outage shows at once.
    """

    def __init__(self, *, rate_bps: float = 20e6, rtt_ns: int = 40_000_000, fade_ns: int = 500_000_000) -> None:
        self._fade_ns = fade_ns
        self._bytes = 30_000.0
        self._busy_ns = self._bytes / (rate_bps / 8e9)
        self._usual = self._bytes / self._busy_ns
        self._last_ns = 0
        self._flights: dict[int, _Flight] = {}
        self.rtt_ns = float(rtt_ns)
        self.backlog_bytes = 0
        self.variance = 0.1
        """Of the logarithm of network time over its prediction."""

    def send(self, now_ns: int, task: Task, option: Option) -> None:
        """A task goes up the link."""
        upload_bytes = task.upload_bytes(option)
        predicted_ns = (self.backlog_bytes + upload_bytes) / self.rate(now_ns)
        if self.backlog_bytes == 0:
            self._last_ns = max(self._last_ns, now_ns)
        self._flights[task.id] = _Flight(now_ns, upload_bytes, predicted_ns)
        self.backlog_bytes += upload_bytes

    def forget(self, now_ns: int) -> None:
        """What was seen before this silence weighs less from now on, beside what will be seen. For an idle link."""
        silent_ns = max(0, now_ns - self._last_ns)
        rate = self.rate(now_ns)
        self._busy_ns = max(_LEAST_BUSY_NS, self._busy_ns * math.exp(-silent_ns / REVERT_NS))
        self._bytes = rate * self._busy_ns

    def uploaded(self, now_ns: int, task: Task) -> None:
        """The far side's word that it has all of a task has come."""
        self._confirm(now_ns - round(self.rtt_ns), task)

    def answered(self, now_ns: int, task: Task, server_ns: int, rtt_ns: int) -> None:
        """An answer has come. What neither the server nor the round trip took, the upload took."""
        if rtt_ns:
            self.rtt_ns += 0.3 * (rtt_ns - self.rtt_ns)
        self._confirm(now_ns - server_ns - (rtt_ns or round(self.rtt_ns)), task)
        self._flights.pop(task.id, None)

    def gone(self, now_ns: int, task: Task) -> int:
        """No answer has come: nothing of the task is under way any more.

        Returns when the far side had all of it, as far as is known, or -1.
        """
        flight = self._flights.pop(task.id, None)
        if flight is None or flight.uploaded_ns >= 0:
            return -1 if flight is None else flight.uploaded_ns
        self.backlog_bytes -= flight.upload_bytes
        self._err(max(0.0, math.log((now_ns - flight.sent_ns + 1) / (flight.predicted_ns + self.rtt_ns))))
        self._count(now_ns, 0)
        return -1

    def _confirm(self, left_ns: int, task: Task) -> None:
        """The last byte left the board at about left_ns."""
        flight = self._flights.get(task.id)
        if flight is None or flight.uploaded_ns >= 0:
            return
        flight.uploaded_ns = max(left_ns, flight.sent_ns)
        self.backlog_bytes -= flight.upload_bytes
        network_ns = flight.uploaded_ns - flight.sent_ns + self.rtt_ns
        self._err(math.log(network_ns / (flight.predicted_ns + self.rtt_ns)))
        self._count(flight.uploaded_ns, flight.upload_bytes)

    def _err(self, error: float) -> None:
        self.variance += 0.1 * (min(error * error, _MOST_SQUARED_ERROR) - self.variance)

    def _count(self, until_ns: int, upload_bytes: int) -> None:
        busy_ns = max(1, until_ns - self._last_ns)
        keep = math.exp(-busy_ns / self._fade_ns)
        self._bytes = keep * self._bytes + upload_bytes
        self._busy_ns = keep * self._busy_ns + busy_ns
        self._last_ns = max(self._last_ns, until_ns)
        if upload_bytes:  # what nothing came through of says nothing about what is usual
            self._usual += (1.0 - math.exp(-busy_ns / USUAL_NS)) * (self._bytes / self._busy_ns - self._usual)

    def rate(self, now_ns: int) -> float:
        """Bytes a nanosecond, above 0."""
        if self.backlog_bytes:
            stalled_ns = max(0.0, now_ns - self._last_ns - self.rtt_ns)
            return max(self._bytes, 1.0) / (self._busy_ns + stalled_ns)
        doubt = 1.0 - math.exp(-max(0, now_ns - self._last_ns - SILENCE_NS) / REVERT_NS)
        return max((1.0 - doubt) * self._bytes / self._busy_ns + doubt * self._usual, 1e-9)


class ServerEstimate:
    """How much longer than stated the server takes for each kind and option: mean and variance of the factor."""

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._factors: dict[tuple[str, str, str], tuple[float, float, int]] = {}

    def observe(self, now_ns: int, task: Task, option: Option, server_ns: int) -> None:
        """The server took so long, or at least so long where it was cut off."""
        if not (option.server_ns and server_ns > 0):
            return
        mean, variance = self.factor(now_ns, task, option)
        error = server_ns / option.server_ns - mean
        mean += self._weight * error
        variance += self._weight * (min(error * error, _MOST_SQUARED_ERROR) - variance)
        self._factors[task.kind.name, option.place, option.name] = mean, variance, now_ns

    def factor(self, now_ns: int, task: Task, option: Option) -> tuple[float, float]:
        """(mean, variance) of the server's time over the stated one."""
        usual = max(option.remote_spread, 0.02) ** 2
        known = self._factors.get((task.kind.name, option.place, option.name))
        if known is None:
            return 1.0, usual
        mean, variance, seen_ns = known
        if now_ns - seen_ns < SILENCE_NS:
            return mean, variance
        trust = math.exp(-(now_ns - seen_ns) / REVERT_NS)
        return 1.0 + trust * (mean - 1.0), usual + trust * (variance - usual)


class Calibration:
    """Turns a predicted normal deviate into a probability that has held so far.

    The share of the last runs whose own deviate was at most that, with the normal distribution as if it had been seen
    `prior` times. A run that was cut off counts with the mean deviate of normal ones that take longer than it did.
    """

    def __init__(self, window: int = 48, prior: float = 8.0) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self._window = window
        self._prior = prior

    def observe(self, deviate: float, *, cut_off: bool = False) -> None:
        """(actual - predicted) over the predicted standard deviation; cut_off: the actual time would be longer."""
        if cut_off:
            deviate = longer_deviate(deviate)
        self._last.append(deviate)
        insort(self._sorted, deviate)
        if len(self._last) > self._window:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]

    def chance(self, deviate: float) -> float:
        """The probability that a run ends within so many predicted standard deviations of the prediction."""
        seen = self._sorted
        return (self._prior * normal_cdf(deviate) + bisect_right(seen, deviate)) / (self._prior + len(seen))


class Forecast(NamedTuple):
    """When a remote run that is begun now ends: network_ns and server_ns from now, and their variances' square root.

    before it, its upload may have to wait: see RemoteEstimate.chance.
    """

    network_ns: float
    server_ns: float
    server_variance: float


class RemoteEstimate:
    """The probability that a remote run is in time.

    failed_ns: when a run failed last.
    """

    def __init__(self) -> None:
        self.failed_ns = 0
        self._failures = 0
        self.link = LinkEstimate()
        self._server = ServerEstimate()
        self._calibration = Calibration()
        self._predicted: dict[int, tuple[float, float, Option]] = {}

    @property
    def in_doubt(self) -> bool:
        """Whether the far side has not answered for so many runs that it may be gone."""
        return self._failures >= DOUBT

    @property
    def under_way(self) -> int:
        """How many runs have not ended."""
        return len(self._predicted)

    def forecast(self, now_ns: int, task: Task, option: Option, rate: float) -> Forecast:
        """What a run that is begun now takes. rate: `link.rate(now_ns)`, which callers have at hand."""
        link = self.link
        factor, variance = self._server.factor(now_ns, task, option)
        network_ns = (link.backlog_bytes + task.upload_bytes(option)) / rate + link.rtt_ns
        server_ns = option.server_ns
        return Forecast(network_ns, server_ns * factor, variance * server_ns * server_ns)

    def deviation_ns(self, forecast: Forecast, wait_ns: float = 0.0) -> float:
        """The standard deviation of the end."""
        network_ns = forecast.network_ns + wait_ns
        return math.sqrt(forecast.server_variance + network_ns * network_ns * self.link.variance) + 1e5

    def chance(self, forecast: Forecast, left_ns: float, wait_ns: float = 0.0) -> float:
        """The probability that a run ends within left_ns, if its upload waits for wait_ns first."""
        late_ns = forecast.network_ns + wait_ns + forecast.server_ns - left_ns
        return self._calibration.chance(-late_ns / self.deviation_ns(forecast, wait_ns))

    def send(self, now_ns: int, task: Task, option: Option) -> None:
        """A run's upload is begun."""
        if self.in_doubt and not self.link.backlog_bytes:
            self.link.forget(now_ns)
        forecast = self.forecast(now_ns, task, option, self.link.rate(now_ns))
        end_ns = now_ns + forecast.network_ns + forecast.server_ns
        self._predicted[task.id] = end_ns, self.deviation_ns(forecast), option
        self.link.send(now_ns, task, option)

    def answered(self, now_ns: int, task: Task, server_ns: int, rtt_ns: int) -> None:
        """An answer has come."""
        self._failures = 0
        end_ns, deviation_ns, option = self._predicted.pop(task.id)
        self._calibration.observe((now_ns - end_ns) / deviation_ns)
        self.link.answered(now_ns, task, server_ns, rtt_ns)
        self._server.observe(now_ns, task, option, server_ns)

    def cut_off(self, now_ns: int, task: Task) -> None:
        """The deadline has come before the answer. If the server had the task by then, it took at least that long.

        Runs that only try whether anybody is there again say nothing of how well times are predicted.
        """
        end_ns, deviation_ns, option = self._predicted.pop(task.id)
        if not self.in_doubt:
            self._calibration.observe((now_ns - end_ns) / deviation_ns, cut_off=True)
        self._fail(now_ns)
        uploaded_ns = self.link.gone(now_ns, task)
        if uploaded_ns >= 0:
            server_ns = now_ns - uploaded_ns - round(self.link.rtt_ns)
            if server_ns > option.server_ns:
                self._server.observe(now_ns, task, option, server_ns)

    def lost(self, now_ns: int, task: Task) -> None:
        """The far side refused the task, or is not there."""
        self._fail(now_ns)
        self.given_up(now_ns, task)

    def given_up(self, now_ns: int, task: Task) -> None:
        """The run is over without anything said of the far side. Also for one that never began."""
        self._predicted.pop(task.id, None)
        self.link.gone(now_ns, task)

    def _fail(self, now_ns: int) -> None:
        self._failures += 1
        self.failed_ns = now_ns
