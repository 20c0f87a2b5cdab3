from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tercel.core.component import Component, Input, on
from tercel.core.messages import Imu, Message
from tercel.hosts.ports import DUPLICATE, QUEUE_FULL, RESET_AFTER, UNPAIRED, WENT_BACK, Ports


@dataclass(frozen=True)
class Nothing:
    pass


class Pair(Component):
    Config = Nothing
    a = Input(Imu, depth=3)
    b = Input(Imu, queue="all")
    c = Input(Imu, late="accept", depth=2)

    @on(a, b, tolerance_ms=10)
    def both(self, a: Imu, b: Imu) -> dict[str, Message]:
        return {}

    @on(c)
    def alone(self, c: Imu) -> dict[str, Message]:
        return {}


def message(stamp_ms: float) -> Imu:
    zero = np.zeros(3)
    stamp_ns = round(stamp_ms * 1e6)
    return Imu(stamp_ns=stamp_ns, frame_id="imu", angular_velocity_radps=zero, linear_acceleration_mps2=zero)


def test_messages_of_one_instant_are_paired_within_the_tolerance() -> None:
    ports = Ports(Pair)
    ports.offer("a", message(0))
    assert ports.next_call() is None
    ports.offer("b", message(9))
    call = ports.next_call()
    assert call is not None
    assert [m.stamp_ns for m in call.messages] == [0, 9_000_000]


def test_a_message_without_a_partner_is_dropped_once_a_later_pair_is_there() -> None:
    ports = Ports(Pair)
    for stamp in (0, 100):
        ports.offer("a", message(stamp))
    ports.offer("b", message(100))
    call = ports.next_call()
    assert call is not None
    assert call.messages[0].stamp_ns == 100_000_000
    assert ports.accounts["a"].dropped == {UNPAIRED: 1}


def test_a_full_queue_keeps_the_newest_and_counts_the_oldest() -> None:
    ports = Ports(Pair)
    for stamp in range(5):
        ports.offer("a", message(stamp))
    assert ports.accounts["a"].dropped == {QUEUE_FULL: 2}
    ports.offer("b", message(2))
    call = ports.next_call()
    assert call is not None
    assert call.messages[0].stamp_ns == 2_000_000


def test_duplicates_and_stamps_that_go_back_are_rejected_each_under_its_name() -> None:
    ports = Ports(Pair)
    for stamp in (10, 10, 5, 11):
        ports.offer("b", message(stamp))
    assert ports.accounts["b"].rejected == {DUPLICATE: 1, WENT_BACK: 1}


def test_a_port_that_orders_for_itself_takes_late_messages() -> None:
    ports = Ports(Pair)
    for stamp in (10, 5):
        ports.offer("c", message(stamp))
    assert not ports.accounts["c"].rejected


def test_of_several_partners_within_the_tolerance_the_nearest_is_taken() -> None:
    ports = Ports(Pair)
    for stamp in (92, 99, 106):
        ports.offer("b", message(stamp))
    ports.offer("a", message(100))
    call = ports.next_call()
    assert call is not None
    assert [m.stamp_ns for m in call.messages] == [100_000_000, 99_000_000]
    assert ports.accounts["b"].dropped == {UNPAIRED: 1}


def test_the_call_with_the_oldest_stamp_comes_first() -> None:
    ports = Ports(Pair)
    ports.offer("a", message(20))
    ports.offer("b", message(20))
    ports.offer("c", message(10))
    first, second = ports.next_call(), ports.next_call()
    assert first is not None
    assert second is not None
    assert (first.handler.inputs, second.handler.inputs) == (("c",), ("a", "b"))


def test_stragglers_are_rejected_but_a_clock_that_was_set_back_is_followed() -> None:
    ports = Ports(Pair)
    ports.offer("b", message(10_000))
    for stamp in (5, 4, 3, *range(100, 100 + RESET_AFTER - 2)):
        ports.offer("b", message(stamp))
    assert ports.accounts["b"].rejected == {WENT_BACK: RESET_AFTER + 1}
    assert not ports.take_clock_reset()
    ports.offer("b", message(200))
    assert ports.take_clock_reset()
    assert not ports.take_clock_reset()
    ports.offer("b", message(201))
    assert ports.waiting == 3


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-20, 60), st.booleans(), st.booleans()), max_size=80),
)
def test_every_message_is_accounted_for_at_any_moment(events: list[tuple[str, int, bool, bool]]) -> None:
    ports = Ports(Pair)
    for port, stamp, take, refuse in events:
        ports.offer(port, message(stamp))
        if take and (call := ports.next_call()) is not None:
            if len(call.messages) == 2:
                assert abs(call.messages[0].stamp_ns - call.messages[1].stamp_ns) <= 10_000_000
            ports.settle(call, "refused" if refuse else None)
        waiting = sum(
            a.received - a.processed - a.dropped.total() - a.rejected.total() for a in ports.accounts.values()
        )
        assert waiting == ports.waiting
    ports.drop_waiting()
    for account in ports.accounts.values():
        assert account.received == account.processed + account.dropped.total() + account.rejected.total()
