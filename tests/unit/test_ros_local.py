from __future__ import annotations

import gc
import threading
import time

import pytest

from tercel.ros import local
from tercel.ros.local import LocalTransport
from tercel.ros.transport import LATCHED, RELIABLE, SENSOR, Data, Identity, QoS, open_transport
from tests.unit.live_hosts import any_domain, until

STRING = "std_msgs/msg/String"
TRIGGER = "std_srvs/srv/Trigger"


def pair() -> tuple[LocalTransport, LocalTransport]:
    domain = any_domain()
    return LocalTransport(Identity("a", domain=domain)), LocalTransport(Identity("b", "/ns", domain=domain))


def test_a_message_reaches_all_who_read_its_topic_in_its_domain() -> None:
    a, b = pair()
    other = LocalTransport(Identity("c", domain=(a.identity.domain + 1) % 233))
    heard: list[tuple[str, bytes]] = []
    with a, b, other:
        for name, transport in (("a", a), ("b", b), ("other", other)):
            transport.subscribe("/x", STRING, SENSOR, lambda data, name=name: heard.append((name, bytes(data))))
        a.advertise("/x", STRING, SENSOR).publish(b"1")
        a.advertise("/y", STRING, SENSOR).publish(b"2")
    assert sorted(heard) == [("a", b"1"), ("b", b"1")]


def test_who_is_there_is_told_until_they_leave() -> None:
    a, b = pair()
    with a:
        with b:
            b.advertise("/x", STRING, RELIABLE)
            assert a.nodes() == ["/a", "/ns/b"]
            assert a.topics() == {"/x": STRING}
        assert a.nodes() == ["/a"]
        assert a.topics() == {}


def test_who_comes_late_gets_the_last_latched_messages_of_each_publisher() -> None:
    a, b = pair()
    heard: list[bytes] = []
    with a, b:
        first = a.advertise("/tf_static", STRING, LATCHED)
        second = a.advertise("/tf_static", STRING, QoS(reliable=True, depth=2, transient_local=True))
        for publisher, texts in ((first, (b"1", b"2")), (second, (b"3", b"4", b"5"))):
            for text in texts:
                publisher.publish(text)
        plain: list[bytes] = []
        b.subscribe("/tf_static", STRING, RELIABLE, lambda data: plain.append(bytes(data)))
        b.subscribe("/tf_static", STRING, LATCHED, lambda data: heard.append(bytes(data)))
        assert heard == [b"2", b"4", b"5"]
        assert plain == []
        first.publish(b"6")
        assert heard[-1:] == plain == [b"6"]


@pytest.mark.parametrize("reader_first", [False, True])
def test_a_wrong_type_is_never_delivered_but_counted_and_said_once(reader_first: bool) -> None:
    domain, said = any_domain(), list[str]()
    with LocalTransport(Identity("a", domain=domain), say=said.append) as a, LocalTransport(Identity("b")) as _:
        heard: list[Data] = []
        if reader_first:
            a.subscribe("/x", STRING, SENSOR, heard.append)
        publisher = a.advertise("/x", "sensor_msgs/msg/Imu", SENSOR)
        if not reader_first:
            a.subscribe("/x", STRING, SENSOR, heard.append)
        publisher.publish(b"1")
        publisher.publish(b"2")
    assert heard == []
    assert said == ["/x is published as sensor_msgs/msg/Imu, not std_msgs/msg/String"]
    assert dict(a.problems) == {said[0]: 1}


def test_what_is_received_cannot_be_written_to() -> None:
    a, b = pair()
    with a, b:
        heard: list[Data] = []
        b.subscribe("/x", STRING, SENSOR, heard.append)
        a.advertise("/x", STRING, SENSOR).publish(bytearray(b"123"))
        with pytest.raises(TypeError):
            heard[0][0] = 0  # type: ignore[index]


def test_ending_a_subscription_waits_for_the_call_that_runs_and_none_begins_after() -> None:
    a, b = pair()
    entered, leave, heard = threading.Event(), threading.Event(), list[Data]()

    def slow(data: Data) -> None:
        entered.set()
        assert leave.wait(5)
        heard.append(data)

    with a, b:
        end = b.subscribe("/x", STRING, SENSOR, slow)
        publisher = a.advertise("/x", STRING, SENSOR)
        sender = threading.Thread(target=publisher.publish, args=(b"1",))
        sender.start()
        assert entered.wait(5)
        ender = threading.Thread(target=end)
        ender.start()
        time.sleep(0.05)
        assert ender.is_alive()
        leave.set()
        ender.join(5)
        assert len(heard) == 1
        publisher.publish(b"2")
        sender.join(5)
        assert len(heard) == 1


def test_a_subscription_may_end_itself_from_its_own_callback() -> None:
    a, b = pair()
    heard: list[Data] = []
    with a, b:

        def once(data: Data) -> None:
            heard.append(data)
            end()

        end = b.subscribe("/x", STRING, SENSOR, once)
        publisher = a.advertise("/x", STRING, SENSOR)
        publisher.publish(b"1")
        publisher.publish(b"2")
    assert len(heard) == 1


def test_a_service_is_answered_by_its_node_and_a_failing_answer_is_raised() -> None:
    a, b = pair()
    with a, b:
        b.serve("/double", TRIGGER, lambda request: bytes(request) * 2)
        b.serve("/fails", TRIGGER, lambda request: 1 / 0)  # type: ignore[arg-type, return-value]
        assert bytes(a.call("/double", TRIGGER, b"ab", timeout_s=5)) == b"abab"
        with pytest.raises(ZeroDivisionError):
            a.call("/fails", TRIGGER, b"", timeout_s=5)


def test_a_service_that_is_not_there_or_too_slow_times_out() -> None:
    a, b = pair()
    gate = threading.Event()
    with a, b:
        b.serve("/slow", TRIGGER, lambda request: gate.wait(5) and request)  # type: ignore[arg-type, return-value]
        for name, srv_type in (("/nobody", TRIGGER), ("/slow", "std_srvs/srv/Empty"), ("/slow", TRIGGER)):
            with pytest.raises(TimeoutError, match=name):
                a.call(name, srv_type, b"", timeout_s=0.05)
        gate.set()
    with a, pytest.raises(TimeoutError):
        a.call("/slow", TRIGGER, b"", timeout_s=0.05)


def test_what_a_node_that_has_left_sends_reaches_nobody_and_it_may_close_twice() -> None:
    a, b = pair()
    heard: list[Data] = []
    publisher = a.advertise("/x", STRING, SENSOR)
    b.subscribe("/x", STRING, SENSOR, heard.append)
    a.close()
    a.close()
    publisher.publish(b"1")
    b.close()
    assert heard == []


def test_a_domain_is_forgotten_with_its_last_node() -> None:
    domain = any_domain()
    with open_transport("local", Identity("a", domain=domain)):
        assert domain in local._BUSES
    gc.collect()
    until(lambda: domain not in local._BUSES)
