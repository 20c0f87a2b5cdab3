"""What a live host adds: from an image's leaving the camera to its tracks' arrival, over each transport, beside replay.

    python tests/benchmarks/bench_live.py [--frames 150] [--rate 10] [--json FILE]

The detection graph (launch/graphs/camera.yaml: detector, tracker) with NanoDet-m 320 on raw VGA images (0.92 MB) of a
simulated street. Live, this process is camera and reader of the tracks; the host is a process of its own (zenoh, dds)
or in this one (local). Replay is the same graph on the same images; its time for a frame is decoding and handlers. Both
run at the camera's rate, frame by frame, so that caches and clocks are as cold for one as for the other. The model
comes from TERCEL_DATA, else from ../shared/data beside the repository. Host CPU is user and system time for a frame.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the tercel command does
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from devices.sensors.simulated.world import WorldConfig, generate  # noqa: E402
from perception.runtime import LocalModels, load_network  # noqa: E402
from tercel.core.messages import CompressedImage, Image, Message  # noqa: E402
from tercel.hosts.graph_choice import find_graph  # noqa: E402
from tercel.hosts.live import LiveHost  # noqa: E402
from tercel.hosts.recording import RecordingWriter, open_recording  # noqa: E402
from tercel.hosts.replay import replay  # noqa: E402
from tercel.ros import convert  # noqa: E402
from tercel.ros.layouts import decompress  # noqa: E402
from tercel.ros.transport import RELIABLE, SENSOR, Identity, open_transport  # noqa: E402
from tests.scenarios.test_host_services import configs, random_domain  # noqa: E402

DATA = Path(os.environ.get("TERCEL_DATA", REPOSITORY.parent / "shared" / "data"))
MODEL = DATA / "models" / "nanodet_m_320.onnx"
IMAGE_TYPE, TRACKS_TYPE = "sensor_msgs/msg/Image", "vision_msgs/msg/Detection2DArray"
WARM_UP = 20
THREADS = 1


def images(count: int) -> list[Image]:
    """Raw VGA images of a street."""
    config = WorldConfig(
        "street", seed=3, duration_s=3.0, camera_width_px=640, camera_height_px=480, lidar_columns=64,
        gps_rate_hz=0, include_depth=False,
    )  # fmt: skip
    found = [
        decompress(message) if isinstance(message, CompressedImage) else message
        for topic, _, message in generate(config)
        if topic == "/camera/image" and isinstance(message, (Image, CompressedImage))
    ]
    rows = [found[i % len(found)] for i in range(count)]
    return [
        Image(stamp_ns=10**9 + i * 10**8, frame_id=image.frame_id, pixels=image.pixels, encoding=image.encoding)
        for i, image in enumerate(rows)
    ]


def replayed_ms(frames: list[Image], period_s: float, folder: Path) -> tuple[list[float], float]:
    """Of each frame, from its decoding to its tracks, in process; and CPU seconds for a frame."""
    path = folder / "frames.mcap"
    with RecordingWriter(path, compression="none") as writer:
        for image in frames:
            writer.write("/camera/image", image.stamp_ns, image)
    recording = open_recording(path)
    began: list[float] = []
    rows: list[float] = []
    decode = recording.decode

    def paced(recorded: Any, *, images: bool = False) -> Message:
        time.sleep(period_s)
        began.append(time.perf_counter())
        return decode(recorded, images=images)

    def sink(topic: str, _now_ns: int, _message: Message) -> None:
        if topic == "/tracks_2d":
            rows.append((time.perf_counter() - began[-1]) * 1e3)

    recording.decode = paced  # type: ignore[method-assign]
    models = LocalModels({"detector": load_network(MODEL, threads=THREADS)})
    graph = find_graph("camera")
    cpu_s = time.process_time()
    replay(recording, graph, {"/camera/image": "/camera/image"}, models=models, sink=sink)
    return rows, (time.process_time() - cpu_s) / len(frames)


def cpu_s_of(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def host_of(kind: str, domain: int, config: Path | None) -> Iterator[int]:
    """The graph at work on a transport; yields the process that it works in."""
    if kind == "local":
        models = LocalModels({"detector": load_network(MODEL, threads=THREADS)})
        with open_transport("local", Identity("tercel", domain=domain)) as transport:
            host = LiveHost(find_graph("camera"), transport, models=models, say=lambda _line: None)
            host.start()
            try:
                yield os.getpid()
            finally:
                host.stop()
        return
    words = ["run", "camera", "--model", MODEL, "--threads", THREADS, "--transport", kind, "--domain", domain]
    command = [sys.executable, "-m", "tercel.cli", *map(str, words), *(["--config", str(config)] if config else [])]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "runs as" in process.stdout.readline()
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield process.pid
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    finally:
        process.kill()


def live_ms(kind: str, frames: list[Image], period_s: float, folder: Path) -> tuple[list[float], float, int]:
    """Of each frame, from its publishing to its tracks' arrival here; host CPU seconds for a frame; frames lost."""
    domain = random_domain()
    host_config, own_config = (None, None) if kind == "local" else configs(kind, folder)
    came: dict[int, float] = {}

    def on_tracks(data: Any) -> None:
        at_s = time.perf_counter()
        came[convert.decode(TRACKS_TYPE, data).stamp_ns] = at_s

    with (
        host_of(kind, domain, host_config) as pid,
        open_transport(kind, Identity("camera", domain=domain), config=own_config) as transport,  # type: ignore[arg-type]
    ):
        publisher = transport.advertise("/camera/image", IMAGE_TYPE, SENSOR)
        transport.subscribe("/tracks_2d", TRACKS_TYPE, RELIABLE, on_tracks)
        time.sleep(3.0)  # both ends find each other
        sent: dict[int, float] = {}
        cpu_s = cpu_s_of(pid)
        own_s = 0.0
        for image in frames:
            time.sleep(period_s)
            began_s = time.process_time()
            data = convert.encode(image)[1]
            own_s += time.process_time() - began_s
            sent[image.stamp_ns] = time.perf_counter()
            publisher.publish(data)
        time.sleep(1.0)
        cpu_s = cpu_s_of(pid) - cpu_s - (own_s if kind == "local" else 0.0)
    rows = [(came[stamp] - at_s) * 1e3 for stamp, at_s in sent.items() if stamp in came]
    return rows, cpu_s / len(frames), len(sent) - len(rows)


def row_of(rows: list[float], cpu_s: float) -> dict[str, float]:
    """p50 and p99 without the first frames."""
    p50, p99 = np.quantile(rows[WARM_UP:], [0.5, 0.99])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "cpu_ms": round(cpu_s * 1e3, 2)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print(f"command: python tests/benchmarks/bench_live.py --frames {args.frames} --rate {args.rate:g}")
    results: dict[str, Any] = {}
    if not MODEL.is_file():
        print(f"no model at {MODEL}: set TERCEL_DATA")
    else:
        frames, period_s = images(args.frames), 1.0 / args.rate
        print(
            f"{'host':<8}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}{'CPU ms':>9}{'lost':>6}    goal: added under 3 ms"
        )
        with tempfile.TemporaryDirectory() as name:
            base = results["replay"] = row_of(*replayed_ms(frames, period_s, Path(name)))
            print(f"{'replay':<8}{base['p50_ms']:>9.2f}{base['p99_ms']:>9.2f}{'':>11}{base['cpu_ms']:>9.2f}")
            for kind, needs in (("local", ""), ("zenoh", "zenoh"), ("dds", "cyclonedds")):
                if needs and importlib.util.find_spec(needs) is None:
                    print(f"{kind:<8} {needs} is not installed")
                    continue
                rows, cpu_s, lost = live_ms(kind, frames, period_s, Path(name))
                row = results[kind] = row_of(rows, cpu_s) | {"lost": lost}
                row["added_p50_ms"] = round(row["p50_ms"] - base["p50_ms"], 2)
                print(
                    f"{kind:<8}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['added_p50_ms']:>11.2f}"
                    f"{row['cpu_ms']:>9.2f}{lost:>6}"
                )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
