"""The fusion graph on recordings: a street world whose camera boxes are the truth's, in time, late and out of order."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tercel.core.messages import Tracks2D, Tracks3D
from tests.scenarios.conftest import Row, replay, rewrite, rows_of, tercel

REPOSITORY = Path(__file__).resolve().parents[2]
GRAPHS = REPOSITORY / "launch" / "graphs"
DEMO = REPOSITORY / "datasets" / "demo" / "demo.mcap"
BOXES = "/truth/tracks_2d"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite's fusion graph without its detector, so that no weights are needed: boxes come from the recording."""
    content = YAML(typ="safe", pure=True).load((GRAPHS / "fusion.yaml").read_text(encoding="utf-8"))
    del content["components"]["detector"], content["models"]
    path = tmp_path_factory.mktemp("graph") / "fusion_without_detector.yaml"
    path.write_text(json.dumps(content))  # YAML 1.2 contains JSON
    return path


def fused(recording: Path, graph: Path, out: Path) -> dict[str, Any]:
    return replay(recording, out, "--graph", graph, "--remap", f"/detections_2d:={BOXES}")


def names_seen(result: Path) -> set[str]:
    """The classes that the tracks had."""
    tracks = [message for topic, _, message in rows_of(result) if topic == "/tracks_3d"]
    assert all(isinstance(message, Tracks3D) for message in tracks)
    return {message.class_names[label] for message in tracks for label in message.labels.tolist()}


def test_a_street_is_fused_and_every_message_is_accounted_for(world: Path, graph: Path, tmp_path: Path) -> None:
    lidar_only = replay(world, tmp_path / "lidar", "--graph", GRAPHS / "lidar.yaml")
    summary = fused(world, graph, tmp_path / "fused")
    ports = summary["components"]["tracker_3d"]["inputs"]
    for name, port in ports.items():
        assert port["received"] == port["processed"] > 0, name
    assert summary["tracking_3d"]["recall"] >= lidar_only["tracking_3d"]["recall"]
    tracks = summary["components"]["tracker_3d"]["outputs"]["tracks"]["count"]
    assert tracks == lidar_only["components"]["tracker_3d"]["outputs"]["tracks"]["count"]
    assert names_seen(tmp_path / "lidar" / "result.mcap") == {"obstacle"}
    assert names_seen(tmp_path / "fused" / "result.mcap") >= {"object", "car"}


def test_boxes_that_come_late_and_out_of_order_take_their_place(world: Path, graph: Path, tmp_path: Path) -> None:
    def delay(rows: Iterable[Row]) -> Iterator[Row]:
        late: list[Row] = []
        for topic, log_ns, message in rows:
            late, due = [row for row in late if row[1] > log_ns], [row for row in late if row[1] <= log_ns]
            yield from sorted(due, key=lambda row: row[1])
            if topic == BOXES:  # every second one overtakes the one before it
                assert isinstance(message, Tracks2D)
                wait_ns = 450_000_000 if len(late) % 2 == 0 else 100_000_000
                late.append((topic, log_ns + wait_ns, message))
            else:
                yield topic, log_ns, message
        yield from sorted(late, key=lambda row: row[1])

    in_time = fused(world, graph, tmp_path / "in_time")
    delayed = rewrite(world, tmp_path / "late.mcap", delay)
    late = fused(delayed, graph, tmp_path / "late")
    port = late["components"]["tracker_3d"]["inputs"]["camera"]
    assert port["processed"] == port["received"] == in_time["components"]["tracker_3d"]["inputs"]["camera"]["processed"]
    assert late["components"]["tracker_2d"]["inputs"]["detections"]["rejected"]["stamp went back"] > 0
    assert late["tracking_3d"]["recall"] == pytest.approx(in_time["tracking_3d"]["recall"], abs=0.05)
    assert names_seen(tmp_path / "late" / "result.mcap") >= {"object", "car"}


def test_the_demo_recording_is_fused(graph: Path, tmp_path: Path) -> None:
    summary = fused(DEMO, graph, tmp_path)
    assert summary["components"]["tracker_3d"]["rejected"] == 0
    assert summary["tracking_3d"]["recall"] > 0.7


def test_a_fused_street_is_the_same_twice(world: Path, graph: Path, tmp_path: Path) -> None:
    for run in ("a", "b"):
        fused(world, graph, tmp_path / run)
    assert filecmp.cmp(tmp_path / "a" / "result.mcap", tmp_path / "b" / "result.mcap", shallow=False)


def test_a_detector_is_asked_for_where_the_graph_names_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (GRAPHS / "fusion.yaml").read_text()
    (tmp_path / "fusion.yaml").write_text(text.replace("detector: tercel-nano", "detector: null"))
    assert tercel("replay", DEMO, "--out", tmp_path / "out", "--graph", tmp_path / "fusion.yaml") == 2
    assert "--model detector=FILE.onnx" in capsys.readouterr().err
