"""Tests against real rclpy nodes. Where rclpy is missing they are skipped, in one line; source a ROS 2 to run them.

Every test has a ROS domain of its own, on loopback. A pytest that cannot load ROS's own plugins wants
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.scenarios.conftest import camera_lidar_drive, world  # noqa: F401 (recordings)

if TYPE_CHECKING:
    from tests.ros.peers import Peer, Robot

HAS_RCLPY = importlib.util.find_spec("rclpy") is not None
if not HAS_RCLPY:
    collect_ignore_glob = ["test_[!p]*.py", "test_parameters.py"]  # all but test_presence.py, which says so


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> int:
    """A domain that nobody else is likely to use; nothing leaves this machine."""
    domain = 1 + int.from_bytes(os.urandom(2), "little") % 100
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    if "CYCLONEDDS_URI" not in os.environ:
        monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        monkeypatch.setenv("ROS_LOCALHOST_ONLY", "1")
    return domain


@pytest.fixture
def peer(on_loopback: int) -> Iterator[Peer]:
    """A genuine rclpy node of the test's own."""
    from tests.ros.peers import Peer

    with Peer(on_loopback) as node:
        yield node


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Any]:
    """Starts nodes of the suite as `ros2 run` does, and ends them."""
    from tests.ros.peers import Robot

    started: list[Robot] = []

    def start(*arguments: str, executable: str = "graph_host") -> Robot:
        started.append(Robot(executable, arguments, tmp_path))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.kill()
