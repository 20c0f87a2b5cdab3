"""A recorded drive, played into a live graph at half speed, gives the very tracks that its replay gives."""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tercel.hosts.recording import open_recording
from tests.scenarios.conftest import replay, tercel
from tests.scenarios.test_host_services import configs, random_domain

ROOT = Path(__file__).resolve().parents[2]
TRACKS = ("/tracks_2d", "/tracks_3d")
IMAGES = 39


def tracks_of(path: Path) -> dict[str, list[bytes]]:
    """The bytes of both track topics."""
    recording = open_recording(path)
    rows: dict[str, list[bytes]] = {topic: [] for topic in TRACKS}
    for recorded in recording.messages(TRACKS):
        rows[recorded.topic].append(bytes(recorded.raw))
    return rows


def options_of(shared_data: Path) -> list[str]:
    return ["--model", str(shared_data / "models" / "nanodet_m_320.onnx")]


@pytest.fixture(scope="module")
def replayed(camera_lidar_drive: Path, shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("replayed")
    replay(camera_lidar_drive, out, "--graph", "camera_lidar", *options_of(shared_data))
    tracks = tracks_of(out / "result.mcap")
    assert [len(rows) for rows in tracks.values()] == [IMAGES, IMAGES]
    return tracks


def check(summary: dict[str, Any], recorded: Path, replayed: dict[str, list[bytes]]) -> None:
    """Nothing was lost, and the tracks are the same bytes."""
    for name, row in summary["components"].items():
        assert row["received"] == row["processed"] > 0, (name, row)
        assert row["dropped"] == row["rejected"] == row["waiting"] == 0, name
        assert row["count"] == IMAGES
    assert summary["undecodable"] == {}
    assert tracks_of(recorded) == replayed


def test_through_the_local_transport_in_one_process(
    camera_lidar_drive: Path, shared_data: Path, tmp_path: Path, replayed: Any
) -> None:
    played = ["--transport", "local", "--domain", random_domain(), "--play", camera_lidar_drive, "--rate", 0.5]
    files = ["--record", tmp_path / "live.mcap", "--json", tmp_path / "live.json"]
    assert tercel("run", "camera_lidar", *options_of(shared_data), *played, *files) == 0
    summary = json.loads((tmp_path / "live.json").read_text())
    assert summary["problems"] == {}
    assert summary["play"]["sent"] == {"/camera/image": IMAGES, "/lidar/points": IMAGES}
    check(summary, tmp_path / "live.mcap", replayed)


@contextlib.contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """`tercel` in a process of its own, killed at the end if it lives."""
    command = [sys.executable, "-m", "tercel.cli", *map(str, arguments)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize(("kind", "needs"), [("zenoh", "zenoh"), ("dds", "cyclonedds")])
def test_through_a_wire_between_two_processes(
    kind: str, needs: str, camera_lidar_drive: Path, shared_data: Path, tmp_path: Path, replayed: Any
) -> None:
    try:
        importlib.import_module(needs)
    except ImportError:
        pytest.skip(f"{needs} is not installed")
    robot, player = configs(kind, tmp_path)
    wire = ["--transport", kind, "--domain", random_domain()]
    files = ["--record", tmp_path / "live.mcap", "--json", tmp_path / "live.json"]
    with process("run", "camera_lidar", *options_of(shared_data), *wire, "--config", robot, *files) as running:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert said.startswith("camera_lidar runs as /tercel on"), said
        played = ["play", camera_lidar_drive, *wire, "--config", player, "--rate", 0.5, "--delay", 2]
        with process(*played, "--json", tmp_path / "play.json") as playing:
            output, _ = playing.communicate(timeout=60)
            assert playing.returncode == 0, output
        time.sleep(1.0)  # the last frame goes through the graph
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=30)
        assert running.returncode == 0, output
    sent = json.loads((tmp_path / "play.json").read_text())["sent"]
    assert sent["/camera/image"] == sent["/lidar/points"] == IMAGES
    check(json.loads((tmp_path / "live.json").read_text()), tmp_path / "live.mcap", replayed)
