"""ROS types as the DDS structures that rosidl makes of them, and the bytes that go with them.

Cyclone checks each message against its structure, in C, on both ends: so they are the true ones. Only the wheel's own
serialiser is left aside, which goes through byte sequences one item at a time: bytes go in and out as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cyclonedds import idl
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from tercel.ros.srv_definitions import SERVICES
from tercel.ros.store import STORE
from tercel.ros.transport import Data

# Octets for all that is a byte: a uint8 sequence of version 11 crashes peers of version 0.10 that read its type.
types: Any = idl.types  # its generics are its own, which type checkers do not read
_ITEMS: dict[str, Any] = {
    "bool": bool, "byte": types.byte, "char": types.byte, "uint8": types.byte, "int8": types.int8,
    "int16": types.int16, "uint16": types.uint16, "int32": types.int32, "uint32": types.uint32, "int64": types.int64,
    "uint64": types.uint64, "float32": types.float32, "float64": types.float64, "string": str,
}  # fmt: skip
HEADER_BYTES = 4
_INFO_TEXTS = {
    "NodeEntitiesInfo": """string<=256 node_namespace
string<=256 node_name
rmw_dds_common/Gid[] reader_gid_seq
rmw_dds_common/Gid[] writer_gid_seq""",
    "ParticipantEntitiesInfo": """rmw_dds_common/Gid gid
rmw_dds_common/NodeEntitiesInfo[] node_entities_info_seq""",
}
INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"


def _info_store(gid_bytes: int) -> Any:
    store = get_typestore(Stores.EMPTY)
    package = "rmw_dds_common/msg"
    found: dict[str, Any] = {}
    for name, text in {"Gid": f"uint8[{gid_bytes}] data", **_INFO_TEXTS}.items():
        found |= get_types_from_msg(text, f"{package}/{name}")
    store.register(found)
    return store


# Who is there, as rmw_dds_common tells it. A gid had 24 bytes in Humble.
INFO_STORES = {False: _info_store(16), True: _info_store(24)}


def dds_name(ros_type: str) -> str:
    """sensor_msgs/msg/Image as rosidl names it in DDS: sensor_msgs::msg::dds_::Image_."""
    package, kind, name = ros_type.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def ros_name(name: str) -> str:
    """The opposite of dds_name; a name of another form stays as it is."""
    parts = name.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and parts[3].endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return name


@lru_cache(maxsize=512)
def structure(ros_type: str) -> Any:
    """The structure of a message; of a service's request or response, that with rmw_cyclonedds' header before it.

    Raises KeyError for a type that we do not know.
    """
    head = {}
    if ros_type.endswith(("_Request", "_Response")) and ros_type.rpartition("_")[0] in SERVICES:
        head = {"client_guid_": types.uint64, "sequence_number_": types.int64}
    return _structure(ros_type, STORE, head)


@lru_cache(maxsize=2)
def info_structure(is_humble: bool) -> Any:
    """The structure of ros_discovery_info."""
    return _structure(INFO, INFO_STORES[is_humble], {})


def _structure(ros_type: str, store: Any, head: dict[str, Any]) -> Any:
    fields = {f"{name}_": _field(description, store) for name, description in store.fielddefs[ros_type][1]}
    if not fields:
        fields = {"structure_needs_at_least_one_member_": types.byte}
    name = dds_name(ros_type)
    made = idl.make_idl_struct(name.rsplit("::", 1)[1], name, {**head, **fields}, dataclassify=False)
    made.__idl_annotations__["extensibility"] = "final"  # plain CDR, as ROS writes it
    return made


def _field(description: Any, store: Any) -> Any:
    kind, details = description
    if kind == Nodetype.NAME:
        return structure(details) if store is STORE else _structure(details, store, {})
    if kind == Nodetype.BASE:
        name, bound = details
        return types.bounded_str[bound] if bound else _ITEMS[name]
    item, length = details
    if kind == Nodetype.ARRAY:
        return types.array[_field(item, store), length]
    return types.sequence[_field(item, store), length] if length else types.sequence[_field(item, store)]


def to_wire(data: Data) -> bytes:
    """Filled up to a multiple of four bytes, the number of those in the header's options (DDS-XTypes 7.6.3.1.2)."""
    fill = -len(data) % 4
    if not fill:
        return bytes(data)
    return b"".join((data[:3], bytes([fill]), memoryview(data)[4:], bytes(fill)))  # one copy


def from_wire(data: bytes) -> bytes:
    """Without what to_wire has added."""
    fill = data[3] & 3
    return b"".join((data[:3], b"\0", memoryview(data)[4 : len(data) - fill])) if fill else data
