"""A real drive with a camera that drops out, a LiDAR that repeats and reorders, clocks that shift, clouds that are
NaN: the summary says what became of every message."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.stream_reader import StreamReader

from tercel.core.messages import CompressedImage, PointCloud
from tercel.hosts.recording import RecordingWriter, open_recording
from tests.scenarios.conftest import Row, replay, rewrite, rows_of, tercel

SWEEPS = 39


@pytest.fixture(scope="module")
def yolox(shared_data: Path) -> Path:
    return shared_data / "models" / "yolox_nano_416.onnx"


def test_a_camera_that_is_gone_for_two_seconds_costs_only_its_own_frames(
    camera_lidar_drive: Path, yolox: Path, tmp_path: Path
) -> None:
    start_ns = open_recording(camera_lidar_drive).start_ns

    def drop(rows: Iterable[Row]) -> Iterator[Row]:
        for topic, log_ns, message in rows:
            gone = start_ns + 3 * 10**9 <= log_ns < start_ns + 5 * 10**9
            if not (gone and topic == "/camera/image"):
                yield topic, log_ns, message

    damaged = rewrite(camera_lidar_drive, tmp_path / "r.mcap", drop)
    components = replay(damaged, tmp_path / "out", "--model", yolox)["components"]
    assert components["detector"]["count"] == SWEEPS - 10
    assert components["tracker_2d"]["outputs"]["tracks"]["count"] == SWEEPS - 10
    assert components["odometry"]["outputs"]["odometry"]["count"] == SWEEPS
    assert components["tracker_3d"]["outputs"]["tracks"]["count"] == SWEEPS


def test_duplicated_and_reordered_sweeps_are_rejected_by_name(camera_lidar_drive: Path, tmp_path: Path) -> None:
    def damage(rows: Iterable[Row]) -> Iterator[Row]:
        sweeps = 0
        held: Row | None = None
        for row in rows:
            topic, log_ns, message = row
            if topic != "/lidar/points":
                yield row
                continue
            sweeps += 1
            if sweeps % 10 == 0:  # delivered again, 1 ms later
                yield row
                yield topic, log_ns + 10**6, message
            elif sweeps % 10 == 5:  # delivered after the next one
                held = row
            else:
                yield row
                if held is not None:
                    yield held[0], log_ns + 10**6, held[2]
                    held = None

    damaged = rewrite(camera_lidar_drive, tmp_path / "r.mcap", damage)
    components = replay(damaged, tmp_path / "out")["components"]
    port = components["odometry"]["inputs"]["cloud"]
    assert port["rejected"] == {"duplicate stamp": 3, "stamp went back": 4}
    assert port["received"] == SWEEPS + 3 == port["processed"] + 7
    assert components["obstacles"]["inputs"]["cloud"]["processed"] == SWEEPS - 4
    assert components["tracker_3d"]["inputs"]["detections"]["processed"] == SWEEPS - 4


def test_one_sensors_clock_shifted_by_150_ms_is_a_new_phase_and_not_a_loss(
    camera_lidar_drive: Path, yolox: Path, tmp_path: Path
) -> None:
    def shift(rows: Iterable[Row]) -> Iterator[Row]:
        for topic, log_ns, message in rows:
            moved = replace(message, stamp_ns=message.stamp_ns - 150_000_000) if topic == "/camera/image" else message
            yield topic, log_ns, moved

    damaged = rewrite(camera_lidar_drive, tmp_path / "r.mcap", shift)
    summary = replay(damaged, tmp_path / "out", "--model", yolox)
    detector = summary["components"]["detector"]
    assert detector["count"] == SWEEPS
    assert detector["rejected"] == detector["dropped"] == 0
    # The age of an output is the sensor's, not the delivery's: the shift shows.
    assert detector["age_ms"]["p50"] == pytest.approx(150.0)
    assert summary["components"]["odometry"]["age_ms"]["p50"] == 0.0


def test_a_step_back_of_the_stamps_is_rejected_until_they_pass_the_newest_again(
    camera_lidar_drive: Path, tmp_path: Path
) -> None:
    def step_back(rows: Iterable[Row]) -> Iterator[Row]:
        sweeps = 0
        for topic, log_ns, message in rows:
            sweeps += topic == "/lidar/points"
            back = topic == "/lidar/points" and 20 <= sweeps < 25
            yield topic, log_ns, replace(message, stamp_ns=message.stamp_ns - 3 * 10**9) if back else message

    damaged = rewrite(camera_lidar_drive, tmp_path / "r.mcap", step_back)
    port = replay(damaged, tmp_path / "out")["components"]["odometry"]["inputs"]["cloud"]
    assert port["rejected"] == {"stamp went back": 5}
    assert port["processed"] == SWEEPS - 5


def test_nan_and_empty_clouds_are_counted_and_odometry_goes_on(lidar_drive: Path, tmp_path: Path) -> None:
    def damage(rows: Iterable[Row]) -> Iterator[Row]:
        sweeps = 0
        for topic, log_ns, message in rows:
            if isinstance(message, PointCloud):
                sweeps += 1
                if sweeps > 40:
                    return
                if sweeps in (10, 11):
                    message = replace(message, points_m=np.full_like(message.points_m, np.nan))
                elif sweeps == 20:
                    message = PointCloud(stamp_ns=message.stamp_ns, frame_id="lidar", points_m=np.zeros((0, 3)))
                elif sweeps == 30:  # every third point is NaN: still a usable cloud
                    points = message.points_m.copy()
                    points[::3] = np.nan
                    message = replace(message, points_m=points)
            yield topic, log_ns, message

    damaged = rewrite(lidar_drive, tmp_path / "r.mcap", damage)
    summary = replay(damaged, tmp_path / "out")
    odometry, obstacles = summary["components"]["odometry"], summary["components"]["obstacles"]
    assert odometry["rejected"] == 3
    assert odometry["inputs"]["cloud"]["processed"] == obstacles["inputs"]["cloud"]["processed"] == 37
    assert summary["odometry"]["ate_rmse_m"] < 0.5


def test_images_that_do_not_decode_are_counted_as_the_recordings(
    camera_lidar_drive: Path, yolox: Path, tmp_path: Path
) -> None:
    def damage(rows: Iterable[Row]) -> Iterator[Row]:
        images = 0
        for topic, log_ns, message in rows:
            if isinstance(message, CompressedImage):
                images += 1
                if images <= 3:
                    message = replace(message, data=message.data[: 100 * images])
            yield topic, log_ns, message

    damaged = rewrite(camera_lidar_drive, tmp_path / "r.mcap", damage)
    summary = replay(damaged, tmp_path / "out", "--model", yolox)
    assert sum(summary["recording"]["rejected"].values()) == 3
    assert summary["components"]["detector"]["count"] == SWEEPS - 3


def test_a_truncated_recording_replays_up_to_its_last_whole_chunk(camera_lidar_drive: Path, tmp_path: Path) -> None:
    data = camera_lidar_drive.read_bytes()
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: len(data) // 2])
    summary = replay(path, tmp_path / "out")
    assert 10 < summary["components"]["odometry"]["count"] < SWEEPS
    assert "truncated" in summary["recording"]["problems"][0]


def test_a_replay_never_writes_over_its_own_recording(camera_lidar_drive: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.mcap"
    path.write_bytes(camera_lidar_drive.read_bytes())
    assert tercel("replay", path, "--out", tmp_path) == 2
    assert path.read_bytes() == camera_lidar_drive.read_bytes()


def test_a_damaged_chunk_is_left_out_and_said(camera_lidar_drive: Path, tmp_path: Path) -> None:
    for compression in ("none", "zstd"):
        source, path = tmp_path / f"{compression}.mcap", tmp_path / f"damaged_{compression}.mcap"
        with RecordingWriter(source, compression=compression) as writer:
            for topic, log_ns, message in rows_of(camera_lidar_drive):
                writer.write(topic, log_ns, message)
        data = bytearray(source.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 40] = bytes(b ^ 0x55 for b in data[middle : middle + 40])
        path.write_bytes(data)
        summary = replay(path, tmp_path / compression)
        assert summary["components"]["odometry"]["count"] < SWEEPS
        problems = summary["recording"]["problems"]
        assert any("could not be read (" in problem for problem in problems)
        assert any("messages could not be read" in problem for problem in problems)


def test_a_looped_recording_starts_the_components_anew(world: Path, tmp_path: Path) -> None:
    def twice(rows: Iterable[Row]) -> Iterator[Row]:
        kept = list(rows)
        yield from kept
        shift_ns = kept[-1][1] - kept[0][1] + 10**8
        for topic, log_ns, message in kept:  # as `ros2 bag play --loop` delivers it: later, with the old stamps
            yield topic, log_ns + shift_ns, message

    summary = replay(rewrite(world, tmp_path / "loop.mcap", twice), tmp_path / "out")
    odometry = summary["components"]["odometry"]
    assert odometry["restarts"] == 1
    assert odometry["inputs"]["cloud"]["rejected"] == {"stamp went back": 9}


def test_a_killed_replay_leaves_a_result_that_opens(lidar_drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tercel.cli", "replay", str(lidar_drive), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    result = out / "result.mcap"
    deadline_s = time.monotonic() + 60
    while not (result.exists() and result.stat().st_size > 200_000) and time.monotonic() < deadline_s:
        assert process.poll() is None, "the replay ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    recording = open_recording(result)
    assert "truncated" in recording.problems[0]
    poses = [message for topic, _, message in rows_of(result) if topic == "/odometry"]
    assert len(poses) > 3
    with result.open("rb") as stream:  # mcap's own tool reads it up to the same place
        records = 0
        try:
            for _ in StreamReader(stream, emit_chunks=True).records:
                records += 1
        except Exception:  # noqa: S110 - it reports the missing end in its own way
            pass
        assert records > 3


def test_an_interrupted_replay_keeps_what_it_wrote_and_says_so(lidar_drive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tercel.cli", "replay", str(lidar_drive), "--out", str(out)]
    # A shell's background jobs, under which tests may run, ignore the interrupt, and would pass that on.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    result = out / "result.mcap"
    deadline_s = time.monotonic() + 60
    while not (result.exists() and result.stat().st_size > 100_000) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert stderr.strip().splitlines()[-1].startswith("tercel replay: interrupted")
    assert open_recording(result).problems == []


def test_mistakes_on_the_command_line_are_one_line_and_exit_code_2(
    camera_lidar_drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zero.mcap").touch()
    graph = tmp_path / "bad.yaml"
    graph.write_text("components:\n  a:\n    component: registration.lidar_odometry.LidarOdometri\n")
    without_model = tmp_path / "camera.yaml"
    shipped = (Path(__file__).parents[2] / "launch" / "graphs" / "camera.yaml").read_text()
    without_model.write_text(shipped.replace("detector: tercel-nano", "detector: null"))
    cases: list[tuple[list[object], str]] = [
        (["replay", tmp_path / "none.mcap"], "no recording at"),
        (["replay", tmp_path / "zero.mcap"], "zero bytes"),
        (["replay", camera_lidar_drive, "--graph", "lidr"], "did you mean 'lidar'"),
        (["replay", camera_lidar_drive, "--graph", graph], "did you mean 'LidarOdometry'"),
        (["replay", camera_lidar_drive, "--graph", without_model], "needs a model"),
        (["replay", camera_lidar_drive, "--graph", "camera", "--model", tmp_path / "no.onnx"], "no model at"),
        (["replay", camera_lidar_drive, "--graph", "camera", "--model", graph], "not a model"),
        (["replay", camera_lidar_drive, "--graph", "lidar", "--model", graph], "asks for no model"),
        (["replay", camera_lidar_drive, "--remap", "/lidar/points:=/lidar/point"], "did you mean '/lidar/points'"),
        (
            ["replay", camera_lidar_drive, "--graph", "lidar", "--remap", "/lidar/points:=/tf_static"],
            "no such PointCloud",
        ),
        (["replay", camera_lidar_drive, "--remap", "oops"], "write KEY:=VALUE"),
        (["replay", camera_lidar_drive, "--charge", graph], "no board profile"),
        (["import", "kitti-rw", tmp_path, "-o", tmp_path / "o.mcap"], "did you mean 'kitti-raw'"),
        (["import", "kitti-raw", tmp_path, "-o", tmp_path / "o.mcap"], "kitti-raw"),
        (["import", "video", graph, "-o", tmp_path / "o.mcap"], ""),
        (["import", "kitti-raw"], "are wanted"),
        (["world", "stret", "--seed", 1, "-o", tmp_path / "o.mcap"], "did you mean 'street'"),
        (["world", "street", "--seed", 1, "-o", tmp_path / "o.mcap", "--set", "lidr_beams=16"], "'lidar_beams'"),
        (["world", "street", "--seed", 1, "-o", tmp_path / "o.mcap", "--set", "lidar_beams=many"], "int is wanted"),
        (["world", "street", "--seed", 1, "-o", tmp_path / "o.mcap", "--set", "name=orchard"], "no such setting"),
        (["world", "street", "--seed", 1, "-o", tmp_path / "o.bag"], "ends in .mcap"),
        (["replay", camera_lidar_drive, "--seed", "-1"], "--seed at 0"),
        (["replay", camera_lidar_drive, "--threads", "0"], "--threads begins at 1"),
        (["replay", camera_lidar_drive, "--model", "a.onnx", "--model", "b.onnx"], "given twice"),
        (["info", tmp_path / "none.mcap"], "no recording at"),
        (["info", "/dev/null"], "neither a file nor a folder"),
    ]
    for arguments, words in cases:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            assert tercel(*arguments) == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, (arguments, lines)
        assert words in lines[0], (arguments, lines)
        assert lines[0].startswith(f"tercel {arguments[0]}: ")
    assert not (tmp_path / "o.mcap").exists()
    assert not list(tmp_path.glob("*.partial"))
