from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from tracking import boxes3d

Array = np.ndarray[Any, Any]
PAIRED = (boxes3d.paired_bev_iou, boxes3d.paired_iou_3d, boxes3d.paired_giou_3d)
PAIRWISE = (boxes3d.pairwise_bev_iou, boxes3d.pairwise_iou_3d, boxes3d.pairwise_giou_3d)


def some_boxes(count: int, seed: int, spread_m: float = 2.0) -> Array:
    """Boxes (7, N) near the origin, so that many overlap."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0.0, [[spread_m], [spread_m], [0.5]], (3, count))
    sizes = rng.uniform([[0.3], [0.3], [0.5]], [[5.0], [3.0], [2.0]], (3, count))
    return np.concatenate([centers, sizes, rng.uniform(-7.0, 7.0, (1, count))])


def box(**changed: float) -> Array:
    """One box (7, 1): 4 x 2 x 1.5 m at the origin, but for what is given."""
    values = {"x": 0.0, "y": 0.0, "z": 0.0, "length": 4.0, "width": 2.0, "height": 1.5, "yaw": 0.0, **changed}
    return np.array([[values[name]] for name in boxes3d.BOX_ROWS])


def moved(boxes: Array, x: float, y: float, z: float, turn: float) -> Array:
    """The boxes after a turn about the origin and a shift."""
    result = boxes.copy()
    cosine, sine = np.cos(turn), np.sin(turn)
    result[0] = cosine * boxes[0] - sine * boxes[1] + x
    result[1] = sine * boxes[0] + cosine * boxes[1] + y
    result[2] += z
    result[6] += turn
    return result


def quarter_turned(boxes: Array, quarters: int) -> Array:
    """The same boxes, written with length and width swapped where the turn is odd."""
    result = boxes.copy()
    result[6] += quarters * np.pi / 2.0
    if quarters % 2:
        result[3], result[4] = boxes[4], boxes[3]
    return result


def inside(boxes: Array, points: Array) -> Array:
    """Whether each of the points (3, P) lies in each of the boxes (7, N), (N, P)."""
    dx, dy, dz = (points[:, None, :] - boxes[:3, :, None]).astype(float)
    cosine, sine = np.cos(boxes[6])[:, None], np.sin(boxes[6])[:, None]
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    half = boxes[3:6, :, None] / 2.0
    result: Array = (np.abs(along) <= half[0]) & (np.abs(across) <= half[1]) & (np.abs(dz) <= half[2])
    return result


# --- against others ------------------------------------------------------------------------------------------------


def test_shared_areas_are_opencvs() -> None:
    first, second = some_boxes(500, 1), some_boxes(500, 2)
    wanted = []
    for a, b in zip(first.T, second.T, strict=True):
        rectangles = [((v[0], v[1]), (v[3], v[4]), np.degrees(v[6])) for v in (a, b)]
        _, points = cv2.rotatedRectangleIntersection(*rectangles)
        wanted.append(0.0 if points is None else cv2.contourArea(cv2.convexHull(points)))
    shared = boxes3d.shared_areas_bev(first, second)
    np.testing.assert_allclose(shared, wanted, atol=2e-3)  # OpenCV's numbers are float32
    assert (np.array(wanted) > 0.0).sum() > 100


def test_hull_areas_are_qhulls() -> None:
    first, second = some_boxes(500, 3), some_boxes(500, 4)
    corners = np.concatenate([boxes3d.corners_bev(first), boxes3d.corners_bev(second)], axis=1)
    wanted = [ConvexHull(points.T).volume for points in np.moveaxis(corners, -1, 0)]
    np.testing.assert_allclose(boxes3d.hull_areas_bev(first, second), wanted, rtol=1e-12)


def test_volume_iou_is_what_random_points_say() -> None:
    rng = np.random.default_rng(5)
    first, second = some_boxes(30, 6, spread_m=0.7), some_boxes(30, 7, spread_m=0.7)
    points = rng.uniform(-4.0, 4.0, (3, 60_000))
    a, b = inside(first, points), inside(second, points)
    estimated = (a & b).sum(axis=1) / (a | b).sum(axis=1)
    error = np.sqrt(0.25 / (a | b).sum(axis=1))  # at most, of a fraction
    assert (np.abs(boxes3d.paired_iou_3d(first, second) - estimated) < 4.5 * error).all()


def test_known_overlaps() -> None:
    middle = box()
    assert boxes3d.paired_bev_iou(middle, box(x=2.0))[0] == pytest.approx(4.0 / 12.0)
    assert boxes3d.paired_iou_3d(middle, box(z=0.75))[0] == pytest.approx(0.5 / 1.5)
    assert boxes3d.paired_iou_3d(middle, box(yaw=np.pi / 2.0))[0] == pytest.approx(4.0 / 12.0)
    # 6 m apart, end to end: the hull is 10 m long, the boxes fill 8 of them.
    assert boxes3d.paired_giou_3d(middle, box(x=6.0))[0] == pytest.approx(-0.2)
    # A square turned by an eighth in a square of the same size: a regular octagon.
    octagon = 2.0 * (np.sqrt(2.0) - 1.0)
    shared = boxes3d.shared_areas_bev(box(length=1.0, width=1.0), box(length=1.0, width=1.0, yaw=np.pi / 4.0))
    assert shared[0] == pytest.approx(octagon)


# --- properties ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paired", PAIRED)
def test_a_box_overlaps_itself_fully_however_it_is_written(paired: Any) -> None:
    boxes = some_boxes(300, 8)
    for quarters in (0, 1, 2, 3, -1, 4):
        np.testing.assert_allclose(paired(boxes, quarter_turned(boxes, quarters)), 1.0, atol=1e-12)


@pytest.mark.parametrize("paired", PAIRED)
def test_overlap_is_symmetric(paired: Any) -> None:
    first, second = some_boxes(500, 9), some_boxes(500, 10)
    np.testing.assert_allclose(paired(first, second), paired(second, first), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shift=st.tuples(*[st.floats(-300.0, 300.0)] * 3),
    turn=st.floats(-10.0, 10.0),
    quarters=st.integers(-3, 3),
)
def test_a_common_motion_and_quarter_turns_change_nothing(
    seed: int, shift: tuple[float, float, float], turn: float, quarters: int
) -> None:
    first, second = some_boxes(30, seed), some_boxes(30, seed + 1)
    second[:, :10] = moved(first[:, :10], 1e-9, 0.0, 0.0, 1e-9)  # nearly the same
    second[6, 10:20] = first[6, 10:20]  # parallel edges
    for paired in PAIRED:
        wanted = paired(first, second)
        changed = paired(moved(first, *shift, turn), quarter_turned(moved(second, *shift, turn), quarters))
        np.testing.assert_allclose(changed, wanted, atol=1e-9)


def test_overlaps_are_within_their_bounds_and_giou_never_above_iou() -> None:
    first, second = some_boxes(3000, 11, spread_m=4.0), some_boxes(3000, 12, spread_m=4.0)
    bev, volume, generalised = (paired(first, second) for paired in PAIRED)
    for ious in (bev, volume):
        assert ious.min() >= 0.0
        assert ious.max() <= 1.0
    assert generalised.min() > -1.0
    assert (generalised <= volume + 1e-12).all()
    assert (volume <= bev + 1e-12).all()


def test_boxes_apart_share_nothing_and_touching_ones_nothing_to_speak_of() -> None:
    apart = np.concatenate([box(x=4.1), box(y=2.1), box(z=1.6), box(x=1e6)], axis=1)
    origin = np.repeat(box(), 4, axis=1)
    assert boxes3d.paired_iou_3d(origin, apart).tolist() == [0.0] * 4
    assert (boxes3d.paired_giou_3d(origin, apart) < 0.0).all()
    assert boxes3d.paired_iou_3d(box(), box(x=4.0))[0] == pytest.approx(0.0, abs=1e-12)


# --- all with all --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pairwise", "paired"), list(zip(PAIRWISE, PAIRED, strict=True)))
def test_tables_hold_what_pairs_say(pairwise: Any, paired: Any) -> None:
    first, second = some_boxes(23, 13, spread_m=5.0), some_boxes(31, 14, spread_m=5.0)
    rows, columns = np.indices((23, 31)).reshape(2, -1)
    np.testing.assert_allclose(pairwise(first, second).ravel(), paired(first[:, rows], second[:, columns]), atol=1e-15)


def test_pairs_are_all_that_overlap_at_a_cost_of_one_minus_iou() -> None:
    first, second = some_boxes(40, 15, spread_m=8.0), some_boxes(50, 16, spread_m=8.0)
    ious = boxes3d.pairwise_iou_3d(first, second)
    pairs = boxes3d.overlapping_pairs_3d(first, second, min_iou=0.1)
    assert pairs.shape == (40, 50)
    assert sorted(zip(pairs.rows, pairs.columns, strict=True)) == list(zip(*np.nonzero(ious > 0.1), strict=True))
    np.testing.assert_allclose(1.0 - pairs.costs, ious[pairs.rows, pairs.columns])


def test_near_pairs_of_boxes_of_one_size_are_all_above_a_third_below_zero() -> None:
    first, second = some_boxes(60, 17, spread_m=6.0), some_boxes(60, 18, spread_m=6.0)
    for boxes in (first, second):
        boxes[2], boxes[3:6] = 0.0, [[4.0], [1.8], [1.5]]
    gious = boxes3d.pairwise_giou_3d(first, second)
    pairs = boxes3d.near_pairs_3d(first, second, -1.0 / 3.0)
    assert len(pairs.rows) == (gious > -1.0 / 3.0).sum() > 100
    np.testing.assert_allclose(1.0 - pairs.costs, gious[pairs.rows, pairs.columns])


@pytest.mark.parametrize("count", [0, 1])
def test_no_boxes_are_no_pairs(count: int) -> None:
    none, some = some_boxes(0, 0), some_boxes(count, 0)
    for pairwise in PAIRWISE:
        assert pairwise(none, some).shape == (0, count)
        assert pairwise(some, none).shape == (count, 0)
    assert boxes3d.overlapping_pairs_3d(none, some).shape == (0, count)
    assert len(boxes3d.near_pairs_3d(some, none, 0.0).rows) == 0
    for paired in PAIRED:
        assert paired(none, none).shape == (0,)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "faulty",
    [
        {"x": np.nan}, {"y": np.inf}, {"z": -np.inf}, {"yaw": np.nan}, {"length": 0.0}, {"width": -1.0},
        {"height": 0.0}, {"length": np.inf}, {"width": np.nan}, {"length": 1e-200, "width": 1e-200},
        {"length": 1e200, "width": 1e200},
    ],
)  # fmt: skip
def test_a_faulty_box_overlaps_nothing_and_spoils_no_other(faulty: dict[str, float]) -> None:
    first = np.concatenate([box(**faulty), box()], axis=1)
    second = np.concatenate([box(**faulty), box()], axis=1)
    assert boxes3d.paired_bev_iou(first, second)[1] == pytest.approx(1.0)
    assert boxes3d.paired_iou_3d(first, second).tolist() == pytest.approx([0.0, 1.0])
    assert boxes3d.paired_giou_3d(first, second).tolist() == pytest.approx([-1.0, 1.0])
    assert (boxes3d.pairwise_iou_3d(first, second) > 0.0).tolist() == [[False, False], [False, True]]


# --- KITTI's boxes -------------------------------------------------------------------------------------------------


def test_kittis_boxes_come_back_as_they_were() -> None:
    rng = np.random.default_rng(19)
    kitti = np.hstack([rng.uniform(0.5, 4.0, (50, 3)), rng.normal(0.0, 20.0, (50, 3)), rng.uniform(-3.1, 3.1, (50, 1))])
    np.testing.assert_allclose(boxes3d.to_kitti(boxes3d.from_kitti(kitti)), kitti, atol=1e-12)


def test_a_kitti_box_stands_on_its_bottom_centre_and_looks_along_its_turn() -> None:
    # Height 1.5, width 2, length 4, at 1 m to the right, 1.6 m below the camera and 10 m ahead.
    ahead, right = boxes3d.from_kitti(np.array([[1.5, 2, 4, 1, 1.6, 10, -np.pi / 2], [1.5, 2, 4, 1, 1.6, 10, 0]])).T
    np.testing.assert_allclose(ahead, [10, -1, -0.85, 4, 2, 1.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(right[6], -np.pi / 2)
