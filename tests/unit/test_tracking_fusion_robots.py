"""Other robots' tracks through the same door: clocks that differ, echoes, ghosts, and reports that cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tercel.core.errors import Rejected
from tercel.core.geometry import from_rotation_translation, inverse, rotation_about_z, transform_points
from tercel.core.messages import RemoteTracks, Tracks3D, Transforms
from tests.unit.fusion_scenes import CLASSES, PERIOD_NS, TRANSFORMS, Street, street
from tracking.clock_offset import STEPPED
from tracking.fusion import FROM_THE_FUTURE, CooperativeConfig, CooperativeFusion
from tracking.fusion_world import FIRST_ROBOT_ID
from tracking.out_of_sequence import DUPLICATE, TOO_LATE
from tracking.screening import Outcome

Array = Any

SECOND = 10**9
NOTHING: Array = []


def fusion(**config: Any) -> CooperativeFusion:
    component = CooperativeFusion(CooperativeConfig(**config))
    component.learn_frames(TRANSFORMS)
    return component


def drive(component: CooperativeFusion, scene: Street, frames: range, **seen: Any) -> Tracks3D:
    tracks = None
    for frame in frames:
        component.move(scene.odometry(frame))
        tracks = component.see_boxes(scene.lidar(frame, **seen))["tracks"]
    assert isinstance(tracks, Tracks3D)
    return tracks


def tracks_of(
    scene: Street, frame: float, *, seen: Array | None = None, sigma_m: float = 0.2, offset_s: float = 0.0,
    noise_m: float = 0.0, unseen_s: float = 0.0, frame_id: str = "odom",
) -> Tracks3D:  # fmt: skip
    """What another robot tracks of the scene; offset_s: its clock minus ours."""
    rows = np.arange(len(scene.labels)) if seen is None else np.asarray(seen, dtype=int)
    rng = np.random.default_rng(round(frame * 1000))
    covariance = np.diag([sigma_m**2] * 3 + [0.3**2] * 3)
    return Tracks3D(
        stamp_ns=scene.stamp(frame) + round(offset_s * 1e9), frame_id=frame_id, class_names=CLASSES,
        centers_m=scene.places(frame)[rows] + rng.normal(0.0, max(noise_m, 1e-12), (len(rows), 3)),
        sizes_m=scene.sizes_m[rows], yaws_rad=np.zeros(len(rows)), scores=np.ones(len(rows)),
        labels=scene.labels[rows], ids=rows + 50, velocities_mps=scene.velocities_mps[rows],
        ages_s=np.ones(len(rows)), covariances=np.repeat(covariance[None], len(rows), axis=0),
        unseen_s=np.full(len(rows), unseen_s),
    )  # fmt: skip


def heard(tracks: Tracks3D, delay_s: float, *, offset_s: float = 0.0, robot: str = "r2", **more: Any) -> RemoteTracks:
    """The report as it reaches us, delay_s after its tracks were true."""
    received_ns = tracks.stamp_ns - round(offset_s * 1e9) + round(delay_s * 1e9)
    more = {"sent_ns": tracks.stamp_ns, "robot": robot, **more}
    return RemoteTracks(stamp_ns=received_ns, frame_id=tracks.frame_id, tracks=tracks, **more)


def exact(tracks: Tracks3D, delay_s: float, *, offset_s: float = 0.0, **more: Any) -> RemoteTracks:
    """The same with an exchange of stamps that leaves no doubt about the clock."""
    sent = tracks.stamp_ns
    there = sent - SECOND // 100
    exchange = [there - round(offset_s * 1e9), there, sent, sent - round(offset_s * 1e9)]
    return heard(tracks, delay_s, offset_s=offset_s, exchange_ns=np.array(exchange), **more)


def test_what_only_the_other_robot_sees_appears_with_an_id_of_its_kind() -> None:
    scene, component = street(5), fusion()
    drive(component, scene, range(10), seen=[0, 1, 2])
    component.hear(exact(tracks_of(scene, 9), 0.05))
    tracks = drive(component, scene, range(10, 11), seen=[0, 1, 2])
    assert sorted(tracks.ids.tolist()) == [1, 2, 3, FIRST_ROBOT_ID, FIRST_ROBOT_ID + 1]
    assert component.last_step is not None
    for thing in (3, 4):
        nearest = np.linalg.norm(tracks.centers_m - scene.places(10)[thing], axis=1).argmin()
        assert tracks.ids[nearest] >= FIRST_ROBOT_ID
        np.testing.assert_allclose(tracks.centers_m[nearest], scene.places(10)[thing], atol=0.1)
        assert tracks.unseen_s is not None
        np.testing.assert_allclose(tracks.unseen_s[nearest], 0.1, atol=1e-6)


def test_what_both_see_is_one_track_and_more_certain() -> None:
    scene = street(4)
    alone, together = fusion(), fusion()
    for frame in range(20):
        own = drive(alone, scene, range(frame, frame + 1))
        fused = drive(together, scene, range(frame, frame + 1))
        together.hear(exact(tracks_of(scene, frame, sigma_m=0.02), 0.0))
    assert own.ids.tolist() == fused.ids.tolist() == [1, 2, 3, 4]
    assert own.covariances is not None
    assert fused.covariances is not None
    assert (np.linalg.det(fused.covariances) < 0.5 * np.linalg.det(own.covariances)).all()


def test_a_report_takes_its_place_in_time() -> None:
    """Reports 400 ms late end where reports in time end."""
    scene = street(5)
    results = []
    for lag in (0, 4):
        component = fusion(refine_clock=False)
        for frame in range(24):
            drive(component, scene, range(frame, frame + 1), seen=[0, 1])
            if 0 <= frame - lag < 20:
                component.hear(exact(tracks_of(scene, frame - lag, noise_m=0.2), 0.0))
        results.append(component.tracks_at(scene.stamp(23)))
    for name in ("ids", "centers_m", "velocities_mps", "covariances"):
        np.testing.assert_array_equal(getattr(results[0], name), getattr(results[1], name), err_msg=name)


def test_an_echo_of_our_own_tracks_changes_nothing() -> None:
    scene, alone, echoed = street(5), fusion(), fusion(refine_clock=False)
    for frame in range(30):
        own = drive(alone, scene, range(frame, frame + 1))
        tracks = drive(echoed, scene, range(frame, frame + 1))
        if len(tracks.ids):
            echoed.hear(exact(tracks, 0.15, offset_s=0.0))
    assert own.covariances is not None
    np.testing.assert_array_equal(own.ids, tracks.ids)
    np.testing.assert_allclose(tracks.covariances, own.covariances, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(tracks.centers_m, own.centers_m, atol=1e-9)


def test_an_echo_whose_clock_is_a_little_off_changes_nothing_either() -> None:
    """10 ms before the truth it would come to stand before the sweep that it has learnt from."""
    scene, alone, echoed = street(5), fusion(), fusion(refine_clock=False)
    for frame in range(30):
        own = drive(alone, scene, range(frame, frame + 1))
        tracks = drive(echoed, scene, range(frame, frame + 1))
        if len(tracks.ids):
            sent_ns = tracks.stamp_ns
            exchange = np.array([sent_ns - 20_000_000, sent_ns, sent_ns, sent_ns])  # the truth is at the lower bound
            echoed.hear(heard(tracks, 0.0, exchange_ns=exchange))
            assert 0.002 < echoed.clocks["r2"].sigma_s < 0.01
            assert echoed.clocks["r2"].offset_ns == 10_000_000
    assert own.covariances is not None
    np.testing.assert_allclose(tracks.covariances, own.covariances, rtol=1e-9, atol=1e-12)


def test_two_robots_do_not_keep_each_others_ghosts_alive() -> None:
    """Both saw a thing that is gone, and go on telling each other of it."""
    scene = street(3)
    robots = [fusion(), fusion()]
    for robot in robots:
        drive(robot, scene, range(10))
    said: list[Tracks3D] = []
    for frame in range(10, 40):
        said = [drive(robot, scene, range(frame, frame + 1), seen=NOTHING) for robot in robots]
        for listener, tracks in zip(robots, reversed(said), strict=True):
            listener.hear(exact(tracks, 0.0))
    assert [len(tracks.ids) for tracks in said] == [0, 0]
    assert [len(robot._history.state) for robot in robots] == [0, 0]


def test_a_clock_that_is_off_and_drifts_is_put_right() -> None:
    scene, offset_s, drift = street(6, speed_mps=0.0), 0.3, 50e-6
    rng = np.random.default_rng(0)
    component = fusion()
    for frame in range(150):
        drive(component, scene, range(frame, frame + 1))
        theirs_s = offset_s + drift * frame * 0.1
        if frame > 1 and rng.random() < 0.8:
            report = tracks_of(scene, frame - 1.0, offset_s=theirs_s, noise_m=0.05)
            received = scene.stamp(frame - 1.0) + round(rng.uniform(0.05, 0.4) * 1e9)
            try:
                component.hear(replace(heard(report, 0.1, offset_s=theirs_s), stamp_ns=received))
            except Rejected as reason:
                assert str(reason) == FROM_THE_FUTURE
    error_s = component.clocks["r2"].offset_ns * 1e-9 - theirs_s
    assert abs(error_s) < 0.02
    ids = component.tracks_at(scene.stamp(149)).ids.tolist()
    assert ids == [1, 2, 3, 4, 5, 6]


def test_without_a_correction_the_same_clock_makes_double_tracks() -> None:
    """The counterexample: what the estimate is for."""
    scene = Street(np.array([[20.0, 0.0, 0.75]]), np.array([[12.0, 0.0, 0.0]]), np.array([0]))
    counts = {}
    for corrected in (True, False):
        component = fusion(refine_clock=False)
        for frame in range(20):
            drive(component, scene, range(frame, frame + 1))
            report = tracks_of(scene, frame, offset_s=0.5)
            if not corrected:  # its stamps are 0.28 s wrong: 3.4 m at this speed
                report = replace(report, stamp_ns=report.stamp_ns - 28 * SECOND // 100)
            component.hear(exact(report, 0.0, offset_s=0.5))
        counts[corrected] = len(component.tracks_at(scene.stamp(19)).ids)
    assert counts == {True: 1, False: 2}


def test_a_robot_from_the_future_is_refused() -> None:
    scene, component = street(3), fusion()
    drive(component, scene, range(5))
    with pytest.raises(Rejected, match=FROM_THE_FUTURE):
        component.hear(exact(tracks_of(scene, 8), 0.0))
    with pytest.raises(Rejected, match=FROM_THE_FUTURE):  # true after it was sent
        component.hear(heard(tracks_of(scene, 4.5), 0.0, sent_ns=scene.stamp(4)))
    component.hear(exact(tracks_of(scene, 5), 0.0))


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_step_of_the_clock_by_an_hour_is_survived(step_s: float) -> None:
    scene, component, refused = street(3), fusion(), 0
    for frame in range(60):
        drive(component, scene, range(frame, frame + 1))
        offset_s = 0.3 + (step_s if frame >= 30 else 0.0)
        try:
            component.hear(heard(tracks_of(scene, frame, offset_s=offset_s), 0.02, offset_s=offset_s))
        except Rejected as reason:
            assert str(reason) == STEPPED
            refused += 1
    assert 4 <= refused <= 10
    assert component.clocks["r2"].relocks == 1
    assert component.tracks_at(scene.stamp(59)).ids.tolist() == [1, 2, 3]


def test_our_own_clocks_step_is_survived() -> None:
    """An hour passes between two frames, for us and not for the robot."""
    scene, component, refused = street(3, speed_mps=0.0, turn_radps=0.0), fusion(), 0
    still = replace(scene, velocities_mps=np.zeros((3, 3)))
    for frame in [*range(30), *range(36030, 36060)]:
        drive(component, still, range(frame, frame + 1))
        offset_s = 0.0 if frame < 36000 else -3600.0
        try:
            component.hear(heard(tracks_of(still, frame, offset_s=offset_s), 0.02, offset_s=offset_s))
        except Rejected as reason:
            assert str(reason) == STEPPED
            refused += 1
    assert refused <= 10
    assert component.clocks["r2"].relocks == 1


def test_tracks_whose_covariance_or_velocity_is_none_are_named_and_the_others_used() -> None:
    scene, component = street(6, speed_mps=0.0), fusion()
    drive(component, scene, range(5), seen=NOTHING)
    report = tracks_of(scene, 4)
    assert report.covariances is not None
    covariances, velocities = report.covariances.copy(), report.velocities_mps.copy()
    covariances[0, 2, 3] = np.nan
    covariances[1] = -covariances[1]
    covariances[2, 0, 1] = 0.3
    velocities[3, 0] = np.nan
    velocities[4, 1] = 1e6
    component.hear(exact(replace(report, covariances=covariances, velocities_mps=velocities), 0.0))
    assert component.last_step is not None
    outcomes = [Outcome(outcome) for outcome in component.last_step.outcomes]
    assert outcomes == [Outcome.NO_COVARIANCE] * 5 + [Outcome.NEW]
    assert component.last_step.track_ids.tolist() == [-1] * 5 + [FIRST_ROBOT_ID]


def test_places_that_cannot_be_are_named_too() -> None:
    scene, component = street(4, speed_mps=0.0), fusion()
    drive(component, scene, range(5), seen=NOTHING)
    report = tracks_of(scene, 4)
    centers, sizes, labels = report.centers_m.copy(), report.sizes_m.copy(), report.labels.copy()
    centers[0, 0], sizes[1, 1], labels[2] = np.inf, -1.0, 77
    component.hear(exact(replace(report, centers_m=centers, sizes_m=sizes, labels=labels), 0.0))
    assert component.last_step is not None
    assert [Outcome(outcome).name for outcome in component.last_step.outcomes] == [
        "NOT_FINITE", "NO_SIZE", "UNKNOWN_LABEL", "NEW",
    ]  # fmt: skip


def test_reports_that_cannot_be_used_are_refused_by_reason() -> None:
    scene, component = street(3), fusion(max_robots=2, history_s=0.5)
    with pytest.raises(Rejected, match="tell the time"):
        component.hear(exact(tracks_of(scene, 0), 0.0))
    drive(component, scene, range(20))
    good = tracks_of(scene, 19)
    with pytest.raises(Rejected, match="no covariances"):
        component.hear(exact(replace(good, covariances=None), 0.0))
    with pytest.raises(Rejected, match="frame is unknown"):
        component.hear(exact(replace(good, frame_id="its_own_map"), 0.0))
    with pytest.raises(Rejected, match="contradicts itself"):
        component.hear(replace(exact(good, 0.0), frame_id="map"))
    with pytest.raises(Rejected, match=TOO_LATE):
        component.hear(exact(tracks_of(scene, 13), 0.6))
    component.hear(exact(good, 0.0))
    with pytest.raises(Rejected, match=DUPLICATE):
        component.hear(exact(good, 0.0))
    component.hear(exact(good, 0.0, robot="r3"))
    with pytest.raises(Rejected, match="too many robots"):
        component.hear(exact(good, 0.0, robot="r4"))


def test_a_robot_whose_map_is_connected_to_ours_may_speak_in_its_own_frame() -> None:
    scene, component = street(4, speed_mps=0.0), fusion()
    odom_T_its = from_rotation_translation(rotation_about_z(0.7), np.array([5.0, -3.0, 0.2]))
    component.learn_frames(
        Transforms(stamp_ns=0, frame_id="", parents=("odom",), children=("its_map",), parent_T_child=odom_T_its[None])
    )
    drive(component, scene, range(5), seen=NOTHING)
    report = tracks_of(scene, 4, frame_id="its_map")
    stretched = np.diag([3.0, 0.01, 0.04, 0.3, 0.3, 0.3]) ** 2
    its_T_odom = inverse(odom_T_its)
    drive(component, scene, range(5, 6), seen=NOTHING)
    component.hear(exact(replace(
        report, centers_m=transform_points(its_T_odom, report.centers_m), yaws_rad=report.yaws_rad - 0.7,
        velocities_mps=report.velocities_mps @ its_T_odom[:3, :3].T,
        covariances=np.repeat(stretched[None], 4, axis=0),
    ), 0.0))  # fmt: skip
    tracks = component.tracks_at(scene.stamp(5))
    np.testing.assert_allclose(tracks.centers_m, scene.places(5), atol=1e-9)
    np.testing.assert_allclose(tracks.velocities_mps, scene.velocities_mps, atol=1e-9)
    np.testing.assert_allclose(tracks.yaws_rad, 0.0, atol=1e-9)
    assert tracks.covariances is not None
    long_axis = np.linalg.eigh(tracks.covariances[0, :3, :3])[1][:, -1]
    np.testing.assert_allclose(np.abs(long_axis @ [np.cos(0.7), np.sin(0.7), 0.0]), 1.0, atol=1e-3)


@pytest.mark.parametrize("setting", [{"future_s": -1.0}, {"max_robots": 0}, {"clock_window_s": 0.0}])
def test_impossible_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        CooperativeConfig(**setting)


def test_the_port_takes_late_reports() -> None:
    assert CooperativeFusion.inputs["remote"].message_type is RemoteTracks
    assert CooperativeFusion.inputs["remote"].late == "accept"
    assert PERIOD_NS < SECOND
