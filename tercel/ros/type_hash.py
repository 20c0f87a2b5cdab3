"""RIHS01: the hash of a ROS type's description, as ROS 2 (Iron and later) writes it into keys and endpoint data.

It is the SHA-256 of a JSON text that names the fields, in their order, of the type and of every type that it contains
(rosidl's type_description.schema.json; REP 2016). The store's own method does the same but for two things: ROS 2 maps
`char` to uint8 before it hashes, and a service's description is built of its request, response and event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from rosbags.interfaces import Nodetype

from tercel.ros.srv_definitions import SERVICES
from tercel.ros.store import STORE

# type_description_interfaces/msg/FieldType. rosidl's .msg to .idl step writes `char` as uint8, `byte` as octet.
_TYPE_IDS = {
    "int8": 2, "uint8": 3, "char": 3, "int16": 4, "uint16": 5, "int32": 6, "uint32": 7, "int64": 8, "uint64": 9,
    "float32": 10, "float64": 11, "bool": 15, "byte": 16, "string": 17,
}  # fmt: skip
_NESTED, _BOUNDED_STRING = 1, 21
_ARRAY, _BOUNDED_SEQUENCE, _SEQUENCE = 48, 96, 144  # added to the item's id

Fields = Iterable[tuple[str, Any]]


@lru_cache(maxsize=256)
def type_hash(ros_type: str) -> str:
    """The hash of a message or service type, as "RIHS01_" and 64 hex digits.

    ros_type: as "sensor_msgs/msg/Image" or "std_srvs/srv/Trigger". Raises KeyError for a type that we do not know.
    """
    described: dict[str, Any] = {}
    _describe(ros_type, described)
    text = json.dumps(
        {
            "type_description": described.pop(ros_type),
            "referenced_type_descriptions": [described[name] for name in sorted(described)],
        }
    )
    return f"RIHS01_{sha256(text.encode()).hexdigest()}"


def _describe(ros_type: str, described: dict[str, Any]) -> None:
    """Add the description of a type, and of those in it, to `described`."""
    if ros_type in described:
        return
    described[ros_type] = {"type_name": ros_type, "fields": []}  # placed first: it may contain itself
    described[ros_type]["fields"] = [
        {"name": name, "type": _field_type(description, described)} for name, description in _fields(ros_type)
    ]


def _fields(ros_type: str) -> Fields:
    """Names and rosbags' descriptions of a type's fields; services and their events as rosidl makes them."""
    service = ros_type.removesuffix("_Event")
    if service not in SERVICES:
        return STORE.fielddefs[ros_type][1] or [("structure_needs_at_least_one_member", (Nodetype.BASE, ("uint8", 0)))]
    if ros_type == service:
        parts = ("Request", "request"), ("Response", "response"), ("Event", "event")
        return [(f"{name}_message", (Nodetype.NAME, f"{service}_{part}")) for part, name in parts]
    at_most_one = [
        (name, (Nodetype.SEQUENCE, ((Nodetype.NAME, f"{service}_{part}"), 1)))
        for part, name in (("Request", "request"), ("Response", "response"))
    ]
    return [("info", (Nodetype.NAME, "service_msgs/msg/ServiceEventInfo")), *at_most_one]


def _field_type(description: Any, described: dict[str, Any]) -> dict[str, Any]:
    kind, details = description
    offset, capacity = 0, 0
    if kind == Nodetype.ARRAY:
        offset, capacity = _ARRAY, details[1]
    elif kind == Nodetype.SEQUENCE:
        offset, capacity = (_BOUNDED_SEQUENCE, details[1]) if details[1] else (_SEQUENCE, 0)
    item_kind, item = details[0] if offset else (kind, details)
    nested, string_capacity = "", 0
    if item_kind == Nodetype.NAME:
        nested, type_id = item, _NESTED
        _describe(nested, described)
    else:
        name, string_capacity = item
        type_id = _BOUNDED_STRING if string_capacity else _TYPE_IDS[name]
    return {
        "type_id": offset + type_id,
        "capacity": capacity,
        "string_capacity": string_capacity,
        "nested_type_name": nested,
    }
