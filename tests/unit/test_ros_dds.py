"""The DDS transport's words without a wire: names, user data, who is there, quality of service, configurations.

Expected values are those of rmw_cyclonedds (namespace_prefix, create_readwrite_qos, typehash), of rmw_dds_common's
messages and of CDR, laid out by hand here.
"""

from __future__ import annotations

import string
import struct
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cyclonedds", reason="the extra 'dds' is not installed")

from cyclonedds.qos import Policy

from tercel.core.errors import UserError
from tercel.ros import dds, dds_graph
from tercel.ros import dds_types as wire
from tercel.ros.dds_config import DEFAULT, join_domain, leave_domain, read_config
from tercel.ros.dds_ends import dds_qos, random_id
from tercel.ros.transport import COMMAND, LATCHED, RELIABLE, SENSOR, Identity, QoS

XML = Path(__file__).resolve().parents[2] / "launch" / "dds" / "cyclonedds.xml"
STRING = "std_msgs/msg/String"
STRING_HASH = "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
NAME = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
PATH = st.lists(NAME, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
US = bytes(range(1, 17))


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ros_type", "name"),
    [
        (STRING, "std_msgs::msg::dds_::String_"),
        ("std_srvs/srv/SetBool_Request", "std_srvs::srv::dds_::SetBool_Request_"),
    ],
)
def test_a_type_is_named_as_rosidl_names_it(ros_type: str, name: str) -> None:
    assert wire.dds_name(ros_type) == name
    assert wire.ros_name(name) == ros_type


@given(st.tuples(NAME, st.sampled_from(["msg", "srv", "action"]), NAME).map("/".join))
def test_any_type_name_comes_back(ros_type: str) -> None:
    assert wire.ros_name(wire.dds_name(ros_type)) == ros_type


@pytest.mark.parametrize(
    "name", ["HelloWorld", "a::b", "std_msgs::msg::dds_::String", "a::msg::other::B_", "::::::", ""]
)
def test_a_type_name_of_another_form_stays_as_it_is(name: str) -> None:
    assert wire.ros_name(name) == name


class Names:
    """In place of a transport's participant: the DDS topics that its methods ask for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.transport = object.__new__(dds.DdsTransport)
        self.transport.identity = Identity("us", domain=0)
        self.transport._servers, self.transport._clients = [], {}
        self.transport._lock = dds.threading.Lock()
        self.transport._graph = types.SimpleNamespace(watch=lambda *_words: None)  # type: ignore[assignment]
        monkeypatch.setattr(self.transport, "_writer", self._writer, raising=False)
        monkeypatch.setattr(self.transport, "_reader", self._reader, raising=False)

    def _writer(self, dds_topic: str, ros_type: str, *_words: Any) -> None:
        self.asked.append(("writer", dds_topic, ros_type))

    def _reader(self, dds_topic: str, _name: str, ros_type: str, *_words: Any) -> Any:
        self.asked.append(("reader", dds_topic, ros_type))
        return types.SimpleNamespace(reader=None)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_topics_and_services_have_the_prefixes_and_ends_of_rmw_cyclonedds(names: Names) -> None:
    us, service = names.transport, "std_srvs/srv/SetBool"
    us.advertise("/robot1/chatter", STRING, RELIABLE)
    us.subscribe("/tf", STRING, RELIABLE, lambda _data: None)
    us.serve("/robot1/on", service, bytes)
    us._client("/off", service)
    us._servers[0].shutdown()
    assert names.asked == [
        ("writer", "rt/robot1/chatter", STRING),
        ("reader", "rt/tf", STRING),
        ("writer", "rr/robot1/onReply", f"{service}_Response"),
        ("reader", "rq/robot1/onRequest", f"{service}_Request"),
        ("writer", "rq/offRequest", f"{service}_Request"),
        ("reader", "rr/offReply", f"{service}_Response"),
    ]


# --- user data and quality of service ------------------------------------------------------------------------------


def user_data(qos: Any) -> bytes:
    return bytes(qos[Policy.Userdata].data)


def test_user_data_hold_the_types_hash_but_not_in_humble() -> None:
    jazzy, humble = Identity("us", domain=0), Identity("us", domain=0, distribution="humble")
    assert user_data(dds_qos(STRING, RELIABLE, jazzy)) == f"typehash={STRING_HASH};".encode()
    assert user_data(dds_qos(STRING, RELIABLE, humble)) == b""
    request = "std_srvs/srv/Trigger_Request"
    assert user_data(dds_qos(request, RELIABLE, jazzy, "serviceid=1.2;")).startswith(b"serviceid=1.2;typehash=RIHS01_")
    assert user_data(dds_qos(request, RELIABLE, humble, "serviceid=1.2;")) == b"serviceid=1.2;"


def test_the_id_that_the_ends_of_a_service_share_is_sixteen_bytes_in_hex() -> None:
    parts = random_id().split(".")
    assert len(parts) == 16
    assert all(f"{int(part, 16):x}" == part and int(part, 16) < 256 for part in parts)
    assert random_id() != random_id()


@pytest.mark.parametrize(
    ("qos", "reliable", "latched", "history"),
    [
        (SENSOR, False, False, Policy.History.KeepLast(5)),
        (RELIABLE, True, False, Policy.History.KeepLast(10)),
        (LATCHED, True, True, Policy.History.KeepLast(1)),
        (COMMAND, True, False, Policy.History.KeepAll),
        (QoS(reliable=False, depth=1000), False, False, Policy.History.KeepLast(1000)),
        (QoS(reliable=True, depth=1000, transient_local=True), True, True, Policy.History.KeepLast(1000)),
    ],
)
def test_quality_of_service_is_that_of_rmw_cyclonedds(qos: QoS, reliable: bool, latched: bool, history: Any) -> None:
    made = dds_qos(STRING, qos, Identity("us", domain=0))
    assert made[Policy.Reliability] == (Policy.Reliability.Reliable(0) if reliable else Policy.Reliability.BestEffort)
    assert made[Policy.Durability] == (Policy.Durability.TransientLocal if latched else Policy.Durability.Volatile)
    assert made[Policy.History] == history
    assert made[Policy.DataRepresentation].use_cdrv0_representation
    assert not made[Policy.WriterDataLifecycle].autodispose
    service = made[Policy.DurabilityService]
    assert service is None if not latched else service.history == Policy.History.KeepLast(qos.depth)
    limits = made[Policy.ResourceLimits]
    assert (limits.max_samples if limits else None) == (1000 if history == Policy.History.KeepAll else None)


# --- who is there --------------------------------------------------------------------------------------------------


def info_cdr(gid_bytes: int, nodes: list[tuple[str, str, list[bytes], list[bytes]]]) -> bytes:
    """rmw_dds_common/msg/ParticipantEntitiesInfo, little endian, laid out by hand."""
    body = bytearray(US.ljust(gid_bytes, b"\0"))

    def number(value: int) -> None:
        body.extend(bytes(-len(body) % 4) + struct.pack("<I", value))

    number(len(nodes))
    for namespace, name, readers, writers in nodes:
        for word in (namespace, name):
            number(len(word) + 1)
            body.extend(word.encode() + b"\0")
        for guids in (readers, writers):
            number(len(guids))
            body.extend(b"".join(guid.ljust(gid_bytes, b"\0") for guid in guids))
    return b"\0\1\0\0" + bytes(body)


class Told:
    """A graph without a participant, and what it writes and finds wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, distribution: str) -> None:
        self.written: list[bytes] = []
        self.problems: list[str] = []
        self.graph = object.__new__(dds_graph.Graph)
        self.graph._identity = Identity("us", "/robot1", 0, distribution)
        self.graph._problem, self.graph._lock = self.problems.append, dds_graph.threading.Lock()
        self.graph._us, self.graph._participants, self.graph._nodes = US, {US}, {}
        self.graph._store = wire.INFO_STORES[distribution == "humble"]
        self.graph._gid_bytes = 24 if distribution == "humble" else 16
        self.graph._ours = {False: [], True: []}
        self.graph._writer = types.SimpleNamespace(_ref=0)
        monkeypatch.setattr(dds_graph, "ddspy_write", lambda _ref, data: self.written.append(data))


@pytest.mark.parametrize(("distribution", "gid_bytes"), [("humble", 24), ("jazzy", 16)])
def test_who_we_are_is_written_byte_by_byte(distribution: str, gid_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, distribution)
    reader, writer = bytes(range(16, 32)), bytes(range(32, 48))
    told.graph.add_ours(writer, True)
    told.graph.add_ours(reader, False)
    expected = info_cdr(gid_bytes, [("/robot1", "us", [reader], [writer])])
    assert wire.from_wire(told.written[-1]) == expected
    told.graph.remove_ours(reader, False)
    assert wire.from_wire(told.written[-1]) == info_cdr(gid_bytes, [("/robot1", "us", [], [writer])])


@pytest.mark.parametrize(("distribution", "gid_bytes"), [("humble", 24), ("jazzy", 16)])
def test_who_others_are_is_read(distribution: str, gid_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, distribution)
    data = info_cdr(gid_bytes, [("/", "talker", [], [US]), ("/a/b", "c", [US, US], [])])
    told.graph._on_info(data)
    assert told.graph.nodes() == ["/a/b/c", "/robot1/us", "/talker"]
    told.graph._on_info(info_cdr(gid_bytes, []))
    assert told.graph.nodes() == ["/robot1/us"]
    told.graph._on_info(data[:-5])
    assert told.problems == [f"ros_discovery_info: not as {distribution} writes it"]


# --- bytes ---------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_what_fills_a_message_up_is_taken_off_again(body: bytes) -> None:
    data = b"\0\1\0\0" + body
    sent = wire.to_wire(data)
    assert len(sent) % 4 == 0
    assert len(sent) - len(data) == sent[3] < 4
    assert wire.from_wire(sent) == data


# --- configurations ------------------------------------------------------------------------------------------------


def test_the_file_that_we_ship_says_what_holds_without_one() -> None:
    def words(text: str) -> list[tuple[str, dict[str, str], str]]:
        return [
            (e.tag.rpartition("}")[2], e.attrib, (e.text or "").strip())
            for e in ET.fromstring(text).iter()  # noqa: S314 (ours)
        ]

    assert words(XML.read_text().partition("?>")[2]) == words(DEFAULT)


def test_the_environment_holds_where_no_file_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "file:///here.xml")
    assert read_config(None) == "file:///here.xml"
    monkeypatch.delenv("CYCLONEDDS_URI")
    assert read_config(None) == DEFAULT
    path = tmp_path / "a.xml"
    path.write_text("<CycloneDDS/>")
    assert read_config(path) == "<CycloneDDS/>"


@pytest.mark.parametrize("text", ["<CycloneDDS><Domain><Nobody/></Domain></CycloneDDS>", "<CycloneDDS", "no XML", "é<"])
def test_a_configuration_that_cyclone_refuses_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.xml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        join_domain(231, read_config(path))
    assert "\n" not in str(caught.value)
    assert "configuration" in str(caught.value)
    join_domain(231, DEFAULT)  # and the domain is free
    leave_domain(231)


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    binary = tmp_path / "binary.xml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.xml", tmp_path, binary):
        with pytest.raises(UserError, match="the Cyclone DDS configuration cannot be read") as caught:
            read_config(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_one_domain_has_one_configuration_in_a_process() -> None:
    join_domain(231, DEFAULT)
    try:
        with pytest.raises(UserError, match="another configuration"):
            join_domain(231, DEFAULT + " ")
    finally:
        leave_domain(231)
