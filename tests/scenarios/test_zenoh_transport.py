"""The zenoh transport between processes: every type, late joiners, services, garbage, slow and vanishing peers."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zenoh

from tercel.core.errors import UserError
from tercel.ros import rmw_zenoh as wire
from tercel.ros.service_types import make_request, read_response
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, Data, Identity
from tercel.ros.zenoh import ZenohTransport
from tests.scenarios.ros_random import MESSAGE_TYPES, random_cdr
from tests.scenarios.zenoh_peers import IMAGE_TYPE, peer, private_network, wait_for

STRING, IMU = "std_msgs/msg/String", "sensor_msgs/msg/Imu"
Open = Callable[..., ZenohTransport]


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return private_network(tmp_path)


@pytest.fixture
def domain() -> int:
    return random.SystemRandom().randint(1, 232)


@pytest.fixture
def join(network: Path, domain: int) -> Iterator[Open]:
    """Open transports on the private network; all are closed at the end."""
    opened: list[ZenohTransport] = []

    def open_one(node: str = "us", **options: Any) -> ZenohTransport:
        identity = {"domain": domain, **options.pop("identity", {})}
        opened.append(ZenohTransport(Identity(node, **identity), config=network, **options))
        return opened[-1]

    yield open_one
    for transport in opened:
        transport.close()


def cdr(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"\x00\x01\x00\x00" + len(data).to_bytes(4, "little") + data


@pytest.mark.parametrize("stations", [1, 2])
def test_every_type_goes_through_two_and_three_processes_byte_by_byte(
    stations: int, network: Path, domain: int, join: Open
) -> None:
    rng = random.Random(stations)  # noqa: S311
    sent = {f"t{i}": [random_cdr(ros_type, rng) for _ in range(3)] for i, ros_type in enumerate(MESSAGE_TYPES)}
    got: dict[str, list[bytes]] = defaultdict(list)
    us, names = join(), ",".join(MESSAGE_TYPES)
    legs = ["sent", *(f"leg{i}" for i in range(1, stations)), "back"]
    publishers = {}
    for i, ros_type in enumerate(MESSAGE_TYPES):
        us.subscribe(f"/back/t{i}", ros_type, COMMAND, lambda data, i=i: got[f"t{i}"].append(bytes(data)))
        publishers[f"t{i}"] = us.advertise(f"/sent/t{i}", ros_type, COMMAND)
    with contextlib.ExitStack() as relays:
        for i in range(stations):
            relays.enter_context(peer(network, domain, f"relay{i}", "relay", legs[i], legs[i + 1], names))
        assert wait_for(lambda: len(us.topics()) == len(MESSAGE_TYPES) * (stations + 1))
        assert us.nodes() == [*(f"/relay{i}" for i in range(stations)), "/us"]
        assert us.topics()["/back/t0"] == MESSAGE_TYPES[0]
        time.sleep(0.5)
        for name, messages in sent.items():
            for data in messages:
                publishers[name].publish(data)
        assert wait_for(lambda: sum(map(len, got.values())) == 3 * len(MESSAGE_TYPES))
    assert got == sent
    assert not [reason for reason in us.problems if "went away" not in reason]


def test_who_comes_late_gets_the_latched_messages_and_no_others(join: Open) -> None:
    early, late = join("early"), join("late")
    latched = early.advertise("/tf_static", STRING, LATCHED)
    plain = early.advertise("/chatter", STRING, RELIABLE)
    for publisher in (latched, plain):
        publisher.publish(cdr("old"))
        publisher.publish(cdr("new"))
    time.sleep(0.5)  # sessions that have just met send more than is asked for, until they know what is
    got: dict[str, list[bytes]] = defaultdict(list)
    for topic, qos in (("/tf_static", LATCHED), ("/chatter", RELIABLE)):
        late.subscribe(topic, STRING, qos, lambda data, topic=topic: got[topic].append(bytes(data)))
    assert wait_for(lambda: got["/tf_static"])
    time.sleep(0.3)
    assert dict(got) == {"/tf_static": [cdr("new")]}
    latched.publish(cdr("newer"))
    assert wait_for(lambda: len(got["/tf_static"]) == 2)
    assert not late.problems


def test_a_latched_message_also_reaches_who_waited_for_its_publisher(join: Open) -> None:
    reader, writer = join("reader"), join("writer")
    got: list[bytes] = []
    reader.subscribe("/tf_static", STRING, LATCHED, lambda data: got.append(bytes(data)))
    writer.advertise("/tf_static", STRING, LATCHED).publish(cdr("only"))
    assert wait_for(lambda: got == [cdr("only")])


def test_services_answer_fail_and_time_out_between_processes(network: Path, domain: int, join: Open) -> None:
    us = join()
    with peer(network, domain, "server", "serve"):
        for wanted in (True, False, True):
            request = make_request("std_srvs/srv/SetBool", data=wanted)
            answer = read_response(
                "std_srvs/srv/SetBool", us.call("/invert", "std_srvs/srv/SetBool", request, timeout_s=5)
            )
            assert (answer.success, answer.message) == (not wanted, f"was {wanted}")
        trigger = make_request("std_srvs/srv/Trigger")
        with pytest.raises(TimeoutError, match="no map yet"):
            us.call("/fail", "std_srvs/srv/Trigger", trigger, timeout_s=5)
        began_s = time.monotonic()
        with pytest.raises(TimeoutError, match="/sleep"):
            us.call("/sleep", "std_srvs/srv/Trigger", trigger, timeout_s=0.5)
        assert time.monotonic() - began_s < 2
        with pytest.raises(TimeoutError, match="nobody offers"):
            us.call("/invert", "std_srvs/srv/Trigger", trigger, timeout_s=0.3)  # another type: another service


def test_a_request_without_attachment_or_cdr_is_counted_and_the_next_one_answered(
    join: Open, network: Path, domain: int
) -> None:
    server, client = join("server"), join("client")
    server.serve("/empty", "std_srvs/srv/Trigger", lambda request: request)
    key = wire.data_key(domain, "/empty", "std_srvs/srv/Trigger", "jazzy")
    with zenoh.open(zenoh.Config.from_file(network)) as stranger:
        assert wait_for(lambda: any(reply.err is not None for reply in stranger.get(key, payload=b"?", timeout=1)))
        good = wire.attachment(1, 2, bytes(16))
        assert [r.ok for r in stranger.get(key, payload=b"no", attachment=good, timeout=1)] == [None]
    assert set(server.problems) == {"/empty: attachment of a wrong size", "/empty: not CDR"}
    assert (
        client.call("/empty", "std_srvs/srv/Trigger", b"\x00\x01\x00\x00\x00", timeout_s=5) == b"\x00\x01\x00\x00\x00"
    )


def test_garbage_under_our_key_is_counted_by_reason_told_once_and_survived(
    join: Open, network: Path, domain: int
) -> None:
    said: list[str] = []
    us = join(say=said.append)
    got: list[bytes] = []
    us.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
    key = wire.data_key(domain, "/chatter", STRING, "jazzy")
    good = wire.attachment(1, 2, bytes(16))
    with zenoh.open(zenoh.Config.from_file(network)) as stranger:
        publisher = stranger.declare_publisher(key)
        assert wait_for(lambda: publisher.matching_status.matching)
        for attachment, payload in (
            (None, cdr("x")), (b"", cdr("x")), (good[:-1], cdr("x")), (good[:16] + b"\x11" + good[17:], cdr("x")),
            (good, b""), (good, b"\x00\x01"), (good, b"\x01\x00\x00\x00rest"), (good, b"\xff" * 99),
        ) * 3:  # fmt: skip
            publisher.put(payload, attachment=attachment)
        publisher.delete()
        publisher.put(cdr("sound"), attachment=good)
        assert wait_for(lambda: got)
    assert got == [cdr("sound")]
    assert us.problems == {
        "/chatter: attachment of a wrong size": 10,
        "/chatter: attachment with a gid of a wrong size": 3,
        "/chatter: not CDR": 12,
    }
    assert sorted(said) == sorted(us.problems)


def test_garbage_among_the_liveliness_tokens_is_counted_and_survived(join: Open, network: Path, domain: int) -> None:
    us = join()
    with zenoh.open(zenoh.Config.from_file(network)) as stranger:
        liveliness = stranger.liveliness()
        tokens = [
            liveliness.declare_token(f"@ros2_lv/{domain}/{rest}") for rest in ("x", "a/0/0/ZZ/%/%/n", "a/0/1/MP/%/%/n")
        ]
        assert wait_for(lambda: sum(us.problems.values()) == 3)
        for token in tokens:
            token.undeclare()
    assert us.nodes() == ["/us"]
    assert set(us.problems) == {"liveliness token of an unknown form", "liveliness token without a topic"}


@pytest.mark.parametrize("reader_first", [True, False])
def test_a_foreign_type_under_a_topics_name_is_named(join: Open, reader_first: bool) -> None:
    said: list[str] = []
    reader, writer = join("reader", say=said.append), join("writer")
    got: list[bytes] = []

    def listen() -> None:
        reader.subscribe("/chatter", IMU, SENSOR, lambda data: got.append(bytes(data)))

    if reader_first:
        listen()
    publisher = writer.advertise("/chatter", STRING, RELIABLE)
    assert wait_for(lambda: reader.topics() == {"/chatter": STRING})
    if not reader_first:
        listen()
    assert wait_for(lambda: said)
    publisher.publish(cdr("x"))
    time.sleep(0.2)
    assert said == [f"/chatter: somebody publishes {STRING}, {IMU} is wanted"]
    assert not got


def test_a_publisher_of_another_distribution_is_named(join: Open) -> None:
    reader, writer = join("reader"), join("writer", identity={"distribution": "humble"})
    reader.subscribe("/chatter", STRING, RELIABLE, lambda _data: None)
    writer.advertise("/chatter", STRING, RELIABLE)
    assert wait_for(lambda: reader.problems)
    assert "/writer speaks another distribution's wire" in next(iter(reader.problems))


def test_two_nodes_of_humble_understand_each_other(join: Open, domain: int) -> None:
    reader, writer = (join(node, identity={"distribution": "humble"}) for node in ("reader", "writer"))
    got: list[bytes] = []
    reader.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = writer.advertise("/chatter", STRING, RELIABLE)
    assert wait_for(lambda: publisher.publish(cdr("x")) or got)


def test_another_domain_hears_nothing(join: Open, domain: int) -> None:
    us, other = join("us"), join("other", identity={"domain": (domain + 1) % 233})
    got: list[Data] = []
    for transport in (us, other):
        transport.subscribe("/chatter", STRING, RELIABLE, got.append if transport is other else lambda _data: None)
    us.advertise("/chatter", STRING, RELIABLE).publish(cdr("x"))
    time.sleep(0.5)
    assert not got
    assert other.nodes() == ["/other"]


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_publisher_that_is_killed_in_mid_message_is_named_and_the_next_one_heard(
    shared_memory: bool, network: Path, domain: int, join: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shared memory a message of 2 MB goes as some forty fragments."""
    monkeypatch.setenv("ZENOH_CONFIG_OVERRIDE", f"transport/shared_memory/enabled={json.dumps(shared_memory)}")
    us = join()
    got: list[int] = []
    us.subscribe("/camera", IMAGE_TYPE, SENSOR, lambda data: got.append(len(data)))
    reason = "/camera: its publisher /driver went away"
    for _ in range(2):
        got.clear()
        us.problems.clear()
        with peer(network, domain, "driver", "publish", "/camera") as driver:
            assert wait_for(lambda: len(got) > 3)
            driver.kill()
        assert wait_for(lambda: us.problems[reason] == 1)
        assert set(got) == {2_000_004}  # never a part of one
        assert wait_for(lambda: us.nodes() == ["/us"])


def test_two_publishers_on_one_topic_are_both_heard_and_nothing_counts_as_lost(join: Open) -> None:
    us, writers = join(), [join("one"), join("two")]
    got: list[bytes] = []
    us.subscribe("/chatter", STRING, COMMAND, lambda data: got.append(bytes(data)))
    publishers = [writer.advertise("/chatter", STRING, COMMAND) for writer in writers]
    assert wait_for(lambda: all(p.publish(cdr("?")) or len(set(us.nodes())) == 3 for p in publishers))
    time.sleep(0.3)
    got.clear()
    for i in range(100):
        for name, publisher in zip("ab", publishers, strict=True):
            publisher.publish(cdr(f"{name}{i}"))
    assert wait_for(lambda: len(got) == 200)
    for name in "ab":
        assert [data for data in got if data[8:9] == name.encode()] == [cdr(f"{name}{i}") for i in range(100)]
    assert not us.problems


def test_a_stalled_reader_does_not_hold_up_a_sensor_and_counts_what_it_missed(
    network: Path, domain: int, join: Open
) -> None:
    """Sent = received + lost: the reader knows from the sequence numbers how many were dropped for it."""
    us = join()
    publisher = us.advertise("/camera", IMAGE_TYPE, SENSOR)
    image = b"\x00\x01\x00\x00" + bytes(640 * 480 * 3)
    with peer(network, domain, "reader", "read", "/camera") as reader:
        assert wait_for(lambda: "/reader" in us.nodes())
        time.sleep(0.5)
        publisher.publish(image)
        time.sleep(0.2)
        reader.send_signal(signal.SIGSTOP)
        took_s = []
        for _ in range(100):
            began_s = time.monotonic()
            publisher.publish(image)
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.01)
        reader.send_signal(signal.SIGCONT)
        time.sleep(1)
        for _ in range(5):
            publisher.publish(image)
            time.sleep(0.05)
        time.sleep(0.5)
        told = json.loads(reader.communicate("")[0])
    lost = told["problems"].get("/camera: messages lost on the way", 0)
    assert told["counts"]["received"] + lost == 106
    assert lost > 30
    assert sorted(took_s)[-2] < 0.05  # zenoh waits once, for at most 50 ms, before it knows the reader as congested
    assert sum(took_s) < 0.5


def test_after_a_subscription_has_ended_nothing_comes_and_closing_twice_is_no_harm(join: Open) -> None:
    us = join()
    got: list[bytes] = []
    end = us.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = us.advertise("/chatter", STRING, RELIABLE)
    publisher.publish(cdr("x"))
    assert wait_for(lambda: got)
    end()
    end()
    publisher.publish(cdr("y"))
    time.sleep(0.2)
    assert got == [cdr("x")]
    us.close()
    us.close()
    publisher.publish(cdr("z"))
    assert us.problems == {"/chatter: not sent, the session is closed": 1}


def test_strangers_cannot_fill_our_memory_with_problems(join: Open, network: Path, domain: int) -> None:
    said: list[str] = []
    us = join(say=said.append)
    us.subscribe("/chatter", STRING, RELIABLE, lambda _data: None)
    with zenoh.open(zenoh.Config.from_file(network)) as stranger:
        liveliness, end = stranger.liveliness(), "hash/::,10:,:,:,,"
        tokens = [
            liveliness.declare_token(f"@ros2_lv/{domain}/a/0/{i}/MP/%/%/n/%chatter/p::msg::dds_::T{i}_/{end}")
            for i in range(700)
        ]
        assert wait_for(lambda: us.problems.total() == len(tokens))
    assert len(us.problems) == len(said) == 501
    assert us.problems["further problems"] == 200


def test_sequence_numbers_that_leap_are_not_counted_as_a_loss(join: Open, network: Path, domain: int) -> None:
    us = join()
    got: list[Data] = []
    us.subscribe("/chatter", STRING, RELIABLE, got.append)
    sequences = (5, 6, 9, 8, 10, 2**62, -3, -2, 0)  # lost: 7 and 8, of which 8 comes late; then 1 between -2 and 0
    with zenoh.open(zenoh.Config.from_file(network)) as stranger:
        publisher = stranger.declare_publisher(wire.data_key(domain, "/chatter", STRING, "jazzy"))
        assert wait_for(lambda: publisher.matching_status.matching)
        for sequence in sequences:
            publisher.put(cdr("x"), attachment=wire.attachment(sequence, 0, bytes(16)))
        assert wait_for(lambda: len(got) == len(sequences))
    assert us.problems == {"/chatter: messages lost on the way": 3}


def rmw_zenoh_session(folder: Path, router_port: int) -> Path:
    """What matters of rmw_zenoh's DEFAULT_RMW_ZENOH_SESSION_CONFIG.json5: all goes by the router on this machine."""
    path = folder / "rmw_session.json5"
    path.write_text(
        f'{{ mode: "peer", connect: {{ endpoints: ["tcp/localhost:{router_port}"] }},'
        ' listen: { endpoints: ["tcp/localhost:0"] }, timestamping: { enabled: true },'
        " scouting: { multicast: { enabled: false }, gossip: { enabled: true, multihop: false,"
        ' target: { router: ["router", "peer"], peer: ["router"] },'
        ' autoconnect_strategy: { peer: { to_router: "always", to_peer: "greater-zid" } } } } }'
    )
    return path


@pytest.mark.parametrize("router_first", [True, False])
def test_with_our_defaults_we_meet_rmw_zenohs_sessions_at_their_router(
    router_first: bool, tmp_path: Path, domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rmw_zenohd is such a router (DEFAULT_RMW_ZENOH_ROUTER_CONFIG.json5); it may start before us, or after."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    router = f'{{ mode: "router", listen: {{ endpoints: ["tcp/127.0.0.1:{port}"] }},'
    router += " scouting: { multicast: { enabled: false } }, timestamping: { enabled: true } }"
    scouting = f"224.0.0.224:{random.SystemRandom().randint(20_000, 60_000)}"
    ours = f'connect/endpoints=["tcp/127.0.0.1:{port}"];scouting/multicast/address="{scouting}"'
    got: list[bytes] = []
    with contextlib.ExitStack() as stack:
        if router_first:
            stack.enter_context(zenoh.open(zenoh.Config.from_json5(router)))
        with monkeypatch.context() as patch:
            patch.setenv("ZENOH_CONFIG_OVERRIDE", ours)
            us = stack.enter_context(ZenohTransport(Identity("us", domain=domain)))
        if not router_first:
            stack.enter_context(zenoh.open(zenoh.Config.from_json5(router)))
        config = rmw_zenoh_session(tmp_path, port)
        ros = stack.enter_context(ZenohTransport(Identity("ros", domain=domain), config=config))
        ros.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
        publisher = us.advertise("/chatter", STRING, RELIABLE)
        assert wait_for(lambda: us.nodes() == ["/ros", "/us"] == ros.nodes())
        assert wait_for(lambda: publisher.publish(cdr("x")) or got)


def test_with_our_defaults_two_programs_meet_without_any_router(domain: int) -> None:
    got: list[bytes] = []
    with ZenohTransport(Identity("one", domain=domain)) as one, ZenohTransport(Identity("two", domain=domain)) as two:
        one.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
        publisher = two.advertise("/chatter", STRING, RELIABLE)
        assert wait_for(lambda: one.nodes() == ["/one", "/two"] == two.nodes())
        assert wait_for(lambda: publisher.publish(cdr("x")) or got)


def test_closing_while_threads_publish_and_call_ends_soon_and_raises_nothing_in_the_closer(join: Open) -> None:
    us, reader = join("us"), join("reader")
    reader.subscribe("/camera", IMAGE_TYPE, SENSOR, lambda _data: None)
    publisher = us.advertise("/camera", IMAGE_TYPE, SENSOR)
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            publisher.publish(b"\x00\x01\x00\x00" + bytes(1_000_000))

    def ask() -> None:
        with contextlib.suppress(TimeoutError, zenoh.ZError):
            us.call("/nothing", "std_srvs/srv/Trigger", make_request("std_srvs/srv/Trigger"), timeout_s=1)

    threads = [threading.Thread(target=publish), threading.Thread(target=publish), threading.Thread(target=ask)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        began_s = time.monotonic()
        us.close()
        assert time.monotonic() - began_s < 2
        assert wait_for(lambda: us.problems["/camera: not sent, the session is closed"])
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_an_answer_under_way_is_sent_before_the_transport_closes(join: Open) -> None:
    server, client = join("server"), join("client")
    asked = threading.Event()

    def answer(request: Data) -> Data:
        asked.set()
        time.sleep(0.3)
        return request

    server.serve("/shutdown", "std_srvs/srv/Trigger", answer)
    closer = threading.Thread(target=lambda: asked.wait(5) and server.close())
    closer.start()
    request = make_request("std_srvs/srv/Trigger")
    assert client.call("/shutdown", "std_srvs/srv/Trigger", request, timeout_s=5) == request
    closer.join()


def test_a_reader_keeps_no_memory_of_publishers_that_came_and_went(network: Path, domain: int, join: Open) -> None:
    """zenoh's shared memory would keep 18 MB of each: that is why it is off by default."""

    def shared_maps() -> set[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.split()[-1] for line in lines if line.endswith(".zenoh")}

    before = shared_maps()
    us = join()
    got: list[int] = []
    us.subscribe("/camera", IMAGE_TYPE, SENSOR, lambda data: got.append(len(data)))
    for _ in range(2):
        got.clear()
        with peer(network, domain, "driver", "publish", "/camera"):
            assert wait_for(lambda: len(got) > 3)
    assert shared_maps() <= before


def test_a_type_that_nobody_knows_is_a_users_mistake(join: Open) -> None:
    with pytest.raises(UserError, match="acme_msgs/msg/Thing"):
        join().advertise("/thing", "acme_msgs/msg/Thing", RELIABLE)
