"""`tercel replay --offload`: real networks under the manager on the virtual clock."""

from __future__ import annotations

import filecmp
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercel.core.messages import Detections2D
from tests.scenarios.conftest import replay, rows_of, tercel

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "datasets" / "demo" / "demo.mcap"
GRAPH = """
components:
  near:
    component: perception.camera_detector.CameraDetector
    inputs: {image: /camera/image}
    outputs: {detections: /near}
    config: {model: near}
  far:
    component: perception.camera_detector.CameraDetector
    inputs: {image: /camera/image}
    outputs: {detections: /far}
    config: {model: far, deadline_ms: 320}
  tracker:
    component: tracking.components.Tracker2D
    inputs: {detections: /near}
    outputs: {tracks: /tracks}
  look:
    component: tracking.sampling_policy.SamplingPolicy2D
    inputs: {tracks: /tracks}
    outputs: {next_look: /_next_look}
models: {near: null, far: null}
"""
OFFLOAD = """
models:
  near: {deadline_ms: 400, benefit: 1, edge: {ms: 110, cost: 0.1}, cloud: {ms: 150, cost: 0.3, upload_bytes: 40000}}
  far: {deadline_ms: 1, benefit: 1, edge: {ms: 160, cost: 0.1}, cloud: {ms: 150, cost: 0.3, upload_bytes: 40000}}
spread: {edge: 0.1, cloud: 0.3}
link: {model: constant, rate_mbps: 20, rtt_ms: 50}
"""


@pytest.fixture(scope="module")
def arguments(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The demo through two small detectors of others' making."""
    folder = tmp_path_factory.mktemp("offload")
    (folder / "two.yaml").write_text(GRAPH)
    (folder / "offload.yaml").write_text(OFFLOAD)
    networks = {"near": "nanodet_m_320.onnx", "far": "fastestdet_352.onnx"}
    models = [
        word for name, file in networks.items() for word in ("--model", f"{name}={shared_data / 'models' / file}")
    ]
    return [DEMO, "--graph", folder / "two.yaml", *models, "--threads", 1, "--seed", 5]


def offload(arguments: list[object]) -> list[object]:
    return ["--offload", Path(str(arguments[2])).parent / "offload.yaml"]


def test_two_replays_are_the_same_byte_for_byte_wherever_they_are_run(
    arguments: list[object], shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = shared_data / "net_traces" / "lte_mahimahi" / "TMobile-LTE-short.up.gz"
    summaries = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        summaries.append(replay(DEMO, tmp_path / name, *arguments[1:], *offload(arguments), "--trace", trace))
    assert filecmp.cmp(tmp_path / "one" / "result.mcap", tmp_path / "two" / "result.mcap", shallow=False)
    one, two = (summary["offload"] for summary in summaries)
    assert one == two
    assert one["file"] == "offload.yaml"
    assert one["trace"] == trace.name
    check_books(summaries[0])
    assert one["fates"]["done-edge"] > 10
    assert one["fates"]["done-cloud"] > 10
    other_seed = [*arguments[1:-1], 6, *offload(arguments), "--trace", trace]
    assert replay(DEMO, tmp_path / "three", *other_seed)["offload"]["response_ms"] != one["response_ms"]


def check_books(summary: dict[str, Any]) -> None:
    """Every call of a detector is a task, and each that failed is a message that its component rejected."""
    account = summary["offload"]
    assert sum(account["fates"].values()) == account["tasks"]
    rejected: dict[str, int] = {}
    for name in ("near", "far"):
        row = summary["components"][name]
        model = account["models"][name]
        assert model["tasks"] == row["count"] == sum(count for key, count in model.items() if key != "tasks")
        assert row["outputs"]["detections"]["count"] == model["tasks"] - model["late"] - model["dropped"]
        for reason, count in row["inputs"]["image"]["rejected"].items():
            rejected[reason] = rejected.get(reason, 0) + count
    assert account["reasons"] == dict(sorted(rejected.items()))


def test_what_comes_back_is_what_the_networks_say_of_that_frame(arguments: list[object], tmp_path: Path) -> None:
    plain = replay(DEMO, tmp_path / "plain", *arguments[1:])
    assert "offload" not in plain
    away = replay(DEMO, tmp_path / "away", *arguments[1:], *offload(arguments))
    check_books(away)
    for topic in ("/near", "/far"):
        expected = {m.stamp_ns: m for name, _, m in rows_of(tmp_path / "plain" / "result.mcap") if name == topic}
        got = [(at_ns, m) for name, at_ns, m in rows_of(tmp_path / "away" / "result.mcap") if name == topic]
        assert len(got) > 20
        for at_ns, message in got:
            same = expected[message.stamp_ns]
            assert isinstance(message, Detections2D)
            assert isinstance(same, Detections2D)
            assert np.array_equal(message.boxes_xyxy_px, same.boxes_xyxy_px)
            assert np.array_equal(message.scores, same.scores)
            assert at_ns > message.stamp_ns + 50_000_000  # no answer without its time
            assert topic != "/far" or at_ns <= message.stamp_ns + 320_000_000  # the component's deadline


def test_without_a_link_the_board_is_alone_and_nothing_goes_up(arguments: list[object], tmp_path: Path) -> None:
    dead = ["--trace", "constant:rate_mbps=0", *offload(arguments)]
    summary = replay(DEMO, tmp_path / "dead", *arguments[1:], *dead)
    check_books(summary)
    account = summary["offload"]
    assert account["fates"]["done-cloud"] == 0
    assert account["fates"]["done-edge"] > 30
    assert account["fates"]["late"] < 20  # one a second tries the link


def test_a_frame_that_the_tracker_does_not_ask_for_is_worth_less(arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "edf.yaml").write_text("policy: edf" + OFFLOAD)
    (tmp_path / "deaf.yaml").write_text(GRAPH.partition("  look:")[0] + "models: {near: null, far: null}\n")
    words = [*arguments[3:], "--offload", tmp_path / "edf.yaml"]
    heard = replay(DEMO, tmp_path / "heard", "--graph", arguments[2], *words)["offload"]
    deaf = replay(DEMO, tmp_path / "not", "--graph", tmp_path / "deaf.yaml", *words)["offload"]
    assert heard["fates"] == deaf["fates"]  # EDF does not look at weights
    assert deaf["qos_utility"] == pytest.approx(0.9 * deaf["fates"]["done-edge"] - 0.1 * deaf["fates"]["late"])
    assert heard["qos_utility"] < 0.95 * deaf["qos_utility"]


def test_the_table_the_report_and_the_command_tell_of_it(
    arguments: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tercel("replay", *arguments, *offload(arguments), "--out", tmp_path / "out") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("offload: "))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert line.startswith(f"offload: tercel, {summary['offload']['tasks']} tasks: ")
    assert f"{summary['offload']['fates']['done-cloud']} done-cloud" in line
    assert "--offload offload.yaml" in summary["command"]
    assert os.sep not in summary["command"]
    assert "<h3>Offloading</h3>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--charge", "measured"], "leave --charge out"),
        (["--offload", "none.yaml"], "none.yaml: No such file or directory"),
        (["--trace", "warp:speed=9"], "link model 'warp' is unknown"),
        (["--graph", "lidar"], "runs no networks"),
        (["--graph", "camera", "--offload", "board.yaml"], "the graph runs 'detector'; known: far, near"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[object],
    change: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "board.yaml").write_text(OFFLOAD)
    words = [*arguments, *offload(arguments)]
    if "--graph" in change:
        detector = ["--model", str(arguments[4]).partition("=")[2]] if "camera" in change else []
        words = [DEMO, *detector, "--offload", "board.yaml"]
    assert tercel("replay", *words, *change) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_trace_without_an_offload_file_is_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert tercel("replay", DEMO, "--trace", "constant:rate_mbps=1") == 2
    assert "--trace goes with --offload; add it" in capsys.readouterr().err
