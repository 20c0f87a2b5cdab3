"""A share folder as ROS 2 installs it: .msg and .srv texts, and the .json files that hold the type hashes.

    prefix = write_share(tmp_path, ["std_msgs/msg/String"])
    environ["AMENT_PREFIX_PATH"] = str(prefix)

Programs that speak ROS 2 without being generated for its types (dora-rs) read them from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tercel.ros.srv_definitions import SERVICES
from tercel.ros.store import STORE
from tercel.ros.type_hash import type_hash


def write_share(prefix: Path, ros_types: Iterable[str]) -> Path:
    """Write the definitions of messages and services, and of all that is in them, under prefix/share.

    Returns prefix, for AMENT_PREFIX_PATH.
    """
    texts: dict[str, str] = {}
    for ros_type in ros_types:
        if ros_type in SERVICES:
            texts[ros_type] = SERVICES[ros_type]
            for part in ("Request", "Response"):
                texts |= _nested(_definition(f"{ros_type}_{part}"))
        else:
            texts |= _nested(f"MSG: {ros_type}\n{_definition(ros_type)}")
    for ros_type, text in texts.items():
        package, kind, name = ros_type.split("/")
        folder = prefix / "share" / package / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.{kind}").write_text(text)
        (folder / f"{name}.json").write_text(json.dumps(_description(ros_type)))
        (folder.parent / "package.xml").write_text(f"<package><name>{package}</name></package>\n")
    return prefix


def _definition(ros_type: str) -> str:
    return STORE.generate_msgdef(ros_type, ros_version=2)[0]


def _nested(definition: str) -> dict[str, str]:
    """The definitions by type name in rosbags' text of several, whose parts begin with "MSG: package/Name"."""
    parts = (
        part.removeprefix("MSG: ").partition("\n") for part in definition.split("=" * 80 + "\n") if "MSG: " in part
    )
    return {name if "/msg/" in name else name.replace("/", "/msg/"): text for name, _, text in parts}


def _description(ros_type: str) -> dict[str, object]:
    """What of rosidl's .json names the type and its hash."""
    return {
        "type_description_msg": {
            "type_description": {"type_name": ros_type, "fields": []},
            "referenced_type_descriptions": [],
        },
        "type_hashes": [{"type_name": ros_type, "hash_string": type_hash(ros_type)}],
    }
