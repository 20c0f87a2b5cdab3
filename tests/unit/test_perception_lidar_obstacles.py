"""The LiDAR obstacle detector on scenes with known boxes, on bad clouds, and on a real drive's labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from perception.clustering import ClusterConfig, cluster, fit_boxes
from perception.lidar_obstacles import LidarObstacleConfig, LidarObstacleDetector
from tercel.core.component import config_from_mapping
from tercel.core.errors import Rejected, UserError
from tercel.core.geometry import rotation_about_z
from tercel.core.messages import Detections3D, PointCloud
from tests.benchmarks.bench_obstacles import evaluate
from tests.unit.lidar_scenes import (
    SIXTEEN_BEAMS,
    SIXTY_FOUR_BEAMS,
    Array,
    SceneBoxes,
    flat,
    scan,
    slope,
    standing_on,
)

CAR, PERSON = (4.2, 1.8, 1.5), (0.6, 0.6, 1.75)


def detect(points: Array, config: LidarObstacleConfig | None = None) -> Detections3D:
    cloud = PointCloud(stamp_ns=17, frame_id="lidar", points_m=points)
    outputs = LidarObstacleDetector(config).detect(cloud)
    detections = outputs["detections"]
    assert isinstance(detections, Detections3D)
    return detections


def nearest(found: Detections3D, boxes: SceneBoxes) -> tuple[Array, Array]:
    """For each box of the scene, the detection whose centre is nearest in the plane, and how far it is."""
    gaps = np.linalg.norm(boxes.centers_m[:, None, :2] - found.centers_m[None, :, :2], axis=2)
    return gaps.argmin(axis=1), gaps.min(axis=1)


def quarter_turn_error(yaws: Array, truth: Array) -> Array:
    result: Array = np.abs((yaws - truth + np.pi / 4) % (np.pi / 2) - np.pi / 4)
    return result


def street(height_m: float, along_x: float = 0.0) -> SceneBoxes:
    xy = [(9.0, 4.0), (14.0, -5.0), (-8.0, 6.0), (-13.0, -7.0), (5.0, -9.0), (6.0, 10.0)]
    sizes = [CAR, CAR, CAR, CAR, PERSON, PERSON]
    yaws = [0.2, -0.7, 1.3, 2.5, 0.0, 0.0]
    return standing_on(slope(height_m, along_x, 0.0), np.array(xy), np.array(sizes), np.array(yaws))


@pytest.mark.parametrize("along_x", [0.0, 0.15])
@pytest.mark.parametrize(
    ("beams", "height_m"), [(np.radians(np.linspace(-25.0, 15.0, 64)), 1.73), (SIXTEEN_BEAMS, 1.2)]
)
def test_cars_and_people_on_a_plane_are_recovered(beams: Array, height_m: float, along_x: float) -> None:
    boxes = street(height_m, along_x)
    found = detect(scan(slope(height_m, along_x, 0.0), boxes, beams, columns=1800).points_m)
    assert len(found.scores) == 6
    index, gap = nearest(found, boxes)
    assert sorted(index) == list(range(6))
    assert gap.max() < 0.6
    cars = slice(0, 4)
    assert np.degrees(quarter_turn_error(found.yaws_rad[index[cars]], boxes.yaws_rad[cars])).max() < 4.0
    assert np.abs(found.sizes_m[index] - boxes.sizes_m)[:, 2].max() < 0.6
    assert (found.sizes_m[index] <= boxes.sizes_m + np.array([0.2, 0.2, 0.4])).all()


def test_a_car_seen_on_two_sides_has_its_length_width_and_place() -> None:
    car = standing_on(flat(1.73), np.array([[8.0, 5.0]]), np.array([CAR]), np.array([1.2]))
    found = detect(scan(flat(1.73), car, SIXTY_FOUR_BEAMS, columns=1800).points_m)
    np.testing.assert_allclose(found.sizes_m, [CAR], atol=0.15)
    np.testing.assert_allclose(found.centers_m, car.centers_m, atol=0.15)
    np.testing.assert_allclose(found.yaws_rad, [1.2], atol=np.radians(2.0))


def test_a_drone_finds_what_is_below_it() -> None:
    xy = np.array([[20.0, 5.0], [28.0, -9.0], [-18.0, 8.0], [-22.0, -14.0], [5.0, -21.0], [6.0, 24.0]])
    boxes = standing_on(flat(20.0), xy, street(20.0).sizes_m, street(20.0).yaws_rad)
    found = detect(scan(flat(20.0), boxes, np.radians(np.linspace(-60.0, -20.0, 64)), columns=1800).points_m)
    index, gap = nearest(found, boxes)
    assert len(found.scores) == 6
    assert gap.max() < 0.6
    np.testing.assert_allclose(found.centers_m[index, 2], boxes.centers_m[:, 2], atol=0.2)


def test_ground_alone_has_no_obstacles() -> None:
    empty = SceneBoxes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    for ground in (flat(1.7), slope(1.7, 0.2, 0.1)):
        assert len(detect(scan(ground, empty, SIXTY_FOUR_BEAMS, columns=900).points_m).scores) == 0


def test_walls_and_crowns_are_left_out() -> None:
    sizes, xy = np.array([[30.0, 0.3, 5.0], [4.0, 4.0, 2.0]]), np.array([[0.0, 12.0], [8.0, -6.0]])
    scene = standing_on(flat(1.7), xy, sizes, np.zeros(2))
    scene.centers_m[1, 2] += 3.5  # a crown 3.5 m above the ground
    assert len(detect(scan(flat(1.7), scene, SIXTY_FOUR_BEAMS, columns=900).points_m).scores) == 0


def test_a_box_with_a_small_gap_below_stands_on_the_ground_and_a_sign_does_not() -> None:
    scene = standing_on(flat(1.7), np.array([[8.0, 0.0], [0.0, 8.0]]), np.array([[1.0, 1.0, 0.8]] * 2), np.zeros(2))
    scene.centers_m[:, 2] += [0.6, 1.9]
    config = LidarObstacleConfig(max_gap_m=1.0)
    found = detect(scan(flat(1.7), scene, SIXTY_FOUR_BEAMS, columns=1800).points_m, config)
    index, _ = nearest(found, scene)
    bottoms = found.centers_m[index, 2] - found.sizes_m[index, 2] / 2
    np.testing.assert_allclose(bottoms, [-1.7, 0.2], atol=0.15)


def test_a_cloud_without_ground_keeps_all_points_of_its_objects() -> None:
    boxes = SceneBoxes(np.array([[8.0, 2.0, 1.0], [-6.0, 5.0, -3.0]]), np.array([[1.0, 1.0, 2.0]] * 2), np.zeros(2))
    found = detect(scan(None, boxes, np.radians(np.linspace(-60, 60, 64)), columns=900).points_m)
    index, _ = nearest(found, boxes)
    np.testing.assert_allclose(found.sizes_m[index, 2], 2.0, atol=0.2)


def test_the_output_has_the_stamp_frame_class_and_honest_scores() -> None:
    points = scan(flat(1.73), street(1.73), SIXTY_FOUR_BEAMS, columns=1800).points_m
    dense, sparse = detect(points), detect(points[::2])
    assert (dense.stamp_ns, dense.frame_id, dense.class_names) == (17, "lidar", ("obstacle",))
    assert ((dense.scores > 0) & (dense.scores < 1)).all()
    index, _ = nearest(sparse, street(1.73))
    at_dense, _ = nearest(dense, street(1.73))
    assert (sparse.scores[index] < dense.scores[at_dense]).all()


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_points_does_not_matter(seed: int) -> None:
    points = scan(flat(1.73), street(1.73), SIXTEEN_BEAMS, columns=900).points_m
    first, second = detect(points), detect(np.random.default_rng(seed).permutation(points))
    np.testing.assert_allclose(second.centers_m, first.centers_m, atol=1e-6)
    np.testing.assert_allclose(second.sizes_m, first.sizes_m, atol=1e-6)
    np.testing.assert_allclose(second.yaws_rad, first.yaws_rad, atol=1e-6)


@lru_cache(maxsize=1)
def dense_street() -> Array:
    return scan(flat(1.73), street(1.73), SIXTY_FOUR_BEAMS, columns=1800).points_m


@given(yaw=st.floats(-np.pi, np.pi))
@settings(max_examples=15, deadline=None)
def test_turning_the_world_turns_the_boxes(yaw: float) -> None:
    boxes, points = street(1.73), dense_street()
    turn = rotation_about_z(yaw)
    found = detect((points @ turn.T).astype(np.float32))
    index, gap = nearest(found, SceneBoxes(boxes.centers_m @ turn.T, boxes.sizes_m, boxes.yaws_rad + yaw))
    assert len(found.scores) == 6
    assert gap.max() < 0.6
    assert np.degrees(quarter_turn_error(found.yaws_rad[index[:4]], boxes.yaws_rad[:4] + yaw)).max() < 4.0


def test_the_same_cloud_gives_the_same_bytes() -> None:
    points = scan(flat(1.73), street(1.73), SIXTY_FOUR_BEAMS, columns=900).points_m
    first, second = detect(points), detect(points.copy())
    for name in ("centers_m", "sizes_m", "yaws_rad", "scores"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@pytest.mark.parametrize(
    "points",
    [np.zeros((0, 3)), np.full((50, 3), np.nan), np.full((50, 3), np.inf), np.zeros((50, 3)), np.full((50, 3), 1e30)],
    ids=["empty", "nan", "inf", "the vehicle itself", "beyond range"],
)
def test_a_cloud_without_a_usable_point_is_rejected(points: Array) -> None:
    with pytest.raises(Rejected, match="no usable points"):
        detect(points.astype(np.float32))


def test_one_point_is_no_obstacle() -> None:
    assert len(detect(np.array([[5.0, 0.0, 0.0]], np.float32)).scores) == 0


def test_bad_points_among_good_ones_change_nothing() -> None:
    points = scan(flat(1.73), street(1.73), SIXTEEN_BEAMS, columns=900).points_m
    bad = np.array(
        [[np.nan] * 3, [np.inf, 0, 0], [0, -np.inf, 1], [3e38, 3e38, 3e38], [1e30, -1e30, 0], [0.1, 0, 0]], np.float32
    )
    clean, dirty = detect(points), detect(np.vstack([bad, points, bad]))
    np.testing.assert_array_equal(clean.centers_m, dirty.centers_m)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 38.0))
@settings(max_examples=20, deadline=None)
def test_any_finite_cloud_gives_finite_boxes(seed: int, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(0.0, magnitude, (300, 1))
    points = np.clip(rng.normal(size=(300, 3)) * scale, -3e38, 3e38).astype(np.float32)
    try:
        found = detect(np.repeat(points, 6, axis=0))
    except Rejected:
        return
    for values in (found.centers_m, found.sizes_m, found.yaws_rad, found.scores):
        assert np.isfinite(values).all()
    assert (found.sizes_m > 0).all()
    assert (found.sizes_m[:, 0] >= found.sizes_m[:, 1]).all()


def noise() -> Array:
    return np.random.default_rng(0).uniform(-80, 80, (400_000, 3)).astype(np.float32)


def lattice() -> Array:
    """Seven points, one above the other, on each of 33,000 places too far apart to connect."""
    x, y = np.meshgrid(np.arange(-40, 40, 0.7), np.arange(-100, 100, 0.7))
    level = np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])
    return np.concatenate([level + np.array([0.0, 0.0, z]) for z in np.arange(0.0, 2.8, 0.4)]).astype(np.float32)


@pytest.mark.parametrize("cloud", [noise, lattice])
def test_a_cloud_that_fills_its_range_is_done_in_bounded_time(cloud: Callable[[], Array]) -> None:
    points = cloud()
    begin = time.thread_time()
    found = detect(points, LidarObstacleConfig(cluster_gap_rad=0.0))
    assert len(found.scores) == (0 if cloud is noise else LidarObstacleConfig().max_boxes)
    assert time.thread_time() - begin < 5.0


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_clusters_lie_between_single_linkage_at_the_shortest_and_the_longest_gap(seed: int) -> None:
    """Points nearer than a cell are always joined, those four cells' diagonal apart never are."""
    rng = np.random.default_rng(seed)
    points = np.vstack([rng.uniform(-8, 8, (60, 2)), rng.normal(0, 0.3, (40, 2))])
    cell = 0.2
    labels = cluster(points, 20.0, ClusterConfig(cell_m=cell, gap_rad=0.0, max_extent_m=1e3, min_points=1)).of_points
    tree = linkage(points, "single")
    fine, coarse = (fcluster(tree, t, "distance") for t in (cell, 4 * np.sqrt(2) * cell))
    same = labels[:, None] == labels
    assert same[fine[:, None] == fine].all()
    assert not same[coarse[:, None] != coarse].any()
    assert (coarse[:, None] != coarse).any()


def test_the_gap_that_is_bridged_grows_with_range() -> None:
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.7, 0.0]])
    config = ClusterConfig(cell_m=0.15, gap_rad=0.02, min_points=1)
    assert cluster(pair + np.array([10.0, 0.0, 0.0]), 80.0, config).count == 2
    assert cluster(pair + np.array([60.0, 0.0, 0.0]), 80.0, config).count == 1


@given(
    yaw=st.floats(-np.pi / 2, np.pi / 2),
    length=st.floats(2.5, 6.0),
    width=st.floats(1.2, 2.2),
    x=st.floats(-60, 60),
    y=st.floats(-60, 60),
)
@settings(max_examples=50, deadline=None)
def test_an_l_shape_is_fitted(yaw: float, length: float, width: float, x: float, y: float) -> None:
    side = np.linspace(0, 1, 60)
    local = np.vstack([np.column_stack([side * length, 0 * side]), np.column_stack([0 * side, side * width])])
    local -= [length / 2, width / 2]
    turn = rotation_about_z(yaw)[:2, :2]
    flat_points = local @ turn.T + [x, y]
    points = np.column_stack([flat_points, np.linspace(0, 1.5, 120)]).astype(np.float32)
    boxes = fit_boxes(points, cluster(points, 80.0, ClusterConfig()))
    assert len(boxes.points) == 1
    np.testing.assert_allclose(boxes.sizes_m[0], [length, width, 1.5], atol=0.15)
    np.testing.assert_allclose(boxes.centers_m[0], [x, y, 0.75], atol=0.12)
    assert quarter_turn_error(boxes.yaws_rad[0], np.float64(yaw)) < np.radians(4.0)


def test_few_points_and_large_groups_are_dropped() -> None:
    line = np.column_stack([np.arange(0, 30, 0.1), np.full(300, 5.0), np.zeros(300)])
    few = np.array([[-5.0, -5.0, 0.0]] * 4)
    config = ClusterConfig(max_extent_m=15.0, min_points=5)
    assert cluster(np.vstack([line, few]), 80.0, config).count == 0
    assert cluster(np.vstack([line[:100], few, few]), 80.0, config).count == 2


@pytest.mark.parametrize(
    "values",
    [
        {"min_range_m": -1.0},
        {"max_range_m": np.inf},
        {"max_range_m": 1.0},
        {"max_range_m": 5000.0},
        {"min_height_m": 4.0},
        {"cluster_cell_m": 0.0},
        {"cluster_cell_m": 1e-9},
        {"cluster_gap_rad": 1.0},
        {"cluster_min_points": 0},
        {"max_gap_m": np.nan},
        {"half_score_points": 0.0},
        {"max_boxes": 0},
        {"ground_slope": -1.0},
    ],
)
def test_a_config_out_of_range_is_one_line_for_the_user(values: dict[str, float]) -> None:
    with pytest.raises(UserError) as error:
        config_from_mapping(LidarObstacleConfig, values, where="graph.yaml: obstacles")
    assert str(error.value).startswith("graph.yaml: obstacles: ")
    assert "\n" not in str(error.value)


def test_labelled_objects_of_a_real_drive_are_found(shared_data: Path) -> None:
    result = evaluate(shared_data, 14, LidarObstacleConfig(), min_points=10)
    objects = result["objects"]
    assert objects["vehicle"]["labels"] > 20
    assert objects["vehicle"]["recall"] >= 0.97
    assert objects["vehicle"]["center_error_m"] < 0.7
    assert objects["vehicle"]["yaw_error_median_deg"] < 4.0
    assert objects["cyclist"]["recall"] >= 0.9
    assert objects["cyclist"]["center_error_m"] < 0.2
    assert result["boxes_per_frame"] < 300
