"""Recordings: MCAP files read by views, and every other bag that rosbags opens (rosbag2 folders, ROS 1 bags).

A recording gives its topics with the suite's message types, and its messages in order of log time. A message that does
not decode raises Rejected when it is decoded, not when it is read, so that the reader's caller can count it and go on.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

import tercel
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import CompressedImage, Image, Message
from tercel.hosts.mcap_file import McapFile
from tercel.hosts.mcap_records import CDR, MAGIC
from tercel.hosts.mcap_writer import Compression, McapWriter
from tercel.ros import convert
from tercel.ros.layouts import decompress


@dataclass(frozen=True)
class Topic:
    """One topic of a recording. message_type is None where the suite has no use for the ROS type."""

    name: str
    ros_type: str
    message_type: type[Message] | None
    count: int


@dataclass(frozen=True)
class Recorded:
    """A message as recorded: not decoded yet."""

    topic: str
    log_time_ns: int
    raw: memoryview | bytes


class Recording(Protocol):
    """What the hosts ask of a recording. Times are log times; `problems` says what is damaged, line by line."""

    path: Path
    topics: dict[str, Topic]
    start_ns: int
    end_ns: int
    problems: list[str]
    rejected: Counter[str]

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """The messages of these topics, in order of log time."""
        ...

    def decode(self, recorded: Recorded, *, images: bool = False) -> Message:
        """Our message. With images, a compressed image is decoded to pixels. Raises Rejected if it cannot be."""
        ...

    def cdr(self, recorded: Recorded) -> memoryview | bytes:
        """The message as a ROS 2 wire carries it. Raises Rejected if it cannot be had."""
        ...


def open_recording(path: Path, *, verify: bool = False) -> Recording:
    """Open an MCAP file, a rosbag2 folder (sqlite3 or MCAP) or file, or a ROS 1 bag.

    verify: check the checksums of an MCAP file's chunks as they are read.

    Raises UserError, in one line, if there is no such file, it is empty, or it is none of these.
    """
    if not path.exists():
        raise UserError(f"no recording at {path}")
    if path.is_dir():
        return BagRecording(path)
    if not path.is_file():
        raise UserError(f"{path} is neither a file nor a folder")
    if path.suffix == ".mcap" or _begins_with(path, MAGIC):
        return McapRecording(path, verify=verify)
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (zero bytes): record or import it again")
    return BagRecording(path)


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(magic)) == magic


class McapRecording:
    """An MCAP file with ROS 2 messages in CDR."""

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        self._file = McapFile.open(path, verify=verify)
        self.start_ns, self.end_ns = self._file.start_ns, self._file.end_ns
        self.problems = self._file.problems
        self.rejected: Counter[str] = Counter()
        self._file_types = get_typestore(Stores.EMPTY)
        self._stores: dict[str, Typestore] = {}
        self._ros_types = self._register_schemas()
        self.topics = self._find_topics()

    def _register_schemas(self) -> dict[int, str]:
        """The ROS type of each schema. A definition that is not ours goes into the file's own type store."""
        names: dict[int, str] = {}
        for schema in self._file.schemas.values():
            if schema.encoding not in ("ros2msg", "ros2idl"):
                self.problems.append(f"schema {schema.name} has encoding {schema.encoding!r}, not ROS 2: skipped")
                continue
            ros_type = schema.name if "/msg/" in schema.name else schema.name.replace("/", "/msg/", 1)
            names[schema.id] = ros_type
            try:
                text = schema.data.decode()
                if text == _our_definition(ros_type):
                    self._stores[ros_type] = convert.STORE  # compiled already: saves 30 ms a file
                    continue
                idl = schema.encoding == "ros2idl"
                types: Any = get_types_from_idl(text) if idl else get_types_from_msg(text, schema.name)
                self._file_types.register({k: v for k, v in types.items() if k not in self._file_types.fielddefs})
                self._stores[ros_type] = self._file_types
            except (TypesysError, UnicodeDecodeError, ValueError) as error:
                del names[schema.id]
                self.problems.append(f"schema {schema.name} does not parse ({error}): skipped")
        return names

    def _find_topics(self) -> dict[str, Topic]:
        by_topic: dict[str, Counter[str]] = {}
        self._channel_types: dict[int, str] = {}
        for channel in self._file.channels.values():
            ros_type = self._ros_types.get(channel.schema_id)
            if ros_type is None or channel.message_encoding != CDR:
                continue
            self._channel_types[channel.id] = ros_type
            by_topic.setdefault(channel.topic, Counter())[ros_type] += self._file.counts.get(channel.id, 0)
        return _topic_table(by_topic, self.rejected)

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """The messages of these topics, in order of log time."""
        channels = {
            channel_id: self._file.channels[channel_id].topic
            for channel_id, ros_type in self._channel_types.items()
            if (name := self._file.channels[channel_id].topic) in topics and self.topics[name].ros_type == ros_type
        }
        for raw in self._file.messages(channels.keys()):
            yield Recorded(channels[raw.channel_id], raw.log_time_ns, raw.data)

    def decode(self, recorded: Recorded, *, images: bool = False) -> Message:
        """See Recording.decode."""
        ros_type = self.topics[recorded.topic].ros_type
        return _decoded(lambda: self._stores[ros_type].deserialize_cdr(recorded.raw, ros_type), ros_type, images)

    def cdr(self, recorded: Recorded) -> memoryview | bytes:
        """See Recording.cdr: as it was recorded."""
        return recorded.raw


class BagRecording:
    """A rosbag2 folder or a ROS 1 bag, by way of rosbags."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self.rejected: Counter[str] = Counter()
        folder = path.parent if path.suffix == ".db3" and (path.parent / "metadata.yaml").exists() else path
        try:
            self._reader = AnyReader([folder], default_typestore=convert.STORE)
            self._reader.open()
        except Exception as error:  # rosbags raises what its parsers and sqlite raise, beside its own error
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"{path} does not open as a bag ({text}): an MCAP, rosbag2 or ROS 1 bag is wanted"
            ) from None
        empty = not self._reader.message_count
        self.start_ns, self.end_ns = (0, 0) if empty else (self._reader.start_time, self._reader.end_time)
        by_topic: dict[str, Counter[str]] = {}
        for connection in self._reader.connections:
            by_topic.setdefault(connection.topic, Counter())[connection.msgtype] += connection.msgcount
        self.topics = _topic_table(by_topic, self.rejected)

    def messages(self, topics: Collection[str]) -> Iterator[Recorded]:
        """The messages of these topics, in order of log time."""
        connections = [
            c for c in self._reader.connections if c.topic in topics and self.topics[c.topic].ros_type == c.msgtype
        ]
        if not connections:
            return
        read, promised = 0, sum(c.msgcount for c in connections)
        reason = ""
        try:
            for connection, log_time_ns, raw in self._reader.messages(connections=connections):
                read += 1
                yield Recorded(connection.topic, log_time_ns, raw)
        except Exception as error:  # a damaged bag ends the recording here, and says so
            reason = f" ({error})"
        problem = f"damaged: {promised - read} of {promised} messages could not be read{reason}"
        if read != promised and problem not in self.problems:
            self.problems.append(problem)

    def decode(self, recorded: Recorded, *, images: bool = False) -> Message:
        """See Recording.decode."""
        ros_type = self.topics[recorded.topic].ros_type
        return _decoded(lambda: self._reader.deserialize(bytes(recorded.raw), ros_type), ros_type, images)

    def cdr(self, recorded: Recorded) -> memoryview | bytes:
        """See Recording.cdr: as it was recorded, or converted from ROS 1."""
        if self._reader.is2:
            return recorded.raw
        topic = self.topics[recorded.topic]
        try:
            return convert.STORE.ros1_to_cdr(recorded.raw, topic.ros_type)
        except Exception:  # generated code: a type of another layout in ROS 1, or a damaged message, can raise anything
            if topic.message_type is None:
                raise Rejected("message does not convert from ROS 1") from None
            return convert.encode(self.decode(recorded))[1]


def _topic_table(by_topic: dict[str, Counter[str]], rejected: Counter[str]) -> dict[str, Topic]:
    """One type for each topic. Where channels disagree the most frequent type stays; the others count as rejected."""
    topics: dict[str, Topic] = {}
    for name, types in sorted(by_topic.items()):
        (ros_type, count), *others = sorted(types.items(), key=lambda item: (-item[1], item[0]))
        topics[name] = Topic(name, ros_type, convert.message_type_of(ros_type), count)
        for other, lost in others:
            rejected[f"{name} also carries {other}"] += lost
    return topics


@lru_cache(maxsize=64)
def _our_definition(ros_type: str) -> str | None:
    """How we would write the definition of a type; None for a type that we do not have."""
    if ros_type not in convert.STORE.fielddefs:
        return None
    return convert.STORE.generate_msgdef(ros_type, ros_version=2)[0]


def _decoded(deserialize: Any, ros_type: str, images: bool) -> Message:
    try:
        ros = deserialize()
    except Exception:  # the decoder is generated code: a damaged message can raise anything
        raise Rejected("message does not decode") from None
    message = convert.from_ros(ros, ros_type)
    return decompress(message) if images and isinstance(message, CompressedImage) else message


def is_compatible(recorded: type[Message] | None, wanted: type[Message]) -> bool:
    """Whether a recorded topic can feed a port: same type, a subtype, or a compressed image for an image."""
    if recorded is None:
        return False
    return issubclass(recorded, wanted) or (recorded is CompressedImage and wanted is Image)


# What rosbag2 reads from a channel's metadata: a latched topic must be offered as transient local to be seen later.
_LATCHED_QOS = """\
- history: 1
  depth: 1
  reliability: 1
  durability: 1
  deadline: {sec: 9223372036, nsec: 854775807}
  lifespan: {sec: 9223372036, nsec: 854775807}
  liveliness: 1
  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}
  avoid_ros_namespace_conventions: false
"""


class RecordingWriter:
    """Writes our messages as an MCAP file that `ros2 bag play` and Foxglove open. A context manager.

    Chunks reach the file as they fill, so that a killed writer leaves all but the last one.
    """

    def __init__(self, path: Path, *, compression: Compression = "zstd", chunk_bytes: int = 1 << 20) -> None:
        self._stream = path.open("wb")
        library = f"tercel {tercel.__version__}"
        self._writer = McapWriter(self._stream, library=library, compression=compression, chunk_bytes=chunk_bytes)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._sequence: Counter[str] = Counter()

    def write(self, topic: str, log_time_ns: int, message: Message) -> None:
        """Add one message. Raises ValueError if the topic has carried another type before."""
        ros_type, data = convert.encode(message)
        self.write_raw(topic, ros_type, log_time_ns, data)

    def write_raw(self, topic: str, ros_type: str, log_time_ns: int, data: bytes | bytearray | memoryview) -> None:
        """Add one message that is CDR bytes already. Raises ValueError as `write` does."""
        channel_id, known = self._channels.get(topic) or self._add_channel(topic, ros_type)
        if known != ros_type:
            raise ValueError(f"{topic} carries {known}, not {ros_type}")
        self._writer.add_message(channel_id, log_time_ns, memoryview(data), sequence=self._sequence[topic])
        self._sequence[topic] += 1

    def _add_channel(self, topic: str, ros_type: str) -> tuple[int, str]:
        if ros_type not in self._schemas:
            definition = (_our_definition(ros_type) or "").encode()
            self._schemas[ros_type] = self._writer.add_schema(ros_type, "ros2msg", definition)
        metadata = {"offered_qos_profiles": _LATCHED_QOS if topic == "/tf_static" else ""}
        channel_id = self._writer.add_channel(topic, CDR, self._schemas[ros_type], metadata)
        self._channels[topic] = (channel_id, ros_type)
        return self._channels[topic]

    def flush(self) -> None:
        """Hand all that was written to the operating system: a kill from now on loses none of it."""
        self._writer.flush()

    def abandon(self) -> None:
        """Close the file without an index, after a write that failed; readers scan what is there."""
        with contextlib.suppress(OSError):
            self._stream.close()

    def close(self) -> None:
        """Write the index and close the file."""
        self._writer.finish()
        self._stream.close()

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
