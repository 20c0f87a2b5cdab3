"""The report as a file: whole in itself, safe, the same twice, and there for every kind of recording."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tercel.core import geometry
from tercel.core.messages import (
    CameraInfo,
    CompressedImage,
    Imu,
    Message,
    Odometry,
    PointCloud,
    Tracks2D,
    Tracks3D,
    Transforms,
)
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.report import tables
from tercel.report.html import write_report

EVIL = "<script>alert('x')</script>"
STEP_NS = 100_000_000
OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])  # camera_T_lidar
Stamped = Sequence[tuple[str, Message]]


def write(path: Path, messages: Stamped) -> Path:
    with RecordingWriter(path) as writer:
        for topic, message in messages:
            writer.write(topic, message.stamp_ns, message)
    return path


def image(i: int) -> CompressedImage:
    pixels = np.random.default_rng(i).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = cv2.imencode(".jpg", pixels)[1]
    return CompressedImage(stamp_ns=i * STEP_NS, frame_id="camera", format="jpeg", data=data)


def cloud(i: int) -> PointCloud:
    points = np.random.default_rng(i).uniform(-20, 20, (500, 3)).astype(np.float32)
    points[0] = np.nan
    return PointCloud(stamp_ns=i * STEP_NS, frame_id="lidar", points_m=points)


def odometry(i: int, *, frame: str = "odom", child: str = "lidar", aside_m: float = 0.0) -> Odometry:
    moved = geometry.from_rotation_translation(np.eye(3), np.array([float(i), aside_m * i, 0.0]))
    return Odometry(stamp_ns=i * STEP_NS, frame_id=frame, child_frame_id=child, frame_T_child=moved)


def tracks_3d(i: int, *, frame: str = "odom", name: str = "car", identity: int = 5) -> Tracks3D:
    return Tracks3D(
        stamp_ns=i * STEP_NS, frame_id=frame, centers_m=np.array([[10.0 + i, 0, 0]]), sizes_m=np.array([[4.0, 2, 1.5]]),
        yaws_rad=np.zeros(1), scores=np.ones(1), labels=np.zeros(1), class_names=(name,), ids=np.array([identity]),
        velocities_mps=np.full((1, 3), np.nan), ages_s=np.full(1, np.nan),
    )  # fmt: skip


def tracks_2d(i: int, *, name: str = "person", identity: int = 3) -> Tracks2D:
    return Tracks2D(
        stamp_ns=i * STEP_NS, frame_id="camera", boxes_xyxy_px=np.array([[10, 10, 30, 50]]), scores=np.ones(1),
        labels=np.zeros(1), class_names=(name,), ids=np.array([identity]), velocities_px_per_s=np.full((1, 2), np.nan),
        ages_s=np.full(1, np.nan),
    )  # fmt: skip


def calibration() -> list[tuple[str, Message]]:
    info = CameraInfo(
        stamp_ns=0, frame_id="camera", width_px=80, height_px=60, distortion_model="", distortion=np.zeros(0),
        intrinsics=np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]]), rectification=np.eye(3),
        projection=np.zeros((3, 4)),
    )  # fmt: skip
    lidar_T_camera = geometry.inverse(OPTICAL)[None]
    static = Transforms(
        stamp_ns=0, frame_id="", parents=("lidar",), children=("camera",), parent_T_child=lidar_T_camera
    )
    return [("/camera/camera_info", info), ("/tf_static", static)]


def report(folder: Path, recorded: Stamped, result: Stamped, summary: dict[str, Any] | None = None) -> str:
    drive = open_recording(write(folder / "drive.mcap", recorded))
    run = open_recording(write(folder / "result.mcap", result))
    write_report(folder / "report.html", drive, run, summary or {})
    return (folder / "report.html").read_text(encoding="utf-8")


CAMERA = [("/camera/image", image(i)) for i in range(5)]
LIDAR = [("/lidar/points", cloud(i)) for i in range(5)]
RESULT_2D = [("/tracks_2d", tracks_2d(i)) for i in range(5)]
RESULT_3D = [(t, m) for i in range(5) for t, m in (("/odometry", odometry(i)), ("/tracks_3d", tracks_3d(i)))]
TRUTH = [
    row
    for i in range(5)
    for row in (
        ("/truth/odometry", odometry(i, frame="world", aside_m=0.1)),
        ("/truth/tracks_3d", tracks_3d(i, frame="world")),
    )
]
SUMMARY: dict[str, Any] = {
    "tercel": "0.1.0",
    "recording": {
        "name": "drive.mcap", "duration_s": 0.4, "problems": [],
        "topics": {"/lidar/points": {"type": "sensor_msgs/msg/PointCloud2", "count": 5, "rate_hz": 10.0}},
    },
    "components": {
        "tracker": {
            "count": 5, "rate_hz": 10.0, "latency_ms": {"p50": 1.0, "p90": 2.0, "p99": 3.0, "max": 4.0},
            "inputs": {"cloud": {"received": 5, "processed": 5, "dropped": {}, "rejected": {}}},
        }
    },
    "odometry": {"ate_rmse_m": 0.42, "path_m": 69.4},
    "wall": {"real_time_factor": 3.4},
}  # fmt: skip


class Page(HTMLParser):
    """Tags that are closed in order, with every attribute."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def everything(folder: Path) -> str:
    recorded = sorted([*calibration(), *CAMERA, *LIDAR, *TRUTH], key=lambda row: row[1].stamp_ns)
    return report(folder, recorded, [*RESULT_2D, *RESULT_3D], SUMMARY)


def test_the_report_needs_nothing_but_itself(tmp_path: Path) -> None:
    page = Page(text := everything(tmp_path))
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)
    assert not re.search(r"https?://", text)


def test_the_report_is_well_formed_and_accessible(tmp_path: Path) -> None:
    page = Page(everything(tmp_path))
    assert page.open == []
    assert all("alt" in attributes for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first = everything(tmp_path)
    (tmp_path / "again").mkdir()
    assert everything(tmp_path / "again") == first


def test_every_instant_shows_camera_and_surroundings_with_tracks_and_truth(tmp_path: Path) -> None:
    text = everything(tmp_path)
    assert text.count('<article class="scene"') == 5
    assert text.count('src="data:image/jpeg;base64,') == 5
    assert text.count('src="data:image/png;base64,') == 5
    assert text.count('class="box wire"') == 5  # the car ahead, projected into the image
    assert text.count('<rect class="box flat"') == 5
    assert text.count('<path class="box flat"') == 5
    assert text.count('class="box truth"') == 10  # from above and in the image


def test_the_error_against_truth_is_the_one_worked_by_hand(tmp_path: Path) -> None:
    """The truth drifts 0.1 m aside each step: 0.4 m after four, over a path of 4 * sqrt(1.01) m = 4.02 m."""
    text = everything(tmp_path)
    assert "0.40 m at the end, 9.95 % of the way, 0.40 m at most" in text


def test_text_from_a_recording_is_escaped(tmp_path: Path) -> None:
    recorded = [(f"/{EVIL}", cloud(i)) for i in range(3)]
    result = [(f"/{EVIL}_3d", tracks_3d(i, frame=EVIL, name=EVIL)) for i in range(3)]
    result += [(f"/{EVIL}_2d", tracks_2d(i, name=EVIL)) for i in range(3)]
    result += [(f"/{EVIL}/odometry", odometry(i, frame=EVIL, child=EVIL)) for i in range(3)]
    row = {"count": 1, "inputs": {EVIL: {"processed": 1, "dropped": {EVIL: 2}, "rejected": {EVIL: 3}}}}
    summary = {
        "tercel": EVIL, "graph": EVIL, "graph_reason": EVIL, "charge": EVIL, "command": EVIL, "components": {EVIL: row},
        "recording": {
            "name": EVIL, "topics": {EVIL: {"type": EVIL, "count": EVIL}}, "problems": [EVIL], "rejected": {EVIL: 1},
        },
        "odometry": {EVIL: EVIL},
    }  # fmt: skip
    text = report(tmp_path, recorded, result, summary)
    assert EVIL not in text
    assert "alert(&#x27;x&#x27;)" in text
    assert Page(text).open == []


@pytest.mark.parametrize(
    ("recorded", "result", "camera", "above"),
    [
        (CAMERA, RESULT_2D, True, False),
        (LIDAR, RESULT_3D, False, True),
        (CAMERA, [], True, False),
        (LIDAR, [], False, True),
        (LIDAR, RESULT_2D, True, True),  # boxes of an image that was not recorded
        ([], RESULT_2D, True, False),
        ([], RESULT_3D, False, True),
    ],
)
def test_a_report_shows_what_there_is(
    tmp_path: Path, recorded: Stamped, result: Stamped, camera: bool, above: bool
) -> None:
    text = report(tmp_path, recorded, result)
    assert ('class="panel camera"' in text, 'class="panel birdseye"' in text) == (camera, above)
    assert text.count('<article class="scene"') == 5


def test_a_recording_without_anything_to_show_has_a_report(tmp_path: Path) -> None:
    imu = Imu(stamp_ns=0, frame_id="imu", angular_velocity_radps=np.zeros(3), linear_acceleration_mps2=np.zeros(3))
    for recorded in ([("/imu", imu)], []):
        text = report(tmp_path, recorded, [])
        assert "Neither images, nor clouds, nor tracks to show" in text
        assert Page(text).open == []


def test_damaged_and_empty_messages_do_not_stop_the_report(tmp_path: Path) -> None:
    broken = CompressedImage(stamp_ns=0, frame_id="camera", format="jpeg", data=np.zeros(9, np.uint8))
    no_points = PointCloud(stamp_ns=0, frame_id="lidar", points_m=np.full((2, 3), np.nan))
    lost = tracks_3d(0)
    lost.centers_m[:] = np.nan
    no_boxes = Tracks2D(
        stamp_ns=STEP_NS, frame_id="camera", boxes_xyxy_px=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0),
        class_names=(), ids=np.zeros(0), velocities_px_per_s=np.zeros((0, 2)), ages_s=np.zeros(0),
    )  # fmt: skip
    recorded = [("/camera/image", broken), ("/lidar/points", no_points)]
    text = report(tmp_path, recorded, [("/tracks_3d", lost), ("/tracks_2d", no_boxes), ("/odometry", odometry(0))])
    assert text.count('<article class="scene"') == 1


def test_tracks_rather_than_detections_are_shown(tmp_path: Path) -> None:
    detections = [("/a_detections", tracks_3d(i, name="blob", identity=-1)) for i in range(5)]
    text = report(tmp_path, LIDAR, [*detections, *RESULT_3D])
    assert "track 5: car" in text
    assert "blob" not in text


def test_detections_are_shown_where_there_are_no_tracks(tmp_path: Path) -> None:
    detections = [("/detections", tracks_3d(i, frame="lidar", name="blob", identity=-1)) for i in range(5)]
    assert text_of_first_row(report(tmp_path, LIDAR, detections)) == "–blob"


def text_of_first_row(text: str) -> str:
    row = text.split("<tbody><tr>")[1].split("<td>1.00")[0]
    return re.sub(r"<[^>]*>", "", row)


def test_what_cannot_be_placed_is_named(tmp_path: Path) -> None:
    elsewhere = [("/tracks_3d", tracks_3d(i, frame="nowhere")) for i in range(5)]
    text = report(tmp_path, LIDAR, elsewhere)
    assert "nothing connects &#x27;nowhere&#x27; to &#x27;lidar&#x27; at this time" in text


def test_a_long_recording_is_shown_at_few_instants(tmp_path: Path) -> None:
    text = report(tmp_path, [("/lidar/points", cloud(i)) for i in range(200)], [])
    assert text.count('<article class="scene"') == 36
    assert len(text) < 8e6


def test_the_script_finds_a_time_for_every_instant(tmp_path: Path) -> None:
    text = everything(tmp_path)
    marks = json.loads(text.split('id="marks">')[1].split("</script>")[0])
    assert marks["times"] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert len(marks["map"]) == len(marks["timeline"]) == 5


def test_a_track_is_thin_in_the_timeline_where_it_was_missing(tmp_path: Path) -> None:
    there = [("/tracks_2d", tracks_2d(i, identity=4)) for i in range(5)]
    away = [("/tracks_2d", tracks_2d(i)) if i != 2 else there[2] for i in range(5)]
    text = report(tmp_path, CAMERA, away)
    assert "track 3, person: 0.00 s to 0.40 s (0.40 s), seen 4 times, 1 pause, the longest 0.20 s" in text
    life = text.split('data-id="3"')[1].split("</g>")[0]
    assert life.split('class="span"')[1].count("M") == 2
    assert life.split('class="gap"')[1].split("/>")[0].count("M") == 1


# --- the summary in words


def test_what_components_counted_is_told_as_shares_of_its_sum() -> None:
    counters = {"detections": 1200, "matched": 900, "rejected: no size": 300}
    text = tables.counted_html({"components": {"tracker_2d": {"counters": counters}, "detector": {}}})
    assert re.sub(r"<[^>]*>", "", text) == (
        "tracker_2d: 1,200 detections: 900 matched (75.0 %), 300 rejected: no size (25.0 %)"
    )
    assert tables.counted_html({"components": {"detector": {}}}) == ""


def test_the_verdict_is_one_sentence() -> None:
    assert tables.verdict(SUMMARY) == (
        "3.4 times real time, nothing dropped, odometry within 0.42\u00a0m of the truth (ATE) over 69\u00a0m."
    )


def test_it_says_plainly_that_nothing_was_dropped() -> None:
    assert "Nothing was dropped and nothing was rejected: all 5 messages" in tables.lost_html(SUMMARY)


def test_it_says_what_was_dropped_and_why() -> None:
    account = {"received": 9, "processed": 5, "dropped": {"queue full": 3}, "rejected": {"stamp went back": 1}}
    summary = {"components": {"tracker": {"count": 5, "inputs": {"cloud": account}}}}
    text = re.sub(r"<[^>]*>", "", tables.lost_html(summary))
    assert "3 dropped at tracker.cloud: queue full" in text
    assert "1 rejected by tracker.cloud: stamp went back" in text
    assert tables.verdict(summary) == "3 dropped and 1 rejected."


@pytest.mark.parametrize("summary", [{}, {"components": {"a": {}}}, {"odometry": None, "wall": {}}, {"recording": []}])
def test_every_key_of_the_summary_may_be_missing(summary: dict[str, Any], tmp_path: Path) -> None:
    assert Page(report(tmp_path, LIDAR, RESULT_3D, summary)).open == []
