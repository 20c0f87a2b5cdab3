"""Ray, started on this machine for as long as we run, or joined where it runs already.

Nothing is reported to anybody, there is no dashboard, and a Ray that is started here listens on loopback, but for one
port of each replica, for which Ray has no setting. Whoever can use Ray's ports can run code, so it also asks for a
random token, which only its own processes know.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from offload.scale_out.replica import APPLICATION, ReplicaOptions, application
from tercel.core.errors import UserError, require

OBJECT_STORE_BYTES = 256 << 20
"""Of a Ray that is started here: tensors above 100 kB pass through it."""
TOKENS_SINCE = (2, 52)
PR_SET_CHILD_SUBREAPER = 36
END_S = 5.0
"""Processes that are killed have so long to be gone."""


@contextlib.contextmanager
def replicas(options: ReplicaOptions, address: str | None) -> Iterator[Any]:
    """The handle of running replicas; at the end they are gone, and so is what was started for them.

    address: of a running Ray, HOST:PORT or "auto"; None: one of our own, and then all that this process starts
    meanwhile is taken to be Ray's. Raises UserError.
    """
    ray = _environment_and_ray(own=address is None)
    with (
        _own_processes() if address is None else contextlib.nullcontext("") as folder,
        _ray(ray, options, address, folder),
    ):
        yield _run(ray, options, joined=address is not None)


@contextlib.contextmanager
def _own_processes() -> Iterator[str]:
    """A folder for processes that are gone at the end, and then the folder, too. Some of Ray's outlive their parents
    for a while, above all if it was stopped while it started; on Linux these become our children, and are ended."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until there is a loop that listens for it
    folder = tempfile.mkdtemp(prefix="tercel-ray-")
    try:
        yield folder
    finally:
        ends_s = time.monotonic() + END_S
        while prctl is not None and (children := _children()) and time.monotonic() < ends_s:
            for pid in children:
                with contextlib.suppress(OSError):  # gone, or waited for by who has started it
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)
            time.sleep(0.01)
        shutil.rmtree(folder, ignore_errors=True)


def _children() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = path.read_text(errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


def _environment_and_ray(*, own: bool) -> Any:
    """Ray reads these when it is imported, and has no arguments for them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if own:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # For a Ray of one machine; its name is older than its use on Linux. Without it 127.0.0.1 is not taken.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = require("ray", extra="ray")
    if own and tuple(int(part) for part in ray.__version__.split(".")[:2]) < TOKENS_SINCE:
        raise UserError(f"Ray {ray.__version__} asks nobody for a token: pip install 'ray[serve]>=2.52'")
    return ray


@contextlib.contextmanager
def _ray(ray: Any, options: ReplicaOptions, address: str | None, folder: str) -> Iterator[None]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": APPLICATION}
    try:
        if address is None:
            cpus = max(os.cpu_count() or 1, options.replicas[1] * options.threads)
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
                **quiet,
            )
        else:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"--address {address}: no Ray answers there ({_line(error)}); see `ray status`"
                ) from None
        yield
    finally:
        # Here and not above: an impatient second signal must not leave processes and folders behind.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if address is not None and ray.is_initialized():
            with contextlib.suppress(Exception):
                require("ray.serve", extra="ray").delete(APPLICATION)
        ray.shutdown()


def _run(ray: Any, options: ReplicaOptions, *, joined: bool) -> Any:
    serve = require("ray.serve", extra="ray")
    least_cpus = options.replicas[0] * options.threads
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < least_cpus:
        raise UserError(f"the cluster has {cpus} CPUs, and the replicas need {least_cpus}; add nodes, or ask for less")
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
    if joined and APPLICATION in serve.status().applications:
        raise UserError(f"the cluster runs an application {APPLICATION!r} already; end the other `tercel serve --ray`")
    try:
        return serve.run(application(options), name=APPLICATION, route_prefix=None)
    except RuntimeError:
        raise UserError(f"the replicas do not start: {_reason(serve)}") from None


def _reason(serve: Any) -> str:
    """What the first replica died of, where Ray tells."""
    state = serve.status().applications.get(APPLICATION)
    messages = [str(one.message) for one in state.deployments.values()] if state else []
    lines = [line.strip() for message in messages for line in message.splitlines()]
    ours = [line.partition("UserError: ")[2] for line in lines if "UserError: " in line]
    return (ours or [line for line in lines if line] or ["see Ray's logs"])[-1]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
