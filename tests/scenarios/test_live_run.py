"""`tercel run` and `tercel play` as commands: their ends, exit codes, and what they say to a user's mistakes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tercel.hosts.recording import RecordingWriter
from tests.scenarios.conftest import tercel
from tests.scenarios.test_host_services import random_domain
from tests.unit.test_hosts_recording import imu

ROOT = Path(__file__).resolve().parents[2]


def recording_of(path: Path, values: list[float], gap_ns: int = 10**7) -> Path:
    with RecordingWriter(path) as writer:
        for i, value in enumerate(values):
            writer.write("/imu", 10**9 + i * gap_ns, imu(10**9 + i * gap_ns, value))
    return path


def local(recording: Path, *more: object) -> list[object]:
    return ["--transport", "local", "--domain", random_domain(), "--play", recording, *more]


def test_one_component_runs_by_its_class_with_settings_and_ends_with_the_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0] * 50)
    json_path = tmp_path / "out" / "live.json"
    options = ["--set", "gain=3", "--set", "offset=-1", "--namespace", "/r1", "--json", json_path]
    assert tercel("run", "tests.unit.live_components.Gain", *local(path), *options) == 0
    summary: dict[str, Any] = json.loads(json_path.read_text())
    assert summary["node"] == "gain"
    gain = summary["components"]["gain"]
    assert gain["received"] == gain["processed"] == gain["count"] == 50
    assert gain["inputs"]["imu"]["topic"] == "/r1/imu"
    assert gain["outputs"]["pose"] == {"topic": "/r1/pose", "count": 50}
    assert summary["play"]["sent"] == {"/imu": 50}
    output = capsys.readouterr().out
    assert "gain runs as /r1/gain on local" in output
    assert "component             count  rate Hz  dropped rejected" in output


def test_a_component_that_fails_makes_the_run_fail_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0, 0.0, -1.0, 1.0])
    assert tercel("run", "tests.unit.live_components.Breaking", *local(path)) == 1
    output = capsys.readouterr().out
    assert output.count("breaking failed and is out: RuntimeError: rates are positive") == 1
    assert "\nfailed: breaking: RuntimeError: rates are positive" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_run_with_its_account(tmp_path: Path, number: signal.Signals) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0] * 6000)
    words = ["run", "tests.unit.live_components.Gain", *local(path, "--json", tmp_path / "live.json")]
    command = [sys.executable, "-m", "tercel.cli", *map(str, words)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert "runs as /gain" in running.stdout.readline()
        time.sleep(0.3)
        running.send_signal(number)
        output, errors = running.communicate(timeout=20)
    finally:
        running.kill()
    assert (running.returncode, errors) == (0, "")
    assert "played r.mcap" in output
    gain = json.loads((tmp_path / "live.json").read_text())["components"]["gain"]
    assert 0 < gain["received"] < 6000
    assert gain["received"] == gain["processed"] + gain["dropped"]


def test_a_duration_ends_a_run(tmp_path: Path) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0] * 6000)
    began_s = time.monotonic()
    assert tercel("run", "tests.unit.live_components.Gain", *local(path, "--duration", 0.3)) == 0
    assert time.monotonic() - began_s < 10


def test_a_run_is_recorded_and_the_recording_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0] * 20)
    record = tmp_path / "new" / "live.mcap"
    assert tercel("run", "tests.unit.live_components.Gain", *local(path, "--record", record)) == 0
    capsys.readouterr()
    assert tercel("info", record) == 0
    output = capsys.readouterr().out
    for topic in ("/imu ", "/pose ", "/tf "):
        (row,) = [line for line in output.splitlines() if line.startswith(topic)]
        assert " 20 " in row


GAIN = "tests.unit.live_components.Gain"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "lidarr", "--transport", "local", "--play", "R"], "did you mean 'lidar'"),
        (["run", "tests.unit.live_components.Gian", "--transport", "local", "--play", "R"], "no component 'Gian'"),
        (["run", "no_module.Gain", "--transport", "local", "--play", "R"], "No module named 'no_module'"),
        (["run", "missing.yaml", "--transport", "local", "--play", "R"], "no graph at missing.yaml"),
        (["run", "lidar", "--transport", "local"], "reaches nobody outside: add --play"),
        (["run", "lidar", "--transport", "local", "--rate", "2"], "add --play"),
        (["run", "lidar", "--rate", "2"], "--rate goes with --play"),
        (["run", "lidar", "--play", "R", "--sim-time"], "leave --sim-time out"),
        (["run", "lidar", "--transport", "local", "--play", "R"], "has none of /lidar/points (its topics: /imu)"),
        (["run", GAIN, "--transport", "local", "--play", "missing.mcap"], "no recording at missing.mcap"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--set", "gian=2"], "did you mean 'gain'"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--set", "gain=no"], "gain"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--remap", "/imo:=/x"], "did you mean '/imu'"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--node", "a b"], "node name 'a b'"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--domain", "233"], "domain 233"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--namespace", "r1"], "namespace 'r1'"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--record", "/dev/full"], "--record /dev/full: No space"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--offload", "x.yaml"], "leave --offload out"),
        (["run", GAIN, "--transport", "local", "--play", "R", "--duration", "0"], "--duration above 0"),
        (["run", "camera", "--transport", "local", "--play", "R", "--model", "none"], "no model file or model is"),
        (["play", "missing.mcap"], "no recording at missing.mcap"),
        (["play", "R", "--transport", "local"], "reaches nobody outside"),
        (["play", "R", "--delay", "-1"], "--delay -1.0"),
        (["dashboard", "R", "--rate", "0", "--port", "0"], "rate 0: 0.01 to 1000 is wanted"),
    ],
)
def test_a_users_mistake_is_one_line_with_the_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    path = recording_of(tmp_path / "r.mcap", [1.0])
    assert tercel(*[path if argument == "R" else argument for argument in arguments]) == 2
    output = capsys.readouterr().err
    assert words in output
    assert output.count("\n") == 1


def test_a_recording_that_breaks_while_it_is_played_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_arguments: object) -> None:
        raise OSError(5, "the disk is gone")

    monkeypatch.setattr("tercel.hosts.play.Player.play", breaks)
    path = recording_of(tmp_path / "r.mcap", [1.0])
    assert tercel("run", GAIN, "--transport", "local", "--play", path) == 2
