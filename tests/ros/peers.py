"""The other side of the tests: a plain rclpy node with ROS's own classes, and nodes of the suite as processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from std_srvs.srv import Trigger

WITHIN_S = 20.0
RUN = "import sys; from tercel.ros.node import main; sys.exit(main(sys.argv[1:]))"
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4, "shutdown": 7}


def eventually(is_so: Callable[[], Any], what: str, within_s: float = WITHIN_S) -> Any:
    """Wait until something holds, and its value."""
    ends_s = time.monotonic() + within_s
    while not (value := is_so()):
        assert time.monotonic() < ends_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.02)
    return value


class Robot:
    """A node of the suite in a process of its own."""

    def __init__(self, executable: str, arguments: Sequence[str], folder: Path) -> None:
        self.log = folder / f"{executable}_{len(list(folder.iterdir()))}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUN, executable, "--ros-args", *arguments],
                stdout=stream, stderr=subprocess.STDOUT, cwd=folder,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def interrupt(self) -> int:
        """SIGINT, as launch sends it; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WITHIN_S)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(WITHIN_S)


class Peer:
    """An rclpy node with a thread that spins it; what it hears is kept by topic."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, domain_id=domain)
        self.node = Node("peer", context=self.context)
        self.heard: dict[str, list[Any]] = {}
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._ends.is_set():
            with contextlib.suppress(Exception):
                self._executor.spin_once(timeout_sec=0.2)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._ends.set()
        self._executor.wake()
        self._thread.join(5.0)
        self._executor.shutdown(5.0)
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    # --- topics ----------------------------------------------------------------------------------------------------

    def listen(
        self, topic: str, kind: Any, *, raw: bool = False, reliable: bool = True, depth: int = 1000
    ) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=depth, reliability=reliability)
        self.node.create_subscription(kind, topic, heard.append, qos, raw=raw)
        return heard

    def advertise(self, topic: str, kind: Any, *, qos: Any = qos_profile_sensor_data) -> Any:
        return self.node.create_publisher(kind, topic, qos)

    def wait_for_subscriber(self, publisher: Any) -> None:
        eventually(lambda: publisher.get_subscription_count(), f"somebody reads {publisher.topic_name}")
        time.sleep(0.3)  # the other side may know a moment later, and misses until then what is not reliable

    def wait_for_publisher(self, topic: str) -> None:
        eventually(lambda: self.node.count_publishers(topic), f"somebody writes {topic}")
        time.sleep(0.3)  # the ends match a moment after the graph knows of them

    # --- services --------------------------------------------------------------------------------------------------

    def call(self, service: str, kind: Any, request: Any = None, within_s: float = WITHIN_S) -> Any:
        client = self.node.create_client(kind, service)
        try:
            eventually(client.service_is_ready, f"somebody answers {service}", within_s)
            future = client.call_async(kind.Request() if request is None else request)
            eventually(future.done, f"an answer of {service}", within_s)
            return future.result()
        finally:
            self.node.destroy_client(client)

    def trigger(self, service: str) -> Any:
        return self.call(service, Trigger)

    def state(self, node: str) -> str:
        return str(self.call(f"{node}/get_state", GetState).current_state.label)

    def change(self, node: str, verb: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[verb]
        return bool(self.call(f"{node}/change_state", ChangeState, request).success)

    def wait_until_active(self, node: str) -> None:
        eventually(lambda: self.state(node) == "active", f"{node} is active")

    # --- parameters ------------------------------------------------------------------------------------------------

    def get(self, node: str, *names: str) -> list[Any]:
        answer = self.call(f"{node}/get_parameters", GetParameters, GetParameters.Request(names=list(names)))
        return [
            Parameter.from_parameter_msg(ParameterMessage(name=name, value=value)).value
            for name, value in zip(names, answer.values, strict=True)
        ]

    def set(self, node: str, **values: Any) -> list[Any]:
        """The answers for each name; a double underscore is a dot."""
        rows = [Parameter(name.replace("__", "."), value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParameters.Request(parameters=rows)
        return list(self.call(f"{node}/set_parameters", SetParameters, request).results)

    def describe(self, node: str, *names: str) -> list[Any]:
        request = DescribeParameters.Request(names=list(names))
        return list(self.call(f"{node}/describe_parameters", DescribeParameters, request).descriptors)
