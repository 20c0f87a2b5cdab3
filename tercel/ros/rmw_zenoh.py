"""rmw_zenoh's wire, written and read: data keys, liveliness tokens, attachments, gids. Pure functions over strings.

Sources: rmw_zenoh's docs/design.md ("Topic and Service name mapping", "Graph Cache", "Publishers"), and its
liveliness_utils.cpp, qos.cpp and attachment_helpers.cpp for what the document leaves to the code.

| what | form |
| --- | --- |
| data and service key | `<domain>/<name without its first slash>/<pkg::msg::dds_::Type_>/<hash>` |
| node token | `@ros2_lv/<domain>/<session>/<node>/<node>/NN/<enclave>/<namespace>/<node name>` |
| endpoint token | `@ros2_lv/<domain>/<session>/<node>/<entity>/<kind>/.../<name>/<type>/<hash>/<qos>` |
| attachment | int64 sequence, int64 stamp in ns, length byte 16, gid of 16 bytes; little-endian |
| gid | XXH3-128 of the whole token: its low half, then its high half, little-endian |

Names in a token have '%' for '/'. Humble's types have no hash: "TypeHashNotSupported" stands in its place.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import xxhash

from tercel.core.errors import Rejected
from tercel.ros.transport import QoS
from tercel.ros.type_hash import type_hash

KINDS = ("NN", "MP", "MS", "SS", "SC")  # node, publisher, subscription, service server, service client

NO_HASH = "TypeHashNotSupported"
SERVICE_QOS = QoS(reliable=True, depth=10)

PREFIX = "@ros2_lv"
_ATTACHMENT = struct.Struct("<qqB16s")
ATTACHMENT_BYTES = _ATTACHMENT.size
SEQUENCE_BYTES = 8
_OLD_ATTACHMENT_BYTES = 77  # the same, with the names of its three parts before them
_GID_BYTES = 16
MAX_TOKEN_CHARS = 4096  # longer ones are not read; ROS names end at 255 characters

_DEFAULT_DEPTH = 42
_RELIABLE, _BEST_EFFORT = 1, 2  # rmw/types.h
_TRANSIENT_LOCAL, _VOLATILE = 1, 2
_DDS_TYPE = re.compile(r"(\w+)::(msg|srv|action)::dds_::(\w+)_")


# --- types and keys ------------------------------------------------------------------------------------------------


def dds_type(ros_type: str) -> str:
    """ "sensor_msgs::msg::dds_::Image_" for "sensor_msgs/msg/Image"."""
    package, kind, name = ros_type.split("/")
    return f"{package}::{kind}::dds_::{name}_"


def ros_type(dds: str) -> str:
    """ "sensor_msgs/msg/Image" for "sensor_msgs::msg::dds_::Image_"; anything else comes back as it is."""
    match = _DDS_TYPE.fullmatch(dds)
    return "/".join(match.groups()) if match else dds


def hash_of(kind: str, distribution: str) -> str:
    """The hash part of a type's key, as this distribution writes it. Raises KeyError for an unknown type."""
    return NO_HASH if distribution == "humble" else type_hash(kind)


def data_key(domain: int, name: str, kind: str, distribution: str) -> str:
    """The key under which a topic's messages or a service's requests travel. kind: a ROS type."""
    return f"{domain}/{name.strip('/')}/{dds_type(kind)}/{hash_of(kind, distribution)}"


# --- liveliness tokens ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Endpoint:
    """What a token says of a publisher, subscription, service server or client."""

    name: str
    dds_type: str
    type_hash: str
    qos: QoS


@dataclass(frozen=True)
class Entity:
    """One thing in the ROS graph.

    session: zenoh's id of the session, lower-case hex without leading zeros. node_id and entity_id count within a
    session in rmw_zenoh; others write other words there.
    """

    domain: int
    session: str
    node_id: str
    entity_id: str
    kind: str
    namespace: str
    node: str
    enclave: str = "/"
    endpoint: Endpoint | None = None

    @property
    def node_name(self) -> str:
        """The full name, as `ros2 node list` shows it."""
        return f"{self.namespace.rstrip('/')}/{self.node}"


def token(entity: Entity) -> str:
    """The liveliness key of an entity."""
    parts = [
        PREFIX, str(entity.domain), entity.session, entity.node_id, entity.entity_id, entity.kind,
        _mangle(entity.enclave), _mangle(entity.namespace), _mangle(entity.node),
    ]  # fmt: skip
    if entity.endpoint is not None:
        end = entity.endpoint
        parts += [_mangle(end.name), _mangle(end.dds_type), end.type_hash, qos_text(end.qos)]
    return "/".join(parts)


def read_token(text: str) -> Entity:
    """The entity of a liveliness key. Raises Rejected for what no rmw_zenoh writes. Further parts are ignored."""
    parts = text.split("/", 14) if len(text) <= MAX_TOKEN_CHARS and text.isprintable() else []
    if len(parts) < 9 or parts[0] != PREFIX or parts[5] not in KINDS or not all(parts):
        raise Rejected("liveliness token of an unknown form")
    if not _is_number(parts[1]):
        raise Rejected("liveliness token without a domain")
    kind = parts[5]
    endpoint = None
    if kind != "NN":
        if len(parts) < 13:
            raise Rejected("liveliness token without a topic")
        endpoint = Endpoint(_demangle(parts[9]), _demangle(parts[10]), _demangle(parts[11]), read_qos(parts[12]))
    return Entity(
        domain=int(parts[1]), session=parts[2], node_id=parts[3], entity_id=parts[4], kind=kind,
        enclave=_demangle(parts[6]), namespace=_demangle(parts[7]), node=_demangle(parts[8]), endpoint=endpoint,
    )  # fmt: skip


def _mangle(name: str) -> str:
    return name.replace("/", "%")


def _demangle(name: str) -> str:
    return name.replace("%", "/")


def qos_text(qos: QoS) -> str:
    """A QoS as in a token: what equals rmw_zenoh's default is left out. Times are infinite, liveliness automatic."""
    reliability = "" if qos.reliable else str(_BEST_EFFORT)
    durability = str(_TRANSIENT_LOCAL) if qos.transient_local else ""
    depth = "" if qos.depth == _DEFAULT_DEPTH else str(qos.depth)
    return f"{reliability}:{durability}:,{depth}:,:,:,,"


def read_qos(text: str) -> QoS:
    """The QoS of a token's last part. Keep all comes back as keep last of the depth that it was written with."""
    parts = text.split(":")
    history = parts[2].split(",") if len(parts) >= 6 else []
    if len(history) < 2:
        raise Rejected("liveliness token with an unknown QoS")
    if not all(field == "" or _is_number(field) for field in (parts[0], parts[1], history[1])):
        raise Rejected("liveliness token with an unknown QoS")
    return QoS(
        reliable=parts[0] in ("", "0", str(_RELIABLE)),
        transient_local=parts[1] == str(_TRANSIENT_LOCAL),
        depth=int(history[1] or _DEFAULT_DEPTH),
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


# --- what goes with each message -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attachment:
    """sequence counts a publisher's messages (or a client's requests) from 1; stamp_ns: when it was sent."""

    sequence: int
    stamp_ns: int
    gid: bytes


def gid(entity_token: str) -> bytes:
    """The 16 bytes that name an endpoint in ROS."""
    return xxhash.xxh3_128_intdigest(entity_token.encode()).to_bytes(_GID_BYTES, "little")


def attachment(sequence: int, stamp_ns: int, sender_gid: bytes) -> bytes:
    """33 bytes."""
    return _ATTACHMENT.pack(sequence, stamp_ns, _GID_BYTES, sender_gid)


def read_attachment(data: bytes) -> Attachment:
    """Raises Rejected for anything but 33 bytes with a gid of 16."""
    if len(data) == _OLD_ATTACHMENT_BYTES and data[1:16] == b"sequence_number":
        raise Rejected("attachment of rmw_zenoh before 0.2.4: its machine wants an update")
    if len(data) != ATTACHMENT_BYTES:
        raise Rejected("attachment of a wrong size")
    sequence, stamp_ns, gid_bytes, sender_gid = _ATTACHMENT.unpack(data)
    if gid_bytes != _GID_BYTES:
        raise Rejected("attachment with a gid of a wrong size")
    return Attachment(sequence, stamp_ns, sender_gid)
