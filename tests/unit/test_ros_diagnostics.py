from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tercel.ros.convert import STORE
from tercel.ros.diagnostics import DIAGNOSTICS_TYPE, ERROR, OK, STALE, WARN, diagnostic_array, rows_of
from tests.unit.live_hosts import hosting, one
from tests.unit.test_hosts_recording import imu


@pytest.fixture
def status(tmp_path: Path) -> dict[str, Any]:
    """Of a host that works: 20 messages, 20 ms after their stamps."""
    now_ns = [0]
    with hosting(tmp_path, one("live_components.Gain"), now_ns=lambda: now_ns[0], name="robot") as (host, peer, _):
        for i in range(1, 21):
            now_ns[0] = i * 10**9 + 20_000_000
            peer.publish("/imu", imu(i * 10**9))
            assert host.wait_idle(5)
        status: dict[str, Any] = host.status()
        assert json.loads(json.dumps(status)) == status
        return status


def row(status: dict[str, Any], name: str = "robot: node") -> tuple[int, str, dict[str, str]]:
    level, message, values = next((level, text, values) for level, n, text, values in rows_of(status) if n == name)
    return level, message, dict(values)


def test_a_component_that_works_is_ok_with_its_numbers(status: dict[str, Any]) -> None:
    level, message, values = row(status)
    assert (level, message[-7:]) == (OK, ", 20 ms")
    wanted = {
        "component": "Gain", "received": "20", "processed": "20", "dropped": "0", "rejected": "0", "waiting": "0",
        "latency_ms.p50": "20.0", "latency_ms.p99": "20.0", "failed": "",
    }  # fmt: skip
    assert values.items() >= wanted.items()
    assert {"rate_in_hz", "rate_hz", "took_ms.p50"} <= values.keys()
    assert row(status, "robot: transport")[:2] == (OK, "no problems")


def changed(status: dict[str, Any], **component: Any) -> dict[str, Any]:
    new = copy.deepcopy(status)
    new["components"]["node"].update(component)
    return new


def test_a_component_that_failed_is_an_error_with_the_reason(status: dict[str, Any]) -> None:
    level, message, _ = row(changed(status, failed="ValueError: no (x.py:3 in step)"))
    assert (level, message) == (ERROR, "failed: ValueError: no (x.py:3 in step)")


def test_a_stopped_host_is_stale(status: dict[str, Any]) -> None:
    assert row({**status, "state": "stopped"})[:2] == (STALE, "stopped")


@pytest.mark.parametrize(("age_s", "words"), [(None, "yet"), (4.2, "for 4 s")])
def test_a_silent_sensor_is_a_warning_that_names_its_topic(
    status: dict[str, Any], age_s: float | None, words: str
) -> None:
    status["topics"]["/imu"].update(is_stale=True, age_s=age_s)
    assert row(status)[:2] == (WARN, f"stale: no data from /imu {words}")


@pytest.mark.parametrize(
    ("lately", "level", "words"),
    [
        ({"received": 100, "dropped": 10, "rejected": 0}, OK, ""),
        ({"received": 100, "dropped": 11, "rejected": 0}, WARN, "11 of 100 messages dropped lately"),
        ({"received": 100, "dropped": 0, "rejected": 1}, WARN, "1 of 100 messages rejected lately"),
    ],
)
def test_losses_of_the_last_seconds_are_a_warning(
    status: dict[str, Any], lately: dict[str, int], level: int, words: str
) -> None:
    status["lately"]["components"]["node"] = lately
    assert row(status)[0] == level
    assert words in row(status)[1]


def test_stamps_of_another_clock_are_named(status: dict[str, Any]) -> None:
    status["components"]["node"]["latency_ms"]["p50"] = 3.6e6
    assert row(status)[0] == WARN
    assert "stamps are 3600 s behind the clock" in row(status)[1]


def test_problems_are_warned_of_while_they_last_and_counted_for_ever(status: dict[str, Any]) -> None:
    status["problems"]["/x is of another type"] = 7
    status["undecodable"]["/imu: message does not decode"] = 2
    level, message, values = row(status, "robot: transport")
    assert (level, message) == (OK, "no problems")
    assert values == {"/x is of another type": "7", "/imu: message does not decode": "2"}
    status["lately"]["problems"] = ["/x is of another type"]
    assert row(status, "robot: transport")[:2] == (WARN, "/x is of another type")


def test_the_offload_manager_has_a_row_of_its_own(status: dict[str, Any]) -> None:
    status["offload"] = {"policy": "edf", "tasks": 4, "completion": 0.75, "fates": {"done-edge": 3, "dropped": 1}}
    level, message, values = row(status, "robot: offload")
    assert (level, message) == (OK, "75% of 4 in time")
    assert values == {
        "policy": "edf", "tasks": "4", "completion": "0.75", "fates.done-edge": "3", "fates.dropped": "1",
    }  # fmt: skip


def test_the_array_is_what_ros_reads(status: dict[str, Any]) -> None:
    array: Any = STORE.deserialize_cdr(diagnostic_array(status), DIAGNOSTICS_TYPE)
    assert array.header.stamp.sec == 20
    assert [s.name for s in array.status] == ["robot: node", "robot: transport"]
    assert array.status[0].hardware_id == "robot"
    assert {pair.key: pair.value for pair in array.status[0].values}["inputs.imu.topic"] == "/imu"
