"""The live host: a graph at work in real time, on any transport.

Messages come as CDR bytes from the transport, are decoded once for all components that read their topic, and go on in
process, as they are, from component to component; each output that others may see is encoded once. Every component
has a thread of its own (`live_worker`). Output leaves when it is ready, stamped with the sensor's time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from tercel.core.component import Component, Models
from tercel.core.errors import UserError, nearest_hint
from tercel.core.messages import Message
from tercel.hosts.arrival import Arrival
from tercel.hosts.graph import Graph
from tercel.hosts.live_account import LiveAccount, Problems
from tercel.hosts.live_status import Lately, News, component_status
from tercel.hosts.live_topics import check_remap, input_qos, is_sensor, output_qos, wire_name
from tercel.hosts.live_wire import STALE_AFTER_S, Tap, Wire
from tercel.hosts.live_worker import CLOCK_BACK, Worker
from tercel.hosts.outputs import is_hidden, visible
from tercel.ros import convert
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE, diagnostic_array
from tercel.ros.transport import RELIABLE, Data, QoS, Transport

STOP_WITHIN_S = 10.0
DIAGNOSTICS_EVERY_S = 1.0
_LOOK_EVERY_S = 0.2
_CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
_CLOCK_QOS = QoS(reliable=False, depth=1)


class LiveHost:
    """Runs a graph on a transport; may be started and stopped again and again.

    namespace: is put before each topic but the global ones, after `remap`. use_sim_time: time is what /clock says.
    now_ns: the robot's clock otherwise. say: told in one line what users should know, each thing once. name: of the
    node, for diagnostics. on_output: (topic, message) of each output, called in its component's thread. models may
    have a `summary()`, which status() shows as "offload".

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
        self._problems, self._undecodable = Problems(say), Problems(say)
        self._wire = Wire(
            transport, now_ns=self.now_ns, problems=self._problems, undecodable=self._undecodable, say=say
        )
        self._configs = {node.name: node.config for node in graph.nodes}
        self._workers: dict[str, Worker] = {}
        self._readers: dict[str, list[tuple[Worker, str]]] = {}
        self._end_clock: Callable[[], None] = lambda: None
        self._lately, self._news = Lately(), News(say)
        self._began_s = self._ended_s = 0.0
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
            self._begin_accounts()
            nodes = [replace(node, config=self._configs[node.name]) for node in self.graph.nodes]
            self._workers = {
                node.name: Worker(node, self._models, publish=self._publish, now_ns=self.now_ns, say=self._say)
                for node in nodes
            }
            self._readers = {}
            for worker in self._workers.values():
                for port, topic in worker.node.inputs.items():
                    self._readers.setdefault(topic, []).append((worker, port))
            self._advertise()
            self._is_running = True
            for worker in self._workers.values():
                worker.start()
            try:
                self._subscribe()
            except BaseException:
                self.stop()
                raise
            self._watch_ends.clear()
            self._watcher = threading.Thread(target=self._watch, name="tercel-watch", daemon=True)
            self._watcher.start()

    def _begin_accounts(self) -> None:
        self._problems.clear()
        self._undecodable.clear()
        self._lately, self._news = Lately(), News(self._say)
        self._sim_ns = None
        self._wire.sources.clear()
        self._began_s, self._ended_s = time.monotonic(), 0.0

    def stop(self) -> LiveAccount:
        """End: nothing comes in any more, calls that run are finished, what waits is accounted for.

        Returns the account of the run that ends, or has ended.
        """
        with self._lock:
            if self._is_running:
                self._is_running = False
                self._watch_ends.set()
                if self._watcher is not None:
                    self._watcher.join(STOP_WITHIN_S)
                self._end_clock()
                self._wire.end_subscriptions()
                for worker in self._workers.values():
                    if not worker.stop(STOP_WITHIN_S):
                        self._problems.count(f"{worker.node.name} did not end within {STOP_WITHIN_S:.0f} s")
                self._ended_s = time.monotonic()
                self._news.tell(self.status())
            status = self.status()
            return LiveAccount(**{field.name: status[field.name] for field in fields(LiveAccount)})

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
        """That component begins anew before its next call, also if it has failed. Raises UserError as `component`."""
        self._worker(node).restart(reason)

    def _worker(self, node: str) -> Worker:
        if node not in self._workers:
            raise UserError(f"no component {node!r} was started; {nearest_hint(node, self._workers)}")
        return self._workers[node]

    def config(self, node: str) -> Any:
        """The config of a component as it is, or will be at the next start. Raises UserError for an unknown name."""
        if node not in self._configs:
            raise UserError(f"graph {self.graph.name} has no component {node!r}; {nearest_hint(node, self._configs)}")
        return self._configs[node]

    def reconfigure(self, node: str, config: Any) -> None:
        """Another config: at once, between two calls, or at the next start where the host does not run.

        Raises UserError if the host runs and the component cannot change one of these fields at work.
        """
        with self._lock:
            old = self.config(node)
            if self._is_running:
                worker = self._workers[node]
                live = worker.node.component.live_settings
                for field in fields(config):
                    if getattr(old, field.name) != getattr(config, field.name) and field.name not in live:
                        raise UserError(f"{node}.{field.name} cannot change at work: stop, set it, and start again")
                worker.reconfigure(config)
            self._configs[node] = config

    def add_tap(self, tap: Tap) -> Callable[[], None]:
        """tap(topic, ros_type, data, now_ns) is called with all that comes in and goes out, in the threads that bring
        it: it must return at once. Returns what ends it.
        """
        return self._wire.add_tap(tap)

    def status(self) -> dict[str, Any]:
        """All that can be said of the host now, for JSON; after a stop, of the run that has ended.

        node, graph, state (running, failed, stopped), now_ns, duration_s; components: see `component_status`; topics:
        what comes in, see `Source.status`; undecodable: by topic and reason; problems: of host and transport, by
        reason; offload: its account, where networks are offloaded; lately: losses of the last seconds.
        """
        now_s = self._ended_s or time.monotonic()
        failed = any(worker.account.failed for worker in self._workers.values())
        status: dict[str, Any] = {
            "node": self.name,
            "graph": self.graph.name,
            "state": ("failed" if failed else "running") if self._is_running else "stopped",
            "now_ns": self.now_ns(),
            "duration_s": round(now_s - self._began_s, 3) if self._began_s else 0.0,
            "components": {n: component_status(w, self._names, now_s) for n, w in self._workers.items()},
            "topics": {source.name: source.status(now_s) for source in self._wire.sources},
            "undecodable": dict(sorted(self._undecodable.told().items())),
            "problems": dict(sorted((self._problems.told() + self.transport.problems).items())),
        }
        summary = getattr(self._models, "summary", None)
        if summary is not None:
            status["offload"] = summary()
        status["lately"] = self._lately.since(status)
        return status

    # --- in and out ------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        if self._use_sim_time:
            self._end_clock = self.transport.subscribe("/clock", _CLOCK_TYPE, _CLOCK_QOS, self._on_clock)
        for topic, wanted in self.graph.needed().items():
            name, readers = self._names[topic], self._readers[topic]
            specs = [worker.node.component.inputs[port] for worker, port in readers]
            qos = max((input_qos(name, spec) for spec in specs), key=lambda q: (q.transient_local, q.reliable))

            def deliver(arrival: Arrival, readers: list[tuple[Worker, str]] = readers) -> None:
                for worker, port in readers:
                    worker.offer(port, arrival)

            self._wire.subscribe(name, wanted, qos, any(is_sensor(name, spec) for spec in specs), deliver)

    def _on_clock(self, data: Data) -> None:
        try:
            clock: Any = convert.STORE.deserialize_cdr(memoryview(data), _CLOCK_TYPE)
            now_ns = clock.clock.sec * 10**9 + clock.clock.nanosec
            if now_ns < 0:
                raise ValueError("before 1970")
        except Exception:  # generated code: a damaged message can raise anything
            self._undecodable.count("/clock: message does not decode")
            return
        before_ns, self._sim_ns = self._sim_ns, now_ns
        if before_ns is not None and now_ns < before_ns:
            self._problems.count("/clock went back", hint=": the components begin anew")
            for worker in self._workers.values():
                worker.restart(CLOCK_BACK, forget_stamps=True)

    def _advertise(self) -> None:
        for topic, message_type in self.graph.written().items():
            if is_hidden(topic):
                continue
            try:
                ros_type = convert.ros_type_of(message_type)
            except KeyError:
                self._say(f"{topic}: {message_type.__name__} has no ROS type: it stays in this process")
                continue
            self._wire.advertise(self._names[topic], ros_type, output_qos(ros_type))
        self._wire.advertise("/diagnostics", DIAGNOSTICS_TYPE, RELIABLE)

    def _publish(self, topic: str, message: Message) -> None:
        """An output: to other components as it is, to others as bytes. Called in its component's thread."""
        for worker, port in self._readers.get(topic, ()):
            worker.offer(port, message)
        self._on_output(topic, message)
        for name, shown in visible(topic, message):
            if name == "/tf":
                self._wire.advertise(name, convert.ros_type_of(type(shown)), RELIABLE)
            self._wire.send(self._names.get(name, name), shown)

    # --- once a second ---------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        next_s = time.monotonic()
        while not self._watch_ends.wait(_LOOK_EVERY_S):
            try:
                wrong = self._wire.follow_types()
                now_s = time.monotonic()
                if now_s >= next_s:
                    next_s = max(next_s + DIAGNOSTICS_EVERY_S, now_s)
                    self._diagnose(wrong, now_s)
            except Exception as error:  # a wire that chokes must not end the diagnoses
                self._problems.count("the host could not look at itself", hint=f" ({type(error).__name__}: {error})")

    def _diagnose(self, wrong: list[str], now_s: float) -> None:
        for reason in wrong:
            self._problems.count(reason, is_said=reason in self.transport.problems)
        self._tell_stale(now_s)
        status = self.status()
        self._news.tell(status)
        self._lately.note(status, now_s)
        self._wire.send_bytes("/diagnostics", DIAGNOSTICS_TYPE, diagnostic_array(status))

    def _tell_stale(self, now_s: float) -> None:
        for source in self._wire.sources:
            was_stale, source.is_stale = source.is_stale, source.looks_stale(now_s)
            if source.is_stale and not was_stale:
                self._problems.count(f"{source.name}: no data for {STALE_AFTER_S:.0f} s")
