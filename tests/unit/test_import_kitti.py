"""KITTI's four layouts: geometry against real recordings, damage against small folders made here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.sensors.recorded import EPOCH_NS, FORMATS
from devices.sensors.recorded.kitti_calibration import read_single_file
from devices.sensors.recorded.kitti_frames import sweep_time_offsets_s
from devices.sensors.recorded.kitti_labels import parse_row, tracks_3d
from devices.sensors.recorded.kitti_oxts import mercator_T_imu
from tercel.core.errors import UserError
from tercel.core.geometry import inverse, se3_exp, se3_log, transform_points
from tercel.core.messages import CameraInfo, CompressedImage, Odometry, PointCloud, Tracks2D, Tracks3D, Transforms


def imported(name: str, source: Path, **options: Any) -> Iterator[tuple[str, int, Any]]:
    """The importer's items, with messages of no particular type."""
    return FORMATS[name].read(source, **options)


CALIBRATION = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003
R_rect 1 0 0 0 1 0 0 0 1
Tr_velo_cam 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27
Tr_imu_velo 1 0 0 -0.8 0 1 0 0.3 0 0 1 -0.8
"""
OXTS = "49.0 8.4 112.0 0.02 0.001 0.5 1 2 2.2 0.1 0 0.1 0.2 9.8 0 0 9.8 0.01 0.02 0.03 0 0 0 0.1 0.1 4 10 4 4 0"


def box_counts(cloud: PointCloud, tracks: Tracks3D, margin_m: float) -> np.ndarray:
    """How many points lie in each box, by brute force over boxes."""
    counts = []
    for center, size, yaw in zip(tracks.centers_m, tracks.sizes_m, tracks.yaws_rad, strict=True):
        local = cloud.points_m - center
        along = local[:, 0] * np.cos(yaw) + local[:, 1] * np.sin(yaw)
        across = -local[:, 0] * np.sin(yaw) + local[:, 1] * np.cos(yaw)
        inside = (np.abs(np.column_stack([along, across, local[:, 2]])) < size / 2 + margin_m).all(axis=1)
        counts.append(inside.sum())
    return np.array(counts)


def write_scan(path: Path, points: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.random.default_rng(points).normal(size=(points, 4)).astype("<f4").tofile(path)


def write_image(path: Path, *, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.zeros((12, 20) if grey else (12, 20, 3), np.uint8))


def raw_drive(folder: Path, frames: int = 3, cameras: tuple[int, ...] = (2,)) -> Path:
    drive = folder / "2011_09_26" / "2011_09_26_drive_0001_sync"
    for frame in range(frames):
        write_scan(drive / f"velodyne_points/data/{frame:010d}.bin", 10 + frame)
        for camera in cameras:
            write_image(drive / f"image_{camera:02d}/data/{frame:010d}.png", grey=camera < 2)
        oxts = drive / f"oxts/data/{frame:010d}.txt"
        oxts.parent.mkdir(parents=True, exist_ok=True)
        oxts.write_text(OXTS)
    for k, sensor in enumerate(sorted(path for path in drive.iterdir())):
        lines = [f"2011-09-26 13:02:{25 + frame}.96438{k}445\n" for frame in range(frames)]
        (sensor / "timestamps.txt").write_text("".join(lines))
    write_raw_calibration(drive.parent)
    return drive


def write_raw_calibration(day: Path) -> None:
    projections = "".join(f"P_rect_0{i}: 700 0 600 {-380 * i} 0 700 180 0 0 0 1 0\n" for i in range(4))
    (day / "calib_cam_to_cam.txt").write_text("calib_time: 09-Jan-2012\nR_rect_00: 1 0 0 0 1 0 0 0 1\n" + projections)
    (day / "calib_velo_to_cam.txt").write_text("R: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.08 -0.27\n")
    (day / "calib_imu_to_velo.txt").write_text("R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0.3 -0.8\n")


def by_topic(items: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for topic, stamp_ns, message in items:
        assert message.stamp_ns == stamp_ns
        found.setdefault(topic, []).append(message)
    return found


# ---- real recordings ----


@pytest.fixture(scope="module")
def drive_0005(unpacked_data: Path) -> dict[str, list[Any]]:
    return by_topic(imported("kitti-tracking", unpacked_data / "kitti_tracking", problems=[]))


def test_the_truth_of_drive_0005_is_its_published_poses_to_a_millimetre(
    drive_0005: dict[str, list[Any]], shared_data: Path
) -> None:
    rows = np.loadtxt(shared_data / "kitti_drive0005" / "poses_velo_from_oxts.txt").reshape(-1, 3, 4)
    poses = np.stack([message.frame_T_child for message in drive_0005["/truth/odometry"]])
    assert {message.child_frame_id for message in drive_0005["/truth/odometry"]} == {"lidar"}
    relative = inverse(poses[0]) @ poses
    assert relative.shape[0] == len(rows) == 154
    assert np.abs(relative[:, :3, 3] - rows[:, :, 3]).max() < 1e-3
    assert np.abs(relative[:, :3, :3] - rows[:, :, :3]).max() < 1e-5


def test_the_truths_velocities_are_the_poses_derivatives(drive_0005: dict[str, list[Any]]) -> None:
    truth: list[Odometry] = drive_0005["/truth/odometry"]
    poses = np.stack([message.frame_T_child for message in truth])
    stated = np.stack([message.linear_velocity_mps for message in truth if message.linear_velocity_mps is not None])
    step_s = 0.2
    differences = (poses[2:, :3, 3] - poses[:-2, :3, 3]) / step_s
    in_child = np.einsum("nji,nj->ni", poses[1:-1, :3, :3], differences)
    assert np.median(np.linalg.norm(in_child, axis=1)) > 3.0
    assert np.median(np.abs(in_child - stated[1:-1]), axis=0).max() < 0.15


def test_the_labelled_boxes_of_drive_0005_hold_its_points(drive_0005: dict[str, list[Any]]) -> None:
    held, total = 0, 0
    for cloud, tracks in zip(drive_0005["/lidar/points"][::5], drive_0005["/truth/tracks_3d"][::5], strict=True):
        near = np.linalg.norm(tracks.centers_m[:, :2], axis=1) < 30.0
        counts = box_counts(cloud, tracks, 0.0)[near]
        held, total = held + int((counts >= 5).sum()), total + len(counts)
    assert total > 100
    assert held / total > 0.97


def test_a_box_turned_by_ninety_degrees_would_hold_far_fewer_points(drive_0005: dict[str, list[Any]]) -> None:
    right, wrong = 0, 0
    for cloud, tracks in zip(drive_0005["/lidar/points"][::10], drive_0005["/truth/tracks_3d"][::10], strict=True):
        turned = Tracks3D(**{**vars(tracks), "yaws_rad": tracks.yaws_rad + np.pi / 2})
        right += int(box_counts(cloud, tracks, 0.0).sum())
        wrong += int(box_counts(cloud, turned, 0.0).sum())
    assert right > 1.3 * wrong


def test_every_frame_of_a_sequence_has_tracks_even_where_nothing_is_labelled(unpacked_data: Path) -> None:
    root = unpacked_data / "kitti_tracking"
    found = by_topic(imported("kitti-tracking", root, sequence="0013", problems=[]))
    assert len(found["/truth/tracks_2d"]) == len(found["/truth/tracks_3d"]) == len(found["/truth/odometry"]) == 340
    words = [line.split() for line in (root / "training/label_02/0013.txt").read_text().splitlines()]
    assert sum(len(m.ids) for m in found["/truth/tracks_2d"]) == sum(w[2] != "DontCare" for w in words)


def test_the_lidar_of_drive_0052_lands_on_the_car_ahead_in_the_image(unpacked_data: Path) -> None:
    found = by_topic(imported("kitti-raw", unpacked_data / "kitti_drive0052", problems=[]))
    assert len(found["/camera/image"]) == len(found["/camera/camera_info"]) == len(found["/lidar/points"]) == 39
    assert np.diff([m.stamp_ns for m in found["/lidar/points"]]).tolist() == [200_000_000] * 38
    statics: Transforms = found["/tf_static"][0]
    camera_T_lidar = inverse(statics.parent_T_child[statics.children.index("camera")])
    info: CameraInfo = found["/camera/camera_info"][0]
    in_camera = transform_points(camera_T_lidar, found["/lidar/points"][0].points_m.astype(np.float64))
    pixels = in_camera @ info.intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    # The recording's README: the car ahead is at 7.82 m in frame 0; its rear stands at 560..700 x 215..330 px.
    on_car = (np.abs(pixels - [625, 270]) < [55, 40]).all(axis=1) & (in_camera[:, 2] > 0)
    assert on_car.sum() > 200
    assert abs(np.median(in_camera[on_car, 2]) - 7.82) < 0.8


def test_a_camera_frame_and_its_intrinsics_project_as_kittis_own_chain_does(unpacked_data: Path) -> None:
    path = unpacked_data / "kitti_drive0052" / "calib.txt"
    text = {line.split()[0].rstrip(":"): line.split()[1:] for line in path.read_text().splitlines() if line.strip()}
    projection = np.array(text["P2"], dtype=float).reshape(3, 4)
    rectify, velo = np.eye(4), np.eye(4)
    rectify[:3, :3] = np.array(text["R_rect"], dtype=float).reshape(3, 3)
    velo[:3] = np.array(text["Tr_velo_cam"], dtype=float).reshape(3, 4)
    points = np.random.default_rng(1).uniform([5, -5, -2], [50, 5, 2], (100, 3))
    expected = np.column_stack([points, np.ones(100)]) @ (projection @ rectify @ velo).T
    calibration = read_single_file(path)
    assert calibration.rect0_T_lidar is not None
    ours = transform_points(calibration.camera_T_rect0(2) @ calibration.rect0_T_lidar, points)
    ours = ours @ calibration.intrinsics(2).T
    np.testing.assert_allclose(ours[:, :2] / ours[:, 2:], expected[:, :2] / expected[:, 2:], atol=1e-3)


def test_the_boxes_of_the_object_frames_hold_points_and_keep_their_image_bytes(unpacked_data: Path) -> None:
    root = unpacked_data / "kitti_object"
    problems: list[str] = []
    found = by_topic(imported("kitti-object", root, problems=problems))
    assert problems == []
    assert len(found["/tf_static"]) == 2  # frames 1 and 2 share a calibration
    names = [[m.class_names[label] for label in m.labels] for m in found["/truth/tracks_3d"]]
    assert names == [["Pedestrian"], ["Truck", "Car", "Cyclist"], ["Misc", "Car"]]
    pairs = zip(found["/lidar/points"], found["/truth/tracks_3d"], strict=True)
    assert [box_counts(cloud, tracks, 0.1).min() > 0 for cloud, tracks in pairs] == [True] * 3
    image: CompressedImage = found["/camera/image"][0]
    assert image.data.tobytes() == (root / "training/image_2/000000.png").read_bytes()
    assert image.format == "bgr8; png compressed bgr8"
    boxes: Tracks2D = found["/truth/tracks_2d"][0]
    np.testing.assert_allclose(boxes.boxes_xyxy_px, [[712.40, 143.00, 810.73, 307.92]], rtol=1e-6)


def test_sweep_times_sharpen_the_scans_of_a_moving_car_and_reversed_ones_blur_them(
    drive_0005: dict[str, list[Any]],
) -> None:
    """Scans one second apart see a wall at different azimuths, so only the right times let them agree."""
    small_gicp = pytest.importorskip("small_gicp")
    poses = np.stack([message.frame_T_child for message in drive_0005["/truth/odometry"]])

    def unwound(frame: int, sign: float) -> np.ndarray:
        points = drive_0005["/lidar/points"][frame].points_m.astype(np.float64)
        points = points[np.linalg.norm(points, axis=1) > 3.0]
        motion_per_s = se3_log(inverse(poses[frame - 1]) @ poses[frame + 1]) / 0.2
        moved = se3_exp(sign * sweep_time_offsets_s(points)[:, None] * motion_per_s)
        return np.asarray(np.einsum("nij,nj->ni", moved[:, :3, :3], points) + moved[:, :3, 3])

    def share_within_5_cm(sign: float) -> float:
        shares = []
        for k in (23, 59, 95, 131):
            target, tree = small_gicp.preprocess_points(unwound(k, sign), 0.25)
            source, _ = small_gicp.preprocess_points(unwound(k + 10, sign), 0.25)
            start = inverse(poses[k]) @ poses[k + 10]
            pose = small_gicp.align(target, source, tree, start, max_correspondence_distance=0.6).T_target_source
            points = transform_points(pose, source.points()[:, :3])
            nearest, _ = tree.batch_nearest_neighbor_search(points)
            offsets = points - target.points()[nearest, :3]
            shares.append(np.mean(np.abs((offsets * target.normals()[nearest, :3]).sum(axis=1)) < 0.05))
        return float(np.mean(shares))

    assert share_within_5_cm(+1.0) > share_within_5_cm(0.0) > share_within_5_cm(-1.0)


# ---- layouts and damage ----


def test_a_raw_drive_with_four_cameras_names_each(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path, cameras=(0, 1, 2, 3))
    problems: list[str] = []
    found = by_topic(imported("kitti-raw", drive, problems=problems))
    assert problems == []
    assert {f"/camera_0{i}/image" for i in range(4)} <= set(found)
    assert found["/camera_00/image"][0].format == "mono8; png compressed mono8"
    assert found["/camera_03/image"][0].frame_id == "camera_03"
    assert found["/tf_static"][0].children == ("imu", "camera_00", "camera_01", "camera_02", "camera_03")
    assert found["/lidar/points"][1].stamp_ns - found["/lidar/points"][0].stamp_ns == 10**9
    assert found["/camera_00/image"][0].stamp_ns == 1317042145_964380445


def test_a_raw_cameras_place_follows_from_its_baseline(tmp_path: Path) -> None:
    found = by_topic(imported("kitti-raw", raw_drive(tmp_path, cameras=(2,)), problems=[]))
    statics: Transforms = found["/tf_static"][0]
    lidar_T_camera = statics.parent_T_child[statics.children.index("camera")]
    # Camera 2's P[0, 3] = -760 = -f * baseline puts it 760/700 m to the right (lidar -y) of camera 0.
    np.testing.assert_allclose(lidar_T_camera[:3, 3], [0.27, -760 / 700, -0.08], atol=1e-9)


def test_damaged_files_in_the_middle_are_skipped_and_named(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path, frames=4)
    (drive / "velodyne_points/data/0000000001.bin").write_bytes(b"1234567")
    image = drive / "image_02/data/0000000002.png"
    image.write_bytes(image.read_bytes()[:-20])
    (drive / "oxts/data/0000000003.txt").write_text("49.0 nan")
    (drive / "velodyne_points/data/readme.bin").write_bytes(b"")
    problems: list[str] = []
    found = by_topic(imported("kitti-raw", drive, problems=problems))
    assert [len(found[t]) for t in ("/lidar/points", "/camera/image", "/imu/data", "/truth/odometry")] == [3, 3, 3, 3]
    assert len(problems) == 4
    for name in ("0000000001.bin", "0000000002.png", "0000000003.txt", "readme.bin"):
        assert sum(name in problem for problem in problems) == 1


def test_clocks_are_not_mixed_where_one_sensor_has_no_timestamps(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path)
    (drive / "oxts" / "timestamps.txt").unlink()
    problems: list[str] = []
    found = by_topic(imported("kitti-raw", drive, problems=problems, rate_hz=5.0))
    expected = [EPOCH_NS, EPOCH_NS + 200_000_000, EPOCH_NS + 400_000_000]
    assert all([m.stamp_ns for m in messages] == expected for topic, messages in found.items() if topic != "/tf_static")
    assert len(problems) == 1
    assert "oxts" in problems[0]


def test_a_drive_without_calibration_keeps_images_scans_and_the_imus_truth(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path)
    for path in drive.parent.glob("calib_*.txt"):
        path.unlink()
    problems: list[str] = []
    found = by_topic(imported("kitti-raw", drive, problems=problems))
    assert "/tf_static" not in found
    assert "/camera/camera_info" not in found
    assert found["/truth/odometry"][0].child_frame_id == "imu"
    assert "no calibration" in problems[0]


@pytest.mark.parametrize("broken", ["P2: 1 2 3", "Tr_velo_cam 0 0 0 0 0 0 0 0 0 0 0 0", "R_rect nan 0 0 0 1 0 0 0 1"])
def test_a_damaged_calibration_is_a_user_error(broken: str, tmp_path: Path) -> None:
    (tmp_path / "calib.txt").write_text(CALIBRATION + broken + "\n")
    with pytest.raises(UserError, match=r"calib\.txt"):
        read_single_file(tmp_path / "calib.txt")


def test_the_date_folder_is_refused_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wants the \.\.\._sync folder"):
        imported("kitti-raw", raw_drive(tmp_path).parent, problems=[])


def test_malformed_label_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    training = tmp_path / "training"
    for name in ("calib", "label_02"):
        (training / name).mkdir(parents=True)
    (training / "calib/0000.txt").write_text(CALIBRATION)
    write_scan(training / "velodyne/0000/000000.bin")
    good = "0 7 Car 0 0 0 10 20 30 40 1.5 1.6 4.0 2 1.7 20 -1.57"
    rows = [
        good,
        "0 8 Car 0 0 0 10",
        "0 9 Spaceship" + good[7:],
        "x 9" + good[3:],
        f"0 {10**30}" + good[3:],
        "0 3 DontCare -1 -1 -10 1 2 3 4",
        "",
    ]
    (training / "label_02/0000.txt").write_text("\n".join(rows))
    problems: list[str] = []
    found = by_topic(imported("kitti-tracking", tmp_path, problems=problems))
    tracks: Tracks3D = found["/truth/tracks_3d"][0]
    assert tracks.ids.tolist() == [7]
    assert len(problems) == 4
    np.testing.assert_allclose(tracks.sizes_m, [[4.0, 1.6, 1.5]])
    np.testing.assert_allclose(tracks.centers_m, [[20.27, -2.0, -1.7 - 0.08 + 0.75]])
    np.testing.assert_allclose(tracks.yaws_rad, [0.0], atol=1e-3)
    with pytest.raises(UserError, match="0000"):
        imported("kitti-tracking", tmp_path, sequence="0042", problems=[])


@given(st.floats(-3.1, 3.1))
def test_a_labels_yaw_is_minus_its_rot_y_less_a_quarter_turn(rot_y: float) -> None:
    row = parse_row(f"Car 0 0 0 10 20 30 40 1.5 1.6 4.0 2 1.7 20 {rot_y!r}", tracking=False)
    assert row is not None
    rect0_T_lidar = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    yaw = tracks_3d([row], 0, rect0_T_lidar).yaws_rad[0]
    assert abs(np.exp(1j * yaw) - np.exp(1j * (-rot_y - np.pi / 2))) < 1e-9


def odometry_sequence(folder: Path, *, with_tr: bool = True) -> Path:
    sequence = folder / "sequences" / "07"
    for frame in range(3):
        write_scan(sequence / f"velodyne/{frame:06d}.bin")
        write_image(sequence / f"image_2/{frame:06d}.png")
    (sequence / "times.txt").write_text("0.000000e+00\n1.037875e-01\n2.073765e-01\n")
    tr = "Tr: 0 -1 0 0 0 0 -1 -0.08 1 0 0 -0.27\n" if with_tr else ""
    (sequence / "calib.txt").write_text("P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003\n" + tr)
    (folder / "poses").mkdir()
    (folder / "poses/07.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n1 0 0 0 0 1 0 0 0 0 1 1.5\n1 0 0 oops\n")
    return folder


def test_an_odometry_sequence_drives_forward_along_the_lidars_x(tmp_path: Path) -> None:
    problems: list[str] = []
    root = odometry_sequence(tmp_path)
    found = by_topic(imported("kitti-odometry", root, sequence="07", problems=problems))
    assert [m.stamp_ns - EPOCH_NS for m in found["/lidar/points"]] == [0, 103787500, 207376500]
    truth = found["/truth/odometry"]
    positions = np.stack([m.frame_T_child[:3, 3] for m in truth])
    np.testing.assert_allclose(positions, [[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], atol=1e-12)
    assert truth[0].child_frame_id == "lidar"
    assert len(problems) == 1
    assert all(cloud.time_offset_s is None for cloud in found["/lidar/points"])
    with pytest.raises(UserError, match="one of 07"):
        imported("kitti-odometry", root, sequence="08", problems=[])


def test_without_tr_an_odometry_sequences_truth_is_the_cameras(tmp_path: Path) -> None:
    root = odometry_sequence(tmp_path, with_tr=False)
    truth = by_topic(imported("kitti-odometry", root, sequence="07", problems=[]))["/truth/odometry"]
    assert truth[1].child_frame_id == "camera"
    np.testing.assert_allclose(truth[1].frame_T_child[:3, 3], [0, 0, 1.5], atol=1e-12)


@given(st.floats(-60, 60), st.floats(-179, 179))
def test_a_step_north_or_east_has_its_length_on_the_sphere(lat_deg: float, lon_deg: float) -> None:
    packet = np.zeros(23)
    packet[:2] = lat_deg, lon_deg
    moved = packet.copy()
    moved[:2] += np.degrees([10.0 / 6378137.0, 10.0 / 6378137.0 / np.cos(np.radians(lat_deg))])
    step = (mercator_T_imu(moved, lat_deg) - mercator_T_imu(packet, lat_deg))[:3, 3]
    np.testing.assert_allclose(step, [10.0, 10.0, 0.0], atol=1e-3)


def test_a_sweep_starts_behind_on_the_left_and_faces_ahead_at_its_stamp() -> None:
    points = np.array([[-1, 1e-6, 0], [0, 1, 0], [1, 0, 0], [0, -1, 0], [-1, -1e-6, 0], [np.nan, 0, 0]])
    expected = np.array([-0.05, -0.025, 0.0, 0.025, 0.05, np.nan])
    np.testing.assert_allclose(sweep_time_offsets_s(points), expected, atol=1e-6)
