"""A learned correction of the predicted means, tried and left out: ridge regression, trained on simulated streets.

Released weights may only come from simulated worlds, so that is what it learns from: objects of `devices.sensors.
simulated.street` with 0.1 m of noise. Features, in the heading's frame: speed, mode probabilities (also times speed),
where each mode ends relative to the mean, and how the path bends. Targets: the mean's error along and across, by
horizon. It corrects what the simulated walkers and cars do, and nothing that real ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from forecast_data import Boxes
from numpy.typing import NDArray

from devices.sensors.simulated.models import CLASS_NAMES
from devices.sensors.simulated.street import Street
from tracking.evaluation.forecast import Forecast
from tracking.prediction import combine

Array = NDArray[Any]
Correction = Callable[[Array], Array]

NOISE_M = 0.1
RIDGE = 1e-2
SIMULATED = {"Car": ("car", "truck"), "Cyclist": ("car", "truck"), "Biker": ("car", "truck"), "Cart": ("car", "truck")}


def street_boxes(seed: int, wanted: Sequence[str], seconds: int = 60) -> Boxes:
    """The moving and parked objects of some classes along a simulated street, at 10 Hz, as class "simulated"."""
    street, rng = Street(seed), np.random.default_rng(seed)
    numbers = [CLASS_NAMES.index(name) for name in wanted]
    frames, ids, centers = [], [], []
    for frame in range(10 * seconds):
        objects = street.snapshot(frame * 0.1).objects
        kept = np.isin(objects.labels, numbers)
        frames.append(np.full(kept.sum(), frame))
        ids.append(objects.ids[kept])
        centers.append(objects.centers_m[kept, :2] + rng.normal(0.0, NOISE_M, (kept.sum(), 2)))
    rows = np.concatenate(frames)
    return Boxes(
        rows, np.concatenate(ids), np.concatenate(centers), np.ones(len(rows)), np.full(len(rows), "simulated")
    )


def features(given: Forecast) -> tuple[Array, Array]:
    """Features (N, F), and the targets (N, H, 2): the mean's error along and across the heading."""
    mean, _ = combine(given.positions, given.covariances, given.probabilities)
    step = mean[:, 1] - mean[:, 0]
    speed = np.linalg.norm(step, axis=1)
    along = step / np.maximum(speed, 1e-6)[:, None]
    turn = np.stack([along, np.stack([-along[:, 1], along[:, 0]], axis=1)], axis=1)
    ends = np.einsum("nij,nkj->nki", turn, given.positions[:, :, -1] - mean[:, None, -1])
    bend = np.einsum("nij,nj->ni", turn, mean[:, -1] - mean[:, 0] - 4.0 * step)
    columns = [
        np.ones((len(mean), 1)), speed[:, None], given.probabilities, given.probabilities * speed[:, None],
        (ends * given.probabilities[:, :, None]).reshape(len(mean), -1), bend,
    ]  # fmt: skip
    return np.concatenate(columns, axis=1), np.einsum("nij,nhj->nhi", turn, given.truth - mean)


def learn(given: Sequence[Forecast]) -> Correction:
    """Ridge regression of the targets on standardised features."""
    pairs = [features(part) for part in given]
    x, y = (np.concatenate(column) for column in zip(*pairs, strict=True))
    whole = np.isfinite(y).all(axis=(1, 2))
    x, y = x[whole], y[whole]
    center, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    center[0], spread[0] = 0.0, 1.0
    z = (x - center) / spread
    weights = np.linalg.solve(z.T @ z + RIDGE * len(z) * np.eye(z.shape[1]), z.T @ y.reshape(len(y), -1))

    def correct(new: Array) -> Array:
        result: Array = ((new - center) / spread @ weights).reshape(len(new), *y.shape[1:])
        return result

    return correct


def errors(given: Forecast, correct: Correction, share: float) -> Array:
    """Mean error (H,) when this share of the correction is applied."""
    x, y = features(given)
    result: Array = np.nanmean(np.linalg.norm(y - share * correct(x), axis=-1), axis=0)
    return result
