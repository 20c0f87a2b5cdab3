"""launch/zenoh: the example of mutual TLS and an allow-list keeps out who and what it should; the rest passes."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
import zenoh

from tercel.core.errors import UserError
from tercel.ros.transport import LATCHED, RELIABLE, Identity
from tercel.ros.zenoh import ZenohTransport
from tests.scenarios.zenoh_peers import wait_for

EXAMPLES = Path(__file__).resolve().parents[2] / "launch" / "zenoh"
STRING, TRIGGER = "std_msgs/msg/String", "std_srvs/srv/Trigger"
HELLO = b"\x00\x01\x00\x00\x06\x00\x00\x00hello\x00"
EMPTY = b"\x00\x01\x00\x00\x00"
Join = Callable[..., ZenohTransport]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Site:
    """One robot's network: a CA, its certificates, and the examples with this machine's paths and port in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.ca = trustme.CA()
        self.write_ca("ca", self.ca)
        self.issue("robot", self.ca)
        self.issue("workstation", self.ca)

    def write_ca(self, name: str, ca: trustme.CA) -> None:
        (self.folder / f"{name}.pem").write_bytes(ca.cert_pem.bytes())

    def issue(self, name: str, ca: trustme.CA, file: str = "") -> None:
        certificate = ca.issue_cert("127.0.0.1", common_name=name)
        (self.folder / f"{file or name}.key").write_bytes(certificate.private_key_pem.bytes())
        (self.folder / f"{file or name}.pem").write_bytes(b"".join(c.bytes() for c in certificate.cert_chain_pems))

    def config(self, example: str, **changes: str) -> Path:
        """The example with changes of single settings, KEY=VALUE with "__" for "/"."""
        text = (EXAMPLES / f"secure_{example}.json5").read_text()
        for placeholder, ours in (
            ("/etc/tercel/zenoh", str(self.folder)),
            ("tls/0.0.0.0:7447", f"tls/127.0.0.1:{self.port}"),
            ("tls/192.168.1.10:7447", f"tls/127.0.0.1:{self.port}"),
        ):
            text = text.replace(placeholder, ours)
        config = zenoh.Config.from_json5(text)
        for key, value in changes.items():
            config.insert_json5(key.replace("__", "/"), value)
        path = self.folder / f"{example}.json5"
        path.write_text(str(config))
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def join() -> Iterator[Join]:
    domain = random.SystemRandom().randint(1, 232)
    with ExitStack() as opened:
        yield lambda node, config: opened.enter_context(ZenohTransport(Identity(node, domain=domain), config=config))


def heard(robot: ZenohTransport, other: ZenohTransport, seconds: float = 2.0) -> dict[str, int]:
    """How many messages of each kind pass between the two within some seconds."""
    counts = dict.fromkeys(("odometry", "secret", "goal_pose", "order", "tf_static"), 0)

    def counter(name: str) -> Callable[[object], None]:
        def count(_data: object) -> None:
            counts[name] += 1

        return count

    for topic in ("odometry", "secret"):
        other.subscribe(f"/{topic}", STRING, RELIABLE, counter(topic))
    for topic in ("goal_pose", "order"):
        robot.subscribe(f"/{topic}", STRING, RELIABLE, counter(topic))
    robot.advertise("/tf_static", STRING, LATCHED).publish(HELLO)
    other.subscribe("/tf_static", STRING, LATCHED, counter("tf_static"))
    publishers = [robot.advertise(f"/{topic}", STRING, RELIABLE) for topic in ("odometry", "secret")]
    publishers += [other.advertise(f"/{topic}", STRING, RELIABLE) for topic in ("goal_pose", "order")]
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        for publisher in publishers:
            publisher.publish(HELLO)
        time.sleep(0.05)
    return counts


def test_the_workstation_hears_and_sends_what_is_allowed_and_nothing_else(site: Site, join: Join) -> None:
    robot, workstation = join("robot", site.config("robot")), join("workstation", site.config("workstation"))
    assert wait_for(lambda: workstation.nodes() == ["/robot", "/workstation"] == robot.nodes())
    counts = heard(robot, workstation)
    assert counts["odometry"] > 10
    assert counts["goal_pose"] > 10
    assert counts["tf_static"] == 1
    assert counts["secret"] == 0  # a topic that is on no list, robot to workstation
    assert counts["order"] == 0  # and the other way


def test_the_workstation_calls_the_services_on_the_list_alone(site: Site, join: Join) -> None:
    robot, workstation = join("robot", site.config("robot")), join("workstation", site.config("workstation"))
    asked = []
    for service in ("/tercel/status", "/tercel/start_recording"):
        robot.serve(service, TRIGGER, lambda request, service=service: asked.append(service) or request)
    assert workstation.call("/tercel/status", TRIGGER, EMPTY, timeout_s=5) == EMPTY
    with pytest.raises(TimeoutError):
        workstation.call("/tercel/start_recording", TRIGGER, EMPTY, timeout_s=1)
    assert asked == ["/tercel/status"]


def intruders(site: Site) -> dict[str, Path]:
    """Configurations of those who must be kept out, by what is wrong with them."""
    foreign = trustme.CA()
    site.write_ca("foreign_ca", foreign)
    site.issue("workstation", foreign, "foreign")
    site.issue("neighbour", site.ca)

    def certified(file: str, **changes: str) -> dict[str, str]:
        return {
            "transport__link__tls__connect_certificate": json.dumps(str(site.folder / f"{file}.pem")),
            "transport__link__tls__connect_private_key": json.dumps(str(site.folder / f"{file}.key")),
            **changes,
        }

    bare = {
        "transport__link__tls__connect_certificate": "null",
        "transport__link__tls__connect_private_key": "null",
        "transport__link__tls__enable_mtls": "false",
    }
    plain = {
        "connect__endpoints": json.dumps([f"tcp/127.0.0.1:{site.port}"]),
        "transport__link__protocols": '["tcp", "tls"]',
    }
    kinds = {"foreign": certified("foreign"), "bare": bare, "neighbour": certified("neighbour"), "plain": plain}
    paths = {}
    for name, changes in kinds.items():
        paths[name] = site.config("workstation", **changes).rename(site.folder / f"{name}.json5")
    return paths


@pytest.mark.parametrize("who", ["foreign", "bare", "plain", "neighbour"])
def test_nothing_gets_through_to_or_from_who_is_not_on_the_list(who: str, site: Site, join: Join) -> None:
    """A certificate of a foreign CA, none at all, no TLS at all, and one of our CA whose name is not on the list."""
    robot, intruder = join("robot", site.config("robot")), join("intruder", intruders(site)[who])
    assert set(heard(robot, intruder).values()) == {0}
    assert robot.nodes() == ["/robot"]
    assert intruder.nodes() == ["/intruder"]
    workstation = join("workstation", site.config("workstation"))  # the robot still serves its own
    assert wait_for(lambda: "/robot" in workstation.nodes())


@pytest.mark.parametrize("who", ["foreign", "bare", "plain"])
def test_without_the_list_the_certificates_alone_keep_strangers_out(who: str, site: Site, join: Join) -> None:
    robot = join("robot", site.config("robot", access_control__enabled="false"))
    intruder = join("intruder", intruders(site)[who])
    assert set(heard(robot, intruder, 1.0).values()) == {0}
    neighbour = join("neighbour", intruders(site)["neighbour"])  # while anyone of our CA gets everything
    assert min(heard(robot, neighbour, 1.0).values()) > 0


def test_a_workstation_does_not_talk_to_a_robot_of_a_foreign_ca(site: Site, join: Join) -> None:
    foreign = trustme.CA()
    site.issue("robot", foreign, "robot")  # written over the right one
    robot, workstation = join("robot", site.config("robot")), join("workstation", site.config("workstation"))
    assert set(heard(robot, workstation).values()) == {0}
    assert workstation.nodes() == ["/workstation"]


def test_a_certificate_that_is_not_there_is_a_users_mistake(site: Site) -> None:
    (site.folder / "robot.pem").unlink()
    with pytest.raises(UserError, match="zenoh does not start"):
        ZenohTransport(Identity("robot"), config=site.config("robot"))


def test_the_example_of_a_router_lets_programs_meet_that_only_know_the_router(tmp_path: Path, join: Join) -> None:
    port = free_port()
    text = (EXAMPLES / "router.json5").read_text().replace("tcp/[::]:7447", f"tcp/127.0.0.1:{port}")
    with zenoh.open(zenoh.Config.from_json5(text)):
        client = tmp_path / "client.json5"
        client.write_text(
            f'{{ mode: "peer", connect: {{ endpoints: ["tcp/127.0.0.1:{port}"] }}, timestamping: {{ enabled: true }},'
            ' listen: { endpoints: ["tcp/127.0.0.1:0"] }, scouting: { multicast: { enabled: false } } }'
        )
        one, two = join("one", client), join("two", client)
        assert wait_for(lambda: one.nodes() == ["/one", "/two"] == two.nodes())
        counts = heard(one, two, 1.0)
    assert all(counts.values()), counts
