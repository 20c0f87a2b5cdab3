"""One component of a live host at work: a bounded inbox, its ports, a thread of its own, and an account.

What comes in is only put into the inbox, by whoever brings it; the worker's thread decodes it, offers it to the ports,
calls handlers and hands their outputs on. The inbox keeps the newest messages of each port, undecoded, so that what a
slow component will never look at costs nothing. One lock guards inbox, ports and account, held for bookkeeping only:
received = processed + dropped + rejected + waiting, at any moment.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from tercel.core.component import Component, Models
from tercel.core.errors import Rejected
from tercel.core.messages import Message
from tercel.hosts.arrival import Arrival
from tercel.hosts.graph import Node
from tercel.hosts.live_account import LiveNodeAccount, bounded
from tercel.hosts.outputs import checked
from tercel.hosts.ports import QUEUE_FULL, Call, Ports

MAX_KEPT_ALL = 1000
"""What waits at most at a port that keeps all: memory has an end."""
COUNTED_EVERY_S = 0.5
STOPPED = "host stopped"
FAILED = "component failed"
CLOCK_BACK = "clock set back"

Incoming = Arrival | Message


class Worker:
    """The thread of one component.

    publish: (topic, message), called in this thread for each output that has a topic; now_ns: the robot's time.
    """

    def __init__(
        self,
        node: Node,
        models: Models | None,
        *,
        publish: Callable[[str, Message], None],
        now_ns: Callable[[], int],
        say: Callable[[str], None],
    ) -> None:
        self.node = node
        self.component: Component = node.component(node.config, models)
        self._models = models
        self._publish = publish
        self._now_ns = now_ns
        self._say = say
        self._ports = Ports(node.component)
        self.account = LiveNodeAccount(self._ports.accounts)
        self._changed = threading.Condition()
        self._inbox: dict[str, deque[tuple[int, Incoming]]] = {port: deque() for port in node.component.inputs}
        self._order = count()
        self._counted: Counter[str] = Counter()
        self._counted_s = 0.0
        self._in_hand = 0
        self._stopping = False
        self._retired = False
        self._config: Any = node.config
        self._restart_reason: str | None = None
        self._forget_stamps = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Future[Any] | None = None
        self._thread = threading.Thread(target=self._run, name=f"tercel-{node.name}", daemon=True)

    # --- from any thread -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def offer(self, port: str, incoming: Incoming) -> None:
        """Take a message in; the oldest of its port makes room where there is none."""
        now_s = time.monotonic()
        with self._changed:
            self.account.received.add(now_s)
            if self._stopping or self.account.failed is not None:
                self._drop(port, STOPPED if self._stopping else FAILED)
                return
            inbox, spec = self._inbox[port], self.node.component.inputs[port]
            inbox.append((next(self._order), incoming))
            if len(inbox) > (spec.depth if spec.queue == "latest" else MAX_KEPT_ALL):
                inbox.popleft()
                self._drop(port, QUEUE_FULL)
            self._changed.notify_all()

    def restart(self, reason: str, *, forget_stamps: bool = False) -> None:
        """The component begins anew before its next call, failed or not. forget_stamps: what waits is of another time,
        and any stamp may come next.
        """
        with self._changed:
            self._restart_reason = reason
            self._forget_stamps |= forget_stamps
            if forget_stamps:
                self._drop_inbox(reason)
            self._changed.notify_all()

    def reconfigure(self, config: Any) -> None:
        """Another config from the next call on."""
        with self._changed:
            self._config = config
            self._changed.notify_all()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do; what waits for a partner may stay."""
        with self._changed:
            return not self._in_hand and not any(self._inbox.values()) and self._restart_reason is None

    def stop(self, timeout_s: float) -> bool:
        """End after the call that runs, and account for what waits. Whether the thread has ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s / 2)
        task, loop = self._task, self._loop
        if self._thread.is_alive() and task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)
        self._thread.join(timeout_s / 2)
        with self._changed:
            self._drop_all(STOPPED)
            self._retired = True  # what a hanging call gives later is of a run that is over
        return not self._thread.is_alive()

    def counts(self) -> dict[str, Any]:
        """The account's counts at one moment, for JSON. waiting: in queues or in hand, of all inputs."""
        with self._changed:
            waiting = {port: len(queue) for port, queue in self._inbox.items()}
            rows = {
                port: {
                    "topic": self.node.inputs[port],
                    "received": account.received + waiting[port],
                    "processed": account.processed,
                    "dropped": dict(sorted(account.dropped.items())),
                    "rejected": dict(sorted(account.rejected.items())),
                }
                for port, account in self._ports.accounts.items()
            }
            return {
                "inputs": rows,
                "waiting": sum(waiting.values()) + self._ports.waiting + self._in_hand,
                "outputs": {
                    port: {"topic": topic, "count": self.account.outputs[port]}
                    for port, topic in self.node.outputs.items()
                },
                "restarts": dict(sorted(self.account.restarts.items())),
                "failed": self.account.failed,
                "counters": dict(self.account.counters + self._counted),
            }

    # --- the worker's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._begin_anew_if_asked()
                self._take_one()
                while (call := self._next_call()) is not None:
                    self._call(call)
            self._count()
        finally:
            if self._loop is not None:
                self._loop.close()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or any(self._inbox.values())
                    or self._restart_reason is not None
                    or self._config is not self.component.config
                )
            )
            return not self._stopping

    def _begin_anew_if_asked(self) -> None:
        with self._changed:
            reason, self._restart_reason = self._restart_reason, None
            forget, self._forget_stamps = self._forget_stamps, False
            config = self._config
            if reason is None:
                self.component.config = config
                return
            if forget:
                self._ports.begin_anew(CLOCK_BACK)
            self.account.failed = None
        self._make_component(reason)

    def _make_component(self, reason: str) -> None:
        try:
            counted = Counter(self.component.counters())
            component = self.node.component(self._config, self._models)
        except Exception as error:
            self._fail(error)
            return
        with self._changed:
            self.account.counters.update(counted)
            self._counted = Counter()
            self.account.restarts[reason] += 1
            is_new = self.account.restarts[reason] == 1
            self.component = component
        if is_new:
            self._say(f"{self.node.name} begins anew: {reason}")

    def _take_one(self) -> None:
        """Decode the oldest message of the inbox and offer it to its port."""
        with self._changed:
            filled = [port for port, queue in self._inbox.items() if queue]
            if not filled:
                return
            port = min(filled, key=lambda name: self._inbox[name][0][0])
            _, incoming = self._inbox[port].popleft()
            account = self._ports.accounts[port]
            account.received += 1
            self._in_hand += 1
        reason = None
        try:
            wanted = self.node.component.inputs[port].message_type
            message = incoming.message_for(wanted) if isinstance(incoming, Arrival) else incoming
        except Rejected as rejection:
            reason = str(rejection)
        except Exception as error:  # bytes of strangers: whatever they bring about, this thread must live on
            reason = f"cannot be read: {type(error).__name__}"
        with self._changed:
            self._in_hand -= 1
            if reason is not None:
                account.rejected[bounded(account.rejected, reason)] += 1
            else:
                account.received -= 1  # the port counts it itself
                self._ports.offer(port, message)

    def _next_call(self) -> Call | None:
        with self._changed:
            if self._stopping or self.account.failed is not None:
                return None
            call = self._ports.next_call()
            if call is None:
                return None
            self._in_hand += len(call.messages)
            was_reset = self._ports.take_clock_reset()
            if self._restart_reason is None:
                self.component.config = self._config
        if was_reset:
            self._make_component(CLOCK_BACK)
        return call

    def _call(self, call: Call) -> None:
        reason = None
        began_s = time.perf_counter()
        try:
            outputs = getattr(self.component, call.handler.function)(*call.messages)
            if inspect.isawaitable(outputs):
                outputs = self._awaited(outputs)
            took_s = time.perf_counter() - began_s
            for port, message in checked(self.node, outputs):
                self._hand_on(port, message)
            if outputs:
                self.account.sent.add(time.monotonic())
        except Rejected as rejection:
            reason = str(rejection)
            took_s = time.perf_counter() - began_s
        except asyncio.CancelledError:
            reason = STOPPED
            took_s = time.perf_counter() - began_s
        except Exception as error:
            self._settle(call, FAILED)
            self._fail(error)
            return
        self.account.took_ms.add(time.monotonic(), took_s * 1e3)
        self._settle(call, reason)
        if time.monotonic() > self._counted_s + COUNTED_EVERY_S:
            self._count()

    def _count(self) -> None:
        """Note what the component has counted itself: asked in its own thread, for it may be at work otherwise."""
        self._counted_s = time.monotonic()
        try:
            counted = Counter(self.component.counters())
        except Exception as error:
            self._fail(error)
            return
        with self._changed:
            self._counted = counted

    def _settle(self, call: Call, reason: str | None) -> None:
        with self._changed:
            self._in_hand -= len(call.messages)
            self._ports.settle(call, reason)

    def _awaited(self, outputs: Awaitable[Any]) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._task = asyncio.ensure_future(_awaiting(outputs), loop=self._loop)
        try:
            return self._loop.run_until_complete(self._task)
        finally:
            self._task = None

    def _hand_on(self, port: str, message: Message) -> None:
        if self._retired:
            return
        topic = self.node.outputs.get(port)
        if topic is not None:
            self._publish(topic, message)
        with self._changed:
            self.account.outputs[port] += 1
        self.account.latency_ms.add(time.monotonic(), (self._now_ns() - message.stamp_ns) / 1e6)

    def _fail(self, error: Exception) -> None:
        """A programmer's mistake: this component is out until it is begun anew; the others go on."""
        last = traceback.extract_tb(error.__traceback__)[-1] if error.__traceback__ else None
        where = f" ({last.filename.rsplit('/', 1)[-1]}:{last.lineno} in {last.name})" if last else ""
        line = f"{type(error).__name__}: {error}{where}"
        with self._changed:
            self.account.failed = line
            self._drop_all(FAILED)
        self._say(f"{self.node.name} failed and is out: {line}")

    # --- under the lock --------------------------------------------------------------------------------------------

    def _drop(self, port: str, reason: str) -> None:
        account = self._ports.accounts[port]
        account.received += 1
        account.dropped[reason] += 1

    def _drop_inbox(self, reason: str) -> None:
        for port, queue in self._inbox.items():
            while queue:
                queue.popleft()
                self._drop(port, reason)

    def _drop_all(self, reason: str) -> None:
        self._drop_inbox(reason)
        self._ports.drop_waiting(reason)


async def _awaiting(outputs: Awaitable[Any]) -> Any:
    return await outputs
