"""`tercel serve --ray` in a process, a Ray that is there already, and Ray's own proxy with the manifest's config."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from tests.scenarios.serving import Served

MANIFEST = Path(__file__).resolve().parents[2] / "launch" / "cloud" / "rayservice.yaml"


class RayServed(Served):
    """`tercel serve --ray`, which takes its time."""

    def __init__(self, models: Path, *options: object) -> None:
        super().__init__(models, "--ray", *options)

    def said(self, prefix: str, timeout_s: float = 120) -> str:
        return super().said(prefix, timeout_s)

    def replicas(self) -> set[str]:
        """PID@HOST of each that has been heard of."""
        said = [line.split() for line in list(self.lines) if line.startswith("replica: ")]
        return {words[1] for words in said}

    def descendants(self) -> set[int]:
        return descendants_of(self.process.pid)


def descendants_of(pid: int) -> set[int]:
    """Processes that it has started, and those that these have."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {one for one, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("=", "\0").split("\0")
    except OSError:
        return []


CLUSTER = """
import sys
import ray
ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=sys.argv[1],
         _node_ip_address="127.0.0.1", log_to_driver=False, logging_level="ERROR")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@dataclass
class Cluster:
    """A Ray of somebody else's: its address, and the environment of those who may use it."""

    address: str
    environment: dict[str, str]
    process: subprocess.Popen[str]


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64}
    environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # loopback
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # not pytest's: names of sockets must be short
        process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Cluster(process.stdout.readline().strip(), environment, process)
        finally:
            process.stdin.close()
            process.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    """A channel of gRPC's that begins before that waits for longer and longer."""
    ends_s = time.monotonic() + 60
    while time.monotonic() < ends_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("Ray's proxy does not come up")


@contextlib.contextmanager
def proxied(cluster: Cluster, models: Path, token_file: Path) -> Iterator[str]:
    """The manifest's Serve config, with two replicas of one thread each; HOST:PORT, where answers come from soon."""
    config = YAML(typ="safe").load(YAML(typ="safe").load(MANIFEST)["spec"]["serveConfigV2"])
    port = config["grpc_options"]["port"] = free_port()
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    args = config["applications"][0]["args"]
    args.update(models=str(models), replicas=[2, 2], threads=1, token_file=str(token_file))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.yaml"
        YAML().dump(config, path)
        command = [sys.executable, "-m", "ray.serve.scripts", "run", str(path), "--address", cluster.address]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=cluster.environment, **quiet)
        try:
            wait_until_open(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
