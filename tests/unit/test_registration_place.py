"""Place descriptors: against brute force, turned, from the next lane, and without anything to see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from registration import place
from registration.place import ASIDE_M, RINGS, SECTORS, compare, describe, describe_aside
from tercel.core.geometry import inverse, rotation_about_z, so3_log
from tests.unit.merge_scenes import street_scan

Array = NDArray[Any]


def test_a_descriptor_is_small_and_the_same_every_time() -> None:
    scan, _ = street_scan(1, 40.0, -1, False)
    first = describe(scan)
    assert first.shape == (RINGS, SECTORS)
    assert first.dtype == np.uint8
    assert first.nbytes <= 2048
    assert first.tobytes() == describe(scan.copy()).tobytes()


def test_scores_and_headings_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(2)
    known = rng.integers(0, 256, (5, RINGS, SECTORS), dtype=np.uint8)
    asking = rng.integers(0, 256, (4, len(ASIDE_M), RINGS, SECTORS), dtype=np.uint8)
    asking[1, 2] = np.roll(known[3], -17, axis=1)
    matches = compare(known, asking)

    def unit(descriptor: Array) -> Array:
        values = descriptor - descriptor.mean()
        return np.asarray(values / np.linalg.norm(values))

    for q in range(4):
        for n in range(5):
            scores = np.array(
                [
                    [np.sum(unit(known[n]) * np.roll(unit(each), k, axis=1)) for k in range(SECTORS)]
                    for each in asking[q]
                ]
            )
            aside, turn = np.unravel_index(scores.argmax(), scores.shape)
            assert matches.score[q, n] == pytest.approx(scores.max(), abs=1e-6)
            assert matches.yaw_rad[q, n] == pytest.approx(turn * 2 * np.pi / SECTORS, abs=1e-6)
            assert matches.aside_m[q, n] == pytest.approx(ASIDE_M[aside])
    assert matches.score[1, 3] == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(yaw_rad=st.floats(-3.1, 3.1))
def test_a_turned_scan_is_found_at_the_angle_it_was_turned_by(yaw_rad: float) -> None:
    scan, _ = street_scan(1, 40.0, -1, False)
    turned = scan @ rotation_about_z(yaw_rad)  # known_T_asked turns by yaw_rad
    matches = compare(describe(scan)[None], describe_aside(turned)[None])
    assert matches.score[0, 0] > 0.65  # half a sector away from it at worst; another street: 0.6
    off = so3_log(rotation_about_z(yaw_rad).T @ matches.guess(0, 0)[:3, :3])
    assert abs(off[2]) < 1.01 * 2 * np.pi / SECTORS


def test_the_way_back_in_the_other_lane_is_found_where_it_is() -> None:
    known = [street_scan(1, at_m, -1, False) for at_m in range(0, 96, 12)]
    asking = [street_scan(1, at_m, 1, True) for at_m in range(0, 96, 12)]
    matches = compare(np.stack([describe(s) for s, _ in known]), np.stack([describe_aside(s) for s, _ in asking]))
    best = matches.score.argmax(axis=1)
    assert (best == np.arange(len(known))).mean() > 0.9
    for row, (_, pose) in enumerate(asking):
        if best[row] == row:
            off = inverse(matches.guess(row, row)) @ inverse(known[row][1]) @ pose
            assert np.linalg.norm(off[:2, 3]) < 1.0
            assert np.linalg.norm(so3_log(off[:3, :3])) < 0.15


def test_another_street_is_less_alike_than_the_same_place() -> None:
    ours = np.stack([describe(street_scan(1, at_m, -1, False)[0]) for at_m in range(0, 96, 12)])
    same = np.stack([describe_aside(street_scan(1, at_m + 1.0, -1, False, 5.0)[0]) for at_m in range(0, 96, 12)])
    other = np.stack([describe_aside(street_scan(2, at_m, -1, False)[0]) for at_m in range(0, 96, 12)])
    assert compare(ours, other).score.max() < np.quantile(compare(ours, same).score.max(axis=1), 0.1)


def test_the_mounting_height_does_not_matter() -> None:
    scan, _ = street_scan(1, 40.0, -1, False)
    assert describe(scan).tobytes() == describe(scan + np.array([0.0, 0.0, 8.0], np.float32)).tobytes()


def test_scans_without_anything_give_zeros_and_match_nothing() -> None:
    for scan in (np.zeros((0, 3)), np.full((100, 3), np.nan), np.zeros((50, 3))):
        assert not describe(scan).any()
        matches = compare(describe(street_scan(1, 40.0, -1, False)[0])[None], describe_aside(scan)[None])
        assert matches.score[0, 0] == pytest.approx(0.0, abs=1e-9)
    assert compare(np.zeros((0, RINGS, SECTORS), np.uint8), np.zeros((2, 3, RINGS, SECTORS))).score.shape == (2, 0)
    with pytest.raises(ValueError, match="shape"):
        describe(np.zeros((4, 2)))


def test_comparing_by_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    known = rng.integers(0, 256, (6, RINGS, SECTORS), dtype=np.uint8)
    asking = rng.integers(0, 256, (7, len(ASIDE_M), RINGS, SECTORS), dtype=np.uint8)
    whole = compare(known, asking)
    monkeypatch.setattr(place, "_MOST_SCORES", 1)
    parts = compare(known, asking)
    np.testing.assert_allclose(whole.score, parts.score, atol=1e-6)
    np.testing.assert_array_equal(whole.yaw_rad, parts.yaw_rad)
