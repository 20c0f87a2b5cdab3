"""The one test here that runs without ROS 2, and says that the others do not."""

from __future__ import annotations

import importlib

import pytest


def test_rclpy_is_there() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not there: source a ROS 2 to test against real nodes")
    assert importlib.import_module("tercel.ros.node_lifecycle").GraphNode
