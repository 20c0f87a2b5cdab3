"""Where tracks will be, and how sure that is: hypotheses with covariances at requested horizons, from an IMM filter.

Each track is followed by M models of the plane's motion at once (`tracking.imm`), which share the state (x, y, vx, vy):

- stopping: the velocity decays with a time constant (an integrated Ornstein-Uhlenbeck process): parked cars, people who
  stand, and the brake;
- steady and manoeuvring: constant velocity with little and with much white-noise acceleration;
- turning: the velocity turns at a known rate, one way and the other.

What they predict are the hypotheses, their probabilities now those of the hypotheses; the mode is held over the
horizon. (Letting probabilities relax to their long-run values over the horizon made real futures less likely; so did,
for most classes, leaving out a model: `bench_prediction.py --only parts`.) Height is a filter of its own, of
constant velocity. The process noise of a class is one number while filtering and one for the horizon; the other models'
noises are multiples of them, common to all classes. A covariance is that of the centre as it will be measured: the
filter's, carried along, plus the measurement noise.

Lengths are in units of the source: m in the world, px in an image, where noise is given in scales (multiples of
sqrt(width height) of a box). Arrays keep tracks last inside (`tracking.kalman`), and first in what is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.errors import Rejected
from tracking import axis_kalman
from tracking.imm import ImmState, imm_combine, imm_predict, imm_start, imm_update
from tracking.kalman import KalmanState
from tracking.motion_models import constant_velocity, coordinated_turn

Array = NDArray[Any]
Dynamics = tuple[Array, Array]

MODES = ("stopping", "steady", "manoeuvring", "turning to y", "turning from y")


@dataclass(frozen=True, kw_only=True)
class ModeConfig:
    """What the models of all classes have in common.

    Noises are multiples of the class's acceleration noise, which is that of the steady model. Tuned once, on the tuning
    halves of SDD and KITTI together, by the likelihood of their futures.
    """

    stop_time_s: float = 0.35  # time constant of a velocity that dies away
    stop_noise: float = 0.045
    manoeuvre_noise: float = 12.0
    turn_noise: float = 1.34
    turn_rate_rps: float = 0.2
    stay_s: float = 2.1  # how long a mode is kept on average
    shares: tuple[float, ...] = (0.241, 0.345, 0.310, 0.052, 0.052)  # of the modes in the long run

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "shares" and not 0.0 < value <= 1000.0:
                raise ValueError(f"{name} must be above 0 and at most 1000, not {value}")
        if len(self.shares) != len(MODES) or not all(0.0 < share < 1.0 for share in self.shares):
            raise ValueError(f"shares must be {len(MODES)} numbers between 0 and 1, not {self.shares}")
        if not abs(sum(self.shares) - 1.0) < 1e-2:
            raise ValueError(f"shares must sum to 1, not {sum(self.shares)}")


@dataclass(frozen=True, eq=False)
class Sightings:
    """Tracks as they are reported at one instant.

    ids (N,) int64; positions (N, D) of the centres, D = 2 or 3; psd (N,): power density of the class's acceleration,
    unit^2 / s^3; psd_ahead (N,): the same for predictions, in the steady and the turning models (what lasts for seconds
    is nearly nothing from frame to frame, and much over a horizon); variances (N,) of a position's coordinates;
    speed_variances (N,) of what is not known of a new track; seen (N,) bool: a detection stands behind the position.
    velocities (N, D) and covariances (N, 2D, 2D), of positions and velocities, are what the source knows of new tracks,
    NaN or None where it does not.
    """

    stamp_ns: int
    ids: Array
    positions: Array
    psd: Array
    psd_ahead: Array
    variances: Array
    speed_variances: Array
    seen: Array
    velocities: Array | None = None
    covariances: Array | None = None


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What may become of N tracks: positions (N, K, H, D), covariances (N, K, H, D, D), probabilities (N, K)."""

    positions: Array
    covariances: Array
    probabilities: Array


def dynamics(dt_s: float, psd: Array, modes: ModeConfig, psd_ahead: Array | None = None) -> list[Dynamics]:
    """F (4, 4) and Q (4, 4, N) of each of the `MODES` over dt_s, for power densities psd (N,).

    psd_ahead (N,) takes its place in the steady and turning models.
    """
    steady = np.broadcast_to(psd if psd_ahead is None else psd_ahead, (2, len(psd)))
    turning = steady * modes.turn_noise**2
    models = [
        decaying_velocity(dt_s, modes.stop_time_s, psd * modes.stop_noise**2),
        constant_velocity(dt_s, steady, 2),
        constant_velocity(dt_s, np.broadcast_to(psd * modes.manoeuvre_noise**2, (2, len(psd))), 2),
        coordinated_turn(dt_s, modes.turn_rate_rps, turning),
        coordinated_turn(dt_s, -modes.turn_rate_rps, turning),
    ]
    return [(F, Q.reshape(4, 4, -1)) for F, Q in models]


def decaying_velocity(dt_s: float, time_constant_s: float, psd: Array) -> Dynamics:
    """F (4, 4) and Q (4, 4, N) of x, y whose velocities die away and are kicked by white noise psd (N,), unit^2 / s^3.

    The integrated Ornstein-Uhlenbeck process; two short steps make one long one.
    """
    a = dt_s / time_constant_s
    gone = -np.expm1(-a)
    if a > 1e-2:
        spread = time_constant_s**3 / 2.0 * (2.0 * a - 2.0 * gone - gone**2)
    else:  # the same by its series: the closed form cancels
        spread = dt_s**3 * (1.0 / 3.0 - a / 4.0 + 7.0 * a**2 / 60.0)
    transition = [[1.0, time_constant_s * gone], [0.0, 1.0 - gone]]
    lag = time_constant_s**2 / 2.0 * gone**2
    noise = [[spread, lag], [lag, time_constant_s / 2.0 * -np.expm1(-2.0 * a)]]
    plane = np.eye(2)
    return np.kron(transition, plane), np.kron(noise, plane)[:, :, None] * psd


def transition(dt_s: float, modes: ModeConfig) -> Array:
    """(M, M), rows sum to 1: the mode is drawn anew, by the long-run shares, once in stay_s on average.

    Two short steps make one long one.
    """
    kept = np.exp(-dt_s / modes.stay_s)
    shares = np.array(modes.shares) / sum(modes.shares)
    result: Array = kept * np.eye(len(shares)) + (1.0 - kept) * shares
    return result


def predict_modes(
    state: ImmState, psd: Array, psd_ahead: Array, variances: Array, horizons_s: Sequence[float], modes: ModeConfig
) -> Hypotheses:
    """Each mode's Gaussian of x, y at each horizon, as it will be measured with variances (N,)."""
    count, horizons = len(state), len(horizons_s)
    positions = np.empty((len(MODES), horizons, 2, count))
    covariances = np.empty((len(MODES), horizons, 2, 2, count))
    for h, horizon_s in enumerate(horizons_s):
        for m, (F, Q) in enumerate(dynamics(float(horizon_s), psd, modes, psd_ahead)):
            rows = F[:2]
            positions[m, h] = rows @ state.models[m].mean
            carried = np.tensordot(rows, state.models[m].covariance, axes=1)
            covariances[m, h] = np.einsum("isn,js->ijn", carried, rows) + Q[:2, :2]
            covariances[m, h, [0, 1], [0, 1]] += variances
    return Hypotheses(
        np.ascontiguousarray(np.moveaxis(positions, -1, 0)),
        np.ascontiguousarray(np.moveaxis(covariances, -1, 0)),
        np.ascontiguousarray(state.probabilities.T),
    )


def combine(positions: Array, covariances: Array, probabilities: Array) -> tuple[Array, Array]:
    """Mean (N, H, D) and covariance (N, H, D, D) of the mixture of K hypotheses."""
    mean = np.einsum("nk,nkhd->nhd", probabilities, positions)
    away = positions - mean[:, None]
    covariance = np.einsum("nk,nkhde->nhde", probabilities, covariances)
    covariance += np.einsum("nk,nkhd,nkhe->nhde", probabilities, away, away)
    return mean, covariance


class Histories:
    """What was seen of every track so far, as the state of its filters.

    Tracks are kept in the order of their ids; one that is not reported for longer than memory_s is forgotten.
    """

    def __init__(self, modes: ModeConfig, *, vertical_noise: float = 0.1, memory_s: float = 2.0) -> None:
        self._modes = modes
        self._vertical_psd = np.full((1, 1), vertical_noise**2)
        self._memory_ns = round(memory_s * 1e9)
        self._stamp_ns: int | None = None
        self._ids = np.zeros(0, dtype=np.int64)
        self._reported_ns = np.zeros(0, dtype=np.int64)
        self._plane = imm_start(KalmanState(np.zeros((4, 0)), np.zeros((4, 4, 0))), np.zeros(len(MODES)))
        self._height = np.zeros((5, 1, 0))
        self._noise = np.zeros((3, 0))  # psd, psd_ahead, variances

    def __len__(self) -> int:
        return len(self._ids)

    def step(self, now: Sightings) -> None:
        """Take in what is reported at one instant.

        Raises Rejected, and changes nothing, if the stamp is not after the last one or an id occurs twice.
        """
        if self._stamp_ns is not None and now.stamp_ns <= self._stamp_ns:
            raise Rejected("stamp not after the previous one")
        order = np.argsort(now.ids, kind="stable")
        ids = now.ids[order]
        if (ids[1:] == ids[:-1]).any():
            raise Rejected("a track's id occurs twice")
        self._forget(now.stamp_ns)
        self._advance(now.stamp_ns)
        places = np.searchsorted(self._ids, ids)
        known = np.zeros(len(ids), dtype=bool)
        inside = places < len(self._ids)
        known[inside] = self._ids[places[inside]] == ids[inside]
        self._correct(now, order[known], places[known])
        self._start(now, order[~known])

    def predict(self, ids: Array, horizons_s: Sequence[float]) -> Hypotheses:
        """The hypotheses for known tracks (N,), in the order given: D is 3. Raises KeyError for an unknown one."""
        places = self._places(ids)
        psd, psd_ahead, variances = self._noise[:, places]
        plane = predict_modes(self._plane.take(places), psd, psd_ahead, variances, horizons_s, self._modes)
        n, k, h, _ = plane.positions.shape
        positions, covariances = np.zeros((n, k, h, 3)), np.zeros((n, k, h, 3, 3))
        positions[..., :2], covariances[..., :2, :2] = plane.positions, plane.covariances
        height = self._height[:, :, places]
        for index, horizon_s in enumerate(horizons_s):
            noise = axis_kalman.white_noise_acceleration(float(horizon_s), self._vertical_psd)
            later = axis_kalman.predict(height, float(horizon_s), noise)
            positions[:, :, index, 2] = later[0, 0, :, None]
            covariances[:, :, index, 2, 2] = (later[2, 0] + variances)[:, None]
        return Hypotheses(positions, covariances, plane.probabilities)

    def spread(self, ids: Array) -> tuple[Array, Array]:
        """The combined covariances (N, 4, 4) of x, y, vx, vy now, and the power density (N,) of their acceleration
        ahead, averaged over the modes: what a closed form of the growing error needs. Raises KeyError.
        """
        places = self._places(ids)
        state, (psd, psd_ahead, _) = self._plane.take(places), self._noise[:, places]
        stop, steady, manoeuvre, turn, other_turn = state.probabilities
        modes = self._modes
        density = psd * (stop * modes.stop_noise**2 + manoeuvre * modes.manoeuvre_noise**2)
        density += psd_ahead * (steady + (turn + other_turn) * modes.turn_noise**2)
        return np.moveaxis(imm_combine(state).covariance, -1, 0), density

    def _places(self, ids: Array) -> Array:
        """Where these tracks are kept. Raises KeyError for an unknown one."""
        places = np.searchsorted(self._ids, ids)
        if len(ids) and (places.max() >= len(self._ids) or (self._ids[places] != ids).any()):
            raise KeyError("no such track")
        return places

    def _forget(self, stamp_ns: int) -> None:
        """End the tracks that were not reported for too long."""
        kept = stamp_ns - self._reported_ns <= self._memory_ns
        if not kept.all():
            self._ids, self._reported_ns = self._ids[kept], self._reported_ns[kept]
            self._plane, self._height = self._plane.take(kept), self._height[:, :, kept]
            self._noise = self._noise[:, kept]

    def _advance(self, stamp_ns: int) -> None:
        """Carry all tracks to the stamp."""
        if self._stamp_ns is not None and len(self):
            dt_s = (stamp_ns - self._stamp_ns) * 1e-9
            models = dynamics(dt_s, self._noise[0], self._modes)
            self._plane = imm_predict(self._plane, models, transition(dt_s, self._modes))
            noise = axis_kalman.white_noise_acceleration(dt_s, self._vertical_psd)
            self._height = axis_kalman.predict(self._height, dt_s, noise)
        self._stamp_ns = stamp_ns

    def _correct(self, now: Sightings, rows: Array, places: Array) -> None:
        """Give known tracks what was seen of them; rows of the sightings belong to places here."""
        self._reported_ns[places] = now.stamp_ns
        self._noise[:, places] = _noise_of(now, rows)
        rows, places = rows[now.seen[rows]], places[now.seen[rows]]
        if not len(rows):
            return
        z, noise = now.positions[rows].T, _isotropic(now.variances[rows])
        self._plane = self._plane.put(places, imm_update(self._plane.take(places), z[:2], noise))
        if len(z) > 2:
            height = self._height.copy()
            height[:, :, places] = axis_kalman.update(height[:, :, places], z[2:], now.variances[rows])
            self._height = height

    def _start(self, now: Sightings, rows: Array) -> None:
        """Begin the tracks that are new, at what their source knows of them."""
        if not len(rows):
            return
        plane = imm_start(_first_states(now, rows), np.array(self._modes.shares) / sum(self._modes.shares))
        heights = now.positions[rows, 2] if now.positions.shape[1] > 2 else np.zeros(len(rows))
        height = axis_kalman.start(heights[None], now.variances[rows], now.speed_variances[rows] / 100.0)
        ids = np.concatenate([self._ids, now.ids[rows]])
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._reported_ns = np.concatenate([self._reported_ns, np.full(len(rows), now.stamp_ns)])[order]
        self._plane = self._plane.append(plane).take(order)
        self._height = np.concatenate([self._height, height], axis=2)[:, :, order]
        self._noise = np.concatenate([self._noise, _noise_of(now, rows)], axis=1)[:, order]


def _first_states(now: Sightings, rows: Array) -> KalmanState:
    """The first states (4, N) of new tracks."""
    mean, covariance = np.zeros((4, len(rows))), np.zeros((4, 4, len(rows)))
    mean[:2] = now.positions[rows, :2].T
    covariance[[0, 1], [0, 1]] = now.variances[rows]
    covariance[[2, 3], [2, 3]] = now.speed_variances[rows]
    if now.velocities is not None and now.covariances is not None:
        d = now.positions.shape[1]
        axes = np.array([0, 1, d, d + 1])
        told = now.covariances[np.ix_(rows, axes, axes)]
        velocities = now.velocities[rows, :2]
        sound = np.isfinite(told).all(axis=(1, 2)) & np.isfinite(velocities).all(axis=1)
        sound[sound] = np.linalg.eigvalsh(told[sound])[:, 0] > 0.0
        mean[2:, sound] = velocities[sound].T
        covariance[:, :, sound] = np.moveaxis(told[sound], 0, -1)
    return KalmanState(mean, covariance)


def _noise_of(now: Sightings, rows: Array) -> Array:
    """Power densities while filtering and ahead, and variances, (3, N)."""
    return np.stack([now.psd[rows], now.psd_ahead[rows], now.variances[rows]])


def _isotropic(variances: Array) -> Array:
    """Noise (2, 2, N) of equal variance in x and y."""
    noise = np.zeros((2, 2, len(variances)))
    noise[[0, 1], [0, 1]] = variances
    return noise
