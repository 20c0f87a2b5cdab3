"""Temporal savings: what counts as a change, where boxes go, and what becomes of an image, on pictures made here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception import mosaic as mosaics
from perception import temporal
from perception.average_precision import average_precision
from perception.boxes import Boxes
from perception.camera_detector import CameraDetector, CameraDetectorConfig
from perception.coco import COCO_CLASSES
from perception.model_spec import ModelSpec
from perception.runtime import LocalModels, load_network
from perception.temporal_detector import (
    TemporalDetector,
    TemporalDetectorByTracks,
    TemporalDetectorConfig,
)
from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image, Tracks2D
from tercel.hosts.graph import load_graph

GRAPHS = Path(__file__).resolve().parents[2] / "launch" / "graphs"
HEIGHT, WIDTH = 240, 320
CLASSES = ("red", "green")
FRAME_NS = 100_000_000
COLOURS = {"red": (40, 40, 230), "green": (40, 230, 40)}


def scenery(seed: int = 3) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: grey clouds with detail at several sizes, dim enough for the coloured blocks."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.uniform(-1, 1, (6 * k, 8 * k)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        for k in (1, 3, 8)
    ]
    grey = np.clip(110 + 30 * sum(layers), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def with_blocks(background: np.ndarray, *blocks: tuple[str, int, int, int, int]) -> np.ndarray:
    """Coloured blocks with a pattern of their own: (colour, x, y, width, height)."""
    picture = background.copy()
    for colour, x, y, w, h in blocks:
        pattern = np.random.default_rng(w).uniform(0.7, 1.0, (-(-h // 8), -(-w // 8)))
        shade = np.kron(pattern, np.ones((8, 8)))[:h, :w, None] * np.array(COLOURS[colour])
        part = picture[y : y + h, x : x + w]
        part[:] = shade[: part.shape[0], : part.shape[1]]
    return picture


class ColourModels:
    """Finds coloured blocks in the tensor itself, so that what it is not shown, it cannot find. Counts its pixels."""

    sizes: ClassVar = {"detector": (HEIGHT, WIDTH), "regions": (96, 128)}

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken: Callable[[], bool] = lambda: False

    def spec(self, model: str) -> ModelSpec:
        if model not in self.sizes:
            raise UserError(f"no model is named {model!r}")
        return ModelSpec("end_to_end", *self.sizes[model], "letterbox_top_left", CLASSES)

    async def infer(self, model: str, tensor: np.ndarray, *, deadline_ns: int | None = None) -> list[np.ndarray]:
        del deadline_ns
        self.asked.append(model)
        b, g, r = tensor[0]
        rows = []
        for label, mask in enumerate(((r > g + 90) & (r > b + 90), (g > r + 90) & (g > b + 90))):
            _, _, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))))
            for x, y, w, h, area in stats[1:]:
                if area > 60:
                    rows.append((x + 2, y + 2, x + w - 2, y + h - 2, 0.9, label))
        answer = np.array(rows, np.float32).reshape(1, -1, 6)
        return [answer * np.float32(np.nan) if self.broken() else answer]


def image(pixels: np.ndarray, stamp_ns: int) -> Image:
    return Image(stamp_ns=stamp_ns, frame_id="front", pixels=pixels, encoding="bgr8")


def watch(detector: CameraDetector, pictures: list[np.ndarray], period_ns: int = FRAME_NS) -> list[Detections2D]:
    """What it says of pictures a period apart."""

    async def run() -> list[Detections2D]:
        stamped = [image(picture, (index + 1) * period_ns) for index, picture in enumerate(pictures)]
        return [(await detector.detect(message))["detections"] for message in stamped]

    return asyncio.run(run())


def detector(models: ColourModels | None = None, **config: Any) -> TemporalDetector:
    return TemporalDetector(TemporalDetectorConfig(**config), models or ColourModels())


def kinds(found: TemporalDetector) -> dict[str, int]:
    """How many images were searched in full, in part and not at all."""
    counts = found.counters()
    return {k: sum(n for name, n in counts.items() if name.startswith(k)) for k in ("full", "narrowed", "skipped")}


def noisy(picture: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0.0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def panned(picture: np.ndarray, dx: float, dy: float, zoom: float = 1.0) -> np.ndarray:
    """What is at (x, y) is at zoom * (x, y) + (dx, dy) afterwards."""
    affine = np.array([[zoom, 0, dx], [0, zoom, dy]])
    return cv2.warpAffine(picture, affine, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)


STREET = with_blocks(scenery(), ("red", 60, 80, 40, 60), ("green", 200, 120, 60, 50))


# --- what counts as a change ---------------------------------------------------------------------------------------


def test_a_still_scene_is_searched_once_and_the_same_boxes_come_out() -> None:
    models = ColourModels()
    found = watch(detector(models), [STREET] * 5)
    assert models.asked == ["detector"]
    for message in found:
        np.testing.assert_array_equal(message.boxes_xyxy_px, found[0].boxes_xyxy_px)
        np.testing.assert_array_equal(message.scores, found[0].scores)
    assert [message.stamp_ns for message in found] == [FRAME_NS * (i + 1) for i in range(5)]
    assert sorted(found[0].labels.tolist()) == [0, 1]


@pytest.mark.parametrize("sigma", [1.0, 4.0, 10.0])
def test_a_sensors_noise_is_no_change_however_strong(sigma: float) -> None:
    watcher = detector(max_interval_ms=60_000.0)
    watch(watcher, [noisy(STREET, sigma, seed) for seed in range(25)])
    assert watcher.counters()["skipped: no change"] >= 23


def test_noise_that_grows_within_the_stream_is_no_change_either() -> None:
    watcher = detector(max_interval_ms=60_000.0)
    watch(watcher, [noisy(STREET, 1.0 if seed < 10 else 8.0, seed) for seed in range(30)])
    assert kinds(watcher)["full"] <= 2


@pytest.mark.parametrize(("gain", "offset"), [(1.25, 0.0), (0.7, 0.0), (1.0, 18.0), (0.8, 25.0)])
def test_another_exposure_is_no_change(gain: float, offset: float) -> None:
    watcher = detector(max_interval_ms=60_000.0)
    dim = (STREET * 0.8).astype(np.uint8)  # nothing saturates
    other = np.clip(dim * gain + offset, 0, 255).astype(np.uint8)
    watch(watcher, [dim, other, dim])
    assert watcher.counters()["skipped: no change"] == 2


@given(gain=st.floats(0.5, 2.0), offset=st.floats(-20, 20), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_exposure_is_found_though_a_third_of_the_tiles_changed(gain: float, offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.uniform(20, 120, (12, 20))
    now = gain * before + offset
    changed = rng.random(before.shape) < 0.33
    now[changed] = rng.uniform(0, 255, changed.sum())
    found_gain, found_offset = temporal.exposure(before, now)
    same = ~changed
    assert np.median(np.abs(found_gain * before + found_offset - now)[same]) < 4.0  # unfitted: 30 to 100


@pytest.mark.parametrize("sigma", [2.0, 4.0, 7.0])
def test_the_noise_of_one_image_is_that_between_two(sigma: float) -> None:
    grey = np.full((80, 120), 120.0)
    rng = np.random.default_rng(1)
    first, second = (np.clip(grey + rng.normal(0, sigma, grey.shape), 0, 255).astype(np.uint8) for _ in range(2))
    between = np.abs(first.astype(float) - second).mean()
    assert temporal.image_noise(first) == pytest.approx(between, rel=0.25)


def test_tile_differences_are_the_means_of_the_tiles() -> None:
    rng = np.random.default_rng(2)
    first, second = (rng.integers(0, 256, (24, 40), dtype=np.uint8) for _ in range(2))
    tiles = np.abs(first.astype(float) - second).reshape(3, 8, 5, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(temporal.differences(first, second), tiles, atol=1e-3)


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_the_small_image_is_whole_tiles_and_bounded(height: int, width: int) -> None:
    small_width, small_height = temporal.small_size(height, width)
    assert small_width % temporal.TILE_PX == small_height % temporal.TILE_PX == 0
    assert 0 < small_width * small_height <= 3 * temporal.SMALL_AREA_PX


# --- new, gone and moving objects ----------------------------------------------------------------------------------


def test_a_new_object_in_a_still_scene_is_found_at_once() -> None:
    models = ColourModels()
    watcher = detector(models)
    found = watch(watcher, [STREET, STREET, with_blocks(STREET, ("red", 140, 20, 24, 32)), STREET])
    assert [len(message.labels) for message in found] == [2, 2, 3, 2]
    assert models.asked == ["detector"] * 3


def test_with_a_network_for_regions_only_the_new_object_is_looked_at() -> None:
    models = ColourModels()
    watcher = detector(models, regions_model="regions")
    found = watch(watcher, [STREET, with_blocks(STREET, ("red", 140, 20, 24, 32)), STREET])
    assert models.asked == ["detector", "regions", "regions"]
    assert [len(message.labels) for message in found] == [2, 3, 2]
    new = found[1].boxes_xyxy_px[np.abs(found[1].boxes_xyxy_px[:, 0] - 140) < 8]
    np.testing.assert_allclose(new, [[140, 20, 164, 52]], atol=3)
    old = CameraDetector(CameraDetectorConfig(), ColourModels())
    whole = watch(old, [STREET])[0]
    for box in whole.boxes_xyxy_px:  # the others are held as they were
        assert np.abs(found[1].boxes_xyxy_px - box).max(axis=1).min() == 0


def test_a_moving_object_is_followed_without_the_network() -> None:
    places = [60 + 3 * step for step in range(5)]
    pictures = [with_blocks(scenery(), ("red", x, 80, 40, 60)) for x in places]
    models = ColourModels()
    watcher = detector(models, max_moved=0.6, max_new=0.8)
    found = watch(watcher, pictures)
    assert models.asked == ["detector"]
    for x, message in zip(places, found, strict=True):
        np.testing.assert_allclose(message.boxes_xyxy_px, [[x, 80, x + 40, 140]], atol=5)
    scores = np.concatenate([message.scores for message in found])
    assert (np.diff(scores) <= 0).all()
    assert scores[-1] < scores[0]  # by then it overlaps the place where it was detected by less than it may


def test_a_panning_camera_moves_all_boxes_with_it() -> None:
    models = ColourModels()
    watcher = detector(models, max_moved=0.6)
    found = watch(watcher, [panned(STREET, 3 * step, -2 * step) for step in range(4)])
    assert models.asked == ["detector"]
    for step, message in enumerate(found):
        expected = found[0].boxes_xyxy_px + np.tile([3 * step, -2 * step], 2)
        np.testing.assert_allclose(message.boxes_xyxy_px, expected, atol=2.5)


def test_boxes_grow_as_the_camera_comes_nearer() -> None:
    picture, zoom = STREET, 1.08
    size = temporal.small_size(HEIGHT, WIDTH)
    before, now = (temporal.shrink(p, size) for p in (picture, panned(picture, 0, 0, zoom)))
    flow = temporal.flow_to(before.grey, now.grey)
    none_new = np.zeros(before.tile_means.shape, bool)
    box = np.array([[60.0, 60.0, 180.0, 160.0]])
    moved = temporal.move_boxes(box, flow, none_new, (size[0] / WIDTH, size[1] / HEIGHT))
    np.testing.assert_allclose(moved.xyxy_px, box * zoom, atol=4)
    np.testing.assert_array_equal(moved.found, [1.0])


def test_boxes_that_moved_too_far_are_looked_at_again() -> None:
    models = ColourModels()
    watcher = detector(models, max_moved=0.1)
    watch(watcher, [panned(STREET, 5 * step, 0) for step in range(6)])
    assert kinds(watcher)["full"] >= 3
    assert {"full: moved", "full: motion expected"} & set(watcher.counters())


def test_a_box_that_leaves_the_image_is_dropped() -> None:
    start = with_blocks(scenery(), ("red", 4, 80, 40, 60), ("green", 200, 120, 60, 50))
    watcher = detector(max_moved=1.0, max_new=1.0, max_interval_ms=60_000.0)
    found = watch(watcher, [panned(start, -6 * step, 0) for step in range(9)])
    assert kinds(watcher)["skipped"] >= 5
    assert (0 in found[0].labels, 0 in found[-1].labels) == (True, False)
    for message in found:
        assert (message.boxes_xyxy_px >= 0).all()


# --- how often, whatever comes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("period_ns", [10_000_000, 33_333_333, 200_000_000])
def test_a_frozen_camera_is_searched_in_full_at_the_interval_by_stamps(period_ns: int) -> None:
    watcher = detector(max_interval_ms=400.0)
    stamps = []
    for index in range(60):
        asyncio.run(watcher.detect(image(STREET, index * period_ns)))
        assert watcher.decision is not None
        if watcher.decision.kind == "full":
            stamps.append(index * period_ns)
    gaps = np.diff(stamps)
    assert (gaps >= 400_000_000).all()
    assert (gaps < 400_000_000 + period_ns).all()


def test_where_everything_changes_it_is_hardly_ever_tried_to_follow() -> None:
    watcher = detector(max_interval_ms=500.0)
    pictures = [scenery(seed) for seed in range(60)]
    watch(watcher, pictures, period_ns=33_000_000)
    counts = watcher.counters()
    assert kinds(watcher) == {"full": 60, "narrowed": 0, "skipped": 0}
    assert counts["full: much is new"] <= 6
    assert counts["full: motion unclear"] >= 45


def test_after_a_time_of_change_a_still_scene_is_skipped_again() -> None:
    watcher = detector(max_interval_ms=500.0)
    pictures = [scenery(seed) for seed in range(30)] + [STREET] * 80
    watch(watcher, pictures, period_ns=33_000_000)
    assert kinds(watcher)["skipped"] >= 30


def test_another_size_and_a_stamp_that_went_back_are_searched_in_full() -> None:
    watcher = detector()
    half = cv2.resize(STREET, (WIDTH // 2, HEIGHT // 2))
    for pixels, stamp_ns, reason in (
        (STREET, 10 * FRAME_NS, "nothing to compare with"),
        (half, 11 * FRAME_NS, "another size"),
        (half, 3 * FRAME_NS, "stamp went back"),
        (half, 4 * FRAME_NS, "no change"),
    ):
        found = asyncio.run(watcher.detect(image(pixels, stamp_ns)))["detections"]
        assert watcher.decision is not None
        assert watcher.decision.reason == reason
        assert found.boxes_xyxy_px[:, 2].max() <= pixels.shape[1]


def test_a_broken_answer_is_rejected_and_the_next_image_searched_in_full() -> None:
    models = ColourModels()
    broken = iter([False, True, False, False])
    models.broken = lambda: next(broken)
    watcher = detector(models, max_interval_ms=150.0)
    asyncio.run(watcher.detect(image(STREET, 0)))
    with pytest.raises(Rejected, match="not finite"):
        asyncio.run(watcher.detect(image(STREET, 2 * FRAME_NS)))
    found = asyncio.run(watcher.detect(image(STREET, 2 * FRAME_NS + 1)))["detections"]
    assert len(found.labels) == 2
    assert watcher.counters() == {
        "images": 2,
        "full: nothing to compare with": 2,
    }


def test_an_unusable_image_is_rejected_and_changes_nothing() -> None:
    watcher = detector()
    asyncio.run(watcher.detect(image(STREET, 0)))
    bad = Image(stamp_ns=1, frame_id="front", pixels=np.zeros((0, 0, 3), np.uint8), encoding="bgr8")
    with pytest.raises(Rejected, match="image is empty"):
        asyncio.run(watcher.detect(bad))
    found = asyncio.run(watcher.detect(image(STREET, FRAME_NS)))["detections"]
    assert watcher.counters()["skipped: no change"] == 1
    assert len(found.labels) == 2


def test_a_black_image_has_no_boxes_and_light_brings_them_back() -> None:
    watcher = detector()
    black = np.zeros_like(STREET)
    found = watch(watcher, [STREET, black, black, STREET])
    assert [len(message.labels) for message in found] == [2, 0, 0, 2]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 9)])
def test_images_of_any_size_survive(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for _ in range(3)]
    watcher = detector(max_new=1.0, max_moved=1.0)
    found = watch(watcher, [*pictures, pictures[-1]])
    assert watcher.counters()["images"] == len(found) == 4


@given(seed=st.integers(0, 1000), regions=st.booleans())
@settings(max_examples=15, deadline=None)
def test_whatever_comes_boxes_lie_in_the_image_and_every_image_is_counted(seed: int, regions: bool) -> None:
    rng = np.random.default_rng(seed)
    picture, pictures = STREET, []
    for _ in range(8):
        x, y, w, h = (int(v) for v in rng.integers(10, 100, 4))
        change = int(rng.integers(4))
        if change == 0:
            picture = panned(picture, *rng.uniform(-12, 12, 2))
        elif change == 1:
            picture = with_blocks(picture, (rng.choice(["red", "green"]), x, y, w, h))
        elif change == 2:
            picture = noisy(picture, 5.0, seed)
        pictures.append(picture)
    watcher = detector(regions_model="regions" if regions else "", max_new=float(rng.random()))
    for message in watch(watcher, pictures):
        x1, y1, x2, y2 = message.boxes_xyxy_px.T
        assert ((x1 >= 0) & (y1 >= 0) & (x2 <= WIDTH) & (y2 <= HEIGHT) & (x2 > x1) & (y2 > y1)).all()
        assert ((message.scores >= 0.3) & (message.scores <= 0.9001)).all()
    counts = watcher.counters()
    assert counts["images"] == len(pictures) == sum(kinds(watcher).values())


def test_the_same_images_give_the_same_bytes() -> None:
    pictures = [noisy(panned(STREET, 3 * step, 0), 3.0, step) for step in range(8)]
    first, second = (watch(detector(regions_model="regions"), pictures) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.boxes_xyxy_px.tobytes() == other.boxes_xyxy_px.tobytes()
        assert one.scores.tobytes() == other.scores.tobytes()


# --- the mosaic ----------------------------------------------------------------------------------------------------

RECTS = st.lists(
    st.tuples(st.integers(0, 250), st.integers(0, 170), st.integers(8, 70), st.integers(8, 70)), min_size=1, max_size=8
)


@given(rects=RECTS)
@settings(max_examples=60, deadline=None)
def test_packed_regions_keep_apart_and_boxes_come_back_from_them(rects: list[tuple[int, int, int, int]]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rects])
    mosaic = mosaics.pack(boxes, (200, 160), (0.5, 0.5))
    if mosaic is None:
        assert (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum() * 0.25 > 1000  # only for want of room
        return
    owner = np.zeros((160, 200), int)
    for u1, v1, u2, v2 in mosaic.cells_px:
        assert owner[v1:v2, u1:u2].shape == (v2 - v1, u2 - u1)
        assert not owner[v1:v2, u1:u2].any()
        owner[v1:v2, u1:u2] = 1
    scale = (mosaic.cells_px[:, 2:] - mosaic.cells_px[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    assert scale.min() > 0.4
    inner = mosaic.cells_px + np.array([2, 2, -2, -2])  # touches no edge
    inner = inner[(inner[:, 2:] > inner[:, :2]).all(axis=1)]
    found = Boxes(inner.astype(np.float32), np.ones(len(inner), np.float32), np.zeros(len(inner), np.int32))
    back, cut = mosaics.boxes_to_image(found, mosaic, (320, 240))
    assert not cut.any()
    rows = (mosaic.cells_px[:, 2:] - mosaic.cells_px[:, :2] > 4).all(axis=1)
    margin = 2 / scale[rows]
    expected = boxes[rows] + np.concatenate([margin, -margin], axis=1)
    np.testing.assert_allclose(back.xyxy_px, expected, atol=1e-2)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_regions_hold_all_changed_tiles_and_do_not_overlap(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    seeds = np.zeros((10, 16), bool)
    seeds[rng.integers(0, 10, count), rng.integers(0, 16, count)] = True
    rects = mosaics.regions(seeds, rng.uniform(0, 200, (0, 4)), (320, 240), 0.25)
    covered = np.zeros((240, 320), int)
    for x1, y1, x2, y2 in rects:
        covered[y1:y2, x1:x2] += 1
    assert covered.max() == 1
    assert covered[np.kron(seeds, np.ones((24, 20))).astype(bool)].all()


def test_a_region_takes_in_the_whole_of_an_object_that_it_holds_a_part_of() -> None:
    seeds = np.zeros((10, 16), bool)
    seeds[4, 5:7] = True  # 100..140 x 96..120
    boxes = np.array([[110.0, 90.0, 160.0, 140.0], [10.0, 90.0, 300.0, 200.0]])  # a third of the first
    (rect,) = mosaics.regions(seeds, boxes, (320, 240), 0.0)
    assert rect.tolist() == [100, 90, 160, 140]


def test_a_cut_box_does_not_replace_the_whole_one_that_it_is_a_part_of() -> None:
    held = Boxes(np.array([[0, 0, 100, 60], [110, 10, 130, 30]], np.float32), np.ones(2, np.float32), np.zeros(2, int))
    fresh = Boxes(
        np.array([[60, 5, 100, 50], [112, 10, 131, 30]], np.float32), np.ones(2, np.float32), np.zeros(2, int)
    )
    rects = np.array([[60, 0, 140, 60]])
    kept, whole = mosaics.held_beside(held, fresh, np.array([True, False]), rects, 0.5)
    assert (kept.tolist(), whole.tolist()) == ([True, False], [False, True])


# --- hints, settings, graphs ---------------------------------------------------------------------------------------


def tracks_of(box: list[float], velocity: list[float], stamp_ns: int, names: tuple[str, ...] = CLASSES) -> Tracks2D:
    return Tracks2D(
        stamp_ns=stamp_ns,
        frame_id="front",
        boxes_xyxy_px=np.array([box, [np.nan] * 4]),
        scores=np.ones(2),
        labels=np.zeros(2),
        class_names=names,
        ids=np.arange(2),
        velocities_px_per_s=np.array([velocity, velocity]),
        ages_s=np.ones(2),
    )


def test_a_box_that_the_images_lost_goes_on_with_its_track() -> None:
    start = with_blocks(scenery(), ("red", 100, 80, 40, 60))
    hidden = panned(start, 5, 0)
    hidden[105:145, 95:165] = np.random.default_rng(0).integers(0, 255, (40, 70, 1), dtype=np.uint8)
    config = TemporalDetectorConfig(score_threshold=0.001, max_new=1.0, max_moved=1.0)
    for velocity in (120.0, -90.0):
        watcher = TemporalDetectorByTracks(config, ColourModels())
        first = asyncio.run(watcher.detect(image(start, FRAME_NS)))["detections"]
        watcher.learn_tracks(tracks_of(first.boxes_xyxy_px[0].tolist(), [velocity, 0.0], FRAME_NS))
        now = asyncio.run(watcher.detect(image(hidden, 2 * FRAME_NS)))["detections"]
        np.testing.assert_allclose(now.boxes_xyxy_px[0] - first.boxes_xyxy_px[0], [velocity / 10, 0] * 2, atol=1e-2)
        assert now.scores[0] < 0.7 * first.scores[0]


def test_tracks_of_other_classes_are_rejected() -> None:
    watcher = TemporalDetectorByTracks(TemporalDetectorConfig(), ColourModels())
    with pytest.raises(Rejected, match="other classes"):
        watcher.learn_tracks(tracks_of([0.0, 0.0, 9.0, 9.0], [0.0, 0.0], 0, ("x", "y")))


@pytest.mark.parametrize(
    "values",
    [
        {"max_interval_ms": 0.0},
        {"max_interval_ms": float("nan")},
        {"threshold": 0.5},
        {"max_moved": -0.1},
        {"max_new": 1.5},
        {"context": float("inf")},
        {"score_threshold": 2.0},
    ],
)
def test_a_config_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"detector: {next(iter(values))}"):
        config_from_mapping(TemporalDetectorConfig, values, where="detector")


def test_a_network_for_regions_that_is_missing_or_knows_other_classes_is_a_users_error() -> None:
    with pytest.raises(UserError, match="no model is named 'small'"):
        detector(regions_model="small")
    models = ColourModels()
    spec = models.spec
    models.spec = lambda name: (  # type: ignore[method-assign]
        spec(name) if name == "detector" else ModelSpec("end_to_end", 96, 128, "letterbox_top_left", ("a", "b"))
    )
    with pytest.raises(UserError, match="other classes"):
        detector(models, regions_model="regions")


def test_one_line_of_a_graph_switches_it_on(tmp_path: Path) -> None:
    text = (GRAPHS / "camera.yaml").read_text()
    line = "component: perception.camera_detector.CameraDetector"
    assert text.count(line) == 1
    text = text[: text.index("models:")]
    (tmp_path / "camera.yaml").write_text(
        text.replace(line, "component: perception.temporal_detector.TemporalDetector")
    )
    nodes = load_graph(tmp_path / "camera.yaml").nodes
    assert [node.component for node in nodes if node.name == "detector"] == [TemporalDetector]
    nodes = load_graph(GRAPHS / "camera_temporal.yaml").nodes
    assert [node.component for node in nodes if node.name == "detector"] == [TemporalDetectorByTracks]


def test_on_a_real_drive_most_images_are_skipped_and_the_boxes_agree(shared_data: Path) -> None:
    network = load_network(shared_data / "models" / "yolox_nano_416.onnx")
    paths = sorted((shared_data / "kitti_drive0052_camlidar" / "image_02").glob("*.jpg"))[-13:]
    pictures = [np.asarray(cv2.imread(str(path))) for path in paths]
    models = LocalModels({"detector": network})
    watcher = TemporalDetector(models=models)
    found = watch(watcher, pictures, period_ns=200_000_000)
    full = watch(CameraDetector(models=models), pictures, period_ns=200_000_000)
    assert kinds(watcher)["skipped"] >= 7
    agreement = average_precision(found, full, iou_thresholds=(0.5,))
    car = COCO_CLASSES.index("car")
    assert agreement.truth_counts[car] > 30
    assert float(agreement.at(0.5)[car]) > 0.8
