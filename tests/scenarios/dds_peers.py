"""Processes that speak DDS with each other on loopback.

python -m tests.scenarios.dds_peers DOMAIN NODE JOB [ARGUMENTS]   (jobs: as zenoh_peers.py; read TOPIC QUALITY)
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tercel.ros.dds import DdsTransport
from tercel.ros.transport import RELIABLE, SENSOR, Data, Identity
from tests.scenarios import zenoh_peers as jobs

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def peer(domain: int, node: str, *job: object) -> Iterator[subprocess.Popen[str]]:
    """A process that has said "ready". Killed at the end."""
    words = [sys.executable, "-m", "tests.scenarios.dds_peers", str(domain), node, *map(str, job)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", f"{node} did not start"
        yield process
    finally:
        process.kill()
        process.communicate()


def read(transport: DdsTransport, counts: dict[str, int], topic: str, quality: str = "best_effort") -> None:
    """Count the images that come."""
    counts["received"] = 0

    def count(_data: Data) -> None:
        counts["received"] += 1

    transport.subscribe(topic, jobs.IMAGE_TYPE, RELIABLE if quality == "reliable" else SENSOR, count)


def main(domain: str, node: str, job: str, *arguments: str) -> None:
    """Do the job until the input ends, then tell what came and what was wrong."""
    counts: dict[str, int] = {}
    with DdsTransport(Identity(node, domain=int(domain))) as transport:
        known: dict[str, Callable[..., Any]] = {"relay": jobs.relay, "serve": jobs.serve, "publish": jobs.publish}
        if job == "read":
            read(transport, counts, *arguments)
        else:
            known[job](transport, *arguments)
        print("ready", flush=True)
        sys.stdin.read()
        print(json.dumps({"counts": counts, "problems": transport.problems}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
