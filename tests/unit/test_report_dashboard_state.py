"""What the dashboard shows, from serialised messages: rates, alarms, offload decisions, pictures and the map."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.report.dashboard_alarms import MAX_PAST, Alarm, Alarms
from tercel.report.dashboard_state import DashboardState
from tercel.report.dashboard_topics import MAX_TOPICS, Topic, peek_stamp_ns
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE
from tests.scenarios import dashboard_robot as robot
from tests.scenarios.dashboard_robot import MS, WALL_NS, S, driven


def told(state: DashboardState, now_ns: int, *rows: robot.Row) -> None:
    state.receive("/diagnostics", DIAGNOSTICS_TYPE, robot.diagnostics(rows), now_ns, WALL_NS + now_ns)
    state.tick(now_ns)


# --- topics ---


def test_rate_and_latency_are_those_of_the_messages() -> None:
    state = driven(6)
    rows = {row["name"]: row for row in state.tables(7 * S)["topics"]}
    assert rows["/camera/image"]["rate_hz"] == pytest.approx(10.0)
    assert rows["/camera/image"]["latency_ms"] == pytest.approx(20.0, abs=0.1)
    size = robot.WIDTH_PX * robot.HEIGHT_PX * 3
    assert rows["/camera/image"]["rate_bytes"] == pytest.approx(10 * size, rel=0.01)
    assert rows["/camera/image"]["count"] == 60


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=300),
)
def test_the_rate_is_the_count_of_the_last_whole_half_seconds(gaps_ms: list[int]) -> None:
    topic = Topic("/t", "std_msgs/msg/String")
    arrivals = np.cumsum(gaps_ms) * MS
    for at_ns in arrivals.tolist():
        topic.arrive(b"abcd", at_ns, at_ns)
    now_ns = int(arrivals[-1])
    rate_hz, rate_bytes = topic.rates(now_ns)
    end = now_ns // (S // 2) * (S // 2)
    begin = max(end - 5 * S, (int(arrivals[0]) // (S // 2) + 1) * (S // 2))  # its first half second is not whole
    wanted = ((arrivals >= begin) & (arrivals < end)).sum() / ((end - begin) / S) if end > begin else 0.0
    assert rate_hz == pytest.approx(wanted)
    assert rate_bytes == pytest.approx(4 * wanted)


def test_stamps_of_another_clock_give_no_latency() -> None:
    topic = Topic("/camera/image", "sensor_msgs/msg/Image")
    _, data = robot.data_of(robot.picture(0, 5 * S))
    topic.arrive(data, S, WALL_NS)
    assert topic.row(S)["latency_ms"] is None


def test_where_a_clock_is_published_latency_is_told_by_it_as_long_as_it_ticks() -> None:
    state = DashboardState("test")
    stamp_ns = 50 * S
    ros_type, data = robot.data_of(robot.pose(0, stamp_ns))
    clock = struct.pack("<4BiI", 0, 1, 0, 0, 50, 30 * MS)
    state.receive("/clock", "rosgraph_msgs/msg/Clock", clock, 9 * S, WALL_NS)
    state.receive("/odometry", ros_type, data, 9 * S, WALL_NS)
    assert state.tables(9 * S)["topics"][1]["latency_ms"] == 30.0
    state.receive("/odometry", ros_type, data, 11 * S, stamp_ns + 70 * MS)
    assert state.tables(11 * S)["topics"][1]["latency_ms"] == 70.0
    state.receive("/clock", "rosgraph_msgs/msg/Clock", b"\0\1", 11 * S, WALL_NS)  # survived


def test_a_header_is_read_in_either_byte_order_and_never_beyond_the_end() -> None:
    little = bytes([0, 1, 0, 0]) + (7).to_bytes(4, "little") + (9).to_bytes(4, "little")
    big = bytes([0, 0, 0, 0]) + (7).to_bytes(4, "big") + (9).to_bytes(4, "big")
    assert peek_stamp_ns("sensor_msgs/msg/Imu", little) == peek_stamp_ns("sensor_msgs/msg/Imu", big) == 7 * S + 9
    assert peek_stamp_ns("sensor_msgs/msg/Imu", little[:11]) is None
    assert peek_stamp_ns("std_msgs/msg/String", little) is None


def test_topics_beyond_the_limit_are_counted_not_kept() -> None:
    state = DashboardState("test")
    names = [f"/t{index}" for index in range(MAX_TOPICS + 25)]
    state.offered(dict.fromkeys(names, "std_msgs/msg/String"), [])
    for name in names:
        state.receive(name, "std_msgs/msg/String", b"", S, WALL_NS)
    tables = state.tables(S)
    assert len(tables["topics"]) == MAX_TOPICS
    assert tables["left_out"] == 25


# --- alarms ---


def test_a_topic_that_stops_is_an_alarm_since_its_last_message() -> None:
    state = driven(3)
    last_ns = S + 29 * S // 10
    state.tick(last_ns + 1 * S)
    assert state.tables(last_ns + 1 * S)["alarms"] == []
    state.tick(last_ns + 4 * S)
    alarms = {row["subject"]: row for row in state.tables(last_ns + 4 * S)["alarms"]}
    assert alarms["/camera/image"] == {
        "subject": "/camera/image", "level": "stale", "text": "has stopped", "for_s": 4.0,
    }  # fmt: skip


def test_an_alarm_that_ends_is_remembered_with_its_duration() -> None:
    state = driven(3)
    state.tick(8 * S)
    assert state.tables(8 * S)["alarms"]
    for topic, ros_type, data in robot.drive(40, WALL_NS):
        state.receive(topic, ros_type, data, 9 * S, WALL_NS)
    state.tick(9 * S)
    tables = state.tables(9 * S)
    assert tables["alarms"] == []
    camera = next(row for row in tables["past_alarms"] if row["subject"] == "/camera/image")
    assert camera["for_s"] == pytest.approx(9 - 3.9, abs=0.11)


def test_a_latched_or_rare_topic_never_counts_as_stopped() -> None:
    state = DashboardState("test")
    ros_type, data = robot.data_of(robot.static_frames(0))
    state.receive("/tf_static", ros_type, data, S, WALL_NS)
    for second in range(0, 60, 20):  # three messages, twenty seconds apart
        state.receive("/rare", "std_msgs/msg/String", b"", second * S, WALL_NS)
    state.tick(1000 * S)
    assert state.tables(1000 * S)["alarms"] == []


def test_a_topic_that_nobody_offers_any_more_says_so() -> None:
    state = driven(3)
    state.offered({}, [])
    state.tick(20 * S)
    texts = {row["text"] for row in state.tables(20 * S)["alarms"]}
    assert texts == {"has stopped; its publisher is gone"}


def test_a_topic_that_is_gone_for_ten_minutes_is_forgotten_with_its_alarm() -> None:
    state = driven(3)
    state.offered({"/odometry": "nav_msgs/msg/Odometry"}, [])
    state.tick(700 * S)
    tables = state.tables(700 * S)
    assert [row["name"] for row in tables["topics"]] == ["/odometry"]
    assert [row["subject"] for row in tables["alarms"]] == ["/odometry"]


def test_what_an_aggregator_says_again_is_not_shown_twice() -> None:
    state = DashboardState("test")
    data = robot.diagnostics([robot.component("detector", "CameraDetector", 0.0, level=2)])
    state.receive("/diagnostics_agg", DIAGNOSTICS_TYPE, data, S, WALL_NS)
    state.receive("/robot1/diagnostics", DIAGNOSTICS_TYPE, data, S, WALL_NS)
    state.tick(S)
    assert len(state.tables(S)["components"]) == 1


def test_a_failed_component_is_an_error_since_it_first_said_so_and_before_warnings() -> None:
    state = DashboardState("test")
    good = robot.component("detector", "CameraDetector", 10.0)
    slow = robot.component("tracker", "Tracker2D", 10.0, level=1, message="slow")
    bad = robot.component("detector", "CameraDetector", 0.0, level=2, message="failed: ValueError: no")
    told(state, 1 * S, good, slow)
    told(state, 2 * S, bad, slow)
    told(state, 5 * S, bad, slow)
    alarms = state.tables(5 * S)["alarms"]
    assert [(a["subject"], a["level"], a["for_s"]) for a in alarms] == [
        ("robot: detector", "error", 3.0), ("robot: tracker", "warn", 4.0),
    ]  # fmt: skip
    assert alarms[0]["text"] == "failed: ValueError: no"


def test_who_falls_silent_is_stale_and_what_it_last_complained_of_is_kept() -> None:
    state = DashboardState("test")
    told(state, S, robot.component("detector", "CameraDetector", 0.0, level=2, message="failed: ValueError"))
    state.tick(10 * S)
    tables = state.tables(10 * S)
    (alarm,) = [row for row in tables["alarms"] if row["subject"] == "robot: detector"]
    assert alarm["level"] == "stale"
    assert alarm["text"] == "says nothing any more; the last was: failed: ValueError"
    assert alarm["for_s"] == 9.0
    assert tables["components"][0]["level"] == "stale"


def test_garbage_as_diagnostics_is_counted_named_and_survived() -> None:
    state = DashboardState("test")
    for data in (b"", b"\0\1\0\0", b"\0\1\0\0" + b"\xff" * 400, bytes(2 << 20)):
        state.receive("/diagnostics", DIAGNOSTICS_TYPE, data, S, WALL_NS)
    told(state, S, robot.component("detector", "CameraDetector", 10.0))
    tables = state.tables(S)
    assert [row["name"] for row in tables["components"]] == ["robot: detector"]
    assert {row["subject"] for row in tables["alarms"]} == {"/diagnostics"}


def test_alarms_past_are_bounded() -> None:
    alarms = Alarms()
    for index in range(3 * MAX_PAST):
        alarms.update({f"/t{index}": Alarm(f"/t{index}", "warn", "slow")}, index * S)
    rows = alarms.past_rows(100 * S)
    assert len(rows) == MAX_PAST
    assert rows[0]["subject"] == f"/t{3 * MAX_PAST - 2}"


# --- components and offload ---


def test_a_component_shows_the_numbers_of_its_host() -> None:
    state = DashboardState("test")
    told(state, S, robot.component("detector", "CameraDetector", 9.5, lost=4))
    (row,) = state.tables(S)["components"]
    assert (row["kind"], row["rate_hz"], row["latency_ms_p50"], row["took_ms_p50"]) == (
        "CameraDetector",
        9.5,
        12.5,
        8.25,
    )
    assert row["dropped"] == 4
    assert row["reasons"] == ["image: dropped, queue full: 4"]


def test_a_number_that_is_none_or_no_number_is_not_shown() -> None:
    state = DashboardState("test")
    of_another_clock = "795676301000.0"
    values = {"rate_hz": "nan", "latency_ms.p50": "fast", "latency_ms.p99": of_another_clock, "took_ms.p50": "inf"}
    told(state, S, (0, "other: camera", "fine", values))
    (row,) = state.tables(S)["components"]
    for key in ("rate_hz", "latency_ms_p50", "latency_ms_p99", "took_ms_p50", "dropped"):
        assert row[key] is None
    json.dumps(state.tables(S), allow_nan=False)


def test_offload_decisions_are_counted_by_fate_policy_and_second() -> None:
    state = DashboardState("test")
    told(state, 10 * S, robot.offload({"done-edge": 5, "done-cloud": 7, "late": 0}))
    told(state, 11 * S, robot.offload({"done-edge": 6, "done-cloud": 9, "late": 0}))
    told(state, 13 * S, robot.offload({"done-edge": 6, "done-cloud": 9, "late": 1}))
    offload = state.tables(13 * S)["offload"]
    assert offload["fates"] == {"done-edge": 6, "done-cloud": 9, "late": 1}
    assert offload["policies"] == {"tercel": {"done-edge": 6, "done-cloud": 9, "late": 1}}
    assert offload["line"]["done-edge"][-3:] == [1, 0, 0]
    assert offload["line"]["done-cloud"][-3:] == [2, 0, 0]
    assert offload["line"]["late"][-3:] == [0, 0, 1]
    assert sum(map(sum, offload["line"].values())) == 4  # what came before we looked has no time


def test_a_manager_that_begins_anew_does_not_count_backwards() -> None:
    state = DashboardState("test")
    told(state, 10 * S, robot.offload({"done-edge": 500}))
    told(state, 11 * S, robot.offload({"done-edge": 3}))
    offload = state.tables(11 * S)["offload"]
    assert offload["fates"] == {"done-edge": 3}
    assert offload["line"]["done-edge"][-1] == 3
