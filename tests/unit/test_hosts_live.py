from __future__ import annotations

import threading
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tercel.core.errors import UserError
from tercel.core.messages import CompressedImage, Image, NextLook, Odometry, PointCloud, Transforms
from tercel.hosts import live
from tercel.hosts.arrival import Arrival
from tercel.hosts.graph import load_graph
from tercel.hosts.graph_choice import component_graph
from tercel.hosts.live import LiveHost
from tercel.hosts.live_account import MAX_REASONS
from tercel.ros import convert
from tercel.ros.executables import COMPONENTS
from tercel.ros.local import LocalTransport
from tercel.ros.store import make
from tercel.ros.transport import RELIABLE, Identity
from tests.unit import fusion_scenes, live_components
from tests.unit.live_hosts import any_domain, assert_accounted, hosting, one, until
from tests.unit.test_hosts_graph import GOOD, write
from tests.unit.test_hosts_recording import cloud, imu
from tracking.fusion import NO_TRANSFORM

GAIN = one("live_components.Gain")
ODOMETRY = "nav_msgs/msg/Odometry"
DIAGNOSTICS = "diagnostic_msgs/msg/DiagnosticArray"
CLOCK = "rosgraph_msgs/msg/Clock"


def clock(now_ns: int) -> Any:
    types = convert.STORE.types
    time_type = types["builtin_interfaces/msg/Time"]
    message = types[CLOCK](clock=time_type(sec=now_ns // 10**9, nanosec=now_ns % 10**9))
    return convert.STORE.serialize_cdr(message, CLOCK)


def levels_of(heard: list[bytes]) -> dict[str, int]:
    """Level by name of the newest diagnostics."""
    if not heard:
        return {}
    array: Any = convert.STORE.deserialize_cdr(heard[-1], DIAGNOSTICS)
    return {status.name: status.level for status in array.status}


def values_of(heard: list[bytes], name: str) -> str:
    """All keys and values of the newest diagnostics of one name, as text."""
    if not heard:
        return ""
    array: Any = convert.STORE.deserialize_cdr(heard[-1], DIAGNOSTICS)
    return str([status.values for status in array.status if status.name == name])


@pytest.fixture(autouse=True)
def _gate() -> Any:
    live_components.GATE.clear()
    live_components.ENTERED.clear()
    yield
    live_components.GATE.set()


# --- through the graph -------------------------------------------------------------------------------------------


def test_what_comes_in_as_bytes_goes_through_the_graph_and_out_as_bytes(tmp_path: Path) -> None:
    with hosting(tmp_path, GOOD) as (host, peer, said):
        poses = peer.hear_messages("/pose", ODOMETRY)
        moved = peer.hear_messages("/moved", "sensor_msgs/msg/PointCloud2")
        for i in range(1, 11):
            peer.publish("/imu", imu(i * 10**7, 1.0))
            peer.publish("/points", cloud(i * 10**7 + 5, 3))
            assert host.wait_idle(5)
        account = host.stop()
    assert [p.stamp_ns for p in poses] == [i * 10**7 for i in range(1, 11)]
    assert [m.stamp_ns for m in moved] == [i * 10**7 + 5 for i in range(1, 11)]
    np.testing.assert_allclose(moved[-1].points_m, cloud(10**8 + 5, 3).points_m + 20.0, rtol=1e-6)
    assert account.components["joiner"]["inputs"]["cloud"]["processed"] == 10
    assert account.components["smoother"]["counters"] == {"calls": 10}
    assert not account.failed
    assert said == []
    assert_accounted(account.components)


def test_a_pose_goes_out_as_a_transform_too_and_hidden_topics_stay(tmp_path: Path) -> None:
    text = GOOD.replace("{pose: /pose}", "{pose: /_pose}").replace("pose: /pose", "pose: /_pose")
    with hosting(tmp_path, text) as (host, peer, _):
        transforms: list[Transforms] = peer.hear_messages("/tf", "tf2_msgs/msg/TFMessage")
        peer.publish("/imu", imu(1))
        peer.publish("/points", cloud(1, 2))
        assert host.wait_idle(5)
        assert "/_pose" not in peer.transport.topics()
        assert "/moved" in peer.transport.topics()
        assert transforms == []  # of a hidden pose there is no transform, as in recordings
    with hosting(tmp_path, GAIN) as (host, peer, _):
        transforms = peer.hear_messages("/tf", "tf2_msgs/msg/TFMessage")
        peer.publish("/imu", imu(7, 3.0))
        assert host.wait_idle(5)
    assert [(t.stamp_ns, t.parents, t.children) for t in transforms] == [(7, ("odom",), ("imu",))]
    assert transforms[0].parent_T_child[0, 0, 3] == 3.0


def test_remappings_come_before_the_namespace_and_shared_topics_have_none(tmp_path: Path) -> None:
    options = {"remap": {"/imu": "/front/imu"}, "namespace": "/robot1"}
    with hosting(tmp_path, GAIN, **options) as (host, peer, _):
        poses = peer.hear("/robot1/pose", ODOMETRY)
        peer.publish("/robot1/front/imu", imu(1))
        assert host.wait_idle(5)
        assert len(poses) == 1
        status = host.status()
        assert status["components"]["node"]["inputs"]["imu"]["topic"] == "/robot1/front/imu"
        assert set(peer.transport.topics()) >= {"/robot1/pose", "/tf", "/diagnostics"}


@pytest.mark.parametrize(("remap", "words"), [({"/imo": "/x"}, "did you mean '/imu'"), ({"/imu": "x"}, "begins with")])
def test_a_remapping_of_nothing_is_the_users_mistake(tmp_path: Path, remap: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words), hosting(tmp_path, GAIN, remap=remap):
        pass


LOOKER = one("live_components.Looker", "{image: /image}", "{seen: /seen, next_look: /look}")


def jpeg(stamp_ns: int) -> CompressedImage:
    data = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].reshape(-1)
    return CompressedImage(stamp_ns=stamp_ns, frame_id="camera", format="jpeg", data=data)


def test_a_topic_that_turns_out_to_be_compressed_is_subscribed_so_and_decoded(tmp_path: Path) -> None:
    looks: list[NextLook] = []
    hear = lambda _topic, message: looks.append(message) if isinstance(message, NextLook) else None  # noqa: E731
    with hosting(tmp_path, LOOKER, on_output=hear) as (host, peer, said):
        seen = peer.hear_messages("/seen", "vision_msgs/msg/Detection2DArray")
        peer.publish("/image", jpeg(1))  # nobody hears this one yet
        until(lambda: host.status()["topics"]["/image"]["type"] == "sensor_msgs/msg/CompressedImage")
        peer.publish("/image", jpeg(2))
        assert host.wait_idle(5)
        assert [s.boxes_xyxy_px.tolist() for s in seen] == [[[0, 0, 40, 30]]]
        assert [look.due_ns for look in looks] == [3]
        assert said[-1] == "/image is read as sensor_msgs/msg/CompressedImage, as it is published"


def test_a_topic_that_is_published_already_is_read_as_it_is(tmp_path: Path) -> None:
    with hosting(tmp_path, LOOKER, start=False) as (host, peer, _):
        peer.publish("/image", jpeg(1))
        host.start()
        peer.publish("/image", jpeg(2))
        assert host.wait_idle(5)
        assert host.status()["components"]["node"]["processed"] == 1


def test_latched_transforms_from_before_the_start_are_heard(tmp_path: Path) -> None:
    text = (
        "components:\n  f:\n    component: tracking.fusion.WorldFusion\n    inputs: {detections: /d, camera: /c, "
        "camera_info: /i, odometry: /o, transforms: /tf_static}\n    outputs: {tracks: /tracks}\n"
    )
    static = Transforms(
        stamp_ns=5, frame_id="", parents=("base",), children=("camera",), parent_T_child=np.eye(4)[None]
    )
    with hosting(tmp_path, text, start=False, namespace="/r") as (host, peer, _):
        peer.publish("/tf_static", static)
        host.start()
        assert host.wait_idle(5)
        assert host.status()["components"]["f"]["inputs"]["transforms"]["processed"] == 1


# --- queues and threads --------------------------------------------------------------------------------------------


def test_a_slow_component_keeps_the_newest_and_the_dropped_are_counted(tmp_path: Path) -> None:
    with hosting(tmp_path, one("live_components.Gated")) as (host, peer, said):
        poses = peer.hear_messages("/pose", ODOMETRY)
        peer.publish("/imu", imu(1))
        assert live_components.ENTERED.wait(5)
        for i in range(2, 102):
            peer.publish("/imu", imu(i))
        status = host.status()["components"]["node"]
        assert (status["received"], status["waiting"], status["dropped"]) == (101, 5, 96)
        live_components.GATE.set()
        assert host.wait_idle(5)
        assert [p.stamp_ns for p in poses] == [1, 98, 99, 100, 101]
        account = host.stop()
        assert account.components["node"]["inputs"]["imu"]["dropped"] == {"queue full": 96}
        assert said == ["node: imu from /imu: queue full: slower than its input; the newest are kept"]


def test_a_port_that_keeps_all_keeps_all(tmp_path: Path) -> None:
    with hosting(tmp_path, one("live_components.Every")) as (host, peer, _):
        for i in range(1, 501):
            peer.publish("/imu", imu(i))
        assert host.status()["components"]["node"]["dropped"] == 0
        live_components.GATE.set()
        assert host.wait_idle(10)
        assert host.stop().components["node"]["processed"] == 500


def test_a_slow_component_does_not_hold_up_another_that_reads_the_same_topic(tmp_path: Path) -> None:
    text = one("live_components.Gated") + (
        "  quick:\n    component: tests.unit.live_components.Gain\n    inputs: {imu: /imu}\n    outputs: {pose: /p}\n"
    )
    with hosting(tmp_path, text) as (host, peer, _):
        poses = peer.hear("/p", ODOMETRY)
        for i in range(1, 21):
            peer.publish("/imu", imu(i))
            until(lambda i=i: len(poses) == i)
        assert host.status()["components"]["node"]["processed"] == 0
        live_components.GATE.set()


def test_what_waits_at_the_stop_is_accounted_for_and_a_new_start_begins_anew(tmp_path: Path) -> None:
    with hosting(tmp_path, one("live_components.Gated")) as (host, peer, _):
        for i in range(1, 5):
            peer.publish("/imu", imu(i))
        assert live_components.ENTERED.wait(5)
        threading.Timer(0.1, live_components.GATE.set).start()
        account = host.stop()
        assert account.components["node"]["inputs"]["imu"]["dropped"] == {"host stopped": 3}
        assert account.components["node"]["processed"] == 1
        assert_accounted(account.components)
        assert not host.is_running
        peer.publish("/imu", imu(9))
        assert host.status()["state"] == "stopped"
        assert host.status()["components"]["node"]["received"] == 4
        host.start()
        peer.publish("/imu", imu(1))
        assert host.wait_idle(5)
        account = host.stop()
        assert account.components["node"]["received"] == account.components["node"]["processed"] == 1


def test_a_handler_that_awaits_for_ever_is_cancelled_by_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercel.hosts.live.STOP_WITHIN_S", 0.4)
    with hosting(tmp_path, one("live_components.Hanging")) as (host, peer, _):
        peer.publish("/imu", imu(1))
        assert live_components.ENTERED.wait(5)
        account = host.stop()
        assert account.components["node"]["inputs"]["imu"]["rejected"] == {"host stopped": 1}
        assert_accounted(account.components)


class Doubler:
    async def infer(self, model: str, tensor: Any, *, deadline_ns: int | None = None) -> list[Any]:
        return [2 * tensor]


def test_a_component_that_awaits_a_network_has_a_loop_of_its_own(tmp_path: Path) -> None:
    with hosting(tmp_path, one("live_components.Asking"), models=Doubler()) as (host, peer, _):
        poses = peer.hear_messages("/pose", ODOMETRY)
        for i in range(1, 4):
            peer.publish("/imu", imu(i, float(i)))
            assert host.wait_idle(5)
        assert [p.frame_T_child[0, 3] for p in poses] == [2.0, 4.0, 6.0]


@pytest.mark.parametrize("seed", range(3))
def test_under_load_from_several_threads_every_message_is_accounted_for_at_any_moment(
    tmp_path: Path, seed: int
) -> None:
    """Random stamps, garbage, restarts and pauses, from three publishers at once; sampled while it runs."""
    text = GOOD.replace("scale: 2.0", "refuse_every: 7")
    sent = {"/imu": 0, "/points": 0}
    with hosting(tmp_path, text) as (host, peer, _):

        def publish(number: int) -> None:
            rng = np.random.default_rng([seed, number])
            for _ in range(300):
                stamp_ns = int(rng.integers(1, 10**9))
                topic = "/imu" if rng.random() < 0.5 else "/points"
                message = imu(stamp_ns) if topic == "/imu" else cloud(stamp_ns, 2)
                ros_type, data = convert.encode(message)
                if rng.random() < 0.1:
                    data = memoryview(bytes(data)[: int(rng.integers(0, len(data)))])
                with lock:
                    sent[topic] += 1
                    peer.send(topic, ros_type, data)
                if rng.random() < 0.02:
                    host.restart("joiner", "test")
                if rng.random() < 0.5:
                    time.sleep(rng.random() * 2e-3)

        lock = threading.Lock()
        threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert_accounted(host.status()["components"])
        for thread in threads:
            thread.join()
        if seed:
            assert host.wait_idle(10)
        account = host.stop()
    assert_accounted(account.components)
    smoother, joiner = account.components["smoother"], account.components["joiner"]
    assert smoother["waiting"] == joiner["waiting"] == 0
    assert smoother["inputs"]["imu"]["received"] == account.topics["/imu"]["received"] == sent["/imu"]
    assert joiner["inputs"]["cloud"]["received"] == sent["/points"]
    assert joiner["inputs"]["pose"]["received"] == smoother["outputs"]["pose"]["count"]
    assert smoother["rejected"] > 0
    assert sum(account.undecodable.values()) > 10


# --- failures ------------------------------------------------------------------------------------------------------


def test_a_failing_component_is_out_and_said_once_and_the_others_go_on(tmp_path: Path) -> None:
    text = one("live_components.Breaking") + (
        "  sound:\n    component: tests.unit.live_components.Gain\n    inputs: {imu: /imu}\n    outputs: {pose: /p}\n"
    )
    with hosting(tmp_path, text) as (host, peer, said):
        for i, value in enumerate([1.0, -1.0, 1.0, 1.0], start=1):
            peer.publish("/imu", imu(i, value))
            assert host.wait_idle(5)
        status = host.status()
        assert status["state"] == "failed"
        assert status["components"]["sound"]["processed"] == 4
        node = status["components"]["node"]
        assert node["failed"].startswith("RuntimeError: rates are positive (live_components.py:")
        assert node["inputs"]["imu"]["rejected"] == {"component failed": 1}
        assert node["inputs"]["imu"]["dropped"] == {"component failed": 2}
        assert [line for line in said if "is out" in line] == [f"node failed and is out: {node['failed']}"]
        host.restart("node", "asked to")
        assert host.wait_idle(5)
        peer.publish("/imu", imu(9, 1.0))
        assert host.wait_idle(5)
        account = host.stop()
        assert account.components["node"]["processed"] == 2
        assert account.components["node"]["restarts"] == {"asked to": 1}
        assert not account.failed
        assert_accounted(account.components)


def test_an_output_of_the_wrong_type_is_a_failure(tmp_path: Path) -> None:
    with hosting(tmp_path, one("toy_components.Failing")) as (host, peer, _):
        peer.publish("/imu", imu(1))
        assert host.wait_idle(5)
        assert "node.pose is a Imu, not a Odometry" in host.stop().failed["node"]


def test_garbage_is_counted_by_topic_said_once_and_survived(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN) as (host, peer, said):
        poses = peer.hear("/pose", ODOMETRY)
        for data in (b"", b"\x00", b"\xff" * 400, bytes(convert.encode(imu(1))[1])[:-7]):
            peer.send("/imu", "sensor_msgs/msg/Imu", data)
            assert host.wait_idle(5)
        peer.publish("/imu", imu(5))
        assert host.wait_idle(5)
        account = host.stop()
    assert len(poses) == 1
    assert sum(account.undecodable.values()) == 4
    assert all(reason.startswith("/imu: ") for reason in account.undecodable)
    assert account.components["node"]["rejected"] == 4
    assert len([line for line in said if line.startswith("/imu: ")]) == len(account.undecodable)


def test_an_image_topic_that_turns_out_to_be_no_image_is_not_said_to_be_read(tmp_path: Path) -> None:
    text = one("live_components.Looker", "{image: /image}", "{}")
    with hosting(tmp_path, text, start=False) as (host, peer, said):
        with LocalTransport(Identity(node="camera", domain=peer.transport.identity.domain)) as camera:
            camera.advertise("/image", "sensor_msgs/msg/Image", RELIABLE)
            host.start()
        peer.transport.advertise("/image", "sensor_msgs/msg/PointCloud2", RELIABLE)
        until(lambda: host.status()["problems"])
        assert not [line for line in said if "CompressedImage" in line]


def test_a_missing_transform_is_named_once_and_counted(tmp_path: Path) -> None:
    text = (
        "components:\n  fusion:\n    component: tracking.fusion.WorldFusion\n"
        "    inputs: {detections: /boxes, camera: /eyes, camera_info: /info, odometry: /odometry,\n"
        "             transforms: /tf_static}\n"
        "    outputs: {tracks: /tracks}\n"
    )
    scene = fusion_scenes.street(2)
    with hosting(tmp_path, text, name="host") as (host, peer, said):
        heard = peer.hear("/diagnostics", DIAGNOSTICS)
        peer.publish("/info", fusion_scenes.CAMERA_INFO)
        for frame in range(5):
            peer.publish("/odometry", scene.odometry(frame))
            assert host.wait_idle(5)
            peer.publish("/eyes", scene.camera(frame))
            assert host.wait_idle(5)
        until(lambda: NO_TRANSFORM in values_of(heard, "host: fusion"))
        account = host.stop()
    assert account.components["fusion"]["inputs"]["camera"]["rejected"] == {NO_TRANSFORM: 5}
    assert len([line for line in said if NO_TRANSFORM in line]) == 1


def test_a_topic_of_another_type_is_named_once_and_counted_while_it_lasts(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN, name="host") as (host, peer, said):
        heard = peer.hear("/diagnostics", DIAGNOSTICS)
        peer.publish("/imu", cloud(1, 3))
        reason = "/imu is published as sensor_msgs/msg/PointCloud2, not sensor_msgs/msg/Imu"
        until(lambda: host.status()["problems"].get(reason, 0) >= 2)
        assert host.status()["components"]["node"]["received"] == 0
        assert said == [reason]
        until(lambda: levels_of(heard).get("host: transport") == 1)


def test_two_publishers_on_one_topic_are_told_by_their_stamps(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN) as (host, peer, said):
        for i in range(1, 6):
            peer.publish("/imu", imu(1000 * i))
            peer.publish("/imu", imu(1000 * i))
            peer.publish("/imu", imu(1000 * i - 500))
            assert host.wait_idle(5)
        account = host.stop()
    assert account.components["node"]["inputs"]["imu"]["rejected"] == {"duplicate stamp": 5, "stamp went back": 5}
    assert "node: imu from /imu: duplicate stamp: are there two publishers?" in said
    assert account.components["node"]["processed"] == 5


def test_a_sensor_that_falls_silent_is_a_problem_until_it_speaks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tercel.hosts.live_wire.STALE_AFTER_S", 0.3)
    with hosting(tmp_path, GAIN) as (host, peer, said):
        peer.publish("/imu", imu(1))
        assert not host.status()["topics"]["/imu"]["is_stale"]
        until(lambda: "/imu: no data for 3 s" in host.status()["problems"])
        peer.publish("/imu", imu(2))
        assert not host.status()["topics"]["/imu"]["is_stale"]
        assert len([line for line in said if "no data" in line]) == 1


# --- time ----------------------------------------------------------------------------------------------------------


def test_simulated_time_comes_from_the_clock_topic_and_components_begin_anew_when_it_goes_back(
    tmp_path: Path,
) -> None:
    with hosting(tmp_path, one("toy_components.Smoother"), use_sim_time=True) as (host, peer, said):
        poses: list[Odometry] = peer.hear_messages("/pose", ODOMETRY)
        assert host.now_ns() == 0
        for round_number in range(2):
            for i in range(1, 6):
                peer.send("/clock", CLOCK, clock(i * 10**9))
                peer.publish("/imu", imu(i * 10**9, 1.0))
                assert host.wait_idle(5)
                assert host.now_ns() == i * 10**9
            assert host.status()["problems"].get("/clock went back", 0) == round_number
        assert [p.frame_T_child[0, 3] for p in poses] == [1, 2, 3, 4, 5] * 2  # the sum begins anew
        assert host.status()["components"]["node"]["restarts"] == {"clock set back": 1}
        assert said.count("/clock went back: the components begin anew") == 1
        peer.send("/clock", CLOCK, b"\x00\x01")
        assert host.now_ns() == 5 * 10**9
        assert host.status()["undecodable"] == {"/clock: message does not decode": 1}
        assert host.status()["components"]["node"]["latency_ms"]["max"] == 0.0


def test_latency_is_from_the_sensors_stamp_to_the_outputs_leaving(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN, now_ns=lambda: 25_000_000) as (host, peer, _):
        peer.publish("/imu", imu(5_000_000))
        assert host.wait_idle(5)
        assert host.status()["components"]["node"]["latency_ms"]["p50"] == 20.0


def test_a_sensors_clock_set_back_begins_the_component_anew(tmp_path: Path) -> None:
    with hosting(tmp_path, one("toy_components.Smoother")) as (host, peer, said):
        for stamp in [*range(1000, 1005), *range(1, 15)]:
            peer.publish("/imu", imu(stamp, 1.0))
            assert host.wait_idle(5)
        node = host.stop().components["node"]
    assert node["restarts"] == {"clock set back": 1}
    assert node["inputs"]["imu"]["rejected"] == {"stamp went back": 9}
    assert node["processed"] == 5 + 5
    assert node["counters"] == {"calls": 10}
    assert "node begins anew: clock set back" in said


# --- what others may ask -------------------------------------------------------------------------------------------


def test_what_a_hanging_call_gives_after_the_stop_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STOP_WITHIN_S", 0.2)
    with hosting(tmp_path, one("live_components.Gated")) as (host, peer, _):
        poses = peer.hear("/pose", ODOMETRY)
        peer.publish("/imu", imu(1))
        assert live_components.ENTERED.wait(5)
        host.stop()
        host.start()
        live_components.GATE.set()
        time.sleep(0.3)
        assert poses == []


def test_a_live_setting_changes_between_two_calls_and_another_one_at_the_next_start(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN) as (host, peer, _):
        poses = peer.hear_messages("/pose", ODOMETRY)
        peer.publish("/imu", imu(1, 1.0))
        assert host.wait_idle(5)
        host.reconfigure("node", replace(host.config("node"), gain=10.0))
        peer.publish("/imu", imu(2, 1.0))
        assert host.wait_idle(5)
        with pytest.raises(UserError, match=r"node.offset cannot change at work: stop, set it"):
            host.reconfigure("node", replace(host.config("node"), offset=1.0))
        assert host.config("node").offset == 0.0
        host.stop()
        host.reconfigure("node", replace(host.config("node"), offset=1.0))
        host.start()
        peer.publish("/imu", imu(3, 1.0))
        assert host.wait_idle(5)
        assert [p.frame_T_child[0, 3] for p in poses] == [1.0, 10.0, 11.0]
        with pytest.raises(UserError, match="no component 'nod'; did you mean 'node'"):
            host.reconfigure("nod", None)
        with pytest.raises(UserError, match="did you mean 'node'"):
            host.restart("nod", "x")


def test_a_tap_hears_all_that_comes_in_and_goes_out_and_its_failure_is_its_own(tmp_path: Path) -> None:
    heard: list[tuple[str, str, int]] = []
    with hosting(tmp_path, GAIN, now_ns=lambda: 42) as (host, peer, said):
        end = host.add_tap(lambda topic, ros_type, data, now_ns: heard.append((topic, ros_type, now_ns)))

        def failing(*_: Any) -> None:
            raise RuntimeError("full")

        host.add_tap(failing)
        peer.publish("/imu", imu(1))
        assert host.wait_idle(5)
        kept = [row for row in heard if row[0] != "/diagnostics"]
        assert kept == [
            ("/imu", "sensor_msgs/msg/Imu", 42),
            ("/pose", ODOMETRY, 42),
            ("/tf", "tf2_msgs/msg/TFMessage", 42),
        ]
        until(lambda: any(row[0] == "/diagnostics" for row in heard))
        end()
        peer.publish("/imu", imu(2))
        assert host.wait_idle(5)
        assert len([row for row in heard if row[0] == "/imu"]) == 1
        assert host.status()["problems"]["a tap failed"] >= 6
        assert said == ["a tap failed: RuntimeError: full"]


def test_a_message_type_that_ros_does_not_know_cannot_come_from_outside(tmp_path: Path) -> None:
    text = (
        "components:\n  gate:\n    component: tracking.fusion.CooperativeFusion\n"
        "    inputs: {remote: /remote, detections: /d, camera: /c, camera_info: /i, odometry: /o, transforms: /t}\n"
    )
    with pytest.raises(UserError, match="/remote: RemoteTracks cannot be read"), hosting(tmp_path, text):
        pass


def test_a_component_that_cannot_be_made_is_said_at_the_start_and_nothing_runs(tmp_path: Path) -> None:
    domain = any_domain()
    text = "components:\n  d:\n    component: perception.camera_detector.CameraDetector\n    inputs: {image: /i}\n"
    with LocalTransport(Identity(node="host", domain=domain)) as transport:
        host = LiveHost(load_graph(write(tmp_path, text)), transport, say=lambda _line: None)
        with pytest.raises(UserError, match="no models are given"):
            host.start()
        assert not host.is_running
        assert not any(t.name.startswith("tercel-") for t in threading.enumerate())


def test_a_stopped_host_leaves_no_thread_behind(tmp_path: Path) -> None:
    with hosting(tmp_path, GOOD) as (host, _, _):
        assert any(t.name == "tercel-joiner" for t in threading.enumerate())
        host.stop()
        assert not any(t.name.startswith("tercel-") for t in threading.enumerate())


def test_an_image_reaches_a_component_without_a_copy(tmp_path: Path) -> None:
    """The pixels that a handler sees lie in the very bytes that came in."""
    seen: list[Image] = []
    with hosting(tmp_path, LOOKER) as (host, peer, _):
        component = host.component("node")
        component.step = lambda image: seen.append(image) or {}  # type: ignore[attr-defined, func-returns-value]
        image = Image(stamp_ns=1, frame_id="c", pixels=np.zeros((48, 64, 3), np.uint8), encoding="bgr8")
        _, data = convert.encode(image)
        peer.send("/image", "sensor_msgs/msg/Image", data)
        assert host.wait_idle(5)
        assert np.shares_memory(seen[0].pixels, np.frombuffer(data, np.uint8))


def test_a_host_whose_wire_chokes_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hosting(tmp_path, GAIN) as (host, peer, said):

        def choke() -> Any:
            raise OSError("no route")

        with monkeypatch.context() as broken:
            broken.setattr(host.transport, "topics", choke)
            until(lambda: "the host could not look at itself" in host.status()["problems"])
        heard = peer.hear("/diagnostics", DIAGNOSTICS)
        until(lambda: heard)
        assert said == ["the host could not look at itself (OSError: no route)"]


def test_a_publisher_that_fails_is_counted_and_the_component_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosting(tmp_path, GAIN) as (host, _, said):
        monkeypatch.setattr("tercel.ros.local._LocalPublisher.publish", lambda *_: 1 / 0)
        for i in range(1, 4):
            receive = next(s for s in host.transport._bus.subscriptions if s.topic == "/imu")  # type: ignore[attr-defined]
            receive.deliver(convert.encode(imu(i))[1])
            assert host.wait_idle(5)
        account = host.stop()
    assert account.problems["/pose: not sent"] == 3
    assert account.components["node"]["processed"] == 3
    assert said.count("/pose: not sent (ZeroDivisionError: division by zero)") == 1


# --- components ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(COMPONENTS.values()))
def test_settings_that_may_change_at_work_are_settings(path: str) -> None:
    component = component_graph(path).nodes[0].component
    assert component.live_settings <= {field.name for field in fields(component.Config)}


def test_an_obstacle_detector_heeds_a_new_setting_at_its_next_cloud(tmp_path: Path) -> None:
    text = (
        "components:\n  o:\n    component: perception.lidar_obstacles.LidarObstacleDetector\n"
        "    inputs: {cloud: /points}\n    outputs: {detections: /obstacles}\n"
    )
    with hosting(tmp_path, text) as (host, peer, _):
        for i, least_m in enumerate((0.1, 50.0), start=1):
            host.reconfigure("o", replace(host.config("o"), min_range_m=least_m))
            peer.publish("/points", cloud(i, 500))
            assert host.wait_idle(5)
        assert host.stop().components["o"]["inputs"]["cloud"]["rejected"] == {"no usable points in the cloud": 1}


def test_the_map_of_an_odometry_is_what_it_has_seen(tmp_path: Path) -> None:
    text = (
        "components:\n  o:\n    component: registration.lidar_odometry.LidarOdometry\n"
        "    inputs: {cloud: /points}\n    outputs: {odometry: /odometry}\n"
    )
    points_m = np.random.default_rng(1).uniform(-20, 20, (5000, 3)).astype(np.float32)
    with hosting(tmp_path, text) as (host, peer, _):
        assert host.component("o").map_points_m() is None
        peer.publish("/points", PointCloud(stamp_ns=1, frame_id="lidar", points_m=points_m))
        assert host.wait_idle(5)
        found_m = host.component("o").map_points_m()
        assert found_m is not None
        assert found_m.shape[1] == 3
        assert 100 < len(found_m) <= 5000
        assert np.abs(found_m).max() <= 20.0
        host.restart("o", "asked to")
        until(lambda: host.component("o").map_points_m() is None)


def test_an_image_as_a_camera_sends_it_reaches_a_component_in_colour(tmp_path: Path) -> None:
    raw = Image(stamp_ns=1, frame_id="camera", pixels=np.zeros((4, 6), np.uint8), encoding="bayer_rggb8")
    ros_type, data = convert.encode(raw)
    message = Arrival(ros_type, bytes(data), lambda _reason: None).message_for(Image)
    assert isinstance(message, Image)
    assert (message.encoding, message.pixels.shape) == ("bgr8", (4, 6, 3))


def test_strangers_words_fill_neither_the_account_nor_the_log(tmp_path: Path) -> None:
    with hosting(tmp_path, one("live_components.Looker", "{image: /image}", "{}")) as (host, peer, said):
        for number in range(MAX_REASONS + 50):
            image = make("sensor_msgs/msg/Image", height=1, width=1, encoding=f"odd{number}", data=[0])
            peer.send("/image", "sensor_msgs/msg/Image", convert.STORE.serialize_cdr(image, "sensor_msgs/msg/Image"))
            until(lambda: host.wait_idle(5))
        status = host.status()
        rejected = status["components"]["node"]["inputs"]["image"]["rejected"]
        assert rejected["further reasons"] == 50
        assert len(rejected) == MAX_REASONS + 1
        assert status["undecodable"]["further reasons"] == 50
        assert sum("further reasons" in line for line in said) <= 2  # by the topic, and by the component
        assert_accounted(status["components"])


def test_bytes_that_break_the_decoder_itself_are_rejected_and_the_component_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosting(tmp_path, GAIN) as (host, peer, _said):
        with monkeypatch.context() as patch:
            patch.setattr(convert, "decode", lambda *_arguments: 1 // 0)
            peer.publish("/imu", imu(1))
            until(lambda: host.status()["components"]["node"]["rejected"] == 1)
        peer.publish("/imu", imu(2))
        until(lambda: host.status()["components"]["node"]["processed"] == 1)
        assert host.status()["components"]["node"]["inputs"]["imu"]["rejected"] == {
            "cannot be read: ZeroDivisionError": 1
        }


def test_a_clock_before_1970_is_none(tmp_path: Path) -> None:
    with hosting(tmp_path, GAIN, use_sim_time=True) as (host, peer, _said):
        peer.send("/clock", CLOCK, clock(5 * 10**9))
        peer.send("/clock", CLOCK, clock(-(10**9)))
        assert host.now_ns() == 5 * 10**9
        assert host.status()["undecodable"] == {"/clock: message does not decode": 1}


@pytest.mark.parametrize(
    ("namespace", "name"), [("/a//b", "/x"), ("/", "/a*"), ("/", "/"), ("/", "/a b"), ("/", "/$*"), ("/", "/a/")]
)
def test_a_name_that_a_wire_takes_otherwise_is_the_users_mistake(tmp_path: Path, namespace: str, name: str) -> None:
    graph = load_graph(write(tmp_path, GAIN))
    transport = LocalTransport(Identity(node="host", domain=any_domain()))
    with transport, pytest.raises(UserError, match="is no topic"):
        LiveHost(graph, transport, remap={"/imu": name}, namespace=namespace)
