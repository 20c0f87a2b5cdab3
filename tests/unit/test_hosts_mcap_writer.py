"""Our MCAP writer against the `mcap` package's: the same calls, the same bytes."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer

from tercel.hosts.mcap_records import Channel, ChunkIndex, Schema, Statistics
from tercel.hosts.mcap_writer import MAX_ID, McapWriter

COMPRESSIONS = {"none": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
MESSAGES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2**63 - 1), st.binary(max_size=300), st.booleans()), max_size=30
)


def theirs(compression: str, chunk_bytes: int, names: list[str], messages: list) -> bytes:
    stream = BytesIO()
    writer = Writer(stream, compression=COMPRESSIONS[compression], chunk_size=chunk_bytes)
    writer.start(profile="ros2", library="tercel test")
    channels = []
    for name in names:
        schema = writer.register_schema(name, "ros2msg", name.encode())
        channels.append(writer.register_channel(f"/{name}", "cdr", schema, {"qos": name, "": ""}))
    for sequence, (channel, log_time_ns, data, flush) in enumerate(messages):
        writer.add_message(channels[channel], log_time_ns, data, log_time_ns, sequence)
        if flush:
            writer.flush()
    writer.finish()
    return stream.getvalue()


def ours(compression: str, chunk_bytes: int, names: list[str], messages: list) -> bytes:
    stream = BytesIO()
    writer = McapWriter(stream, library="tercel test", compression=compression, chunk_bytes=chunk_bytes)
    channels = []
    for name in names:
        schema = writer.add_schema(name, "ros2msg", name.encode())
        channels.append(writer.add_channel(f"/{name}", "cdr", schema, {"qos": name, "": ""}))
    for sequence, (channel, log_time_ns, data, flush) in enumerate(messages):
        writer.add_message(channels[channel], log_time_ns, memoryview(data), sequence=sequence)
        if flush:
            writer.flush()
    writer.finish()
    return stream.getvalue()


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(names=st.lists(TEXT, min_size=3, max_size=3), messages=MESSAGES, chunk_bytes=st.integers(1, 2000))
def test_the_same_calls_give_the_bytes_of_the_mcap_package(
    compression: str, names: list[str], messages: list, chunk_bytes: int
) -> None:
    assert ours(compression, chunk_bytes, names, messages) == theirs(compression, chunk_bytes, names, messages)


def test_a_file_has_room_for_no_more_channels_than_their_ids_can_count() -> None:
    writer = McapWriter(BytesIO(), library="", compression="none")
    for _ in range(MAX_ID):
        writer.add_channel("/t", "cdr", 0, {})
    with pytest.raises(ValueError, match="65535 channels"):
        writer.add_channel("/t", "cdr", 0, {})


RECORDS = [
    Schema(3, "a/msg/B", "ros2msg", b"int32 x\n"),
    Channel(7, 3, "/topic", "cdr", {"offered_qos_profiles": "x", "é": ""}),
    Statistics(5, 1, 2, 3, 10, 20, {7: 4, 8: 1}),
    ChunkIndex(1, 2, 3, 4, {7: 5, 9: 6}, 7, "zstd", 8, 9),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_reads_back_and_a_cut_one_is_refused(record: Schema | Channel | Statistics | ChunkIndex) -> None:
    body = memoryview(record.record())[9:]
    assert type(record).parse(body) == record
    for length in range(len(body)):
        with pytest.raises(ValueError, match=r"cut off|codec"):
            type(record).parse(body[:length])
