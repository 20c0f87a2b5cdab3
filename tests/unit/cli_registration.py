"""What the tests of the registration commands share: a way to run them, and recordings."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tercel.cli import main
from tercel.core.geometry import from_rotation_translation, rotation_about_z
from tercel.core.messages import Odometry, PointCloud
from tercel.hosts.recording import RecordingWriter
from tests.unit.test_registration_odometry import PERIOD_NS, room_walk

Array = NDArray[Any]

START_NS = 1_000_000_000_000_000_000
HOSTILE = "<script>alert(1)</script>\"&'.mcap"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def assert_mistake(capsys: pytest.CaptureFixture[str], message: str, *arguments: object) -> None:
    """The command ends with exit code 2 and one line that says this."""
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class Page(HTMLParser):
    """The tags of a page, and what it would load from elsewhere."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value and not value.startswith(("data:", "#")):
                self.loads.append(value)


def write_street(path: Path) -> Path:
    """Twenty metres of a street with truth, 16 beams, sweeps bent by the drive."""
    settings = (
        "duration_s=4",
        "lidar_rate_hz=4",
        "lidar_columns=450",
        "camera_rate_hz=0",
        "imu_rate_hz=100",
        "gps_rate_hz=0",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    assert run("world", "street", "--seed", 5, *options, "-o", path, "--compression", "none") == 0
    return path


def cloud(points_m: Array, number: int, frame: str = "lidar") -> PointCloud:
    return PointCloud(stamp_ns=START_NS + number * PERIOD_NS, frame_id=frame, points_m=points_m)


def write_room(path: Path) -> Path:
    """A walk through a room, with truth; two of its scans are no use, one is of another frame."""
    sweeps, truth = room_walk(24)
    world_T_odom = from_rotation_translation(rotation_about_z(1.0), np.array([5.0, 6.0, 7.0]))
    with RecordingWriter(path, compression="none") as writer:
        for number, (points_m, _) in enumerate(sweeps):
            stamp_ns = START_NS + number * PERIOD_NS
            pose = Odometry(
                stamp_ns=stamp_ns, frame_id="world", child_frame_id="lidar", frame_T_child=world_T_odom @ truth[number]
            )
            writer.write("/truth/odometry", stamp_ns, pose)
            message = cloud(points_m, number)
            if number == 10:
                message = cloud(points_m[:5], number)
            elif number == 15:
                message = cloud(points_m, number, frame="elsewhere")
            elif number == 20:
                message = cloud(np.full((500, 3), np.nan, np.float32), number)
            writer.write("/lidar/points", stamp_ns, message)
    return path
