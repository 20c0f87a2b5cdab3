"""Where frames lie: against products worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercel.core import geometry
from tercel.core.messages import Odometry, Transforms
from tercel.report.frames import Frames, StaticFrames, Trajectory, alignment


def pose(x: float, y: float, yaw_rad: float = 0.0) -> np.ndarray:
    return geometry.from_rotation_translation(geometry.rotation_about_z(yaw_rad), np.array([x, y, 0.0]))


def transforms(*rows: tuple[str, str, np.ndarray]) -> Transforms:
    return Transforms(
        stamp_ns=0, frame_id="", parents=tuple(r[0] for r in rows), children=tuple(r[1] for r in rows),
        parent_T_child=np.stack([r[2] for r in rows]),
    )  # fmt: skip


def trajectory(stamps_ns: list[int], poses: list[np.ndarray], frame: str = "odom", child: str = "lidar") -> Trajectory:
    messages = [
        Odometry(stamp_ns=t, frame_id=frame, child_frame_id=child, frame_T_child=p)
        for t, p in zip(stamps_ns, poses, strict=True)
    ]
    return Trajectory.of("/odometry", messages)


# base is turned a quarter left in the map and stands at (10, 0); the lidar sits 2 m ahead of it, the camera 1 m left.
FRAMES = StaticFrames(
    [
        transforms(("map", "base", pose(10, 0, np.pi / 2)), ("base", "lidar", pose(2, 0))),
        transforms(("base", "camera", pose(0, 1))),
    ]
)


def test_a_child_is_mapped_into_its_parent() -> None:
    assert FRAMES.lookup("base", "lidar") == pytest.approx(pose(2, 0))


def test_a_parent_is_mapped_into_its_child() -> None:
    assert FRAMES.lookup("lidar", "base") == pytest.approx(pose(-2, 0))


def test_a_chain_is_multiplied_in_order() -> None:
    """The lidar, 2 m ahead of a base that looks along y, is at (10, 2) in the map."""
    assert FRAMES.lookup("map", "lidar") == pytest.approx(pose(10, 2, np.pi / 2))


def test_siblings_are_connected_over_their_parent() -> None:
    assert FRAMES.lookup("camera", "lidar")[:3, 3] == pytest.approx([2, -1, 0])


def test_a_frame_is_where_it_is() -> None:
    assert FRAMES.lookup("lidar", "lidar") == pytest.approx(np.eye(4))


def test_a_leading_slash_as_ros_1_has_it_does_not_matter() -> None:
    assert FRAMES.lookup("/base", "/lidar") == pytest.approx(pose(2, 0))


def test_unconnected_frames_raise() -> None:
    apart = StaticFrames([transforms(("a", "b", np.eye(4)), ("c", "d", np.eye(4)))])
    with pytest.raises(KeyError, match="no static transform connects 'd' to 'a'"):
        apart.lookup("a", "d")


def test_the_later_of_two_transforms_holds() -> None:
    frames = StaticFrames([transforms(("a", "b", pose(1, 0))), transforms(("a", "b", pose(5, 0)))])
    assert frames.lookup("a", "b")[0, 3] == 5


def test_frames_in_a_circle_end_the_search() -> None:
    circle = StaticFrames([transforms(("a", "b", pose(1, 0)), ("b", "c", pose(1, 0)), ("c", "a", pose(-2, 0)))])
    with pytest.raises(KeyError):
        circle.lookup("a", "elsewhere")


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.floats(-3, 3)), min_size=1, max_size=6))
def test_there_and_back_is_identity(links: list[tuple[float, float, float]]) -> None:
    rows = [(f"f{i}", f"f{i + 1}", pose(*link)) for i, link in enumerate(links)]
    frames, last = StaticFrames([transforms(*rows)]), f"f{len(links)}"
    expected = np.eye(4)
    for _, _, parent_T_child in rows:
        expected = expected @ parent_T_child
    assert frames.lookup("f0", last) == pytest.approx(expected, abs=1e-9)
    assert frames.lookup("f0", last) @ frames.lookup(last, "f0") == pytest.approx(np.eye(4), abs=1e-9)


def test_a_pose_between_two_lies_on_their_arc() -> None:
    """Half way through a quarter turn about a point 1 m to the left, the heading is an eighth turn."""
    turning = trajectory([0, 100], [pose(0, 0), pose(1, 1, np.pi / 2)])
    middle = turning.at(50, slack_ns=100)
    assert geometry.yaw_from_rotation(middle) == pytest.approx(np.pi / 4)
    assert middle[:2, 3] == pytest.approx([np.sin(np.pi / 4), 1 - np.cos(np.pi / 4)])


def test_a_stamp_far_from_every_pose_raises() -> None:
    short = trajectory([1000, 2000], [pose(0, 0), pose(1, 0)])
    assert short.at(2300, slack_ns=300) == pytest.approx(pose(1, 0))
    for stamp_ns in (600, 2301):
        with pytest.raises(KeyError):
            short.at(stamp_ns, slack_ns=300)
    with pytest.raises(KeyError, match="gap"):
        short.at(1500, slack_ns=300)


def test_poses_with_nan_and_repeated_stamps_are_left_out() -> None:
    broken = pose(0, 0)
    broken[0, 3] = np.nan
    kept = trajectory([30, 10, 20, 10], [pose(3, 0), pose(1, 0), broken, pose(9, 0)])
    assert kept.stamps_ns.tolist() == [10, 30]
    assert kept.positions_m[:, 0].tolist() == [1, 3]
    with pytest.raises(ValueError, match="no usable pose"):
        trajectory([0], [broken])


def test_moving_frames_are_connected_over_a_pose() -> None:
    """The camera 1 m left and 2 m behind the lidar sees the odometry's origin from where the lidar has gone."""
    moving = Frames(FRAMES, [trajectory([0, 100], [pose(0, 0), pose(4, 0)])], slack_ns=100)
    assert moving.lookup("odom", "camera", 50)[:3, 3] == pytest.approx([0, 1, 0])
    assert moving.lookup("camera", "odom", 50)[:3, 3] == pytest.approx([0, -1, 0])
    with pytest.raises(KeyError, match="nothing connects"):
        moving.lookup("odom", "elsewhere", 50)


def test_truth_is_laid_over_the_first_pose_they_share() -> None:
    """The truth is of the base, the estimate of the lidar 2 m ahead, and begins a step later."""
    truth = trajectory([0, 100, 200], [pose(100, 0), pose(101, 0), pose(102, 0)], frame="world", child="base")
    estimate = trajectory([100, 200], [pose(0, 0), pose(1, 0)])
    odom_T_world, base_T_lidar = alignment(estimate, truth, FRAMES, slack_ns=0)
    laid = odom_T_world @ truth.frame_T_child @ base_T_lidar
    assert laid[:, 0, 3] == pytest.approx([-1, 0, 1])


def test_truth_of_another_time_or_an_unknown_frame_cannot_be_laid_over() -> None:
    estimate = trajectory([100], [pose(0, 0)])
    with pytest.raises(KeyError):
        alignment(estimate, trajectory([900], [pose(0, 0)], frame="world", child="base"), FRAMES, slack_ns=10)
    with pytest.raises(KeyError):
        alignment(estimate, trajectory([100], [pose(0, 0)], frame="world", child="wheel"), FRAMES, slack_ns=10)
