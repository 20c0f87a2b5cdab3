"""The DDS transport against peers that are slow, stopped or wrong."""
# ruff: noqa: F811 (fixtures are arguments)

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")

from cyclonedds._clayer import ddspy_write

from tercel.core.messages import Image
from tercel.ros import dds_types as wire
from tercel.ros.convert import encode
from tercel.ros.transport import COMMAND, RELIABLE, SENSOR
from tests.scenarios.dds_peers import peer
from tests.scenarios.test_dds_transport import IMU, STRING, Open, cdr, domain, join  # noqa: F401
from tests.scenarios.zenoh_peers import IMAGE_TYPE, wait_for

XML = Path(__file__).resolve().parents[2] / "launch" / "dds" / "cyclonedds.xml"


def image(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return bytes(encode(Image(stamp_ns=1, frame_id="camera", pixels=pixels, encoding="bgr8"))[1])


def test_a_stopped_reader_holds_up_neither_the_sender_nor_another_reader(domain: int, join: Open) -> None:
    us, other, data = join(), join("other"), image(1080, 1920)
    publisher = us.advertise("/image", IMAGE_TYPE, RELIABLE)
    got: list[int] = []
    other.subscribe("/image", IMAGE_TYPE, RELIABLE, lambda data: got.append(len(data)))
    with peer(domain, "stopped", "read", "/image", "reliable") as process:
        time.sleep(1)
        process.send_signal(signal.SIGSTOP)
        took_s = []
        for _ in range(20):
            began_s = time.monotonic()
            publisher.publish(data)
            took_s.append(time.monotonic() - began_s)
            time.sleep(0.03)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        publisher.publish(data)
        time.sleep(0.5)
        told = json.loads(process.communicate("")[0])
    assert max(took_s) < 0.5
    assert wait_for(lambda: len(got) == 21 - us.problems.total())
    assert set(us.problems) <= {"/image: not sent, a reader is too slow"}
    assert told["counts"]["received"] > 0


def test_other_threads_run_while_a_topic_that_keeps_all_waits_and_gives_up(domain: int, join: Open) -> None:
    us, data = join(), image(1080, 1920)
    publisher = us.advertise("/image", IMAGE_TYPE, COMMAND)
    longest_s, over = [0.0], threading.Event()

    def live() -> None:
        while not over.is_set():
            began_s = time.monotonic()
            time.sleep(0.005)
            longest_s[0] = max(longest_s[0], time.monotonic() - began_s)

    with peer(domain, "stopped", "read", "/image", "reliable") as process:
        time.sleep(1)
        process.send_signal(signal.SIGSTOP)
        threading.Thread(target=live, daemon=True).start()
        began_s, sent = time.monotonic(), 0
        while not us.problems and sent < 20:
            publisher.publish(data)
            sent += 1
        took_s = time.monotonic() - began_s
        over.set()
    assert us.problems == {"/image: not sent, a reader is too slow": 1}
    assert 4.5 < took_s < 8
    assert longest_s[0] < 1


def test_nothing_is_lost_on_a_topic_that_keeps_all_whose_reader_pauses(domain: int, join: Open) -> None:
    us = join()
    got: list[bytes] = []

    def slow(data: bytes) -> None:
        got.append(bytes(data))
        if len(got) % 2000 == 1:
            time.sleep(0.3)

    us.subscribe("/back/t0", STRING, COMMAND, slow)  # type: ignore[arg-type]
    publisher = us.advertise("/sent/t0", STRING, COMMAND)
    with peer(domain, "relay", "relay", "sent", "back", STRING):
        time.sleep(1)
        sent = [cdr(str(i)) for i in range(8000)]
        for data in sent:
            publisher.publish(data)
        wait_for(lambda: len(got) == len(sent))
    assert got == sent
    assert not [reason for reason in us.problems if "went away" not in reason]


def test_garbage_on_our_topic_is_counted_named_once_and_survived(join: Open) -> None:
    """A foreign encoding in the header, and under a sound one a string without an end."""
    said: list[str] = []
    us, bad, good = join("us", say=said.append), join("bad"), join("good")
    got: list[bytes] = []
    us.subscribe("/chatter", STRING, RELIABLE, lambda data: got.append(bytes(data)))
    publisher = bad.advertise("/chatter", STRING, RELIABLE)
    time.sleep(0.5)
    garbage = [b"\x00\x07\x00\x00" + cdr("x")[4:], b"\x00\x01\x00\x00\xff\xff\xff\xff"] * 2
    codes = [ddspy_write(publisher._writer._ref, wire.to_wire(data)) for data in garbage]
    assert codes[1] == codes[3] < 0  # Cyclone itself refuses it, at the sender as at the reader
    sound = good.advertise("/chatter", STRING, RELIABLE)
    time.sleep(0.5)
    sound.publish(cdr("sound"))
    assert wait_for(lambda: cdr("sound") in got)
    assert got == [cdr("sound")]
    assert said == ["/chatter: not CDR"]
    assert us.problems["/chatter: not CDR"] == 2
    assert not us.problems.keys() - {"/chatter: not CDR"}


def test_two_readers_of_one_topic_are_each_told_of_what_does_not_meet_them(join: Open) -> None:
    us, other = join(), join("other")
    ends = [us.subscribe("/imu", IMU, qos, lambda _data: None) for qos in (RELIABLE, SENSOR)]
    ends.append(us.subscribe("/imu", STRING, SENSOR, lambda _data: None))
    ends[1]()
    other.advertise("/imu", IMU, SENSOR)
    expected = {
        "/imu: subscription wants reliable, publisher offers best effort",
        f"/imu: somebody publishes {IMU}, {STRING} is wanted",
    }
    assert wait_for(lambda: set(us.problems) == expected), us.problems
    for end in ends:
        end()
        end()


@pytest.mark.parametrize("quality", ["reliable", "best_effort"])
def test_1080p_comes_whole_with_the_configuration_that_we_ship(
    quality: str,
    domain: int,
    join: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", XML.as_uri())
    us, data = join(config=XML), image(1080, 1920)
    publisher = us.advertise("/image", IMAGE_TYPE, RELIABLE if quality == "reliable" else SENSOR)
    with peer(domain, "reader", "read", "/image", quality) as process:
        time.sleep(1.5)
        for _ in range(60):
            began_s = time.monotonic()
            publisher.publish(data)
            time.sleep(max(0.0, 1 / 30 - (time.monotonic() - began_s)))
        time.sleep(1)
        told = json.loads(process.communicate("")[0])
    received = told["counts"].get("received", 0)
    print(f"1080p {quality}: {received} of 60")
    assert received == 60 if quality == "reliable" else received >= 54
    assert not us.problems
