from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devices.sensors.simulated.world import WorldConfig, generate
from tercel.core.errors import UserError
from tercel.core.messages import Message
from tercel.hosts.charge import Charge, charge_nothing, charge_profile
from tercel.hosts.graph import bind, graph_files, load_graph
from tercel.hosts.recording import RecordingWriter, open_recording
from tercel.hosts.replay import ReplayAccount, replay
from tercel.ros import convert
from tests.unit.test_hosts_graph import GOOD, write
from tests.unit.test_hosts_recording import cloud, imu, write_two_topics


def run(
    path: Path, graph_path: Path, charge: Charge = charge_nothing
) -> tuple[ReplayAccount, list[tuple[str, int, bytes]]]:
    recording = open_recording(path)
    graph = load_graph(graph_path)
    out: list[tuple[str, int, bytes]] = []

    def sink(topic: str, now_ns: int, message: Message) -> None:
        out.append((topic, now_ns, bytes(convert.encode(message)[1])))

    return replay(recording, graph, bind(graph, recording, {}), models=None, sink=sink, charge=charge), out


def test_outputs_leave_at_the_instant_their_inputs_came(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=10)
    account, out = run(tmp_path / "r.mcap", write(tmp_path, GOOD))
    assert [(topic, now) for topic, now, _ in out[:3]] == [
        ("/pose", 10**9),
        ("/moved", 10**9 + 5),
        ("/pose", 10**9 + 10**7),
    ]
    joiner = account.nodes["joiner"]
    assert joiner.outputs["moved"] == 10
    assert not joiner.ports["cloud"].dropped
    assert account.delivered == {"/imu": 10, "/cloud": 10}


def test_two_replays_are_identical(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap")
    graph = write(tmp_path, GOOD)
    assert run(tmp_path / "r.mcap", graph)[1] == run(tmp_path / "r.mcap", graph)[1]


def test_a_refused_message_is_counted_under_its_reason(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=10)
    graph = write(tmp_path, GOOD.replace("scale: 2.0", "refuse_every: 5"))
    account, _ = run(tmp_path / "r.mcap", graph)
    assert account.nodes["smoother"].ports["imu"].rejected == {"every so often": 2}
    # The poses that are missing leave two clouds without a partner.
    assert account.nodes["joiner"].ports["cloud"].dropped == {"no partner within tolerance": 2}


def test_what_a_component_counts_itself_is_collected_when_it_is_done(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=10)
    account, _ = run(tmp_path / "r.mcap", write(tmp_path, GOOD))
    assert account.nodes["smoother"].counters == {"calls": 10}
    assert account.nodes["joiner"].counters == {}


def test_an_undecodable_message_is_counted_and_survived(tmp_path: Path) -> None:
    path = tmp_path / "r.mcap"
    with RecordingWriter(path, compression="none") as writer:
        for i in range(5):
            writer.write("/imu", i + 1, imu(i + 1))
            writer.write("/cloud", i + 1, cloud(i + 1, 3))
    data = bytearray(path.read_bytes())
    at = data.index(b"sensor_msgs/msg/Imu")  # the schema; the messages come after it
    at = data.index(b"\x00\x01\x00\x00", at + 3000)  # the first CDR header behind it
    data[at : at + 2] = b"\xff\xff"
    path.write_bytes(data)
    account, _ = run(path, write(tmp_path, GOOD))
    assert sum(account.undecodable.values()) == 1
    assert sum(account.delivered.values()) == 10


def test_a_components_wrong_output_type_raises(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=2)
    text = GOOD.replace("toy_components.Smoother", "toy_components.Failing")
    with pytest.raises(TypeError, match="smoother.pose is a Imu, not a Odometry"):
        run(tmp_path / "r.mcap", write(tmp_path, text))


def test_a_component_that_fails_after_the_recording_has_ended_raises_its_own_error(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=2)
    text = GOOD.replace("toy_components.Smoother", "toy_components.Failing")
    with pytest.raises(TypeError, match="smoother.pose is a Imu"):
        run(tmp_path / "r.mcap", write(tmp_path, text), lambda _name, _took: 10**10)


def test_a_slow_producer_does_not_starve_the_one_that_pairs_its_output(tmp_path: Path) -> None:
    recording = open_recording(world_recording(tmp_path))
    graph = load_graph(next(path for path in graph_files() if path.stem == "lidar"))
    slow = {"obstacles": 1_000_000_000}
    account = replay(
        recording, graph, bind(graph, recording, {}), models=None, sink=lambda *_: None,
        charge=lambda name, _took: slow.get(name, 0),
    )  # fmt: skip
    detections = account.nodes["tracker_3d"].ports["detections"]
    assert detections.received == detections.processed > 3


def world_recording(tmp_path: Path) -> Path:
    path = tmp_path / "street.mcap"
    config = WorldConfig("street", seed=3, duration_s=4.0, lidar_columns=300, camera_rate_hz=0, gps_rate_hz=0)
    with RecordingWriter(path) as writer:
        for topic, log_time_ns, message in generate(config):
            writer.write(topic, log_time_ns, message)
    return path


def test_work_that_takes_time_delays_outputs_and_drops_the_oldest(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=40)  # one message every 10 ms
    account, out = run(
        tmp_path / "r.mcap", write(tmp_path, GOOD), lambda name, _: 35_000_000 if name == "smoother" else 0
    )
    poses = [now for topic, now, _ in out if topic == "/pose"]
    assert poses[0] == 10**9 + 35_000_000
    assert set(np.diff(poses)) == {35_000_000}
    port = account.nodes["smoother"].ports["imu"]
    assert port.dropped["queue full"] > 20
    assert port.received == port.processed + port.dropped.total() == 40


def test_work_that_takes_hours_is_waited_for_at_the_end_and_not_lost(tmp_path: Path) -> None:
    write_two_topics(tmp_path / "r.mcap", count=10)
    account, out = run(tmp_path / "r.mcap", write(tmp_path, GOOD), lambda _name, _took: 3600 * 10**9)
    port = account.nodes["smoother"].ports["imu"]
    assert port.processed == 5  # the first, and the newest four that its queue kept
    assert port.dropped == {"queue full": 5}
    assert [now for topic, now, _ in out if topic == "/pose"][-1] == 10**9 + 5 * 3600 * 10**9


def profile(path: Path, p50: float, largest: float) -> Path:
    ms = {"p50": p50, "p90": p50 + (largest - p50) / 2, "p99": largest * 0.95, "max": largest}
    path.write_text(json.dumps({"components": {n: {"latency_ms": ms} for n in ("smoother", "joiner")}}))
    return path


def test_a_boards_profile_is_drawn_from_its_quantiles_and_reproduced_by_its_seed(tmp_path: Path) -> None:
    path = profile(tmp_path / "board.json", 20.0, 80.0)
    names = ["smoother", "joiner"]
    charge = charge_profile(path, 1, names)
    draws_ms = np.array([charge("smoother", 0.0) for _ in range(4000)]) / 1e6
    assert np.median(draws_ms) == pytest.approx(20.0, rel=0.05)
    assert (draws_ms <= 50.0).mean() == pytest.approx(0.9, abs=0.02)
    assert draws_ms.max() <= 80.0
    again = charge_profile(path, 1, ["joiner", "smoother"])
    assert [again("smoother", 0.0) / 1e6 for _ in range(10)] == pytest.approx(draws_ms[:10].tolist())
    other = charge_profile(path, 2, names)
    assert [other("smoother", 0.0) / 1e6 for _ in range(10)] != draws_ms[:10].tolist()


def test_a_profile_of_other_components_or_no_profile_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="says nothing of component 'odometry'"):
        charge_profile(profile(tmp_path / "b.json", 1, 2), 0, ["odometry"])
    with pytest.raises(UserError, match="are no quantiles"):
        charge_profile(profile(tmp_path / "n.json", float("nan"), 2), 0, ["smoother"])
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(UserError, match="no board profile"):
        charge_profile(tmp_path / "x.json", 0, [])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 30), st.integers(0, 4)), min_size=1, max_size=40),
    st.sampled_from([0, 3_000_000, 40_000_000]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_stamps_every_message_is_accounted_for(
    tmp_path: Path, rows: list[tuple[bool, int, int]], cost_ns: int
) -> None:
    now_ns = 10**9
    with RecordingWriter(tmp_path / "r.mcap") as writer:
        for is_imu, stamp_ms, gap_ms in rows:
            now_ns += gap_ms * 10**6
            stamp_ns = 10**9 + stamp_ms * 10**6
            writer.write("/imu" if is_imu else "/cloud", now_ns, imu(stamp_ns) if is_imu else cloud(stamp_ns, 2))
        writer.write("/imu", now_ns, imu(1))
        writer.write("/cloud", now_ns, cloud(1, 2))
    account, out = run(tmp_path / "r.mcap", write(tmp_path, GOOD), lambda _name, _took: cost_ns)
    assert sum(account.delivered.values()) == len(rows) + 2
    for node in account.nodes.values():
        for port in node.ports.values():
            assert port.received == port.processed + port.dropped.total() + port.rejected.total()
    assert account.nodes["smoother"].outputs["pose"] == account.nodes["joiner"].ports["pose"].received
    assert len(out) == sum(node.outputs.total() for node in account.nodes.values())
