"""What stands between a topic and a handler: bounded queues, pairing by stamp, and an account of every message.

Pure bookkeeping, the same for every host: no clock, no tasks. Each message that arrives is in the end processed,
dropped (the queue was full; no partner came) or rejected (a stamp that goes back; the component refused it), or still
waits in a queue: received = processed + dropped + rejected + waiting, at any moment.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from tercel.core.component import Component, HandlerSpec, Input
from tercel.core.messages import Message

QUEUE_FULL = "queue full"
UNPAIRED = "no partner within tolerance"
# So many messages in a row behind the newest, rising among themselves: not stragglers, the clock was set back.
RESET_AFTER = 10

DUPLICATE = "duplicate stamp"
WENT_BACK = "stamp went back"


@dataclass
class PortAccount:
    """What became of the messages of one input port."""

    received: int = 0
    processed: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Call:
    """A handler that can be called now, with one message of each of its inputs."""

    handler: HandlerSpec
    messages: tuple[Message, ...]


class Ports:
    """The input side of one component."""

    def __init__(self, component: type[Component]) -> None:
        self._ports: dict[str, Input] = component.inputs
        self._handlers = component.handlers
        self._queues: dict[str, deque[Message]] = {port: deque() for port in component.inputs}
        self._newest_ns: dict[str, int] = {}
        self._behind: dict[str, tuple[int, int]] = {}
        self._clock_was_reset = False
        self.accounts: dict[str, PortAccount] = {port: PortAccount() for port in component.inputs}

    def offer(self, port: str, message: Message) -> None:
        """Take a message in, or drop or reject it; it is counted either way."""
        account, spec, queue = self.accounts[port], self._ports[port], self._queues[port]
        account.received += 1
        newest_ns = self._newest_ns.get(port)
        if newest_ns is not None and message.stamp_ns <= newest_ns and spec.late == "reject":
            if not self._is_reset(port, message.stamp_ns):
                account.rejected[DUPLICATE if message.stamp_ns == newest_ns else WENT_BACK] += 1
                return
            newest_ns = None
        else:
            self._behind.pop(port, None)
        self._newest_ns[port] = message.stamp_ns if newest_ns is None else max(newest_ns, message.stamp_ns)
        queue.append(message)
        if spec.queue == "latest" and len(queue) > spec.depth:
            queue.popleft()
            account.dropped[QUEUE_FULL] += 1

    def _is_reset(self, port: str, stamp_ns: int) -> bool:
        """Whether this late message is the last of so many that the port's clock must have been set back."""
        last_ns, count = self._behind.get(port, (stamp_ns - 1, 0))
        self._behind[port] = (stamp_ns, count + 1 if stamp_ns > last_ns else 1)
        if self._behind[port][1] < RESET_AFTER:
            return False
        del self._behind[port]
        self._clock_was_reset = True
        return True

    def take_clock_reset(self) -> bool:
        """Whether an input's clock was set back since this was last asked: the component must begin anew."""
        was_reset, self._clock_was_reset = self._clock_was_reset, False
        return was_reset

    def next_call(self) -> Call | None:
        """The next handler whose inputs are there, oldest stamp first; messages without a partner are dropped."""
        calls = [call for handler in self._handlers if (call := self._peek(handler)) is not None]
        if not calls:
            return None
        call = min(calls, key=lambda c: c.messages[0].stamp_ns)
        for port in call.handler.inputs:
            self._queues[port].popleft()
        return call

    def _peek(self, handler: HandlerSpec) -> Call | None:
        queues = [self._queues[port] for port in handler.inputs]
        while all(queues):
            newest_ns = max(queue[0].stamp_ns for queue in queues)
            stale = [p for p in handler.inputs if self._is_stale(self._queues[p], newest_ns, handler.tolerance_ns)]
            if not stale:
                return Call(handler, tuple(queue[0] for queue in queues))
            for port in stale:
                self._queues[port].popleft()
                self.accounts[port].dropped[UNPAIRED] += 1
        return None

    @staticmethod
    def _is_stale(queue: deque[Message], anchor_ns: int, tolerance_ns: int) -> bool:
        """Whether a queue's first message is too old for the anchor, or its second one is nearer."""
        first_ns = queue[0].stamp_ns
        nearer = len(queue) > 1 and abs(queue[1].stamp_ns - anchor_ns) < abs(first_ns - anchor_ns)
        return first_ns < anchor_ns - tolerance_ns or nearer

    def settle(self, call: Call, rejected: str | None) -> None:
        """Account for the messages of a call that has ended, refused for a reason or processed."""
        for port in call.handler.inputs:
            if rejected is None:
                self.accounts[port].processed += 1
            else:
                self.accounts[port].rejected[rejected] += 1

    def drop_waiting(self, reason: str = UNPAIRED) -> None:
        """At the end of a run: what still waits for a partner will not find one."""
        for port, queue in self._queues.items():
            if queue:
                self.accounts[port].dropped[reason] += len(queue)
                queue.clear()

    def begin_anew(self, reason: str) -> None:
        """The clock of all inputs was set back: what waits is of another time, and any stamp may come next."""
        self.drop_waiting(reason)
        self._newest_ns.clear()
        self._behind.clear()
        self._clock_was_reset = False

    @property
    def waiting(self) -> int:
        """Messages in the queues."""
        return sum(len(queue) for queue in self._queues.values())
