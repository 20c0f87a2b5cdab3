"""RGB-D recordings, image folders and videos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from devices.sensors.recorded import EPOCH_NS, FORMATS
from devices.sensors.recorded.image_bytes import parse_image
from tercel.core.errors import UserError


def imported(name: str, source: Path, **options: Any) -> Iterator[tuple[str, int, Any]]:
    """The importer's items, with messages of no particular type."""
    return FORMATS[name].read(source, **options)


PICTURE = np.random.default_rng(5).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def encoded(suffix: str, pixels: np.ndarray = PICTURE) -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def decoded(data: np.ndarray) -> np.ndarray:
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize(
    ("suffix", "pixels", "encoding"),
    [
        (".jpg", PICTURE, "bgr8"),
        (".png", PICTURE, "bgr8"),
        (".jpg", PICTURE[:, :, 0], "mono8"),
        (".png", PICTURE[:, :, 0], "mono8"),
        (".png", PICTURE[:, :, 0].astype(np.uint16), "mono16"),
        (".png", np.dstack([PICTURE, PICTURE[:, :, 0]]), "bgra8"),
    ],
)
def test_headers_agree_with_what_opencv_decodes(suffix: str, pixels: np.ndarray, encoding: str) -> None:
    image = parse_image(encoded(suffix, pixels))
    picture = decoded(np.frombuffer(image.data, np.uint8))
    assert (image.height_px, image.width_px) == picture.shape[:2]
    assert image.encoding == encoding


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_cut_at_any_length_is_refused(suffix: str) -> None:
    whole = encoded(suffix)
    for length in range(0, len(whole) - 1, 7):
        with pytest.raises(ValueError, match=r"ends early|neither|empty|px|header"):
            parse_image(whole[:length])


def test_a_png_with_one_flipped_bit_is_refused() -> None:
    damaged = bytearray(encoded(".png"))
    damaged[len(damaged) // 2] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        parse_image(bytes(damaged))


def test_images_pass_through_byte_for_byte_and_a_damaged_one_is_skipped(tmp_path: Path) -> None:
    for number, suffix in enumerate((".jpg", ".png", ".jpg")):
        (tmp_path / f"{number}{suffix}").write_bytes(encoded(suffix))
    (tmp_path / "1.png").write_bytes(encoded(".png")[:500])
    (tmp_path / "notes.txt").write_text("no image")
    problems: list[str] = []
    items = list(imported("images", tmp_path, rate_hz=4.0, intrinsics="50,51,32,24", problems=problems))
    assert [topic for topic, _, _ in items] == ["/camera/camera_info", "/camera/image"] * 2
    assert [stamp_ns - EPOCH_NS for _, stamp_ns, _ in items] == [0, 0, 500_000_000, 500_000_000]
    info, image = items[0][2], items[1][2]
    assert image.data.tobytes() == (tmp_path / "0.jpg").read_bytes()
    assert image.format == "bgr8; jpeg compressed bgr8"
    assert (info.width_px, info.height_px) == (64, 48)
    assert info.intrinsics.tolist() == [[50, 0, 32], [0, 51, 24], [0, 0, 1]]
    assert len(problems) == 1
    assert "1.png" in problems[0]


@pytest.mark.parametrize("text", ["1,2,3", "0,1,2,3", "a,b,c,d", "nan,1,2,3"])
def test_wrong_intrinsics_are_a_user_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="intrinsics"):
        imported("images", tmp_path, intrinsics=text)


def test_real_photographs_pass_through(shared_data: Path) -> None:
    problems: list[str] = []
    items = list(imported("images", shared_data / "img_aerial_cars", problems=problems))
    assert len(items) == 67
    assert problems == []


def test_a_videos_frames_come_at_its_rate_and_look_alike(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    shades = [40, 120, 200]
    for shade in shades:
        writer.write(np.full((48, 64, 3), shade, np.uint8))
    writer.release()
    items = list(imported("video", path, problems=[]))
    assert [stamp_ns - EPOCH_NS for _, stamp_ns, _ in items] == [0, 50_000_000, 100_000_000]
    means = [decoded(m.data).mean() for _, _, m in items]
    np.testing.assert_allclose(means, shades, atol=3)


def test_a_file_that_is_no_video_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match="cannot be opened"):
        imported("video", tmp_path / "clip.mp4", problems=[])


def tum_sequence(folder: Path) -> Path:
    for name in ("rgb", "depth"):
        (folder / name).mkdir()
    depth = np.zeros((48, 64), np.uint16)
    depth[0, :3] = [5000, 12345, 65535]
    for k in range(3):
        (folder / f"rgb/{k}.png").write_bytes(encoded(".png"))
        (folder / f"depth/{k}.png").write_bytes(encoded(".png", depth))
    (folder / "rgb.txt").write_text("# color\n" + "".join(f"1305031102.{175304 + k} rgb/{k}.png\n" for k in range(3)))
    (folder / "depth.txt").write_text("".join(f"1305031102.{160407 + k} depth/{k}.png\n" for k in range(3)))
    (folder / "groundtruth.txt").write_text(
        "# t x y z q\n1305031098.6659 1 2 3 0 0 0.7071068 0.7071068\n"
        "1305031098.7 1 2 nan 0 0 0 1\n1305031099 1 2 3 0 0 0 0\n"
    )
    return folder


def test_a_tum_sequence_keeps_its_clock_and_its_depth_becomes_millimetres(tmp_path: Path) -> None:
    problems: list[str] = []
    items = list(imported("tum-rgbd", tum_sequence(tmp_path), problems=problems))
    assert [topic for topic, _, _ in items] == [
        "/truth/odometry", *["/camera/depth"] * 3, *["/camera/camera_info", "/camera/image"] * 3
    ]  # fmt: skip
    assert items[0][1] == 1305031098_665900000
    assert items[-1][1] == 1305031102_175306000
    np.testing.assert_allclose(items[0][2].frame_T_child[:3], [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]], atol=1e-6)
    depth_mm = decoded(items[1][2].data)
    assert depth_mm.dtype == np.uint16
    assert depth_mm[0, :4].tolist() == [1000, 2469, 13107, 0]
    assert items[1][2].format == "16UC1; png compressed"
    assert len(problems) == 2


def test_a_tum_index_cannot_name_files_outside_the_recording(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded(".png"))
    (folder / "rgb.txt").write_text("1.0 ../secret.png\n2.0\n3.0 a\0b.png\n")
    problems: list[str] = []
    with pytest.raises(UserError, match="nothing could be read"):
        list(imported("tum-rgbd", folder, problems=problems))
    assert len(problems) == 3


def test_the_7scenes_frames_have_rigid_poses_and_no_invalid_depth(shared_data: Path) -> None:
    folder = shared_data / "rgbd_7scenes"
    problems: list[str] = []
    items = list(imported("7scenes", folder, problems=problems))
    assert problems == []
    poses = np.stack([m.frame_T_child for topic, _, m in items if topic == "/truth/odometry"])
    assert len(poses) == 135
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (135, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_allclose(poses[0], np.loadtxt(folder / "frame-000000.pose.txt"), atol=1e-4)
    depths = [m for topic, _, m in items if topic == "/camera/depth"]
    invalid = 0
    for depth, path in zip(depths, sorted(folder.glob("*.depth.png")), strict=True):
        ours = decoded(depth.data)
        theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        invalid += int(np.count_nonzero(theirs == 65535))
        np.testing.assert_array_equal(ours, np.where(theirs == 65535, 0, theirs))
    assert invalid > 0
    stamps = [stamp_ns - EPOCH_NS for topic, stamp_ns, _ in items if topic == "/camera/image"]
    assert stamps[:3] == [0, 33333333, 66666667]
    info = next(m for topic, _, m in items if topic == "/camera/camera_info")
    np.testing.assert_allclose(info.intrinsics, [[585, 0, 320], [0, 585, 240], [0, 0, 1]])


def test_neighbouring_7scenes_frames_agree_in_depth_once_moved_by_their_poses(shared_data: Path) -> None:
    """The pose is camera to world and the depth in millimetres: points of frame 20 lie on the surface of frame 0."""
    frames: dict[int, dict[str, np.ndarray]] = {}
    for topic, stamp_ns, message in imported("7scenes", shared_data / "rgbd_7scenes", problems=[]):
        number = round((stamp_ns - EPOCH_NS) * 30e-9)
        if topic == "/camera/depth" and number in (0, 20):
            frames.setdefault(number, {})["depth"] = decoded(message.data) / 1000.0
        if topic == "/truth/odometry" and number in (0, 20):
            frames.setdefault(number, {})["pose"] = message.frame_T_child
        if number > 20:
            break
    v, u = np.mgrid[40:440:7, 40:600:7]
    z = frames[20]["depth"][v, u]
    rays = np.stack([(u - 320) / 585.0, (v - 240) / 585.0, np.ones_like(z)], axis=-1)[z > 0]
    points = rays * z[z > 0][:, None]
    relative = np.linalg.inv(frames[0]["pose"]) @ frames[20]["pose"]
    moved = points @ relative[:3, :3].T + relative[:3, 3]
    pixels = np.rint(moved[:, :2] / moved[:, 2:] * 585.0 + [320, 240]).astype(int)
    seen = (pixels >= 0).all(axis=1) & (pixels < [640, 480]).all(axis=1)
    surface = frames[0]["depth"][pixels[seen, 1], pixels[seen, 0]]
    error = np.abs(surface - moved[seen, 2])[surface > 0]
    still = np.abs(surface - points[seen, 2])[surface > 0]
    assert np.median(error) < 0.025
    assert np.median(error) < 0.5 * np.median(still)


def test_a_damaged_7scenes_pose_or_depth_costs_only_itself(tmp_path: Path) -> None:
    for number in (0, 3):
        stem = f"frame-{number:06d}"
        (tmp_path / f"{stem}.color.png").write_bytes(encoded(".png"))
        (tmp_path / f"{stem}.depth.png").write_bytes(encoded(".png", PICTURE[:, :, 0].astype(np.uint16)))
        (tmp_path / f"{stem}.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
    (tmp_path / "frame-000003.pose.txt").write_text("-1.#IND " * 16)
    (tmp_path / "frame-000000.depth.png").write_bytes(encoded(".png"))
    problems: list[str] = []
    topics = [topic for topic, _, _ in imported("7scenes", tmp_path, problems=problems)]
    assert topics.count("/camera/image") == 2
    assert topics.count("/camera/depth") == topics.count("/truth/odometry") == 1
    assert len(problems) == 2
