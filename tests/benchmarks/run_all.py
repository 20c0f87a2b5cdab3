"""All benchmarks, one after another, with their tables and one JSON file.

make bench                      # or: python tests/benchmarks/run_all.py [--json FILE] [--only replay ...]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NAMES = (
    "recording", "convert", "odometry", "inertial", "global", "distant", "descriptor", "scene_graph", "merge",
    "obstacles", "detection", "decoding", "detector_runtime", "quantize", "nano", "temporal", "kalman", "tracking",
    "trackers", "ablation", "tracking3d", "fusion", "prediction", "sampling", "world", "replay", "offload",
    "offload_decision", "offload_learned", "offload_live", "server", "ray", "live", "zenoh", "dds",
)  # fmt: skip


def main() -> int:
    """Run each in a process of its own; a failed one is named at the end and makes the exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    args = parser.parse_args()
    results: dict[str, object] = {"python": platform.python_version(), "machine": platform.machine()}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            print(f"\n== {name} ".ljust(100, "="), flush=True)
            path = Path(folder) / f"{name}.json"
            began_s = time.monotonic()
            done = subprocess.run([sys.executable, HERE / f"bench_{name}.py", "--json", path], check=False)
            print(f"({time.monotonic() - began_s:.0f} s)", flush=True)
            if done.returncode or not path.exists():
                failed.append(name)
            else:
                results[name] = json.loads(path.read_text())
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
