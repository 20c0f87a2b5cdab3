"""How a sensor has been moving: from believed pose to believed pose, though stamps jitter, and scans may lie.

A velocity is the motion since the last pose that was believed, never since one that was only predicted: an error of the
prediction would be taken for motion the other way, and the next prediction be as wrong again. A pose that no machine
could have reached is doubted; if the next scan follows more easily from it than from what was believed, it was true.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.geometry import inverse, se3_exp, se3_log

__all__ = ["Motion"]

Array = NDArray[Any]

_UNBELIEVABLE_M = 0.5
_JITTER_S = 0.1  # how late a stamp may be
_MAX_GUESSES = 20


class Motion:
    """The last pose and velocity, and what to expect next. Poses are odom_T_sensor (4, 4), twists (6,), m/s and rad/s.

    max_prediction_s: a velocity is trusted for no longer. max_acceleration_mps2: what a machine can do.
    """

    def __init__(self, max_prediction_s: float, max_acceleration_mps2: float) -> None:
        self.max_prediction_s = max_prediction_s
        self.max_acceleration_mps2 = max_acceleration_mps2
        self.pose = np.eye(4)  # believed or only predicted
        self.twist = np.zeros(6)
        self.elapsed_s = 0.0  # since the believed pose
        self._step_s = 0.0  # since the last scan
        self._believed = np.eye(4)
        self._earlier = (np.eye(4), 0.0)  # the pose believed before that, and how long before that
        self._is_known = False  # whether the twist is of today
        self._before_gap: Array | None = None  # the twist before the last gap
        self._doubted: tuple[Array, Array] | None = None  # a pose, and the twist to it

    @property
    def after_a_gap(self) -> bool:
        """Whether the believed pose is so old that its velocity says nothing."""
        return self.elapsed_s >= self.max_prediction_s

    def last_twist(self, *, leapt: bool) -> Array:
        """The velocity to predict with. leapt: the clock was wrong, so that what seemed a gap was none."""
        return self._before_gap if leapt and self._before_gap is not None else self.twist

    def advance(self, seconds: float) -> None:
        """A scan has come, so long after the one before."""
        self._step_s = seconds
        self.elapsed_s += seconds

    def ahead(self, twist: Array) -> Array:
        """Where the sensor is now if it has moved with this twist."""
        result: Array = self.pose @ se3_exp(twist * min(self._step_s, self.max_prediction_s))
        return result

    def guesses(self, twist: Array, apart_m: float) -> list[Array]:
        """Poses to look for the sensor at, so far apart; the likeliest first.

        After a long gap, or after a stamp that was wrong, it may be anywhere on the way that it was going; a pose that
        was doubted may have been true.
        """
        ways_s = [self._step_s]
        if self._step_s >= self.max_prediction_s:
            far_m = float(np.linalg.norm(twist[:3])) * self.max_prediction_s
            count = 2 + int(min(far_m / apart_m, _MAX_GUESSES))
            ways_s = np.linspace(self.max_prediction_s, 0.0, count).tolist()
        guesses = [self.pose @ se3_exp(twist * way_s) for way_s in ways_s]
        if self._doubted is not None:
            pose, way_s = self._doubted[0], min(self._step_s, self.max_prediction_s)
            guesses += [pose @ se3_exp(v * way_s) for v in (twist, self._doubted[1])]
        return guesses

    def clears_doubt(self, pose: Array) -> bool:
        """Whether this pose follows more easily from the doubted one, if any, which then is the believed one."""
        if self._doubted is None:
            return False
        (doubted, twist), self._doubted = self._doubted, None
        from_doubted_m = min(_strayed_m(doubted, pose, v * self._step_s) for v in (twist, self.twist))
        if from_doubted_m >= _strayed_m(self._believed, pose, self.twist * self.elapsed_s):
            return False
        self.pose = self._believed = doubted
        self.elapsed_s, self._is_known = self._step_s, False
        self._earlier = (doubted, 0.0)
        return True

    def doubts(self, pose: Array) -> bool:
        """Whether no acceleration explains a pose. A velocity that somebody else measured says nothing here."""
        if not self._is_known or self.after_a_gap:
            return False
        allowed_m = _UNBELIEVABLE_M + 0.5 * self.max_acceleration_mps2 * self.elapsed_s**2
        jitter = (0.0, -_JITTER_S, _JITTER_S)
        ways_m = [_strayed_m(self._believed, pose, self.twist * (self.elapsed_s + late_s)) for late_s in jitter]
        if min(ways_m) <= allowed_m:
            return False
        self._doubted = (pose, self.twist_to(pose))
        return True

    def twist_to(self, pose: Array) -> Array:
        """The mean velocity since the believed pose."""
        twist: Array = se3_log(inverse(self._believed) @ pose) / self.elapsed_s
        return twist

    def begin_at(self, pose: Array) -> None:
        """The first pose is another, as the first velocity is known only now."""
        self.pose = self._believed = pose

    def believe(self, pose: Array, *, found_again: bool) -> None:
        """The sensor is here. found_again: it was lost, so that the way here says nothing."""
        before, gap = self.twist, self.after_a_gap
        self.twist = np.zeros(6) if found_again else self.twist_to(pose)
        earlier, took_s = self._earlier
        if self.elapsed_s < 0.5 * took_s and not found_again:  # a late stamp and a timely one: only together they tell
            self.twist = se3_log(inverse(earlier) @ pose) / (took_s + self.elapsed_s)
        self._earlier = (self._believed, 0.0 if found_again else self.elapsed_s)
        self._is_known = not found_again and not gap
        self._before_gap = before if gap else None
        self.pose = self._believed = pose
        self.elapsed_s = 0.0

    def go_on(self, predicted: Array) -> None:
        """Nobody knows where the sensor is; say that it is where it should be."""
        self.pose = predicted

    def restart(self, pose: Array) -> None:
        """The sensor is taken to be here, at rest."""
        self.pose = self._believed = pose
        self._earlier = (pose, 0.0)
        self.twist, self.elapsed_s, self._is_known = np.zeros(6), 0.0, False


def _strayed_m(last: Array, pose: Array, motion: Array) -> float:
    """How far a pose is from where a motion (6,) from the last one ends."""
    return float(np.linalg.norm((inverse(last @ se3_exp(motion)) @ pose)[:3, 3]))
