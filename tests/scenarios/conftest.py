"""Real drives imported once, and the tools to damage them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tercel.cli import main
from tercel.core.messages import Message
from tercel.hosts.recording import RecordingWriter, open_recording

Row = tuple[str, int, Message]


# Real sockets, processes and deadlines: what else the machine does for a moment can fail one of these. That is shown as
# a rerun in the summary; a second failure counts.
REAL_TIME = (
    "test_dashboard",
    "test_dashboard_page",
    "test_dds_dora",
    "test_dds_transport",
    "test_host_services",
    "test_link_proxy",
    "test_link_proxy_command",
    "test_live_drive",
    "test_live_run",
    "test_offload_live",
    "test_ray_serve",
    "test_serve_engine",
    "test_serve_faults",
    "test_serve_operation",
    "test_view",
    "test_zenoh_dora",
    "test_zenoh_security",
    "test_zenoh_transport",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in REAL_TIME:
            item.add_marker(pytest.mark.flaky(reruns=1))


def tercel(*arguments: object) -> int:
    """Run one command in this process."""
    return main([str(argument) for argument in arguments])


def replay(recording: Path, out: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    """Replay without the report, and the summary."""
    assert tercel("replay", recording, "--out", out, "--no-report", *arguments) == code
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def rows_of(path: Path) -> Iterator[Row]:
    """Topic, log time and message of a whole recording."""
    recording = open_recording(path)
    for recorded in recording.messages(list(recording.topics)):
        yield recorded.topic, recorded.log_time_ns, recording.decode(recorded)


def rewrite(source: Path, path: Path, damage: Callable[[Iterable[Row]], Iterable[Row]]) -> Path:
    """Copy a recording through a function that damages its stream of messages."""
    with RecordingWriter(path, compression="none") as writer:
        for topic, log_time_ns, message in damage(rows_of(source)):
            writer.write(topic, log_time_ns, message)
    return path


@pytest.fixture(scope="session")
def camera_lidar_drive(unpacked_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI drive 0052: 39 camera images and front sweeps, 5 Hz."""
    path = tmp_path_factory.mktemp("drive52") / "drive52.mcap"
    assert tercel("import", "kitti-raw", unpacked_data / "kitti_drive0052", "-o", path) == 0
    return path


@pytest.fixture(scope="session")
def lidar_drive(unpacked_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """KITTI drive 0005 = tracking 0000: 154 whole sweeps, 10 Hz, with poses and 3D labels."""
    path = tmp_path_factory.mktemp("drive5") / "drive5.mcap"
    source = unpacked_data / "kitti_tracking"
    assert tercel("import", "kitti-tracking", source, "--set", "sequence=0000", "-o", path) == 0
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of a simulated street, for scenarios that need no real drive."""
    path = tmp_path_factory.mktemp("world") / "street.mcap"
    settings = {
        "duration_s": 3,
        "camera_width_px": 160,
        "camera_height_px": 120,
        "camera_rate_hz": 5,
        "lidar_columns": 400,
        "include_depth": False,
    }
    options = [f"--set={key}={value}" for key, value in settings.items()]
    assert tercel("world", "street", "--seed", 3, "-o", path, *options) == 0
    return path
