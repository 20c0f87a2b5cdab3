"""Component: the camera detector, which looks again only where and when the scene has changed.

Each image is compared with the last one that was searched (perception.temporal), and then

  skipped    nothing changed, or what changed is explained by motion: the last boxes are given out, moved
  narrowed   new content in a part of the image: only that part is searched (perception.mosaic), with a second, smaller
             network of the same classes, where the graph names one (`regions_model`); the other boxes are moved
  full       the whole image: at the latest every max_interval_ms of capture time, and whenever the camera was moved so
             far, so much is new, or the regions are so many, that less would not do or would not be cheaper

A box that was moved keeps its score while most of it is found again not far from where it was detected, for it then is
right as often as a fresh one; beyond, it scores less in proportion. Where scenes change too fast to be followed,
following is tried ever more rarely (with waits that double), so that it costs next to nothing there. New objects
smaller than what the limits below let through wait for the next full image: max_interval_ms bounds that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception import mosaic as mosaics
from perception import temporal
from perception.average_precision import iou_matrix
from perception.boxes import Boxes
from perception.camera_detector import CameraDetector, CameraDetectorConfig, DetectorModels
from perception.images import bgr_from_image, place
from tercel.core.component import Input, on
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image, Tracks2D

Array = NDArray[Any]
Kind = Literal["full", "narrowed", "skipped"]

_LEAST_VISIBLE = 0.3  # of a moved box, within the image: below that it has left
_SHORTEST_WAIT, _LONGEST_WAIT = 0.25, 4.0  # without an attempt to follow the motion, in max_interval_ms
_FORGET = 0.9
_FLOW_ERROR_PX = 1.0  # small pixels: what it makes of a tile's detail is not new
_SURELY_FOUND, _SURELY_STILL = 0.8, 0.6
"""Share found again, and overlap with where it was: above them a held box is right as often as a fresh one of its score
(on the KITTI drive 62 % for 63 at scores of 0.3-0.5, 94 for 97 at 0.5-0.7), below them less often."""
_TRUSTED = 0.5  # of a box found again by the flow; below it, a track's velocity knows better
_SAME_IOU = 0.5  # between a box and a track of it
_PREDICTION_GAIN = 0.5  # of the newest rate of motion in the expected one


@dataclass(frozen=True)
class TemporalDetectorConfig(CameraDetectorConfig):
    """As the camera detector's, and how much may change before the network looks again."""

    regions_model: str = ""
    """The name of a smaller network of the same classes for parts of images; empty: no image is narrowed."""
    max_interval_ms: float = 700.0
    """A whole image is searched at least so often, by capture times."""
    threshold: float = 4.0
    """A tile has changed when it differs by so many times its noise."""
    max_moved: float = 0.25
    """Boxes may have moved so far since they were detected, or be so far lost from sight, 0..1.

    1 - intersection over union with where they were * share that is still found, mean by score."""
    max_new: float = 0.2
    """Share of what has changed that motion may leave unexplained without another look at all of the image, 0..1."""
    context: float = 0.25
    """Regions grow by this share of their size on each side."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.max_interval_ms < float("inf"):
            raise ValueError(f"max_interval_ms {self.max_interval_ms} must be above 0")
        if not 1.0 <= self.threshold < float("inf"):
            raise ValueError(f"threshold {self.threshold} must be at least 1")
        for name in ("max_moved", "max_new"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} {getattr(self, name)} must be in 0..1")
        if not 0.0 <= self.context <= 4.0:
            raise ValueError(f"context {self.context} must be in 0..4")


class Decision(NamedTuple):
    """What became of an image, why, and what that was decided by: shares of the tiles, and the boxes' motion."""

    kind: Kind
    reason: str
    changed: float = 0.0
    new: float = 0.0
    moved: float = 0.0


class _Reference(NamedTuple):
    """What the last searched image showed. origins_px (N, 4): where each box was when it was detected.

    small: None where the next image will not be compared with it."""

    stamp_ns: int
    full_ns: int
    shape: tuple[int, ...]
    small: temporal.Small | None
    boxes: Boxes
    origins_px: Array


class _Held(NamedTuple):
    """The reference's boxes in the present image, where each of them was detected, and what has to be searched."""

    boxes: Boxes
    origins_px: Array
    mosaic: mosaics.Mosaic | None = None


class TemporalDetector(CameraDetector):
    """`CameraDetector` for less work; `decision` is what became of the latest image, `counters` of all."""

    Config = TemporalDetectorConfig
    live_settings = CameraDetector.live_settings | {"max_interval_ms", "threshold", "max_moved", "max_new", "context"}
    config: TemporalDetectorConfig
    image = Input(Image)

    def __init__(self, config: TemporalDetectorConfig | None = None, models: DetectorModels | None = None) -> None:
        super().__init__(config, models)
        self._regions: CameraDetector | None = None
        if self.config.regions_model:
            self._regions = CameraDetector(self._regions_config(), models)
            if self._regions.spec.class_names != self.spec.class_names:
                raise UserError(
                    f"{self.config.regions_model} knows other classes than {self.config.model}: take one net"
                )
        self.decision: Decision | None = None
        self._counts: Counter[str] = Counter()
        self._reference: _Reference | None = None
        self._noise = temporal.TileNoise()
        self._rate_per_s = 0.0  # of the boxes' motion, as `moved`
        self._try_ns: int | None = None  # when the motion may be followed again, after it could not be
        self._wait = _SHORTEST_WAIT  # until then the next time, in max_interval_ms

    def counters(self) -> dict[str, int]:
        """Images, and how many of them were searched in full, in part and not at all, each with its reason."""
        return {"images": self._counts.total(), **dict(sorted(self._counts.items()))}

    @on(image)
    async def detect(self, image: Image) -> dict[str, Detections2D]:
        """Raises Rejected as `CameraDetector.detect` does; the next image is then searched in full."""
        bgr = bgr_from_image(image)
        waits = self._waits(image.stamp_ns)
        small = None if waits else temporal.shrink(bgr, temporal.small_size(*bgr.shape[:2]))
        decision, held = self._decide(image.stamp_ns, bgr.shape, small)
        before, self._reference = self._reference, None
        if decision.kind == "skipped" and before is not None and held is not None:
            self._reference, boxes = before, held.boxes
        elif before is not None and held is not None and held.mosaic is not None and self._regions is not None:
            boxes, origins = await self._search(self._regions, held.mosaic, bgr, held, image)
            self._reference = _Reference(image.stamp_ns, before.full_ns, bgr.shape, small, boxes, origins)
        else:
            found = (await super().detect(replace(image, pixels=bgr, encoding="bgr8")))["detections"]
            boxes = _boxes(found)
            self._reference = _Reference(
                image.stamp_ns, image.stamp_ns, bgr.shape, small, boxes, boxes.xyxy_px.astype(np.float64)
            )
        self.decision = decision
        self._counts[f"{decision.kind}: {decision.reason}"] += 1
        boxes = boxes.take(boxes.scores >= np.float32(self.config.score_threshold))
        return {"detections": self._message(image, boxes)}

    def _waits(self, stamp_ns: int) -> bool:
        """Whether neither this image nor, at the same pace, the next one will be compared with anything."""
        if self._reference is None or self._try_ns is None:
            return False
        return self._reference.stamp_ns < stamp_ns and 2 * stamp_ns - self._reference.stamp_ns < self._try_ns

    def _decide(
        self, stamp_ns: int, shape: tuple[int, ...], small: temporal.Small | None
    ) -> tuple[Decision, _Held | None]:
        config, reference = self.config, self._reference
        if reference is None:
            return Decision("full", "nothing to compare with"), None
        if reference.shape != shape:
            return Decision("full", "another size"), None
        if stamp_ns <= reference.stamp_ns:
            self._try_ns = None
            return Decision("full", "stamp went back"), None
        if stamp_ns - reference.full_ns >= config.max_interval_ms * 1e6:
            return Decision("full", "interval"), None
        since_s = (stamp_ns - reference.stamp_ns) * 1e-9
        if self._rate_per_s * since_s > config.max_moved:
            self._rate_per_s *= _FORGET  # or one fast moment would forbid to ever look again
            return Decision("full", "motion expected"), None
        if self._try_ns is not None and stamp_ns < self._try_ns:
            return Decision("full", "motion unclear"), None
        before = reference.small
        if small is None or before is None:
            return Decision("full", "nothing to compare with"), None
        noise = temporal.image_noise(small.grey)
        light = temporal.exposure(before.tile_means, small.tile_means)
        changed = self._noise.changed(temporal.differences(before.grey, small.grey, *light), noise, config.threshold)
        if not changed.any():
            self._wait = _SHORTEST_WAIT
            return Decision("skipped", "no change"), _Held(reference.boxes, reference.origins_px)
        flow = temporal.flow_to(before.grey, small.grey)
        left = temporal.differences(temporal.warped(before.grey, flow), small.grey, *light)
        new = changed & (left > config.threshold * noise + _FLOW_ERROR_PX * temporal.detail(small.grey))
        held, moved = self._moved(reference, stamp_ns, flow, new)
        self._rate_per_s += _PREDICTION_GAIN * (moved / since_s - self._rate_per_s)
        return self._judge(reference, stamp_ns, changed, new, held, moved)

    def _judge(
        self, reference: _Reference, stamp_ns: int, changed: Array, new: Array, held: _Held, moved: float
    ) -> tuple[Decision, _Held | None]:
        """The decision by what the motion since the reference explains."""
        config = self.config
        facts = (float(changed.mean()), float(new.mean()), moved)
        if moved > config.max_moved:
            if self.decision is not None and self.decision.kind == "full":  # from one image to the next
                return self._give_up(stamp_ns, "moved", *facts), None
            return Decision("full", "moved", *facts), None
        if facts[1] <= config.max_new * facts[0]:
            decision = Decision("skipped", "motion followed", *facts)
        elif (packed := self._packed(new, held.boxes, reference.shape)) is not None:
            decision, held = Decision("narrowed", "new in part", *facts), held._replace(mosaic=packed)
        else:
            return self._give_up(stamp_ns, "much is new", *facts), None
        self._wait = _SHORTEST_WAIT
        return decision, held

    def _give_up(self, stamp_ns: int, reason: str, *facts: float) -> Decision:
        """A whole image, and a wait that doubles until the motion is followed again."""
        self._try_ns = stamp_ns + round(self._wait * self.config.max_interval_ms * 1e6)
        self._wait = min(2.0 * self._wait, _LONGEST_WAIT)
        return Decision("full", reason, *facts)

    def _moved(self, reference: _Reference, stamp_ns: int, flow: Array, new: Array) -> tuple[_Held, float]:
        """The reference's boxes now, without those that left the image, and how much they moved or were lost, 0..1."""
        height, width = reference.shape[:2]
        scale_xy = flow.shape[1] / width, flow.shape[0] / height
        boxes, origins = reference.boxes, reference.origins_px
        now, found = temporal.move_boxes(boxes.xyxy_px, flow, new, scale_xy)
        now = self._by_tracks(boxes, now, found, reference.stamp_ns, stamp_ns)
        still = temporal.overlap_with(now, origins)
        clipped = np.clip(now, 0.0, np.array([width, height, width, height]))
        area, visible = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (now, clipped))
        trust = np.minimum(found / _SURELY_FOUND, 1.0) * np.minimum(still / _SURELY_STILL, 1.0)
        scores = (boxes.scores * trust).astype(np.float32)
        weight = float(boxes.scores.sum())
        moved = float(((1.0 - still * found) * boxes.scores).sum() / weight) if weight else 0.0
        stays = np.flatnonzero(visible > _LEAST_VISIBLE * area)
        held = boxes._replace(xyxy_px=clipped.astype(np.float32), scores=scores).take(stays)
        return _Held(held, origins[stays]), moved

    def _by_tracks(self, boxes: Boxes, now: Array, found: Array, before_ns: int, now_ns: int) -> Array:
        """Boxes (N, 4) now, by the velocity of their track where the flow lost them; here there are no tracks."""
        del boxes, found, before_ns, now_ns
        return now

    def _hints(self) -> Array:
        """Boxes (N, 4) where something is expected; here none."""
        return np.zeros((0, 4))

    def _packed(self, new: Array, boxes: Boxes, shape: tuple[int, ...]) -> mosaics.Mosaic | None:
        """The regions around what is new, as far as they fit the smaller network at the scale of whole images."""
        if self._regions is None or not new.any():
            return None
        image_wh = shape[1], shape[0]
        whole, part = self.spec, self._regions.spec
        scale_xy = place(shape[0], shape[1], whole.input_height_px, whole.input_width_px, whole.fit).scale_xy
        known = np.concatenate([boxes.xyxy_px.astype(np.float64), self._hints()])
        rects = mosaics.regions(new, known, image_wh, self.config.context)
        return mosaics.pack(rects, (part.input_width_px, part.input_height_px), scale_xy)

    async def _search(
        self, regions: CameraDetector, mosaic: mosaics.Mosaic, bgr: Array, held: _Held, image: Image
    ) -> tuple[Boxes, Array]:
        """The held boxes and those found in the mosaic, and where each of them was detected."""
        part, regions.config = regions.spec, self._regions_config()
        pixels = mosaics.paint(bgr, mosaic, (part.input_width_px, part.input_height_px), part.pad_value)
        found = (await regions.detect(replace(image, pixels=pixels, encoding="bgr8")))["detections"]
        fresh, cut = mosaics.boxes_to_image(_boxes(found), mosaic, (bgr.shape[1], bgr.shape[0]))
        kept, whole = mosaics.held_beside(held.boxes, fresh, cut, mosaic.rects_px, self.config.nms_iou)
        parts = held.boxes.take(kept), fresh.take(whole)
        boxes = Boxes(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))
        origins = np.concatenate([held.origins_px[kept], parts[1].xyxy_px])
        order = np.argsort(-boxes.scores, kind="stable")
        return boxes.take(order), origins[order]

    def _regions_config(self) -> CameraDetectorConfig:
        """Of the detector for regions: the same as for whole images, live settings too, but for the network."""
        same = {field.name: getattr(self.config, field.name) for field in fields(CameraDetectorConfig)}
        return CameraDetectorConfig(**{**same, "model": self.config.regions_model})


class TemporalDetectorByTracks(TemporalDetector):
    """With the tracker's output fed back: tracks move the boxes that the images lost, and say where to look again."""

    image = Input(Image)
    tracks = Input(Tracks2D)

    def __init__(self, config: TemporalDetectorConfig | None = None, models: DetectorModels | None = None) -> None:
        super().__init__(config, models)
        self._tracks: Tracks2D | None = None

    @on(tracks)
    def learn_tracks(self, tracks: Tracks2D) -> dict[str, Detections2D]:
        """The newest tracks; those whose numbers are not finite are left out. Raises Rejected for other classes."""
        if tracks.class_names != self.spec.class_names:
            raise Rejected("tracks are of other classes than the detector's")
        finite = np.isfinite(tracks.boxes_xyxy_px).all(axis=1) & np.isfinite(tracks.velocities_px_per_s).all(axis=1)
        self._tracks = _take(tracks, np.flatnonzero(finite))
        return {}

    @on(image)
    async def detect(self, image: Image) -> dict[str, Detections2D]:
        """As `TemporalDetector.detect`."""
        return await super().detect(image)

    def _by_tracks(self, boxes: Boxes, now: Array, found: Array, before_ns: int, now_ns: int) -> Array:
        tracks = self._tracks
        lost = np.flatnonzero(found < _TRUSTED)
        if tracks is None or not len(lost) or not len(tracks.ids):
            return now
        then = tracks.boxes_xyxy_px + np.tile(tracks.velocities_px_per_s, 2) * ((before_ns - tracks.stamp_ns) * 1e-9)
        overlaps = iou_matrix(boxes.xyxy_px[lost], then) * (boxes.labels[lost, None] == tracks.labels[None, :])
        own, sure = overlaps.argmax(axis=1), overlaps.max(axis=1) >= _SAME_IOU
        step = np.tile(tracks.velocities_px_per_s[own], 2) * ((now_ns - before_ns) * 1e-9)
        moved: Array = now.copy()
        moved[lost[sure]] = (boxes.xyxy_px[lost] + step)[sure]
        return moved

    def _hints(self) -> Array:
        if self._tracks is None:
            return super()._hints()
        hints: Array = self._tracks.boxes_xyxy_px.astype(np.float64)
        return hints


def _boxes(found: Detections2D) -> Boxes:
    return Boxes(found.boxes_xyxy_px, found.scores, found.labels)


def _take(tracks: Tracks2D, rows: Array) -> Tracks2D:
    """The tracks at these rows, with what is used of them here."""
    return Tracks2D(
        stamp_ns=tracks.stamp_ns,
        frame_id=tracks.frame_id,
        boxes_xyxy_px=tracks.boxes_xyxy_px[rows],
        scores=tracks.scores[rows],
        labels=tracks.labels[rows],
        class_names=tracks.class_names,
        ids=tracks.ids[rows],
        velocities_px_per_s=tracks.velocities_px_per_s[rows],
        ages_s=tracks.ages_s[rows],
    )
