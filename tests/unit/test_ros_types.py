"""The ROS types that the suite knows: their hashes are those that ROS 2 publishes, and services' bytes go both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.interfaces import Nodetype

from tercel.core.errors import Rejected
from tercel.ros import srv_definitions
from tercel.ros.service_types import SERVICES, make, make_request, make_response, read_request, read_response
from tercel.ros.store import STORE
from tercel.ros.type_hash import type_hash

PUBLISHED: dict[str, list[str]] = json.loads((Path(__file__).parent / "ros_type_hashes.json").read_text())["hashes"]


@pytest.mark.parametrize("ros_type", sorted(PUBLISHED.keys() - {"example_interfaces/srv/AddTwoInts"}))
def test_a_type_hash_is_the_one_that_ros_2_publishes(ros_type: str) -> None:
    assert type_hash(ros_type) == f"RIHS01_{PUBLISHED[ros_type][0]}"


def test_the_hash_of_a_service_of_somebody_elses_is_right_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "example_interfaces/srv/AddTwoInts"
    monkeypatch.setitem(srv_definitions.SERVICES, name, "int64 a\nint64 b\n---\nint64 sum\n")
    int64 = (Nodetype.BASE, ("int64", 0))
    monkeypatch.setitem(STORE.fielddefs, f"{name}_Request", ([], [("a", int64), ("b", int64)]))
    monkeypatch.setitem(STORE.fielddefs, f"{name}_Response", ([], [("sum", int64)]))
    type_hash.cache_clear()
    assert type_hash(name) == f"RIHS01_{PUBLISHED[name][0]}"
    type_hash.cache_clear()


def has_char(ros_type: str, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a field of the type, however deep, is a char."""
    for _, description in STORE.fielddefs[ros_type][1]:
        while description[0] in (Nodetype.ARRAY, Nodetype.SEQUENCE):
            description = description[1][0]
        if description[0] == Nodetype.BASE and description[1][0] == "char":
            return True
        nested = description[0] == Nodetype.NAME and description[1] not in seen
        if nested and has_char(description[1], seen | {ros_type}):
            return True
    return False


def test_without_a_char_the_hash_is_that_of_rosbags_and_with_one_it_is_not() -> None:
    with_char = {name for name in STORE.fielddefs if has_char(name)}
    assert "std_msgs/msg/Char" in with_char
    for name in sorted(STORE.fielddefs):
        assert (type_hash(name) == STORE.hash_rihs01(name)) == (name not in with_char), name


def test_an_unknown_type_has_no_hash() -> None:
    with pytest.raises(KeyError):
        type_hash("nobody_msgs/msg/Thing")


@pytest.mark.parametrize("srv_type", sorted(SERVICES))
def test_requests_and_responses_made_of_defaults_come_back(srv_type: str) -> None:
    for make_it, read_it, part in ((make_request, read_request, "Request"), (make_response, read_response, "Response")):
        data = make_it(srv_type)
        assert data[:4] == b"\x00\x01\x00\x00"
        assert read_it(srv_type, data).__msgtype__ == f"{srv_type}_{part}"
        with pytest.raises(Rejected, match="does not decode"):
            read_it(srv_type, data[:3])
        with pytest.raises(TypeError, match="no field 'nonsense'"):
            make_it(srv_type, nonsense=1)


def test_the_bytes_of_a_trigger_are_those_of_ros() -> None:
    # An empty request is one byte, for an IDL struct may not be empty; CDR counts a string with its zero.
    assert make_request("std_srvs/srv/Trigger") == b"\x00\x01\x00\x00\x00"
    answer = make_response("std_srvs/srv/Trigger", success=True, message="ok")
    assert answer == b"\x00\x01\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00ok\x00"


def test_parameters_go_there_and_back() -> None:
    value = make("rcl_interfaces/msg/ParameterValue", type=7, integer_array_value=[1, 2])
    parameter = make("rcl_interfaces/msg/Parameter", name="lidar.voxels", value=value)
    request = read_request(
        "rcl_interfaces/srv/SetParameters", make_request("rcl_interfaces/srv/SetParameters", parameters=[parameter])
    )
    assert request.parameters[0].name == "lidar.voxels"
    assert request.parameters[0].value.integer_array_value.tolist() == [1, 2]


def test_a_message_made_of_defaults_can_be_written_whatever_its_type() -> None:
    for name in sorted(STORE.fielddefs):
        message: Any = make(name)
        again = STORE.deserialize_cdr(STORE.serialize_cdr(message, name), name)
        assert bytes(STORE.serialize_cdr(again, name)) == bytes(STORE.serialize_cdr(message, name)), name
    assert make("geometry_msgs/msg/Pose").orientation.w == 1.0
    assert make("sensor_msgs/msg/CameraInfo").k.dtype == np.float64
