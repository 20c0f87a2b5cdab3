"""How boxes move in an image: constant velocity of what a `BoxModel` filters, with a memory of what was seen.

The memory serves the observation-centric trackers (Cao et al., OC-SORT, 2023): the last box of each track, the
places where it was seen before, from which its direction follows, and the state at its last detection. When a track is
found again after a gap, the filter's drift in between is undone (`reupdate`): the state goes back to the last detection
and is led along a straight line to the new one, in steps of the usual length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercel.core.messages import Detections2D
from tracking import axis_kalman
from tracking.box_models import BoxModel
from tracking.screening import Observations

Array = NDArray[Any]

_MAX_VIRTUAL_STEPS = 60
# Where the terms of the state (variance 2, covariance 3, variance of the rate 4) of axes x and y stand in (4, 4).
_CENTER_ROWS, _CENTER_COLUMNS = [0, 1, 0, 1, 2, 3, 2, 3], [0, 1, 2, 3, 0, 1, 2, 3]
_CENTER_TERMS, _CENTER_AXES = [2, 2, 3, 3, 3, 3, 4, 4], [0, 1, 0, 1, 0, 1, 0, 1]


class ImageMotion:
    """The states of tracks in an image; a `tracking.tracker.Motion`. Measurements are cx, cy, w, h (4, M) in pixels.

    state (5, 4, T): see `tracking.axis_kalman`. seen_boxes (4, T): the last detection. With memory_steps, `memory`
    (memory_steps + 1, 2, T) holds the centres of the last detections, newest first; a track that was seen less often
    has its first one in the rest.
    shown_gains: how far the box that is reported of a track, in place and in size, goes from the filter's to that of
    the detection; (1, 1) is the detection itself. What makes the best prediction is smoother than the best estimate.
    """

    size_rows = slice(2, 4)

    def __init__(
        self,
        model: BoxModel,
        *,
        memory_steps: int = 0,
        reupdate_period_s: float | None = None,
        shown_gains: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.model = model
        self.state = np.zeros((5, 4, 0))
        self.seen_boxes = np.zeros((4, 0))
        self.memory = np.zeros((memory_steps + 1 if memory_steps else 0, 2, 0))
        self._shown_gains = np.repeat(np.array(shown_gains), 2)[:, None] if any(shown_gains) else None
        self._offsets = np.zeros((4, 0))  # of the box that is reported from the filter's, with shown_gains
        self._reupdate_period_s = reupdate_period_s
        self._seen_states = self.state  # at the last detections, where re-update needs them
        self._unseen_s = np.zeros(0)

    @staticmethod
    def observe(detections: Detections2D) -> Observations:
        """The message as measurements; nothing is checked."""
        corners = detections.boxes_xyxy_px.T.astype(np.float64)
        measurements = np.empty_like(corners)
        with np.errstate(invalid="ignore", over="ignore"):
            np.subtract(corners[2:], corners[:2], out=measurements[2:])
            np.add(corners[2:], corners[:2], out=measurements[:2])
        measurements[:2] *= 0.5
        return Observations(
            detections.stamp_ns, measurements, detections.scores, detections.labels, len(detections.class_names)
        )

    @property
    def boxes(self) -> Array:
        """cx, cy, w, h (4, T) now."""
        return self.model.boxes(self.state[0])

    @property
    def boxes_xyxy_px(self) -> Array:
        """(T, 4) float64."""
        return corners(self.boxes)

    def shown_xyxy_px(self, tracks: Array) -> Array:
        """What is reported of the tracks at these indices, (N, 4) float64."""
        boxes = self.model.boxes(self.state[0].take(tracks, axis=1))
        if self._shown_gains is not None:
            boxes = boxes + self._offsets.take(tracks, axis=1)
        return corners(boxes)

    def center_rates(self, tracks: Array) -> tuple[Array, Array]:
        """Velocities of the centre (N, 2) and covariances (N, 4, 4) of x, y, vx, vy of the tracks at these indices."""
        state = self.state[:, :2].take(tracks, axis=2)
        covariances = np.zeros((state.shape[2], 4, 4))
        covariances[:, _CENTER_ROWS, _CENTER_COLUMNS] = state[_CENTER_TERMS, _CENTER_AXES].T
        return state[1].T, covariances

    def keep(self, tracks: Array) -> None:
        """Keep the tracks at these indices."""
        self.state, self.seen_boxes = self.state.take(tracks, axis=2), self.seen_boxes.take(tracks, axis=1)
        if self._shown_gains is not None:
            self._offsets = self._offsets.take(tracks, axis=1)
        if len(self.memory):
            self.memory = self.memory.take(tracks, axis=2)
        if self._reupdate_period_s:
            self._seen_states = self._seen_states.take(tracks, axis=2)
            self._unseen_s = self._unseen_s.take(tracks)

    def predict(self, dt_s: float) -> None:
        """Move all tracks dt_s forward; a box that would shrink to nothing keeps its size."""
        self.state = axis_kalman.predict(self.state, dt_s, self.model.process_noise(self.state[0], dt_s))
        self.model.stop_shrinking(self.state, dt_s)
        if self._shown_gains is not None:
            self._offsets = np.zeros(self.seen_boxes.shape)
        if self._reupdate_period_s:
            self._unseen_s += dt_s

    def update(self, tracks: Array, seen: Observations) -> None:
        """Correct the tracks at these indices, each by its own detection."""
        measured = self.model.measure(seen.measurements)
        if self._reupdate_period_s:
            self._reupdate(tracks, measured, self._reupdate_period_s)
        predicted = self.state.take(tracks, axis=2)
        # As of the larger box: P / R stays bounded.
        larger = np.maximum(predicted[0], measured)
        variances = self.model.measurement_variances(larger, seen.scores)
        self.state[:, :, tracks] = updated = axis_kalman.update(predicted, measured, variances)
        self.seen_boxes[:, tracks] = seen.measurements
        if self._shown_gains is not None:
            self._offsets[:, tracks] = self._shown_gains * (seen.measurements - self.model.boxes(updated[0]))
        if len(self.memory):
            remembered = self.memory.take(tracks, axis=2)
            remembered[1:] = remembered[:-1]
            remembered[0] = seen.measurements[:2]
            self.memory[:, :, tracks] = remembered
        if self._reupdate_period_s:
            self._seen_states[:, :, tracks], self._unseen_s[tracks] = updated, 0.0

    def start(self, seen: Observations) -> None:
        """Append one track for each detection."""
        model, z = self.model, self.model.measure(seen.measurements)
        new = axis_kalman.start(z, model.position_variances(z), model.velocity_variances(z))
        self.state = np.concatenate([self.state, new], axis=2)
        self.seen_boxes = np.concatenate([self.seen_boxes, seen.measurements], axis=1)
        if self._shown_gains is not None:
            self._offsets = np.concatenate([self._offsets, np.zeros(z.shape)], axis=1)
        if len(self.memory):
            once = np.broadcast_to(seen.measurements[:2], (len(self.memory), 2, z.shape[1]))
            self.memory = np.concatenate([self.memory, once], axis=2)
        if self._reupdate_period_s:
            self._seen_states = np.concatenate([self._seen_states, new], axis=2)
            self._unseen_s = np.concatenate([self._unseen_s, np.zeros(z.shape[1])])

    def warp(self, affine: Array) -> None:
        """Move all tracks, and what is remembered of them, with the image.

        affine (2, 3) maps pixels of the last image to pixels of this one. Centres are mapped, their rates turned and
        scaled; sizes and their rates grow by the mean scale, and variances by its square. Only for models whose
        coordinates are cx, cy, w, h.
        """
        turn, shift = affine[:, :2], affine[:, 2:]
        scale = np.sqrt(abs(np.linalg.det(turn)))
        self.state[0, :2] = turn @ self.state[0, :2] + shift
        self.state[1, :2] = turn @ self.state[1, :2]
        self.state[:2, 2:] *= scale
        self.state[2:] *= scale**2
        self.seen_boxes[:2] = turn @ self.seen_boxes[:2] + shift
        self.seen_boxes[2:] *= scale
        if len(self.memory):
            self.memory = np.einsum("ij,sjt->sit", turn, self.memory) + shift

    def _reupdate(self, tracks: Array, measured: Array, period_s: float) -> None:
        """Lead the tracks that were unseen for longer than a step along the line from their last detection to the new.

        All steps of one track are equally long; the loop is over steps, and each takes in all tracks.
        """
        unseen_s = self._unseen_s[tracks]
        steps = np.minimum(np.round(unseen_s / period_s), _MAX_VIRTUAL_STEPS)
        lost = steps >= 2
        if not lost.any():
            return
        tracks, steps = tracks[lost], steps[lost]
        dt_s = unseen_s[lost] / steps
        state = self._seen_states[:, :, tracks]
        first = self.model.measure(self.seen_boxes[:, tracks])
        stride = (measured[:, lost] - first) / steps
        scores = np.ones(len(tracks))
        for index in range(1, int(steps.max()) + 1):
            going = steps >= index
            now = state[:, :, going]
            noise = self.model.process_noise(now[0], period_s) * (dt_s[going] / period_s)
            now = axis_kalman.predict(now, dt_s[going], noise)
            self.model.stop_shrinking(now, dt_s[going])
            last = steps[going] == index  # the last step is the real detection's, and is left to `update`
            z = first[:, going] + index * stride[:, going]
            moved = axis_kalman.update(now, z, self.model.measurement_variances(z, scores[going]))
            state[:, :, going] = np.where(last, now, moved)
        self.state[:, :, tracks] = state


def corners(boxes: Array, reach: float = 0.0) -> Array:
    """x1 y1 x2 y2 (N, 4) of boxes cx, cy, w, h (4, N), grown on each side by `reach` of their size."""
    edges = np.empty_like(boxes)
    half = boxes[2:] * (0.5 + reach)
    np.subtract(boxes[:2], half, out=edges[:2])
    np.add(boxes[:2], half, out=edges[2:])
    result: Array = edges.T
    return result
