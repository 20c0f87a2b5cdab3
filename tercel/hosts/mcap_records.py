"""The records of an MCAP file that the suite reads and writes, as bytes (https://mcap.dev/spec).

A record is an opcode, a length and a body. Strings, byte arrays and maps inside a body are prefixed with their length
in bytes. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"\x89MCAP0\r\n"
RECORD = struct.Struct("<BQ")  # opcode, length of the body
MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; then the data
CHUNK = struct.Struct("<QQQI")  # first and last log time, uncompressed size, its CRC; then compression and records
FOOTER = struct.Struct("<QQI")  # where the summary and its offsets begin, its CRC
FOOTER_BYTES = RECORD.size + FOOTER.size
STATISTICS = struct.Struct("<QHIIIIQQ")  # messages, schemas, channels, attachments, metadata, chunks, first, last time
CHUNK_INDEX = struct.Struct("<QQQQ")  # first and last log time, the chunk's offset and length; then message indexes

CDR = "cdr"


class Opcode(IntEnum):
    """The first byte of a record."""

    HEADER = 0x01
    FOOTER = 0x02
    SCHEMA = 0x03
    CHANNEL = 0x04
    MESSAGE = 0x05
    CHUNK = 0x06
    MESSAGE_INDEX = 0x07
    CHUNK_INDEX = 0x08
    STATISTICS = 0x0B
    SUMMARY_OFFSET = 0x0E
    DATA_END = 0x0F


@dataclass(frozen=True)
class Schema:
    """A message definition. encoding: "ros2msg" or "ros2idl"."""

    id: int
    name: str
    encoding: str
    data: bytes

    def record(self) -> bytes:
        """As it stands in a file."""
        return record(
            Opcode.SCHEMA, struct.pack("<H", self.id), string(self.name), string(self.encoding), blob(self.data)
        )

    @classmethod
    def parse(cls, body: memoryview) -> Schema:
        """Raises ValueError if the body is damaged."""
        fields = Fields(body)
        return cls(fields.u16(), fields.string(), fields.string(), bytes(fields.blob()))


@dataclass(frozen=True)
class Channel:
    """A topic of the file."""

    id: int
    schema_id: int
    topic: str
    message_encoding: str
    metadata: Mapping[str, str]

    def record(self) -> bytes:
        """As it stands in a file."""
        pairs = b"".join(string(key) + string(value) for key, value in self.metadata.items())
        head = struct.pack("<HH", self.id, self.schema_id)
        return record(Opcode.CHANNEL, head, string(self.topic), string(self.message_encoding), blob(pairs))

    @classmethod
    def parse(cls, body: memoryview) -> Channel:
        """Raises ValueError if the body is damaged."""
        fields = Fields(body)
        identity, schema_id, topic, encoding = fields.u16(), fields.u16(), fields.string(), fields.string()
        pairs, metadata = Fields(fields.blob()), {}
        while pairs.left:
            key = pairs.string()
            metadata[key] = pairs.string()
        return cls(identity, schema_id, topic, encoding, metadata)


@dataclass(frozen=True)
class Statistics:
    """What a whole file holds. Times are log times of its messages."""

    message_count: int
    schema_count: int
    channel_count: int
    chunk_count: int
    start_ns: int
    end_ns: int
    counts: Mapping[int, int]

    def record(self) -> bytes:
        """As it stands in a file; attachments and metadata are none."""
        head = STATISTICS.pack(
            self.message_count,
            self.schema_count,
            self.channel_count,
            0,
            0,
            self.chunk_count,
            self.start_ns,
            self.end_ns,
        )
        return record(Opcode.STATISTICS, head, blob(_pairs(self.counts.items())))

    @classmethod
    def parse(cls, body: memoryview) -> Statistics:
        """Raises ValueError if the body is damaged."""
        fields = Fields(body)
        messages, schemas, channels, _, _, chunks, start_ns, end_ns = fields.unpack(STATISTICS)
        return cls(messages, schemas, channels, chunks, start_ns, end_ns, dict(_parse_pairs(fields.blob())))


@dataclass(frozen=True)
class ChunkIndex:
    """Where a chunk lies, and where each channel's message index is."""

    start_ns: int
    end_ns: int
    offset: int
    length: int
    index_offsets: Mapping[int, int]
    index_bytes: int
    compression: str
    compressed_bytes: int
    uncompressed_bytes: int

    def record(self) -> bytes:
        """As it stands in a file."""
        return record(
            Opcode.CHUNK_INDEX,
            CHUNK_INDEX.pack(self.start_ns, self.end_ns, self.offset, self.length),
            blob(_pairs(self.index_offsets.items())),
            struct.pack("<Q", self.index_bytes),
            string(self.compression),
            struct.pack("<QQ", self.compressed_bytes, self.uncompressed_bytes),
        )

    @classmethod
    def parse(cls, body: memoryview) -> ChunkIndex:
        """Raises ValueError if the body is damaged."""
        fields = Fields(body)
        start_ns, end_ns, offset, length = fields.unpack(CHUNK_INDEX)
        offsets = dict(_parse_pairs(fields.blob()))
        return cls(start_ns, end_ns, offset, length, offsets, fields.u64(), fields.string(), fields.u64(), fields.u64())


def record(opcode: Opcode, *parts: bytes | memoryview) -> bytes:
    """A whole record of the parts of its body."""
    return b"".join((RECORD.pack(opcode, sum(len(part) for part in parts)), *parts))


def string(text: str) -> bytes:
    """A string with its length."""
    return blob(text.encode())


def blob(data: bytes) -> bytes:
    """Bytes with their length."""
    return struct.pack("<I", len(data)) + data


def message_index(channel_id: int, entries: Iterable[tuple[int, int]]) -> bytes:
    """The record that says where a channel's messages (log time, offset in the chunk) lie."""
    rows = b"".join(struct.pack("<QQ", log_time_ns, offset) for log_time_ns, offset in entries)
    return record(Opcode.MESSAGE_INDEX, struct.pack("<H", channel_id), blob(rows))


def _pairs(items: Iterable[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack("<HQ", key, value) for key, value in items)


def _parse_pairs(data: memoryview) -> Iterable[tuple[int, int]]:
    if len(data) % 10:
        raise ValueError("a map of numbers is cut off")
    return struct.iter_unpack("<HQ", data)


class Fields:
    """Reads the fields of a record's body in turn. Raises ValueError where the body ends too soon."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._body) - self._at

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """The numbers of a fixed layout."""
        return layout.unpack(self._take(layout.size))

    def u16(self) -> int:
        """A number of two bytes."""
        return int.from_bytes(self._take(2), "little")

    def u64(self) -> int:
        """A number of eight bytes."""
        return int.from_bytes(self._take(8), "little")

    def blob(self) -> memoryview:
        """Bytes that are prefixed with their length."""
        return self._take(int.from_bytes(self._take(4), "little"))

    def string(self) -> str:
        """Text that is prefixed with its length. A UnicodeDecodeError is a ValueError."""
        return bytes(self.blob()).decode()

    def _take(self, count: int) -> memoryview:
        if count > self.left:
            raise ValueError("a record is cut off")
        self._at += count
        return self._body[self._at - count : self._at]
