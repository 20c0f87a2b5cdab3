"""What the board knows of its own speed, of the link and of the server, from what its runs have shown so far.

Times are not means but distributions. A run on the board takes its stated time by a factor: an upper quantile over the
last runs. A remote run is in time with a probability, from the backlog on the uplink, its rate, the round trip and the
server's time, each with the spread that its own prediction errors have shown.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from offload.tasks import Option, Task

_ROOT_HALF = 0.7071067811865476


def normal_cdf(z: float) -> float:
    """The share of a standard normal below z."""
    return 0.5 * math.erfc(-z * _ROOT_HALF)


class BoardEstimate:
    """How much longer than stated runs on the board take: an upper quantile over the last ones.

    A board that runs hot is slower in all it does, so all options share the window.
    """

    def __init__(self, window: int = 12) -> None:
        self._factors: deque[float] = deque(maxlen=window)
        self.factor = 1.0

    def observe(self, option: Option, took_ns: int) -> None:
        """A run on the board has ended."""
        self._factors.append(took_ns / option.edge_ns)
        ranked = sorted(self._factors)
        self.factor = ranked[-1 - len(ranked) // 8]

    def edge_ns(self, option: Option) -> int:
        """The time to plan with."""
        return round(option.edge_ns * self.factor)


@dataclass
class _Flight:
    """A task that is away: when it was sent, its size, whether its upload is known to be over, what was predicted."""

    sent_ns: int
    upload_bytes: int
    predicted_ns: float
    uploaded: bool = False


class LinkEstimate:
    """Rate, round trip and backlog of the uplink, by what was acknowledged or answered when.

    The rate is bytes over busy time, both fading with a time constant. While bytes are under way and nothing is
    confirmed, the time that passes counts as busy, so that an outage shows at once.
    """

    def __init__(self, *, rate_bps: float = 20e6, rtt_ns: int = 40_000_000, fade_ns: int = 1_000_000_000) -> None:
        self._fade_ns = fade_ns
        self._bytes = 30_000.0
        self._busy_ns = self._bytes / (rate_bps / 8e9)
        self._last_ns = 0
        self._flights: dict[int, _Flight] = {}
        self.rtt_ns = float(rtt_ns)
        self.backlog_bytes = 0
        self.variance = 0.1

    def send(self, now_ns: int, task: Task, option: Option) -> None:
        """A task goes up the link."""
        upload_bytes = task.upload_bytes(option)
        predicted_ns = self.upload_ns(now_ns, upload_bytes)
        if self.backlog_bytes == 0:
            self._last_ns = max(self._last_ns, now_ns)
        self._flights[task.id] = _Flight(now_ns, upload_bytes, predicted_ns)
        self.backlog_bytes += upload_bytes

    def uploaded(self, now_ns: int, task: Task) -> None:
        """The far side's word that it has all of a task has come."""
        self._confirm(now_ns - round(self.rtt_ns), task)

    def answered(self, now_ns: int, task: Task, server_ns: int, rtt_ns: int) -> None:
        """An answer has come. What neither the server nor the round trip took, the upload took."""
        if rtt_ns:
            self.rtt_ns += 0.3 * (rtt_ns - self.rtt_ns)
        self._confirm(now_ns - server_ns - (rtt_ns or round(self.rtt_ns)), task)
        self._flights.pop(task.id, None)

    def gone(self, now_ns: int, task: Task) -> None:
        """No answer has come in time: nothing of the task is under way any more."""
        flight = self._flights.pop(task.id, None)
        if flight is not None and not flight.uploaded:
            self.backlog_bytes -= flight.upload_bytes
            self._count(now_ns, 0)

    def _confirm(self, left_ns: int, task: Task) -> None:
        """The last byte left the board at about left_ns."""
        flight = self._flights.get(task.id)
        if flight is None or flight.uploaded:
            return
        flight.uploaded = True
        self.backlog_bytes -= flight.upload_bytes
        network_ns = max(left_ns - flight.sent_ns, 0) + self.rtt_ns
        error = math.log(network_ns / (flight.predicted_ns + self.rtt_ns))
        self.variance += 0.1 * (min(error * error, 4.0) - self.variance)
        self._count(max(left_ns, flight.sent_ns), flight.upload_bytes)

    def _count(self, until_ns: int, upload_bytes: int) -> None:
        busy_ns = max(1, until_ns - self._last_ns)
        keep = math.exp(-busy_ns / self._fade_ns)
        self._bytes = keep * self._bytes + upload_bytes
        self._busy_ns = keep * self._busy_ns + busy_ns
        self._last_ns = max(self._last_ns, until_ns)

    def rate(self, now_ns: int) -> float:
        """Bytes a nanosecond."""
        stalled_ns = max(0.0, now_ns - self._last_ns - self.rtt_ns) if self.backlog_bytes else 0.0
        return max(self._bytes, 1.0) / (self._busy_ns + stalled_ns)

    def upload_ns(self, now_ns: int, upload_bytes: int) -> float:
        """How long an upload that is begun now takes, with what is before it."""
        return (self.backlog_bytes + upload_bytes) / self.rate(now_ns)


class ServerEstimate:
    """How much longer than stated the server takes for each kind and option: mean and variance of the factor's last."""

    def __init__(self, weight: float = 0.2) -> None:
        self._weight = weight
        self._factors: dict[tuple[str, str], tuple[float, float]] = {}

    def observe(self, task: Task, option: Option, server_ns: int) -> None:
        """The server has said what it took."""
        if not (option.server_ns and server_ns):
            return
        mean, variance = self.factor(task, option)
        error = server_ns / option.server_ns - mean
        mean += self._weight * error
        variance += self._weight * (min(error * error, 4.0) - variance)
        self._factors[task.kind.name, option.name] = mean, variance

    def factor(self, task: Task, option: Option) -> tuple[float, float]:
        """(mean, variance) of the server's time over the stated one."""
        return self._factors.get((task.kind.name, option.name)) or (1.0, max(option.remote_spread, 0.02) ** 2)


class RemoteEstimate:
    """The probability that a remote run is in time."""

    def __init__(self) -> None:
        self.link = LinkEstimate()
        self.server = ServerEstimate()

    def in_time(self, now_ns: int, task: Task, option: Option, wait_ns: float = 0.0, head_ns: int = 0) -> float:
        """The probability that a run begun now is in time, its upload waiting wait_ns beside the link's own backlog."""
        link = self.link
        upload_ns = wait_ns + link.upload_ns(now_ns, task.upload_bytes(option))
        factor, variance = self.server.factor(task, option)
        server_ns = option.server_ns
        slack_ns = task.deadline_ns - now_ns - head_ns - upload_ns - link.rtt_ns - server_ns * factor
        network_ns = upload_ns + link.rtt_ns
        deviation_ns = math.sqrt(server_ns * server_ns * variance + network_ns * network_ns * link.variance)
        return normal_cdf(slack_ns / (deviation_ns + 1.0))
