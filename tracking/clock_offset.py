"""What another robot's clock shows when ours shows zero: estimated from stamps of messages, refined by common tracks.

Offsets are theirs - ours: their_stamp - offset is the same moment on our clock. Three kinds of evidence, none of which
needs the clocks to be set:

- A message sent at s (their clock) and received at r (ours) was under way for no less than no time: offset >= s - r.
  The greatest s - r of a sliding window belongs to the quickest message, so jitter, queues and bursts do no harm; the
  window is short enough for drift (100 ppm over 20 s are 2 ms).
- An exchange of four stamps, as in NTP (Mills, RFC 5905, section 8; Cristian, 1989), also bounds from above: our
  request left at t0 (ours) and came to them at t1 (theirs), so offset <= t1 - t0. The truth lies between the bounds,
  half the quickest round trip from either at most; without more, the middle is taken.
- Without an exchange the quickest message's delay is unknown, and so much error stays. Where both robots see the same
  moving things, it shows as a lag of theirs along the velocity (`motion_lag`), which a scalar Kalman filter averages.
  What it cannot tell apart: a shift between the robots' maps looks like a lag if everything moves one way; and tracks
  that are an echo of ours have no lag, and say so with confidence. An exchange is better, if there can be one.

A clock that steps is told from a late message by its consistency: samples that are off by more than jump_s are refused
until some in a row agree among each other over some time; then the estimate begins anew from them, and `relocks` counts
it. A burst of held-up messages, which all arrive at once, does not look like that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tracking.kalman import squared_length

Array = NDArray[Any]

STEPPED = "its clock stepped"
BACKWARDS = "exchanged stamps run backwards"

_LEAST_SIGMA_S = 1e-3
_LEAST_LAG_SIGMA_S = 0.02
_ODD_SAMPLES = 100  # of those that contradict, that many are kept
_LASTING = 2.0  # errors of tracks last: four reports, say, tell as much as one whose sigma is divided by this
_WALK_S = 1e-3  # what the offset may drift from report to report
_SIGMAS = 3.0  # a lag counts no more than one so far from what is expected
_HUBER = 2.0  # sigmas within which a pair of tracks counts fully
_MIN_SPEED_MPS = 1.0


@dataclass(frozen=True, kw_only=True)
class ClockOffsetConfig:
    """How an offset is estimated."""

    window_s: float = 20.0  # of our time, in which the quickest message is looked for
    jump_s: float = 1.0  # delays differ by less; more is a step of the clock
    relock_after: int = 5  # so many samples in a row that agree to jump_s / 4,
    relock_s: float = 0.5  # over so much of our time, are a new clock
    delay_sigma_s: float = 0.1  # how long the quickest message may take, before anything is known

    def __post_init__(self) -> None:
        for name in ("window_s", "jump_s", "delay_sigma_s"):
            if not 0.0 < getattr(self, name) <= 3600.0:
                raise ValueError(f"{name} must be above 0 and at most 3600, not {getattr(self, name)}")
        if not 0.0 <= self.relock_s <= 60.0 or self.relock_after < 2:
            raise ValueError(f"relock_s must be from 0 to 60, not {self.relock_s}, and relock_after 2 or more")


class ClockOffset:
    """One robot's clock. `relocks` counts its steps."""

    def __init__(self, config: ClockOffsetConfig | None = None) -> None:
        self.config = config or ClockOffsetConfig()
        self._window: deque[_Sample] = deque()
        self._odd: list[_Sample] = []
        self._odd_count = 0
        self._offset_ns, self._variance, self._refined = 0, self.config.delay_sigma_s**2, False
        self.relocks = 0

    @property
    def locked(self) -> bool:
        """Whether there was any sample."""
        return bool(self._window)

    @property
    def offset_ns(self) -> int:
        """Their clock minus ours. Raises ValueError before the first sample."""
        if not self._window:
            raise ValueError("nothing was heard of this clock yet")
        return self._offset_ns

    @property
    def sigma_s(self) -> float:
        """Standard deviation of the offset, as far as the evidence tells."""
        return max(float(np.sqrt(self._variance)), _LEAST_SIGMA_S)

    def to_ours(self, their_ns: int) -> int:
        """The same moment on our clock."""
        return their_ns - self.offset_ns

    def hear(self, sent_ns: int, received_ns: int, exchange_ns: Sequence[int] | None = None) -> None:
        """Take in one message's stamps: sent by their clock, received by ours, and an exchange's four if there was one.

        exchange_ns: we sent, they received, they answered, we received; by the clock of whoever did it.
        Raises Rejected while the sample contradicts the others: their clock, or ours, may have stepped.
        """
        least_ns, most_ns = sent_ns - received_ns, None
        if exchange_ns is not None:
            t0, t1, t2, t3 = (int(stamp) for stamp in exchange_ns)
            if t3 - t0 < t2 - t1 or t2 < t1:
                raise Rejected(BACKWARDS)
            least_ns, most_ns = max(least_ns, t2 - t3), t1 - t0
        sample = _Sample(received_ns, least_ns, most_ns)
        if self._window and abs(least_ns - self._least_ns()) > self.config.jump_s * 1e9:
            if not self._is_new_clock(sample):
                raise Rejected(STEPPED)
            self._window, self._refined = deque(self._odd), False
            self.relocks += 1
        else:
            self._window.append(sample)
        self._odd = []
        horizon_ns = received_ns - round(self.config.window_s * 1e9)
        while self._window[0].received_ns < horizon_ns:
            self._window.popleft()
        self._bound()

    def refine(self, lag_s: float, sigma_s: float) -> None:
        """Take in a lag of their tracks behind ours (see `motion_lag`), seen with the present offset."""
        variance = self._variance + _WALK_S**2
        noise = (_LASTING * max(sigma_s, _LEAST_LAG_SIGMA_S)) ** 2
        limit_s = _SIGMAS * float(np.sqrt(variance + noise))
        gain = variance / (variance + noise)
        self._offset_ns += round(gain * min(max(lag_s, -limit_s), limit_s) * 1e9)
        self._variance = (1.0 - gain) * variance
        self._refined = True
        self._bound()

    def _least_ns(self) -> int:
        return max(sample.least_ns for sample in self._window)

    def _bound(self) -> None:
        """Keep the offset between the bounds; at their middle where lags have not told it better than that."""
        least_ns = self._least_ns()
        most = [sample.most_ns for sample in self._window if sample.most_ns is not None]
        width_ns = max(min(most) - least_ns, 0) if most else None
        known = self.config.delay_sigma_s**2 if width_ns is None else (width_ns * 1e-9) ** 2 / 12.0
        if not self._refined or known < self._variance:
            self._offset_ns, self._variance = least_ns + (width_ns or 0) // 2, known
        self._offset_ns = max(self._offset_ns, least_ns)
        if width_ns is not None:
            self._offset_ns = min(self._offset_ns, least_ns + width_ns)

    def _is_new_clock(self, sample: _Sample) -> bool:
        """Note a sample that contradicts the window; whether such samples now make a clock of their own."""
        agree_ns = self.config.jump_s * 1e9 / 4.0
        if self._odd and abs(sample.least_ns - self._odd[-1].least_ns) > agree_ns:
            self._odd = []
        self._odd_count = self._odd_count + 1 if self._odd else 1
        self._odd.append(sample)
        if len(self._odd) > _ODD_SAMPLES:
            del self._odd[1]  # the first tells how long it has lasted
        lasted_ns = sample.received_ns - self._odd[0].received_ns
        return self._odd_count >= self.config.relock_after and lasted_ns >= self.config.relock_s * 1e9


@dataclass(frozen=True)
class _Sample:
    """Bounds of the offset, from one message."""

    received_ns: int
    least_ns: int
    most_ns: int | None


def motion_lag(gaps_m: Array, velocities_mps: Array, covariances: Array) -> tuple[float, float] | None:
    """By how many seconds another robot's tracks lag behind ours, and the standard deviation of that.

    gaps_m (3, K): where we say that a thing is, minus where they say, for K things both see; velocities_mps (3, K) of
    these; covariances (3, 3, K) of the gaps. A least-squares fit of gap = velocity * lag, in which pairs that do not
    fit count less (Huber's weights). None where nothing moves faster than 1 m/s.
    """
    moving = np.hypot(velocities_mps[0], velocities_mps[1]) > _MIN_SPEED_MPS
    if not moving.any():
        return None
    gaps, velocities, covariance = gaps_m[:, moving], velocities_mps[:, moving], covariances[:, :, moving]
    solved = np.linalg.solve(np.moveaxis(covariance, -1, 0), velocities.T[:, :, None])[:, :, 0].T
    strength, drive = (velocities * solved).sum(axis=0), (gaps * solved).sum(axis=0)
    lag = float(np.median(drive / strength))
    weights = np.ones_like(strength)
    for _ in range(5):
        distance = np.sqrt(squared_length(gaps - velocities * lag, covariance))
        weights = np.minimum(1.0, _HUBER / np.maximum(distance, _HUBER))
        lag = float((weights * drive).sum() / (weights * strength).sum())
    return lag, float(1.0 / np.sqrt((weights * strength).sum()))
