"""The live host: a graph at work in real time, on any transport.

Messages come as CDR bytes from the transport, are decoded once for all components that read their topic, and go on in
process, as they are, from component to component; each output that others may see is encoded once. Every component
has a thread of its own (`live_worker`). Output leaves when it is ready, stamped with the sensor's time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tercel.core.component import Component, Models
from tercel.core.errors import Rejected, UserError, nearest_hint
from tercel.core.messages import Message
from tercel.hosts.graph import Graph
from tercel.hosts.live_account import LiveAccount, Problems, Recent
from tercel.hosts.live_topics import check_remap, input_qos, output_qos, ros_type_for, wire_name
from tercel.hosts.live_worker import CLOCK_BACK, Arrival, Worker
from tercel.hosts.outputs import is_hidden, visible
from tercel.ros import convert
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE, diagnostic_array
from tercel.ros.transport import RELIABLE, Data, Publisher, QoS, Transport

Tap = Callable[[str, str, Data, int], None]

STOP_WITHIN_S = 10.0
DIAGNOSTICS_EVERY_S = 1.0
_LOOK_EVERY_S = 0.2
_CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_CLOCK_QOS = QoS(reliable=False, depth=1)


@dataclass
class _Source:
    """A topic from outside, as it is subscribed now."""

    name: str
    wanted: type[Message]
    qos: QoS
    ros_type: str
    readers: list[tuple[Worker, str]]
    received: Recent
    end: Callable[[], None]


class LiveHost:
    """Runs a graph on a transport; may be started and stopped again and again.

    namespace: is put before each topic but the global ones, after `remap`. use_sim_time: time is what /clock says.
    now_ns: the robot's clock otherwise. say: told in one line what users should know, each thing once. name: of the
    node, for diagnostics. on_output: (topic, message) of each output, called in its component's thread.

    Raises UserError, here or at `start`, for what the user can mend.
    """

    def __init__(
        self,
        graph: Graph,
        transport: Transport,
        *,
        models: Models | None = None,
        remap: Mapping[str, str] = {},
        namespace: str = "/",
        use_sim_time: bool = False,
        now_ns: Callable[[], int] = time.time_ns,
        say: Callable[[str], None] = print,
        name: str = "tercel",
        on_output: Callable[[str, Message], None] = lambda _topic, _message: None,
    ) -> None:
        check_remap(graph, remap)
        self.graph = graph
        self.transport = transport
        self.name = name
        self._models = models
        self._names = {topic: wire_name(topic, remap, namespace) for topic in {*graph.needed(), *graph.written()}}
        self._use_sim_time = use_sim_time
        self._now_ns = now_ns
        self._sim_ns: int | None = None
        self._say = say
        self._on_output = on_output
        self._problems = Problems(say)
        self._undecodable = Problems(say)
        self._configs = {node.name: node.config for node in graph.nodes}
        self._workers: dict[str, Worker] = {}
        self._readers: dict[str, list[tuple[Worker, str]]] = {}
        self._sources: list[_Source] = []
        self._publishers: dict[str, tuple[str, Publisher]] = {}
        self._end_clock: Callable[[], None] = lambda: None
        self._taps: tuple[Tap, ...] = ()
        self._told: set[tuple[str, str, str]] = set()
        self._began_s = 0.0
        self._lock = threading.RLock()
        self._watch_ends = threading.Event()
        self._watcher: threading.Thread | None = None
        self._is_running = False

    # --- running ---------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Between start and stop."""
        return self._is_running

    def start(self) -> None:
        """Make the components, declare what comes in and goes out, and begin. Raises UserError; then nothing runs."""
        with self._lock:
            if self._is_running:
                return
            self._problems.clear()
            self._undecodable.clear()
            self._told.clear()
            self._sim_ns = None
            nodes = [replace(node, config=self._configs[node.name]) for node in self.graph.nodes]
            self._workers = {
                node.name: Worker(node, self._models, publish=self._publish, now_ns=self.now_ns, say=self._say)
                for node in nodes
            }
            self._readers = {}
            for worker in self._workers.values():
                for port, topic in worker.node.inputs.items():
                    self._readers.setdefault(topic, []).append((worker, port))
            self._began_s = time.monotonic()
            self._advertise()
            for worker in self._workers.values():
                worker.start()
            self._is_running = True
            try:
                self._subscribe()
            except BaseException:
                self.stop()
                raise
            self._watch_ends.clear()
            self._watcher = threading.Thread(target=self._watch, name="tercel-watch", daemon=True)
            self._watcher.start()

    def stop(self) -> LiveAccount:
        """End: nothing comes in any more, calls that run are finished, what waits is accounted for."""
        with self._lock:
            if self._is_running:
                self._is_running = False
                self._watch_ends.set()
                if self._watcher is not None:
                    self._watcher.join(STOP_WITHIN_S)
                self._end_clock()
                for source in self._sources:
                    source.end()
                for worker in self._workers.values():
                    if not worker.stop(STOP_WITHIN_S):
                        self._problems.count(f"{worker.node.name} did not end within {STOP_WITHIN_S:.0f} s")
                self._tell_news()
            return self._account()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no component has anything to do. Whether it came to that in time."""
        ends_s = time.monotonic() + timeout_s
        while True:
            before = [worker.account.received.count for worker in self._workers.values()]
            if all(worker.is_idle for worker in self._workers.values()):
                after = [worker.account.received.count for worker in self._workers.values()]
                if before == after and all(worker.is_idle for worker in self._workers.values()):
                    return True
            if time.monotonic() > ends_s:
                return False
            time.sleep(0.002)

    def now_ns(self) -> int:
        """The robot's time: its clock, or what /clock said last (0 until it says anything)."""
        return (self._sim_ns or 0) if self._use_sim_time else self._now_ns()

    # --- what others may ask ---------------------------------------------------------------------------------------

    def component(self, node: str) -> Component:
        """A node's component as it is now, made anew at each start. It may be at work in its own thread.

        Raises UserError for a name that the graph does not have, and before the first start.
        """
        return self._worker(node).component

    def restart(self, node: str, reason: str) -> None:
        """That component begins anew before its next call, also if it has failed."""
        self._worker(node).restart(reason)

    def reconfigure(self, node: str, config: Any) -> None:
        """Another config: at once, between two calls, or at the next start where the host does not run.

        Raises UserError if the host runs and the component cannot change one of these fields at work.
        """
        if node not in self._configs:
            raise UserError(f"graph {self.graph.name} has no component {node!r}; {nearest_hint(node, self._configs)}")
        with self._lock:
            old = self._configs[node]
            if self._is_running:
                worker = self._workers[node]
                live = worker.node.component.live_settings
                for field in fields(config):
                    if getattr(old, field.name) != getattr(config, field.name) and field.name not in live:
                        raise UserError(f"{node}.{field.name} cannot change at work: stop, set it, and start again")
                worker.reconfigure(config)
            self._configs[node] = config

    def config(self, node: str) -> Any:
        """The config of a component as it is, or will be at the next start."""
        return self._configs[node]

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """tap(topic, ros_type, data, now_ns) is called with all that comes in and goes out, in the threads that bring
        it: it must return at once. Returns what ends it.
        """
        with self._lock:
            self._taps = (*self._taps, tap)

        def end() -> None:
            with self._lock:
                self._taps = tuple(other for other in self._taps if other is not tap)

        return end

    def status(self) -> dict[str, Any]:
        """All that can be said of the host now, for JSON: see `LiveAccount` and the README."""
        now_s = time.monotonic()
        failed = any(worker.account.failed for worker in self._workers.values())
        status = {
            "node": self.name,
            "graph": self.graph.name,
            "state": ("failed" if failed else "running") if self._is_running else "stopped",
            "now_ns": self.now_ns(),
            "duration_s": round(now_s - self._began_s, 3) if self._began_s else 0.0,
            "components": {name: self._component_status(worker, now_s) for name, worker in self._workers.items()},
            "topics": {
                source.name: {
                    "type": source.ros_type,
                    "received": source.received.count,
                    "rate_hz": source.received.rate_hz(now_s),
                    "age_s": _rounded(source.received.age_s(now_s)),
                    "is_sensor": source.qos.depth <= 5 and not source.qos.reliable,
                }
                for source in self._sources
            },
            "undecodable": self._undecodable.told(),
            "problems": self._all_problems(),
        }
        account = getattr(self._models, "account", None)
        if account is not None:
            status["offload"] = account.summary()
        return status

    def _component_status(self, worker: Worker, now_s: float) -> dict[str, Any]:
        account, counts = worker.account, worker.counts()
        rows = counts["inputs"].values()
        return {
            "component": worker.node.component.__name__,
            "received": sum(row["received"] for row in rows),
            "processed": sum(row["processed"] for row in rows),
            "dropped": sum(sum(row["dropped"].values()) for row in rows),
            "rejected": sum(sum(row["rejected"].values()) for row in rows),
            "calls": account.took_ms.count,
            "rate_in_hz": account.received.rate_hz(now_s),
            "rate_hz": account.sent.rate_hz(now_s),
            "latency_ms": account.latency_ms.quantiles(now_s - 10.0),
            "took_ms": account.took_ms.quantiles(),
            **counts,
        }

    def _account(self) -> LiveAccount:
        status = self.status()
        return LiveAccount(
            duration_s=status["duration_s"],
            components=status["components"],
            topics=status["topics"],
            undecodable=status["undecodable"],
            problems=status["problems"],
        )

    def _all_problems(self) -> dict[str, int]:
        return {**self._problems.told(), **dict(sorted(self.transport.problems.copy().items()))}

    def _worker(self, node: str) -> Worker:
        if node not in self._workers:
            raise UserError(f"no component {node!r} was started; {nearest_hint(node, self._workers)}")
        return self._workers[node]

    # --- in --------------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        published = self.transport.topics()
        if self._use_sim_time:
            self._end_clock = self.transport.subscribe("/clock", _CLOCK_TYPE, _CLOCK_QOS, self._on_clock)
        self._sources = []
        for topic, wanted in self.graph.needed().items():
            name, readers = self._names[topic], self._readers[topic]
            specs = [worker.node.component.inputs[port] for worker, port in readers]
            qos = max((input_qos(name, spec) for spec in specs), key=lambda q: (q.transient_local, q.reliable, q.depth))
            ros_type = ros_type_for(name, wanted, published)
            source = _Source(name, wanted, qos, ros_type, readers, Recent(), lambda: None)
            self._sources.append(source)
            source.end = self.transport.subscribe(name, ros_type, qos, self._receiver(source))

    def _receiver(self, source: _Source) -> Callable[[Data], None]:
        ros_type = source.ros_type

        def count_undecodable(reason: str) -> None:
            self._undecodable.count(f"{source.name}: {reason}")

        def receive(data: Data) -> None:
            source.received.add(time.monotonic())
            self._tell_taps(source.name, ros_type, data)
            arrival = Arrival(ros_type, data, _decode, count_undecodable)
            for worker, port in source.readers:
                worker.offer(port, arrival)

        return receive

    def _on_clock(self, data: Data) -> None:
        try:
            clock = convert.STORE.deserialize_cdr(memoryview(data), _CLOCK_TYPE).clock  # type: ignore[attr-defined]
            now_ns = clock.sec * 10**9 + clock.nanosec
        except Exception:  # generated code: a damaged message can raise anything
            self._undecodable.count("/clock: message does not decode")
            return
        before_ns, self._sim_ns = self._sim_ns, now_ns
        if before_ns is not None and now_ns < before_ns:
            self._problems.count("/clock went back", hint=": the components begin anew")
            for worker in self._workers.values():
                worker.restart(CLOCK_BACK, forget_stamps=True)

    # --- out -------------------------------------------------------------------------------------------------------

    def _advertise(self) -> None:
        """Publishers stay from run to run, as those of an inactive node do."""
        for topic, message_type in self.graph.written().items():
            if is_hidden(topic):
                continue
            try:
                ros_type = convert.ros_type_of(message_type)
            except KeyError:
                self._say(f"{topic}: {message_type.__name__} has no ROS type: it stays in this process")
                continue
            self._open_publisher(self._names[topic], ros_type, output_qos(ros_type))
        self._open_publisher("/diagnostics", DIAGNOSTICS_TYPE, RELIABLE)

    def _open_publisher(self, name: str, ros_type: str, qos: QoS) -> None:
        with self._lock:
            if name not in self._publishers:
                self._publishers[name] = (ros_type, self.transport.advertise(name, ros_type, qos))

    def _publish(self, topic: str, message: Message) -> None:
        """An output: to other components as it is, to others as bytes. Called in its component's thread."""
        for worker, port in self._readers.get(topic, ()):
            worker.offer(port, message)
        self._on_output(topic, message)
        for name, shown in visible(topic, message):
            wire = self._names.get(name, name)
            if name == "/tf":
                self._open_publisher(wire, convert.ros_type_of(type(shown)), RELIABLE)
            if wire in self._publishers:
                self._send(wire, shown)

    def _send(self, name: str, message: Message) -> None:
        try:
            ros_type, data = convert.encode(message)
        except Exception as error:  # what a component may say and ROS cannot, a stamp before 1970 say
            self._problems.count(f"{name}: {type(message).__name__} does not encode", hint=f" ({error})")
            return
        self._send_bytes(name, ros_type, data)

    def _send_bytes(self, name: str, ros_type: str, data: Data) -> None:
        self._tell_taps(name, ros_type, data)
        try:
            self._publishers[name][1].publish(data)
        except Exception as error:  # the wire is gone or chokes: the components go on
            self._problems.count(f"{name}: not sent", hint=f" ({type(error).__name__}: {error})")

    def _tell_taps(self, name: str, ros_type: str, data: Data) -> None:
        for tap in self._taps:
            try:
                tap(name, ros_type, data, self.now_ns())
            except Exception as error:
                self._problems.count("a tap failed", hint=f": {type(error).__name__}: {error}")

    # --- once a second ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        next_s = time.monotonic()
        while not self._watch_ends.wait(_LOOK_EVERY_S):
            self._follow_types()
            if time.monotonic() < next_s:
                continue
            next_s = max(next_s + DIAGNOSTICS_EVERY_S, time.monotonic())
            self._tell_news()
            self._send_bytes("/diagnostics", DIAGNOSTICS_TYPE, diagnostic_array(self.status()))

    def _follow_types(self) -> None:
        """Subscribe anew where a topic that was silent so far turns out to have another type that we can read."""
        silent = [source for source in self._sources if not source.received.count]
        if not silent:
            return
        published = self.transport.topics()
        for source in silent:
            have = published.get(source.name)
            if have is None or have == source.ros_type:
                continue
            ros_type = ros_type_for(source.name, source.wanted, published)
            if ros_type == source.ros_type:
                self._problems.count_once(f"{source.name} is published as {have}, not {source.ros_type}")
                continue
            source.end()
            source.ros_type = ros_type
            source.end = self.transport.subscribe(source.name, ros_type, source.qos, self._receiver(source))

    def _tell_news(self) -> None:
        """Say each reason for which a component's port lost messages, once."""
        for name, worker in self._workers.items():
            for port, row in worker.counts()["inputs"].items():
                for reason in [*row["dropped"], *row["rejected"]]:
                    if (name, port, reason) not in self._told:
                        self._told.add((name, port, reason))
                        self._say(f"{name}: {port} from {row['topic']}: {reason}{_HINTS.get(reason, '')}")


_HINTS = {
    "queue full": ": slower than its input; the newest are kept",
    "duplicate stamp": ": are there two publishers?",
    "stamp went back": ": are there two publishers, or was a clock set back?",
}


def _decode(ros_type: str, data: Data) -> Message:
    try:
        ros = convert.STORE.deserialize_cdr(memoryview(data), ros_type)
    except Exception:  # generated code: a damaged message can raise anything
        raise Rejected("message does not decode") from None
    return convert.from_ros(ros, ros_type)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
