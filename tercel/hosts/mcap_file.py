"""Reading MCAP without copies: the file is mapped, and messages are views into it or into one decompressed chunk.

A file whose writer was killed has no summary: its whole chunks are found by walking the records, and what follows the
last whole one is reported in `problems`.
"""

from __future__ import annotations

import heapq
import mmap
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tercel.core.errors import UserError
from tercel.hosts.mcap_records import (
    CHUNK,
    FOOTER,
    FOOTER_BYTES,
    MAGIC,
    MESSAGE,
    RECORD,
    Channel,
    ChunkIndex,
    Opcode,
    Schema,
    Statistics,
)

MAX_CHUNK_BYTES = 1 << 30


@dataclass(frozen=True)
class RawMessage:
    """One message as it lies in the file. `data` is CDR, a view that keeps its chunk alive."""

    channel_id: int
    log_time_ns: int
    data: memoryview


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk's records lie, and which channels are in it (None: not known).

    compression is "" for records that lie in the file as they are.
    """

    start_ns: int
    end_ns: int
    compression: str
    uncompressed_bytes: int
    begin: int
    end: int
    crc: int = 0
    channels: frozenset[int] | None = None


@dataclass
class McapFile:
    """An open MCAP file. Raises UserError from `open` if it is not one.

    verify: check each chunk's CRC, and leave a chunk out that fails; it costs one more pass over the bytes.
    """

    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    start_ns: int = 0
    end_ns: int = 0
    problems: list[str] = field(default_factory=list)
    verify: bool = False
    _bytes: memoryview = field(default_factory=lambda: memoryview(b""))
    _chunks: list[_Chunk] = field(default_factory=list)
    _map: mmap.mmap | None = None

    @classmethod
    def open(cls, path: Path, *, verify: bool = False) -> McapFile:
        """Map the file and find its chunks."""
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty (zero bytes): record or import it again")
        with path.open("rb") as stream:
            file_map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            mapped = memoryview(file_map)
            if bytes(mapped[: len(MAGIC)]) != MAGIC:
                raise UserError(f"{path} is not an MCAP file (wrong magic bytes): see 'tercel import --help'")
            file = cls(verify=verify, _bytes=mapped, _map=file_map)
            if not file._read_summary():
                file._scan()
        file._chunks.sort(key=lambda c: (c.start_ns, c.begin))
        return file

    def messages(self, channel_ids: Collection[int]) -> Iterator[RawMessage]:
        """The messages of these channels in order of log time; at equal times, in file order.

        Chunks are opened only when time reaches them, so memory holds those that overlap and no more.
        """
        read = 0
        for message in self._in_order(frozenset(channel_ids)):
            read += 1
            yield message
        promised = sum(self.counts.get(channel_id, 0) for channel_id in channel_ids)
        if read < promised:
            self._note(f"damaged: {promised - read} of {promised} messages could not be read")

    def _in_order(self, wanted: frozenset[int]) -> Iterator[RawMessage]:
        waiting: list[tuple[int, int, int, memoryview]] = []
        for chunk in self._chunks:
            if chunk.channels is not None and not chunk.channels & wanted:
                continue
            self._release_pages()
            while waiting and waiting[0][0] < chunk.start_ns:
                log_time_ns, _, channel_id, data = heapq.heappop(waiting)
                yield RawMessage(channel_id, log_time_ns, data)
            rows = self._messages_of(chunk, wanted)
            if waiting:
                for row in rows:
                    heapq.heappush(waiting, row)
            else:
                waiting = sorted(rows)  # a sorted list is a heap
        for log_time_ns, _, channel_id, data in sorted(waiting):
            yield RawMessage(channel_id, log_time_ns, data)

    def _release_pages(self) -> None:
        """Let the system take back the pages read so far: a view that is still held reads them again if it must."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _messages_of(self, chunk: _Chunk, wanted: frozenset[int]) -> list[tuple[int, int, int, memoryview]]:
        records = self._open_chunk(chunk)
        if records is None:
            return []
        rows = []
        for opcode, begin, end in _walk(records, 0, len(records)):
            if opcode == Opcode.MESSAGE and end - begin >= MESSAGE.size:
                channel_id, _, log_time_ns, _ = MESSAGE.unpack_from(records, begin)
                if channel_id in wanted:
                    rows.append(
                        (log_time_ns, (chunk.begin << 40) + begin, channel_id, records[begin + MESSAGE.size : end])
                    )
        return rows

    def _open_chunk(self, chunk: _Chunk) -> memoryview | None:
        stored = self._bytes[chunk.begin : chunk.end]
        try:
            records = memoryview(_decompress(stored, chunk)) if chunk.compression else stored
            if self.verify and chunk.crc and zlib.crc32(records) != chunk.crc:
                raise ValueError("its checksum is wrong")
        except (RuntimeError, ValueError, MemoryError) as error:
            self._note(f"a chunk at byte {chunk.begin} could not be read ({error})")
            return None
        return records

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def _read_summary(self) -> bool:
        """Take channels, counts and chunks from the summary; False if it is missing or incomplete."""
        at = len(self._bytes) - len(MAGIC) - FOOTER_BYTES
        if at < len(MAGIC) or bytes(self._bytes[-len(MAGIC) :]) != MAGIC:
            return False
        opcode, length = RECORD.unpack_from(self._bytes, at)
        begin, _, _ = FOOTER.unpack_from(self._bytes, at + RECORD.size)
        if opcode != Opcode.FOOTER or length != FOOTER.size or not len(MAGIC) < begin < at:
            return False
        statistics, indexes = None, []
        try:
            for opcode, first, end in _walk(self._bytes, begin, at):
                body = self._bytes[first:end]
                if opcode == Opcode.STATISTICS:
                    statistics = Statistics.parse(body)
                elif opcode == Opcode.CHUNK_INDEX:
                    indexes.append(ChunkIndex.parse(body))
                else:
                    self._note_definition(opcode, body)
        except ValueError:
            return False
        return statistics is not None and bool(self.channels) and self._take_summary(statistics, indexes)

    def _take_summary(self, statistics: Statistics, indexes: list[ChunkIndex]) -> bool:
        if statistics.chunk_count != len(indexes) or (statistics.message_count and not indexes):
            return False
        self.counts = dict(statistics.counts)
        self.start_ns, self.end_ns = statistics.start_ns, statistics.end_ns
        for index in indexes:
            chunk = self._chunk_at(index.offset)
            if chunk is None:
                return False
            self._chunks.append(replace(chunk, channels=frozenset(index.index_offsets) or None))
        return True

    def _chunk_at(self, offset: int) -> _Chunk | None:
        """The chunk whose record begins at offset, or None if there is none whole."""
        if offset < 0 or offset + RECORD.size > len(self._bytes):
            return None
        opcode, length = RECORD.unpack_from(self._bytes, offset)
        begin = offset + RECORD.size
        if opcode != Opcode.CHUNK or begin + length > len(self._bytes) or length < CHUNK.size + 12:
            return None
        start_ns, end_ns, uncompressed_bytes, crc = CHUNK.unpack_from(self._bytes, begin)
        name_at = begin + CHUNK.size
        (name_length,) = struct.unpack_from("<I", self._bytes, name_at)
        records_at = name_at + 4 + name_length
        if name_length > 16 or records_at + 8 > begin + length:
            return None
        compression = bytes(self._bytes[name_at + 4 : records_at]).decode("ascii", "replace")
        (stored_bytes,) = struct.unpack_from("<Q", self._bytes, records_at)
        first = records_at + 8
        if first + stored_bytes > begin + length:
            return None
        return _Chunk(start_ns, end_ns, compression, uncompressed_bytes, first, first + stored_bytes, crc)

    def _scan(self) -> None:
        """Find channels, counts and chunks by reading every record: for files without a summary."""
        self.channels, self.schemas, self.counts, self._chunks = {}, {}, {}, []
        times: list[int] = []
        loose = False
        last = len(MAGIC)
        ended = False
        for opcode, begin, end in _walk(self._bytes, len(MAGIC), len(self._bytes)):
            last = end
            if opcode == Opcode.CHUNK:
                chunk = self._chunk_at(begin - RECORD.size)
                records = None if chunk is None else self._open_chunk(chunk)
                if chunk is not None and records is not None:
                    self._chunks.append(chunk)
                    for inner, inner_begin, inner_end in _walk(records, 0, len(records)):
                        self._note_record(inner, records[inner_begin:inner_end], times)
            elif opcode == Opcode.DATA_END:
                ended = True
                break
            else:
                loose |= opcode == Opcode.MESSAGE
                self._note_record(opcode, self._bytes[begin:end], times)
        if loose:  # written without chunks: the data section is one big one
            self._chunks.append(_Chunk(min(times), max(times), "", last, len(MAGIC), last))
        self.start_ns, self.end_ns = (min(times), max(times)) if times else (0, 0)
        if not ended:
            lost = len(self._bytes) - last
            self.problems.append(f"truncated: {len(self._chunks)} whole chunks read, {lost} bytes after them lost")

    def _note_record(self, opcode: int, body: memoryview, times: list[int]) -> None:
        if opcode == Opcode.MESSAGE and len(body) >= MESSAGE.size:
            channel_id, _, log_time_ns, _ = MESSAGE.unpack_from(body, 0)
            self.counts[channel_id] = self.counts.get(channel_id, 0) + 1
            times[:] = [min(times[0], log_time_ns), max(times[1], log_time_ns)] if times else [log_time_ns] * 2
        else:
            try:
                self._note_definition(opcode, body)
            except ValueError:
                self.problems.append("a damaged channel or schema record was skipped")

    def _note_definition(self, opcode: int, body: memoryview) -> None:
        """Keep a schema or a channel. Raises ValueError if it is damaged."""
        if opcode == Opcode.SCHEMA:
            schema = Schema.parse(body)
            self.schemas[schema.id] = schema
        elif opcode == Opcode.CHANNEL:
            channel = Channel.parse(body)
            self.channels[channel.id] = channel


def _walk(records: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(opcode, begin, end) of each whole record's body; stops before one that runs past the end."""
    while begin + RECORD.size <= end:
        opcode, length = RECORD.unpack_from(records, begin)
        body = begin + RECORD.size
        if body + length > end or opcode == 0:
            return
        yield opcode, body, body + length
        begin = body + length


def _decompress(stored: memoryview, chunk: _Chunk) -> bytes:
    """A chunk's records. The size it claims is checked before memory is taken. Raises ValueError or RuntimeError."""
    if chunk.uncompressed_bytes > MAX_CHUNK_BYTES:
        raise ValueError(f"it claims {chunk.uncompressed_bytes} bytes")
    if chunk.compression == "zstd":
        data = _unzstd(stored, chunk.uncompressed_bytes)
    elif chunk.compression == "lz4":
        import lz4.frame

        decompressor = lz4.frame.LZ4FrameDecompressor()
        data = decompressor.decompress(stored, max_length=chunk.uncompressed_bytes)
    else:
        raise ValueError(f"unknown compression {chunk.compression!r}")
    if len(data) != chunk.uncompressed_bytes:
        raise ValueError("its size is not what it claims")
    return bytes(data) if not isinstance(data, bytes) else data


def _unzstd(stored: memoryview, size_bytes: int) -> bytes:
    from backports import zstd

    try:
        claimed = zstd.get_frame_info(stored).decompressed_size
        if claimed not in (None, size_bytes):
            raise ValueError("its size is not what it claims")
        data: bytes = zstd.ZstdDecompressor().decompress(stored, max_length=size_bytes)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from None
    return data
