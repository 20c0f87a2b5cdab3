"""Reading MCAP: images and clouds as numpy arrays, against mcap-ros2-support on the same files.

    python tests/benchmarks/bench_recording.py [--json FILE]

Both sides open the file, decode every message, and have an array of each image's pixels and each cloud's points in
hand; the peer's bytes are made arrays the cheapest way there is. Files are warm. Twice: arrays in hand, and each array
also read to its last byte (ours are views: what nobody reads is never fetched). Where chunks are compressed the floor
is their decompression, the same library for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tercel.core.messages import Image, PointCloud
from tercel.hosts.recording import RecordingWriter, open_recording

FRAMES, POINTS, SIZE_PX = 60, 120_000, (480, 640, 3)
RUNS = 5


def write(path: Path, compression: Any) -> None:
    """60 raw VGA images and 60 clouds of 120,000 points, with the entropy of real ones rather than of noise."""
    rng = np.random.default_rng(0)
    with RecordingWriter(path, compression=compression) as writer:
        for i in range(FRAMES):
            stamp_ns = (i + 1) * 10**8
            pixels = (rng.integers(0, 40, SIZE_PX) + np.linspace(0, 200, SIZE_PX[1])[None, :, None]).astype(np.uint8)
            writer.write("/image", stamp_ns, Image(stamp_ns=stamp_ns, frame_id="c", pixels=pixels, encoding="bgr8"))
            points = np.round(rng.normal(0, 20, (POINTS, 3)) * 256) / 256
            cloud = PointCloud(stamp_ns=stamp_ns, frame_id="l", points_m=points, intensity=rng.integers(0, 100, POINTS))
            writer.write("/cloud", stamp_ns, cloud)


def size_of(array: np.ndarray, touch: bool) -> int:
    """The array's size; with touch, after every element has been read once."""
    if touch:
        array.max()
    return array.size


def read_ours(path: Path, touch: bool) -> int:
    """Elements decoded by Tercel."""
    recording = open_recording(path)
    total = 0
    for recorded in recording.messages(["/image", "/cloud"]):
        message = recording.decode(recorded)
        assert isinstance(message, (Image, PointCloud))
        total += size_of(message.pixels if isinstance(message, Image) else message.points_m, touch)
    return total


def read_peer(path: Path, touch: bool) -> int:
    """Elements decoded by mcap-ros2-support."""
    from mcap_ros2.reader import read_ros2_messages

    total = 0
    for row in read_ros2_messages(path):
        message = row.ros_msg
        if row.channel.topic == "/image":
            pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
            total += size_of(pixels, touch)
        else:
            points = np.frombuffer(message.data, np.float32).reshape(-1, message.point_step // 4)[:, :3]
            total += size_of(points, touch)
    return total


def milliseconds(call: Callable[[Path, bool], int], path: Path, touch: bool) -> tuple[float, int]:
    """Time of one call, and what it returned."""
    began_s = time.perf_counter()
    result = call(path, touch)
    return (time.perf_counter() - began_s) * 1e3, result


def compare(path: Path, touch: bool) -> dict[str, float]:
    """Medians of alternating runs."""
    read_ours(path, touch), read_peer(path, touch)  # warm the file and the decoders' caches
    ours, peer = [], []
    for _ in range(RUNS):
        took_ms, elements = milliseconds(read_ours, path, touch)
        peer_ms, peer_elements = milliseconds(read_peer, path, touch)
        assert elements == peer_elements
        ours.append(took_ms)
        peer.append(peer_ms)
    ours_ms, peer_ms = statistics.median(ours), statistics.median(peer)
    return {"tercel_ms": round(ours_ms, 1), "mcap_ros2_ms": round(peer_ms, 1), "ratio": round(peer_ms / ours_ms, 2)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("command: python tests/benchmarks/bench_recording.py")
    print(f"{FRAMES} VGA images and {FRAMES} clouds of {POINTS} points; medians of {RUNS} runs")
    print(f"{'chunks':<8}{'arrays':>9}{'file MB':>9}{'tercel ms':>11}{'mcap_ros2 ms':>14}{'ratio':>7}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("none", "lz4", "zstd"):
            path = Path(folder) / f"{compression}.mcap"
            write(path, compression)
            size_mb = round(path.stat().st_size / 1e6, 1)
            for arrays, touch in (("in hand", False), ("read", True)):
                row = compare(path, touch)
                results[f"{compression}, {arrays}"] = {"file_mb": size_mb, **row}
                numbers = f"{row['tercel_ms']:>11}{row['mcap_ros2_ms']:>14}{row['ratio']:>7}"
                print(f"{compression:<8}{arrays:>9}{size_mb:>9}{numbers}")
            path.unlink()
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
