"""Against dora-rs over DDS: RustDDS and ros2-client, implementations that none of us wrote.

RustDDS sends nothing to 127.0.0.1 and multicasts on every interface, so each exchange runs in a process whose network
is its own and has another address; what it asserts is told by its end.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")
pytest.importorskip("dora", reason="dora-rs needs Python 3.11 or later")

from tercel.ros.dds import DdsTransport
from tercel.ros.dds_config import DEFAULT
from tercel.ros.store import STORE
from tercel.ros.transport import LATCHED, RELIABLE, Identity
from tests.scenarios import own_network
from tests.scenarios.ros_random import random_cdr
from tests.scenarios.test_zenoh_dora import TYPES, dora_peer, large_messages, plain, same, string_cdr
from tests.scenarios.zenoh_peers import wait_for

DOMAIN = 7  # the network is the test's own
ROOT = Path(__file__).resolve().parents[2]


def in_a_network_of_its_own(exchange: str, distribution: str) -> None:
    """Run a function of this module in another process."""
    words = [sys.executable, own_network.__file__, "-m", "tests.scenarios.test_dds_dora", exchange, distribution]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == own_network.NOT_ALLOWED:
        pytest.skip("this machine gives a process no network of its own")
    assert done.returncode == 0, done.stderr


def test_dora_receives_and_sends_every_type_and_its_bytes_equal_ours() -> None:
    in_a_network_of_its_own("types", "humble")


def test_latched_topics_reach_who_comes_late_in_both_directions_and_dora_is_a_node() -> None:
    in_a_network_of_its_own("latched", "humble")


# --- the exchanges -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def us_here(folder: Path, distribution: str) -> Iterator[DdsTransport]:
    """Our transport at the network's address."""
    config = folder / "cyclonedds.xml"
    config.write_text(
        DEFAULT.replace('name="lo"', f'address="{own_network.ADDRESS}"').replace("127.0.0.1", own_network.ADDRESS)
    )
    with DdsTransport(Identity("us", domain=DOMAIN, distribution=distribution), config=config) as us:
        yield us
        assert not us.problems, us.problems


def exchange_types(folder: Path, distribution: str) -> None:
    """Random messages, a VGA image and a cloud go to dora and come back; what it says of their values is compared."""
    rng = random.Random(distribution)  # noqa: S311
    sent = {i: [random_cdr(ros_type, rng) for _ in range(5)] for i, ros_type in enumerate(TYPES)}
    small = sum(map(len, sent.values()))
    for i, data in large_messages().items():
        sent[i].append(data)
    back: dict[int, list[bytes]] = defaultdict(list)
    with us_here(folder, distribution) as us, dora_peer(folder, "dds", folder, DOMAIN) as dora:
        publishers = []
        for i, ros_type in enumerate(TYPES):
            publishers.append(us.advertise(f"/to_dora/t{i}", ros_type, RELIABLE))
            us.subscribe(f"/from_dora/t{i}", ros_type, RELIABLE, lambda data, i=i: back[i].append(bytes(data)))
        expected = {f"/{way}_dora/t{i}": ros_type for i, ros_type in enumerate(TYPES) for way in ("from", "to")}
        assert wait_for(lambda: us.topics().items() >= expected.items()), us.topics()
        probes = 0
        while len(back) < len(TYPES):  # until the ends know of each other
            probes += 1
            assert probes < 50, {i: len(messages) for i, messages in back.items()}
            for i, publisher in enumerate(publishers):
                publisher.publish(sent[i][0])
            time.sleep(0.2)
        time.sleep(0.3)
        back.clear()
        while not dora.told.empty():
            dora.told.get()
        for i, messages in sent.items():
            for data in messages:
                publishers[i].publish(data)
                time.sleep(0.005)
        assert wait_for(lambda: sum(map(len, back.values())) == small + 2), {i: len(m) for i, m in back.items()}
        for i, messages in sent.items():
            assert list(map(without_padding, back[i], messages)) == messages, TYPES[i]
        told: dict[int, list[Any]] = defaultdict(list)
        for _ in range(small):
            i, values = dora.told.get(timeout=5)
            told[i].append(values)
        for i, ros_type in enumerate(TYPES):
            for values, data in zip(told[i], sent[i][:5], strict=True):
                same(values, plain(STORE.deserialize_cdr(data, ros_type)))


def without_padding(data: bytes, sent: bytes) -> bytes:
    """RTPS fills up to four bytes; RustDDS does not say, as Cyclone does, by how many."""
    return data[: len(sent)] if len(data) == len(sent) + -len(sent) % 4 and not any(data[len(sent) :]) else data


def exchange_latched(folder: Path, distribution: str) -> None:
    """Each side reads what the other has latched before, and what comes after."""
    got: list[bytes] = []
    with us_here(folder, distribution) as us:
        publisher = us.advertise("/latched_of_ours", TYPES[0], LATCHED)
        for text in ("old", "new"):
            publisher.publish(string_cdr(text))
        with dora_peer(folder, "dds", folder, DOMAIN, "latched") as dora:
            assert dora.told.get(timeout=10) == (0, {"data": "new"})
            # dora tells who it is as Humble does, with ids of 24 bytes
            assert wait_for(lambda: us.nodes() == ["/peer/dora_peer", "/us"]), us.nodes()
            us.subscribe("/latched_of_dora", TYPES[0], LATCHED, lambda data: got.append(bytes(data)))
            assert wait_for(lambda: got)
            time.sleep(0.3)
            assert got[-1] == string_cdr("new")  # RustDDS keeps more than the depth says
            publisher.publish(string_cdr("newer"))
            assert dora.told.get(timeout=10) == (0, {"data": "newer"})


EXCHANGES = {"types": exchange_types, "latched": exchange_latched}


def main(exchange: str, distribution: str) -> None:
    """One exchange."""
    os.environ.pop("CYCLONEDDS_URI", None)
    with tempfile.TemporaryDirectory() as folder:
        EXCHANGES[exchange](Path(folder), distribution)


if __name__ == "__main__":
    main(*sys.argv[1:])
