"""Writing MCAP files in chunks, with indexes and a summary (https://mcap.dev/spec).

    with path.open("wb") as stream:
        writer = McapWriter(stream, library="tercel 0.1.0")
        schema = writer.add_schema("std_msgs/msg/String", "ros2msg", b"string data")
        channel = writer.add_channel("/chatter", "cdr", schema, {})
        writer.add_message(channel, log_time_ns, data, sequence=0)
        writer.finish()

Byte for byte what the `mcap` package writes with its defaults, which is a test. That package is not needed at run time:
it would bring a second copy of zstd, of 24 MB.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import BinaryIO, Literal

from tercel.hosts.mcap_records import (
    CHUNK,
    FOOTER,
    MAGIC,
    MESSAGE,
    RECORD,
    Channel,
    ChunkIndex,
    Opcode,
    Schema,
    Statistics,
    message_index,
    record,
    string,
)

Compression = Literal["none", "lz4", "zstd"]
MAX_ID = (1 << 16) - 1


class McapWriter:
    """Writes one file. A chunk reaches the stream when it holds more than chunk_bytes: a kill loses only the last."""

    def __init__(
        self,
        stream: BinaryIO,
        *,
        profile: str = "ros2",
        library: str,
        compression: Compression = "zstd",
        chunk_bytes: int = 1 << 20,
    ) -> None:
        self._stream = stream
        self._compression = compression
        self._chunk_bytes = chunk_bytes
        self._schemas: list[Schema] = []
        self._channels: list[Channel] = []
        self._chunks: list[ChunkIndex] = []
        self._counts: Counter[int] = Counter()
        self._start_ns = self._end_ns = 0
        self._offset = 0
        self._records = bytearray()
        self._index: dict[int, list[tuple[int, int]]] = {}
        self._chunk_start_ns = self._chunk_end_ns = 0
        self._write(MAGIC)
        self._write(record(Opcode.HEADER, string(profile), string(library)))

    def add_schema(self, name: str, encoding: str, data: bytes) -> int:
        """Declare a message definition; returns its id."""
        self._schemas.append(Schema(len(self._schemas) + 1, name, encoding, data))
        self._add(self._schemas[-1].record())
        return self._schemas[-1].id

    def add_channel(self, topic: str, message_encoding: str, schema_id: int, metadata: Mapping[str, str]) -> int:
        """Declare a topic; returns its id. Raises ValueError beyond 65,535 of them."""
        if len(self._channels) == MAX_ID:
            raise ValueError(f"an MCAP file holds {MAX_ID} channels")
        self._channels.append(Channel(len(self._channels) + 1, schema_id, topic, message_encoding, dict(metadata)))
        self._add(self._channels[-1].record())
        return self._channels[-1].id

    def add_message(self, channel_id: int, log_time_ns: int, data: bytes | memoryview, *, sequence: int = 0) -> None:
        """Add one message; its publish time is its log time."""
        self._chunk_start_ns = log_time_ns if not self._index else min(self._chunk_start_ns, log_time_ns)
        self._chunk_end_ns = max(self._chunk_end_ns, log_time_ns)
        self._start_ns = log_time_ns if not self._counts else min(self._start_ns, log_time_ns)
        self._end_ns = max(self._end_ns, log_time_ns)
        self._counts[channel_id] += 1
        self._index.setdefault(channel_id, []).append((log_time_ns, len(self._records)))
        self._records += RECORD.pack(Opcode.MESSAGE, MESSAGE.size + len(data))
        self._records += MESSAGE.pack(channel_id, sequence & 0xFFFFFFFF, log_time_ns, log_time_ns)
        self._add(data)

    def flush(self) -> None:
        """End the chunk in progress, and hand all to the operating system."""
        self._end_chunk()
        self._stream.flush()

    def finish(self) -> None:
        """Write the last chunk and the summary. The stream stays open."""
        self._end_chunk()
        self._write(record(Opcode.DATA_END, struct.pack("<I", 0)))
        start, offset_start, summary = self._offset, *self._summary()
        head = RECORD.pack(Opcode.FOOTER, FOOTER.size) + struct.pack("<QQ", start, offset_start)
        self._write(summary)
        self._write(head + struct.pack("<I", zlib.crc32(head, zlib.crc32(summary))))
        self._write(MAGIC)

    def _summary(self) -> tuple[int, bytes]:
        """Where the summary's offsets begin in the file, and the summary, which begins at the present offset."""
        statistics = Statistics(
            self._counts.total(), len(self._schemas), len(self._channels), len(self._chunks),
            self._start_ns, self._end_ns, self._counts,
        )  # fmt: skip
        groups = [
            (Opcode.SCHEMA, [schema.record() for schema in self._schemas]),
            (Opcode.CHANNEL, [channel.record() for channel in self._channels]),
            (Opcode.STATISTICS, [statistics.record()]),
            (Opcode.CHUNK_INDEX, [chunk.record() for chunk in self._chunks]),
            (0x0A, []),  # attachments and metadata: the suite has none, readers expect their groups
            (0x0D, []),
        ]
        summary, offsets = bytearray(), bytearray()
        for opcode, records in groups:
            begin = self._offset + len(summary)
            summary += b"".join(records)
            length = self._offset + len(summary) - begin
            offsets += record(Opcode.SUMMARY_OFFSET, struct.pack("<BQQ", opcode, begin, length))
        return self._offset + len(summary), bytes(summary + offsets)

    # --- the chunk in progress ---

    def _add(self, data: bytes | memoryview) -> None:
        self._records += data
        if len(self._records) > self._chunk_bytes:
            self._end_chunk()

    def _end_chunk(self) -> None:
        """Write the chunk and its message indexes; what holds no message waits for one."""
        if not self._index:
            return
        name = "" if self._compression == "none" else self._compression
        stored = _compress(self._records, self._compression)
        offset, times = self._offset, (self._chunk_start_ns, self._chunk_end_ns)
        head = CHUNK.pack(*times, len(self._records), zlib.crc32(self._records)) + string(name)
        self._write(record(Opcode.CHUNK, head, struct.pack("<Q", len(stored)), stored))
        length, index_begin, index_offsets = self._offset - offset, self._offset, {}
        for channel_id, entries in self._index.items():
            index_offsets[channel_id] = self._offset
            self._write(message_index(channel_id, entries))
        self._chunks.append(
            ChunkIndex(
                *times, offset, length, index_offsets, self._offset - index_begin, name, len(stored), len(self._records)
            )
        )
        self._records, self._index, self._chunk_start_ns, self._chunk_end_ns = bytearray(), {}, 0, 0

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._offset += len(data)


def _compress(records: bytearray, compression: Compression) -> bytes:
    if compression == "zstd":
        from backports import zstd

        return bytes(zstd.compress(records))
    if compression == "lz4":
        import lz4.frame

        return bytes(lz4.frame.compress(bytes(records)))
    return bytes(records)
