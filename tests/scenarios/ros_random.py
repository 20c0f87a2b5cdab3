"""Random messages of any ROS type, as CDR bytes: rosbags writes them from its own description of the type."""

from __future__ import annotations

import random
import string
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from tercel.ros.store import STORE

PACKAGES = (
    "std_msgs", "sensor_msgs", "vision_msgs", "nav_msgs", "geometry_msgs", "tf2_msgs", "diagnostic_msgs",
    "visualization_msgs", "rosgraph_msgs",
)  # fmt: skip
MESSAGE_TYPES = sorted(name for name in STORE.fielddefs if name.split("/")[0] in PACKAGES)

_TEXT = string.ascii_letters + "_/ äß漢"


def random_cdr(ros_type: str, rng: random.Random) -> bytes:
    """A message with random values in every field; sequences have up to three items."""
    return bytes(STORE.serialize_cdr(_message(ros_type, rng), ros_type))


def _message(ros_type: str, rng: random.Random) -> Any:
    return STORE.types[ros_type](*(_value(description, rng) for _, description in STORE.fielddefs[ros_type][1]))


def _value(description: Any, rng: random.Random) -> Any:
    kind, details = description
    if kind == Nodetype.NAME:
        return _message(details, rng)
    if kind == Nodetype.BASE:
        return _scalar(details[0], rng)
    item, length = details
    count = length if kind == Nodetype.ARRAY else rng.randint(0, min(3, length or 3))
    values = [_value(item, rng) for _ in range(count)]
    if item[0] == Nodetype.BASE and item[1][0] != "string":
        return np.array(values, dtype=_dtype(item[1][0]))
    return values


def _dtype(name: str) -> str:
    return "uint8" if name in ("byte", "char") else name


def _scalar(name: str, rng: random.Random) -> Any:
    if name == "string":
        return "".join(rng.choices(_TEXT, k=rng.randint(0, 12)))
    if name == "bool":
        return rng.random() < 0.5
    if name.startswith("float"):
        return float(np.float32(rng.uniform(-1e6, 1e6)))
    if name == "byte":
        return rng.randint(0, 127)  # rosbags writes it as a signed one
    limits = np.iinfo(_dtype(name))
    return rng.randint(int(limits.min), int(limits.max))
