"""The ROS 2 types that the suite knows, as rosbags holds them: it writes and reads their CDR bytes.

The definitions are Jazzy's, with vision_msgs 4.1 and the services' requests and responses. Of the types that the suite
uses, these differ between distributions:

- sensor_msgs/Range: Humble has no `variance`. What we write has it, last, where a reader of Humble leaves it unread;
  `convert.decode` takes both.
- lifecycle_msgs/TransitionEvent: Lyrical's differs; nobody has to read it to command a node.
- vision_msgs: the same from Humble (4.0) to today (4.1.1).

Constants differ too (BatteryState, NavSatStatus, Marker, Log), which neither the bytes nor the type hashes contain.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from tercel.ros.srv_definitions import SERVICES
from tercel.ros.vision_msgs import VISION_MSGS

_DEFAULTS = {"string": "", "bool": False, "float32": 0.0, "float64": 0.0}
_QUATERNION = "geometry_msgs/msg/Quaternion"
_DTYPES = {"byte": "uint8", "char": "uint8"}


def make_typestore() -> Typestore:
    """All message types, and "pkg/srv/Name_Request" and "pkg/srv/Name_Response" of each service."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for name, definition in VISION_MSGS.items():
        types.update(get_types_from_msg(definition, name))
    for service, text in SERVICES.items():
        for part, definition in zip(("Request", "Response"), text.split("---\n"), strict=True):
            # rosbags files every name under /msg/: the name that ROS gives it counts, for it is part of the hash.
            (fields,) = get_types_from_msg(definition, f"{service}_{part}").values()
            types[f"{service}_{part}"] = fields
    store.register(types)
    return store


STORE = make_typestore()


def make(ros_type: str, **fields: Any) -> Any:
    """A rosbags dataclass of any known type from keywords; what is not named is zero, empty, or made likewise.

    Numeric arrays may be given as lists. Raises KeyError for an unknown type, TypeError for an unknown field.
    """
    known = STORE.fielddefs[ros_type][1]
    unknown = fields.keys() - {name for name, _ in known}
    if unknown:
        raise TypeError(f"{ros_type} has no field {min(unknown)!r}")
    if ros_type == _QUATERNION:
        fields = {"w": 1.0, **fields}  # the one default that ROS's own definition gives: no turn
    return STORE.types[ros_type](*(_value(description, fields.get(name)) for name, description in known))


def _value(description: Any, given: Any) -> Any:
    """A field's value: the given one, or its default. description: rosbags' (node type, details)."""
    kind, details = description
    if kind == Nodetype.NAME:
        return make(details) if given is None else given
    if kind == Nodetype.BASE:
        return _DEFAULTS.get(details[0], 0) if given is None else given
    (item_kind, item), length = details
    if kind == Nodetype.SEQUENCE:
        length = 0
    if item_kind == Nodetype.BASE and item[0] != "string":
        dtype = _DTYPES.get(item[0], item[0])
        return np.zeros(length, dtype) if given is None else np.asarray(given, dtype)
    if given is not None:
        return list(given)
    return [make(item) if item_kind == Nodetype.NAME else "" for _ in range(length)]
