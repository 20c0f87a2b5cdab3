"""The replay host: a recorded drive through a graph, on a virtual clock.

The source delivers each recorded message at its log time; between two messages the clock stands still until all that
the graph can do at that instant is done. Each component has one worker, which takes the next call from its ports, runs
the handler, waits for the time that it is charged, and hands the outputs on. The same recording, graph, seed and
charge give the same outputs, byte for byte: nothing here reads a real clock but to report it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tercel.core.clock import VirtualClock, run_virtual
from tercel.core.component import Component, Models
from tercel.core.errors import Rejected
from tercel.core.messages import Message
from tercel.hosts.charge import Charge, charge_nothing
from tercel.hosts.graph import Graph, Node
from tercel.hosts.outputs import checked
from tercel.hosts.ports import PortAccount, Ports
from tercel.hosts.recording import Recorded, Recording

# topic, virtual time in ns, message
Sink = Callable[[str, int, Message], None]
Publish = Callable[[str, Message], None]


@dataclass
class NodeAccount:
    """What one component did: its inputs' accounts, its outputs, the time of each call, and what it counted itself."""

    ports: dict[str, PortAccount]
    outputs: Counter[str] = field(default_factory=Counter)
    took_ms: array[float] = field(default_factory=lambda: array("d"))
    age_ms: array[float] = field(default_factory=lambda: array("d"))
    restarts: int = 0
    counters: Counter[str] = field(default_factory=Counter)


@dataclass
class ReplayAccount:
    """What a replay did with every message."""

    nodes: dict[str, NodeAccount]
    delivered: Counter[str] = field(default_factory=Counter)
    undecodable: Counter[str] = field(default_factory=Counter)
    decode_ms: array[float] = field(default_factory=lambda: array("d"))
    wall_s: float = 0.0


class _Runner:
    """One component at work: its ports, its worker, its account."""

    def __init__(self, node: Node, models: Models | None, charge: Charge, publish: Publish) -> None:
        self.node = node
        self.ports = Ports(node.component)
        self.account = NodeAccount(self.ports.accounts)
        self._component: Component = node.component(node.config, models)
        self._models = models
        self._charge = charge
        self._publish = publish
        self._wake = asyncio.Event()
        self.resting = asyncio.Event()

    def offer(self, port: str, message: Message) -> None:
        self.ports.offer(port, message)
        self.resting.clear()
        self._wake.set()

    def collect(self) -> None:
        """Add what the component has counted to the account; once for each component, when it is done."""
        self.account.counters.update(self._component.counters())

    async def work(self, clock: VirtualClock) -> None:
        """Call handlers as their inputs arrive, for ever; one that fails is at rest, so that nobody waits for it."""
        try:
            await self._work(clock)
        finally:
            self.resting.set()

    async def _work(self, clock: VirtualClock) -> None:
        while True:
            call = self.ports.next_call()
            if call is None:
                self.resting.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            if self.ports.take_clock_reset():
                self.collect()
                self._component = self.node.component(self.node.config, self._models)
                self.account.restarts += 1
            handler = getattr(self._component, call.handler.function)
            outputs, reason = {}, None
            began_s = time.perf_counter()
            try:
                result = handler(*call.messages)
                outputs = await result if inspect.isawaitable(result) else result
            except Rejected as rejection:
                reason = str(rejection)
            took_s = time.perf_counter() - began_s
            self.account.took_ms.append(took_s * 1e3)
            charged_ns = self._charge(self.node.name, took_s)
            if charged_ns:
                await clock.sleep_until_ns(clock.now_ns + charged_ns)
            self.ports.settle(call, reason)
            self._hand_on(outputs, clock.now_ns)

    def _hand_on(self, outputs: Any, now_ns: int) -> None:
        for port, message in checked(self.node, outputs):
            self.account.outputs[port] += 1
            self.account.age_ms.append((now_ns - message.stamp_ns) / 1e6)
            if port in self.node.outputs:
                self._publish(self.node.outputs[port], message)


def replay(
    recording: Recording,
    graph: Graph,
    sources: dict[str, str],
    *,
    models: Models | None,
    sink: Sink,
    charge: Charge = charge_nothing,
    progress: Callable[[float], None] = lambda _fraction: None,
    clock: VirtualClock | None = None,
) -> ReplayAccount:
    """Run a recording through a graph. sources: the graph's topic -> the recording's (see graph.bind). clock: one that
    starts with the recording, where models need it, too; it is closed at the end.

    Every output of every component goes to `sink`. Returns the account; a component that fails raises.
    """
    clock = clock or VirtualClock(recording.start_ns)
    readers: dict[str, list[tuple[_Runner, str]]] = {}

    def publish(topic: str, message: Message) -> None:
        if topic not in sources:
            sink(topic, clock.now_ns, message)
        for runner, port in readers.get(topic, ()):
            runner.offer(port, message)

    runners = [_Runner(node, models, charge, publish) for node in graph.nodes]
    for runner in runners:
        for port, topic in runner.node.inputs.items():
            readers.setdefault(topic, []).append((runner, port))
    account = ReplayAccount({runner.node.name: runner.account for runner in runners})

    async def main() -> None:
        workers = [asyncio.create_task(runner.work(clock)) for runner in runners]
        source = asyncio.create_task(_play(recording, sources, clock, publish, account, progress))
        for task in (source, *workers):
            # An interrupt ends the loop from inside a task; without this asyncio complains that nobody asked it why.
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([source, *workers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # a worker ends only by failing
        await _drain(runners, clock)
        for worker in workers:
            if worker.done():
                worker.result()
        for runner in runners:
            runner.ports.drop_waiting()
            runner.collect()

    began_s = time.perf_counter()
    run_virtual(main(), clock)
    account.wall_s = time.perf_counter() - began_s
    return account


async def _play(
    recording: Recording,
    sources: dict[str, str],
    clock: VirtualClock,
    publish: Publish,
    account: ReplayAccount,
    progress: Callable[[float], None],
) -> None:
    """Deliver the recording, each message at its log time."""
    topics: dict[str, list[str]] = {}
    for name, recorded_name in sources.items():
        topics.setdefault(recorded_name, []).append(name)
    span_ns = max(1, recording.end_ns - recording.start_ns)
    for recorded in recording.messages(topics.keys()):
        await clock.sleep_until_ns(recorded.log_time_ns)
        message = _decode(recording, recorded, account)
        if message is not None:
            for name in topics[recorded.topic]:
                publish(name, message)
        await clock.idle()
        progress((recorded.log_time_ns - recording.start_ns) / span_ns)


async def _drain(runners: list[_Runner], clock: VirtualClock) -> None:
    """Let time go on until no component works any more; one that rests may be woken by another's output."""
    await clock.idle()
    while working := [runner for runner in runners if not runner.resting.is_set()]:
        await working[0].resting.wait()
        await clock.idle()


def _decode(recording: Recording, recorded: Recorded, account: ReplayAccount) -> Message | None:
    account.delivered[recorded.topic] += 1
    began_s = time.perf_counter()
    try:
        return recording.decode(recorded, images=True)
    except Rejected as rejection:
        account.undecodable[f"{recorded.topic}: {rejection}"] += 1
        return None
    finally:
        account.decode_ms.append((time.perf_counter() - began_s) * 1e3)
