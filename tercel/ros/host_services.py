"""The services that people expect of a running graph, over any transport, and all that a node offers together.

    ~/start_recording, ~/stop_recording   what comes in and goes out, as MCAP; the answer's message is the file's path
    ~/save_map                            the maps that components have built, as PLY; the message is the files' paths
    ~/reset_odometry                      every component that gives an odometry begins anew
    ~/status                              the message is the host's status as JSON

All are std_srvs/srv/Trigger, so that nobody needs a message package of ours; `success: false` comes with the reason.
Files are written in one folder, which is chosen at the start, under names made of the robot's time. The offload policy
is a parameter, `offload.policy`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tercel.core.errors import UserError
from tercel.core.messages import Array, Odometry
from tercel.hosts.recorder import Recordings, new_file
from tercel.ros.answering import serve_trigger
from tercel.ros.lifecycle import Lifecycle
from tercel.ros.lifecycle_services import offer_lifecycle
from tercel.ros.parameter_services import HostParameters, HostSetting, offer_parameters
from tercel.ros.transport import Transport

if TYPE_CHECKING:
    from tercel.hosts.live import LiveHost

RESET = "reset on request"


@dataclass(frozen=True)
class NodeServices:
    """What a host offers as a node. close() ends a recording that is running."""

    lifecycle: Lifecycle
    parameters: HostParameters
    recordings: Recordings

    def begin(self) -> None:
        """Configure and activate, as a node that starts by itself. Raises UserError with the reason if it cannot."""
        if not (self.lifecycle.change("configure") and self.lifecycle.change("activate")):
            raise UserError(f"the node is {self.lifecycle.state.label}, not active")

    def close(self) -> None:
        """Leave no file unfinished."""
        self.recordings.close()


def offer_node(
    host: LiveHost,
    transport: Transport,
    node: str,
    *,
    record_dir: Path,
    own: Sequence[HostSetting] = (),
    on_shutdown: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda _line: None,
) -> NodeServices:
    """Offer all that a managed ROS 2 node has, and the services above, where no rclpy does. node: its full name."""
    return NodeServices(
        offer_lifecycle(host, transport, node, on_shutdown=on_shutdown, say=say),
        offer_parameters(host, transport, node, own, say=say),
        offer_services(host, transport, node, record_dir=record_dir, say=say),
    )


def offer_services(
    host: LiveHost,
    transport: Transport,
    node: str,
    *,
    record_dir: Path,
    say: Callable[[str], None] = lambda _line: None,
) -> Recordings:
    """Offer the services above. node: the full name that stands for ~. Close the recordings at the end."""
    recordings = Recordings(host, record_dir, say=say)

    def stop_recording() -> str:
        path, account = recordings.stop()
        say(f"recorded {path}: {account.line()}")
        if account.failed is not None:
            raise UserError(f"{path} has ended early: {account.failed} ({account.line()})")
        return str(path)

    services: dict[str, Callable[[], str]] = {
        "start_recording": lambda: str(recordings.start()),
        "stop_recording": stop_recording,
        "save_map": lambda: ", ".join(str(path) for path in save_maps(host, record_dir)),
        "reset_odometry": lambda: f"begun anew: {', '.join(reset_odometry(host))}",
        "status": lambda: json.dumps(host.status()),
    }
    for name, work in services.items():
        serve_trigger(transport, f"{node}/{name}", work, say)
    return recordings


def reset_odometry(host: LiveHost) -> list[str]:
    """Let every component that gives an odometry begin anew; their names. Raises UserError if there is none."""
    names = [
        node.name
        for node in host.graph.nodes
        if any(issubclass(port.message_type, Odometry) for port in node.component.outputs.values())
    ]
    if not names:
        raise UserError(f"graph {host.graph.name} has no odometry")
    if not host.is_running:
        raise UserError("the node is not active: odometry begins anew when it is activated")
    for name in names:
        host.restart(name, RESET)
    return names


def save_maps(host: LiveHost, folder: Path) -> list[Path]:
    """Write the map of each component that has one, as a PLY file each. Raises UserError if there is none, OSError."""
    found = [host.component(node.name).map_points_m() for node in host.graph.nodes]
    maps_m = [points_m for points_m in found if points_m is not None and len(points_m)]
    if not maps_m:
        raise UserError(f"no component of graph {host.graph.name} has a map yet")
    return [save_ply(folder, host.now_ns(), points_m) for points_m in maps_m]


def save_ply(folder: Path, now_ns: int, points_m: Array) -> Path:
    """Write points (N, 3) as a binary PLY file of float32; a file that cannot be written whole does not stay.

    What is not finite is left out. Raises OSError.
    """
    points_m = np.ascontiguousarray(points_m[np.isfinite(points_m).all(axis=1)], dtype="<f4")
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment metres\n"
        f"element vertex {len(points_m)}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    )
    path = new_file(folder, now_ns, ".ply")
    try:
        path.write_bytes(header.encode() + points_m.tobytes())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return path
