"""What is written on DDS, without a wire: names, padding, structures, quality of service, configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")

from cyclonedds.idl import types
from cyclonedds.qos import Policy

from tercel.core.errors import UserError
from tercel.ros import dds_types as wire
from tercel.ros.dds_config import DEFAULT, read_config
from tercel.ros.dds_ends import dds_qos, keeps_all
from tercel.ros.store import STORE
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, Identity

TEXT = "std_msgs/msg/String"
TEXT_HASH = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"  # as ROS 2 publishes it
KEEP_LAST = Policy.History.KeepLast
JAZZY, HUMBLE = Identity("n", domain=1), Identity("n", domain=1, distribution="humble")


@pytest.mark.parametrize(
    ("ros", "dds"),
    [
        ("sensor_msgs/msg/Image", "sensor_msgs::msg::dds_::Image_"),
        ("std_srvs/srv/Trigger_Request", "std_srvs::srv::dds_::Trigger_Request_"),
    ],
)
def test_types_have_the_names_that_rosidl_gives_them(ros: str, dds: str) -> None:
    assert wire.dds_name(ros) == dds
    assert wire.ros_name(dds) == ros


@pytest.mark.parametrize("name", ["Square", "a::b::c", "a::msg::other_::B_", "a::msg::dds_::B", "", "::::::"])
def test_a_type_that_ros_has_not_named_keeps_its_name(name: str) -> None:
    assert wire.ros_name(name) == name


@given(body=st.binary(max_size=40))
def test_padding_is_told_in_the_header_and_comes_off_again(body: bytes) -> None:
    data = b"\x00\x01\x00\x00" + body
    filled = wire.to_wire(data)
    assert len(filled) % 4 == 0
    assert 0 <= len(filled) - len(data) < 4
    assert filled[3] == len(filled) - len(data)
    assert filled[4 : len(data)] == body
    assert wire.from_wire(filled) == data
    assert wire.to_wire(memoryview(data)) == filled


@pytest.mark.parametrize("name", ["Image", "PointCloud2", "CompressedImage"])
def test_bytes_are_octets_for_uint8_sequences_crash_older_peers(name: str) -> None:
    data = wire.structure(f"sensor_msgs/msg/{name}").__annotations__["data_"]
    assert data == types.sequence[types.byte]
    assert data != types.sequence[types.uint8]


def test_only_requests_and_responses_of_services_bear_a_header() -> None:
    assert list(wire.structure("std_srvs/srv/SetBool_Request").__annotations__)[:2] == [
        "client_guid_",
        "sequence_number_",
    ]
    assert list(wire.structure(TEXT).__annotations__) == ["data_"]
    with pytest.raises(KeyError):
        wire.structure("nobodys_msgs/msg/Thing")


@pytest.mark.parametrize(("is_humble", "gid_bytes"), [(False, 16), (True, 24)])
def test_a_participants_entry_has_the_gids_of_its_distribution(is_humble: bool, gid_bytes: int) -> None:
    store = wire.INFO_STORES[is_humble]
    gid, entities = store.types["rmw_dds_common/msg/Gid"], store.types["rmw_dds_common/msg/NodeEntitiesInfo"]
    ours = gid(data=np.arange(gid_bytes, dtype=np.uint8))
    node = entities(node_namespace="/robot1", node_name="n", reader_gid_seq=[ours], writer_gid_seq=[])
    data = bytes(store.serialize_cdr(store.types[wire.INFO](gid=ours, node_entities_info_seq=[node]), wire.INFO))
    assert data[4 : 4 + gid_bytes] == bytes(range(gid_bytes))  # an array: no length before it
    assert b"/robot1\x00" in data
    again = store.deserialize_cdr(data, wire.INFO)
    assert again.node_entities_info_seq[0].node_name == "n"
    assert data.count(bytes(range(gid_bytes))) == 2


@pytest.mark.parametrize(
    ("qos", "reliable", "history", "durability"),
    [
        (SENSOR, Policy.Reliability.BestEffort, Policy.History.KeepLast(SENSOR.depth), Policy.Durability.Volatile),
        (RELIABLE, Policy.Reliability.Reliable(0), Policy.History.KeepLast(RELIABLE.depth), Policy.Durability.Volatile),
        (
            LATCHED,
            Policy.Reliability.Reliable(0),
            Policy.History.KeepLast(LATCHED.depth),
            Policy.Durability.TransientLocal,
        ),
        (COMMAND, Policy.Reliability.Reliable(0), Policy.History.KeepAll, Policy.Durability.Volatile),
    ],
)
def test_qualities_of_service_are_those_of_rmw_cyclonedds(
    qos: Any, reliable: Any, history: Any, durability: Any
) -> None:
    made = dds_qos(TEXT, qos, JAZZY)
    assert [made[kind] for kind in (Policy.Reliability, Policy.History, Policy.Durability)] == [
        reliable,
        history,
        durability,
    ]
    assert keeps_all(qos) == (qos is COMMAND)
    assert (Policy.ResourceLimits in made) == (qos is COMMAND)  # what keeps all is bounded all the same


def test_the_type_hash_stands_in_the_user_data_but_not_in_humbles() -> None:
    def told(*arguments: Any) -> bytes:
        return bytes(dds_qos(TEXT, SENSOR, *arguments)[Policy.Userdata].data)

    assert told(JAZZY) == f"typehash={TEXT_HASH};".encode()
    assert told(JAZZY, "serviceid=1;") == b"serviceid=1;" + told(JAZZY)
    assert told(HUMBLE) == b""


def test_the_configuration_is_a_file_or_the_environments_or_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
    assert read_config(None) == DEFAULT
    assert 'name="lo"' in DEFAULT
    monkeypatch.setenv("CYCLONEDDS_URI", "file:///x.xml")
    assert read_config(None) == "file:///x.xml"
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_config(tmp_path / "none.xml")
    assert "\n" not in str(caught.value)
    (tmp_path / "latin.xml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "latin.xml")


def test_every_message_type_of_ours_has_a_structure() -> None:
    for ros_type in STORE.fielddefs:
        if ros_type.split("/")[0] in ("sensor_msgs", "vision_msgs", "nav_msgs", "tf2_msgs", "diagnostic_msgs"):
            assert wire.structure(ros_type).__idl_typename__ == wire.dds_name(ros_type)
