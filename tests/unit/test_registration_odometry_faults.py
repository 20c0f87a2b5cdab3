"""LiDAR odometry when scans are damaged, stamps are wrong, and speeds jump."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registration.odometry import OdometryConfig, ScanToMapOdometry
from tercel.core.errors import Rejected
from tercel.core.geometry import inverse
from tests.unit.test_registration_odometry import PERIOD_NS, ROOM_CONFIG, follow, poses_of, room_walk, started

Array = NDArray[Any]


def flattened(points_m: Array) -> Array:
    return np.asarray(points_m * np.array([1.0, 1.0, 0.0], dtype=points_m.dtype))


@pytest.mark.parametrize("damaged", [6, 7, 20])
def test_one_flattened_scan_bends_neither_the_pose_nor_the_map(damaged: int) -> None:
    scans, truth = [points for points, _ in room_walk()[0][:30]], room_walk()[1][:30]
    scans[damaged] = flattened(scans[damaged])
    results = follow(scans)
    error_m = np.linalg.norm(poses_of(results)[:, :3, 3] - truth[:, :3, 3], axis=1)
    assert error_m[damaged] < 0.1
    assert np.delete(error_m, damaged).max() < 0.03
    assert not results[damaged].keyframe


@pytest.mark.parametrize("ahead_s", [0.4, 3.0, 3600.0])
def test_one_stamp_from_the_future_costs_two_scans_and_not_the_rest(ahead_s: float) -> None:
    odometry, poses = ScanToMapOdometry(ROOM_CONFIG), {}
    scans, truth = room_walk()
    for k, (points, _) in enumerate(scans[:20]):
        try:
            poses[k] = odometry.step(points, k * PERIOD_NS + (k == 9) * round(ahead_s * 1e9))
        except Rejected:
            continue
    assert len(poses) == 18
    assert {result.status for result in poses.values()} == {"started", "registered"}
    for k, result in poses.items():
        np.testing.assert_allclose(result.odom_T_sensor, truth[k], atol=0.03, err_msg=str(k))


def test_a_clock_that_is_set_back_costs_two_scans_and_the_map_stays() -> None:
    odometry, rejected = started(10), 0
    scans, truth = room_walk()
    for k in range(10, 20):
        try:
            result = odometry.step(scans[k][0], k * PERIOD_NS - 3_600_000_000_000)
        except Rejected as reason:
            assert "stamp" in str(reason)
            rejected += 1
    assert rejected == 2
    assert result.status == "registered"
    np.testing.assert_allclose(result.odom_T_sensor, truth[19], atol=0.02)


def test_stragglers_alone_never_turn_the_clock_back() -> None:
    odometry, (scans, _) = started(5), room_walk()
    for k in range(5, 15):
        odometry.step(scans[k][0], k * PERIOD_NS)
        with pytest.raises(Rejected, match="stamp"):
            odometry.step(scans[k - 3][0], (k - 3) * PERIOD_NS)


def test_a_lorry_that_passes_does_not_drag_a_sensor_that_stands() -> None:
    rng = np.random.default_rng(0)
    odometry, worst_m = ScanToMapOdometry(OdometryConfig()), 0.0
    x, side = rng.uniform(-40, 40, 5000), rng.integers(0, 3, 5000)  # a road between two walls with pillars
    y = np.where(side == 0, rng.uniform(-10, 10, 5000), np.where(side == 1, 10.0, -10.0))
    y = y + np.where((side > 0) & (np.abs(x) % 8.0 < 1.0), np.sign(-y), 0.0)
    street = np.column_stack([x, y, np.where(side == 0, -1.8, rng.uniform(-1.8, 4.0, 5000))])
    u, v = rng.uniform(0.0, 1.0, (2, 5000))  # as many points: its side and its back
    lorry = np.where((u < 0.7)[:, None], np.column_stack([12.0 * u / 0.7, 0.0 * u, 3.5 * v]),
                     np.column_stack([0.0 * u, 2.5 * (u - 0.7) / 0.3, 3.5 * v]))  # fmt: skip
    for k in range(40):
        seen = np.concatenate([street, lorry + np.array([-20.0 + 1.0 * k, 3.0, -1.5])]) + rng.normal(
            0, 0.01, (10_000, 3)
        )
        result = odometry.step(seen.astype(np.float32), k * PERIOD_NS)
        worst_m = max(worst_m, float(np.linalg.norm(result.odom_T_sensor[:3, 3])))
    assert worst_m < 0.03


@cache
def street() -> Array:
    """Walls of a few metres, here and there, and the ground."""
    rng = np.random.default_rng(0)
    begin, way = rng.uniform([-80, -25], [120, 25], (160, 2)), rng.uniform(-4, 4, (160, 2))
    wall = rng.integers(0, 160, 40_000)
    walls = np.column_stack([begin[wall] + rng.random((40_000, 1)) * way[wall], rng.uniform(-1.5, 3.0, 40_000)])
    return np.concatenate([walls, rng.uniform([-90, -25, -1.5], [130, 25, -1.5], (20_000, 3))])


def seen_from(at_m: float) -> Array:
    """The street within 30 m along it, with noise."""
    near = street()[np.abs(street()[:, 0] - at_m) < 30.0] - [at_m, 0.0, 0.0]
    return np.asarray(near + np.random.default_rng(round(at_m * 10)).normal(0, 0.01, near.shape), dtype=np.float32)


def test_a_slow_scanner_is_predicted_by_its_velocity_too() -> None:
    odometry = ScanToMapOdometry(OdometryConfig())
    for k in range(12):
        at_m = sum(min(j, 4) for j in range(k + 1))  # speeds up to 4 m a scan, which is beyond the first pass's reach
        result = odometry.step(seen_from(at_m), k * 1_000_000_000)
        assert result.status in ("started", "registered"), k
    assert result.odom_T_sensor[0, 3] == pytest.approx(at_m, abs=0.1)


def errors_m(speeds_mps: list[float], late_ns: dict[int, int], twist_mps: float | None = None) -> tuple[Array, int]:
    """How far each pose is off along the street, and how many were only predicted."""
    odometry, at_m, off_m, predicted = ScanToMapOdometry(OdometryConfig()), 0.0, [], 0
    for k, speed_mps in enumerate(speeds_mps):
        at_m += 0.1 * speed_mps if k else 0.0
        twist = None if twist_mps is None else np.array([twist_mps, 0, 0, 0, 0, 0])
        result = odometry.step(seen_from(at_m), k * PERIOD_NS + late_ns.get(k, 0), None, twist)
        off_m.append(abs(result.odom_T_sensor[0, 3] - at_m))
        predicted += result.status == "predicted"
    return np.array(off_m), predicted


def test_a_real_jump_of_the_speed_costs_one_scan_at_most() -> None:
    off_m, predicted = errors_m([2.0] * 6 + [14.0] * 10, {})
    assert predicted <= 1
    assert np.sort(off_m)[-2] < 0.1


@pytest.mark.parametrize("late_ms", [30, 80])
def test_one_late_stamp_does_not_start_a_swing(late_ms: int) -> None:
    off_m, predicted = errors_m([12.0] * 18, {8: late_ms * 1_000_000})
    assert predicted <= 1
    assert off_m[12:].max() < 0.1


@pytest.mark.parametrize("factor", [0.3, 2.0])
def test_a_wrong_speed_from_elsewhere_is_not_held_against_the_scans(factor: float) -> None:
    off_m, predicted = errors_m([10.0] * 10, {}, factor * 10.0)
    assert predicted == 0
    assert off_m.max() < 0.1


def test_a_bad_second_scan_does_not_bend_the_first() -> None:
    scans, truth = room_walk(8, 0.1)
    blobs = np.random.default_rng(0).uniform(-8.0, 8.0, (60, 3)).repeat(60, axis=0)
    foreign = (blobs + np.random.default_rng(1).normal(0.0, 0.3, blobs.shape)).astype(np.float32)
    odometry = ScanToMapOdometry(ROOM_CONFIG)
    for k, (points, offsets_s) in enumerate(scans):
        points, offsets_s = (foreign, np.linspace(-0.1, 0.0, len(foreign))) if k == 1 else (points, offsets_s)
        result = odometry.step(points, k * PERIOD_NS, offsets_s)
    assert result.status == "registered"
    np.testing.assert_allclose(result.odom_T_sensor, truth[7], atol=0.05)


def test_a_first_scan_of_another_place_is_gone_when_the_map_is_begun_anew() -> None:
    scans, truth = room_walk(18, 0.1)
    blobs = np.random.default_rng(0).uniform(40.0, 60.0, (60, 3)).repeat(60, axis=0)
    foreign = (blobs + np.random.default_rng(1).normal(0.0, 0.3, blobs.shape)).astype(np.float32)
    odometry, results = ScanToMapOdometry(replace(ROOM_CONFIG, recoveries=0)), []
    for k, (points, offsets_s) in enumerate(scans):
        points, offsets_s = (foreign, np.linspace(-0.1, 0.0, len(foreign))) if k == 0 else (points, offsets_s)
        results.append(odometry.step(points, k * PERIOD_NS, offsets_s))
    begun = [result.status for result in results].index("restarted")
    assert {result.status for result in results[begun + 1 :]} == {"registered"}
    since = inverse(results[begun].odom_T_sensor) @ results[-1].odom_T_sensor
    np.testing.assert_allclose(since[:3, 3], (inverse(truth[begun]) @ truth[-1])[:3, 3], atol=0.1)
    assert odometry.map.cloud is not None
    assert np.linalg.norm(odometry.map.cloud.points()[:, :3], axis=1).max() < 20.0
