from __future__ import annotations

import bisect
import csv
import gzip
import io
import random
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.link import TraceLink, load_link
from offload.traces import MAX_FILE_BYTES, read_trace, trace_statistics
from tercel.core.errors import UserError

S = 10**9
MS = 10**6
UCC = "5g_ucc/5G-production-dataset.zip"


def trace_file(folder: Path, content: str | bytes, name: str = "trace") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def nth_opportunity_ms(stamps_ms: list[int], now_ms: int, count: int) -> int:
    """The oracle: mm-link's own walk. The count-th opportunity after now_ms; the file begins anew at its last stamp."""
    loops, inside_ms = divmod(now_ms, stamps_ms[-1])
    at = bisect.bisect_right(stamps_ms, inside_ms)
    base_ms = loops * stamps_ms[-1]
    while True:
        if at == len(stamps_ms):
            at, base_ms = 0, base_ms + stamps_ms[-1]
        count -= 1
        if count == 0:
            return base_ms + stamps_ms[at]
        at += 1


# --- mahimahi ------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30).map(sorted),
    st.integers(0, 150),
    st.integers(1, 60),
)
@settings(deadline=None)
def test_whole_packets_leave_at_the_opportunities_that_mm_link_gives(
    tmp_path_factory: pytest.TempPathFactory, stamps_ms: list[int], now_ms: int, packets: int
) -> None:
    if stamps_ms[-1] == 0:
        return
    path = trace_file(tmp_path_factory.mktemp("mahimahi"), "".join(f"{stamp}\n" for stamp in stamps_ms))
    sent_ns = TraceLink(read_trace(path)).sent_ns(now_ms * MS, 1500 * packets)
    assert sent_ns is not None
    late_ms = nth_opportunity_ms(stamps_ms, now_ms, packets)
    assert late_ms - 1 < sent_ns / MS <= late_ms
    last_of_its_ms = nth_opportunity_ms(stamps_ms, now_ms, packets + 1) > late_ms
    assert not last_of_its_ms or sent_ns == late_ms * MS


@pytest.mark.parametrize("name", ["ATT-LTE-driving.up.gz", "TMobile-LTE-short.up.gz", "Verizon-LTE-short.down.gz"])
def test_a_real_drive_carries_what_its_lines_say(shared_data: Path, name: str) -> None:
    path = shared_data / "net_traces/lte_mahimahi" / name
    stamps_ms = [int(line) for line in gzip.decompress(path.read_bytes()).split()]
    link = TraceLink(read_trace(str(path)))
    generator = random.Random(3)  # noqa: S311
    for _ in range(300):
        now_ms, packets = generator.randrange(3 * stamps_ms[-1]), generator.randint(1, 40)
        late_ms = nth_opportunity_ms(stamps_ms, now_ms, packets)
        sent_ns = link.sent_ns(now_ms * MS, 1500 * packets)
        assert sent_ns is not None
        assert late_ms - 1 < sent_ns / MS <= late_ms
    counted = sum(10_000 < stamp_ms <= 60_000 for stamp_ms in stamps_ms)
    assert link.capacity_bytes(10_000 * MS, 60_000 * MS) == 1500 * counted


def test_a_file_of_one_line_is_a_fixed_rate(tmp_path: Path) -> None:
    statistics = trace_statistics(read_trace(trace_file(tmp_path, "1\n")))
    assert (statistics.mean_mbps, statistics.outage_s) == (12.0, 0.0)
    link = load_link({"trace": trace_file(tmp_path, "1"), "scale": 0.5, "rtt_ms": 20})
    assert (link.sent_ns(3 * S, 75_000), link.rtt_ns(0)) == (3 * S + 100 * MS, 20 * MS)


REAL_STATISTICS = {
    # mean Mbit/s, share of seconds below 1 Mbit/s, longest outage in s: counted with awk
    "ATT-LTE-driving.down.gz": (5.173, 0.076, 1.514),
    "ATT-LTE-driving.up.gz": (0.834, 0.435, 78.318),
    "TMobile-LTE-driving.down.gz": (12.770, 0.013, 1.057),
    "TMobile-LTE-short.down.gz": (16.703, 0.0, 0.916),
    "TMobile-LTE-short.up.gz": (13.318, 0.007, 0.723),
    "Verizon-EVDO-driving.down.gz": (0.521, 0.861, 11.566),
    "Verizon-EVDO-driving.up.gz": (0.843, 0.617, 11.197),
    "Verizon-LTE-short.down.gz": (5.028, 0.05, 1.446),
    "Verizon-LTE-short.up.gz": (5.946, 0.043, 1.717),
}


def test_all_real_mahimahi_drives_have_their_known_statistics(shared_data: Path) -> None:
    folder = shared_data / "net_traces/lte_mahimahi"
    assert {path.name for path in folder.glob("*.gz")} == set(REAL_STATISTICS)
    for name, (mean_mbps, below_1mbps, outage_s) in REAL_STATISTICS.items():
        statistics = trace_statistics(read_trace(str(folder / name)))
        assert statistics.mean_mbps == pytest.approx(mean_mbps, abs=6e-4), name
        assert statistics.below_1mbps == pytest.approx(below_1mbps, abs=2e-3), name
        assert statistics.outage_s == pytest.approx(outage_s, abs=1e-6), name


# --- CSV -----------------------------------------------------------------------------------------------------------


def test_a_csv_row_holds_until_the_next_and_the_last_as_long_as_the_one_before(tmp_path: Path) -> None:
    path = trace_file(tmp_path, "time_s,bandwidth_mbps,rtt_ms\n100,8,20\n101,0,300\n103.5,16,30\n\n")
    trace = read_trace(path)
    assert trace.times_ns == [0, S, 3_500_000_000, 6 * S]
    link = TraceLink(trace)
    assert [link.rtt_ns(round(at_s * S)) // MS for at_s in (0, 0.99, 1, 3.4, 3.5, 5.99, 6, 7)] == [
        20, 20, 300, 300, 30, 30, 20, 300
    ]  # fmt: skip
    assert link.sent_ns(S // 2, 500_001) == 3_500_000_000 + 500
    assert trace_statistics(trace).outage_s == 2.5


def test_columns_may_stand_in_any_order_and_loss_lowers_the_rate(tmp_path: Path) -> None:
    path = trace_file(tmp_path, "loss, time_s, bandwidth_mbps\n0,0,8\n0.5,1,8\n1,2,8\n")
    link = load_link({"trace": path, "rtt_ms": 0})
    assert [link.capacity_bytes(k * S, (k + 1) * S) for k in range(3)] == [1_000_000, 500_000, 0]


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path: Path) -> None:
    path = trace_file(tmp_path, b"\xef\xbb\xbftime_s,bandwidth_mbps\r\n0,8\r\n1,4\r\n")
    assert trace_statistics(read_trace(path)).mean_mbps == 6


# --- UCC 5G --------------------------------------------------------------------------------------------------------


def test_all_real_5g_drives_are_read_and_carry_the_mean_of_their_seconds(shared_data: Path) -> None:
    archive = shared_data / "net_traces" / UCC
    with zipfile.ZipFile(archive) as members:
        names = [name for name in members.namelist() if name.endswith(".csv") and "MACOSX" not in name]
        rows = {name: list(csv.DictReader(io.StringIO(members.read(name).decode()))) for name in names[::6]}
    assert len(names) == 83
    for name, table in rows.items():
        seconds: dict[str, list[float]] = defaultdict(list)
        for row in table:
            seconds[row["Timestamp"]].append(float(row["DL_bitrate"]))
        means = [sum(rates) / len(rates) for rates in seconds.values()]
        trace = read_trace(f"{archive}::{name}")
        assert trace.skipped == 0
        statistics = trace_statistics(trace)
        assert len(means) <= statistics.duration_s <= 1.6 * len(means)  # some seconds have no row
        assert statistics.mean_mbps == pytest.approx(sum(means) / len(means) / 1e3, rel=0.1)


def test_a_real_5g_drive_has_recorded_round_trips_and_two_directions(shared_data: Path) -> None:
    source = f"{shared_data / 'net_traces' / UCC}::B_2020.02.13_13.03.24.csv"
    down, up = read_trace(source), read_trace(source, direction="up")
    assert trace_statistics(down).mean_mbps == pytest.approx(7.52, abs=0.01)
    assert trace_statistics(up).mean_mbps < 0.1  # acknowledgements
    link = load_link({"trace": source})
    assert {73 * MS, 335 * MS} <= {link.rtt_ns(second * S) for second in range(2668)}
    assert load_link({"trace": source, "rtt_ms": 40}).rtt_ns(0) == 40 * MS


def test_a_row_from_the_past_is_counted_and_left_out(shared_data: Path) -> None:
    source = f"{shared_data / 'net_traces' / UCC}::Netflix/Driving/Season3-StrangerThings/B_2019.11.27_07.29.47.csv"
    trace = read_trace(source)
    assert trace.skipped > 0
    assert list(trace.times_ns) == sorted(set(trace.times_ns))


def test_a_silent_recorder_is_an_outage_after_ten_seconds(tmp_path: Path) -> None:
    rows = ["Timestamp,DL_bitrate,UL_bitrate,PINGAVG", "2020.01.01_00.00.00,8000,80,-", "2020.01.01_00.00.00,4000,80,"]
    rows += ["2020.01.01_00.01.00,1000,80,55", "bad,1,1,-", "2020.01.01_00.01.01,x,1,-"]
    trace = read_trace(trace_file(tmp_path, "\n".join(rows)))
    assert trace.times_ns == [0, 10 * S, 60 * S, 61 * S]
    assert trace.rates_bps == [6_000_000, 0, 1_000_000]
    assert trace.rtts_ns == [55 * MS] * 3
    assert trace.skipped == 2


# --- archives, and what is no trace --------------------------------------------------------------------------------


def test_a_member_is_named_by_its_end(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("drives/one.csv", "time_s,bandwidth_mbps\n0,1\n")
        archive.writestr("drives/two.csv", "time_s,bandwidth_mbps\n0,2\n")
        archive.writestr("other/two.csv", "time_s,bandwidth_mbps\n0,3\n")
        archive.writestr("__MACOSX/drives/._one.csv", b"\x00\xff")
    path = str(tmp_path / "a.zip")
    assert trace_statistics(read_trace(f"{path}::one.csv")).mean_mbps == 1
    assert trace_statistics(read_trace(f"{path}::drives/two.csv")).mean_mbps == 2
    for source, words in (("", "archive of 3 files"), ("::two.csv", "any of 2"), ("::onee.csv", "one.csv")):
        with pytest.raises(UserError, match=words):
            read_trace(path + source)


def gzip_bomb() -> bytes:
    return gzip.compress(b"1\n" * MAX_FILE_BYTES)


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"1\n" * MAX_FILE_BYTES)
    return buffer.getvalue()


HEADER = "time_s,bandwidth_mbps"
BAD_TRACES = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", "is empty"),
    "no length": ("0\n0\n", "has no length"),
    "unsorted stamps": ("1\n5\n4\n", ":3: 4 ms comes after 5 ms"),
    "negative stamp": ("-1\n5\n", ":1: a time of 0 to 7 days"),
    "stamps of an epoch": ("1600000000000\n", ":1: a time of 0 to 7 days"),
    "huge stamp": (f"1\n{'9' * 4000}\n", ":2: a time of 0 to 7 days"),
    "a word among stamps": ("1\ntwo\n", ":2: 'two' is no time"),
    "a fraction": ("1\n2.5\n", ":2: '2.5' is no time"),
    "not text": (b"\xff\xfe\x00\x01", "is not text"),
    "prose": ("hello\n", "unknown column 'hello'"),
    "mistyped column": ("time_s,bandwith_mbps\n0,1\n", "did you mean 'bandwidth_mbps'"),
    "column missing": ("time_s,rtt_ms\n0,1\n", "wants time_s and bandwidth_mbps"),
    "column twice": ("time_s,bandwidth_mbps,time_s\n0,1,0\n", "each column once"),
    "no rows": (HEADER + "\n", "no rows"),
    "row too short": (HEADER + "\n0\n", ":2: 1 columns"),
    "NaN": (HEADER + "\n0,nan\n", ":2: bandwidth_mbps nan must be in"),
    "infinite": (HEADER + "\n0,inf\n", ":2: bandwidth_mbps inf must be in"),
    "negative": (HEADER + "\n0,-1\n", ":2: bandwidth_mbps -1 must be in"),
    "no number": (HEADER + "\n0,1\n1,fast\n", ":3: bandwidth_mbps 'fast' is no number"),
    "time stands still": (HEADER + "\n0,1\n0,2\n", ":3: time_s does not rise"),
    "time goes back": (HEADER + "\n5,1\n4,2\n", ":3: a time of 0 to 7 days"),
    "loss above 1": (HEADER + ",loss\n0,1,2\n", ":2: loss 2 must be in"),
    "a field without end": (HEADER + '\n0,"' + "1" * 200_000, "is no CSV"),
    "carries nothing": (HEADER + "\n0,0\n1,0\n", "carries nothing"),
    "UCC without rates": ("Timestamp,Longitude\n2020.01.01_00.00.00,5\n", "is this a UCC 5G file"),
    "gzip bomb": (gzip_bomb, "is larger than 16 MiB"),
    "zip bomb": (zip_bomb, "is larger than 16 MiB"),
    "large": (lambda: b"1\n" * MAX_FILE_BYTES, "is larger than 16 MiB"),
    "gzip cut short": (lambda: gzip.compress(b"1\n2\n" * 1000)[:-9], "cannot be unpacked"),
    "gzip damaged": (lambda: gzip.compress(b"1\n2\n")[:12] + b"\xff" * 20, "cannot be unpacked"),
    "zip cut short": (b"PK\x03\x04" + b"\x00" * 60, "cannot be unpacked"),
}


@pytest.mark.parametrize("name", BAD_TRACES)
def test_a_bad_trace_is_one_line_with_the_mend(tmp_path: Path, name: str) -> None:
    content, words = BAD_TRACES[name]
    source = trace_file(tmp_path, content() if callable(content) else content)
    with pytest.raises(UserError) as raised:
        read_trace(source + "::bomb" if name == "zip bomb" else source)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_other_mistakes_with_files_are_one_line_too(tmp_path: Path) -> None:
    fine = trace_file(tmp_path, "1\n2\n")
    for source, words in (
        (str(tmp_path / "none"), "no such trace"),
        (str(tmp_path), "is a folder"),
        (fine + "::x", "is no ZIP archive"),
        ("a\0b", "cannot be unpacked"),
    ):
        with pytest.raises(UserError, match=words):
            read_trace(source)
    with pytest.raises(UserError, match="leave direction out"):
        read_trace(fine, direction="up")
    with pytest.raises(UserError, match="factor above 0"):
        read_trace(fine, scale=float("nan"))


@given(st.binary(max_size=300) | st.text(alphabet='0123456789,.-naif\n\r" time_sbandwidth_mbps', max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_trace_or_a_users_mistake(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    source = trace_file(tmp_path_factory.mktemp("any"), content)
    try:
        trace = read_trace(source)
    except UserError:
        return
    assert trace.units[-1] > 0
    assert trace.period_ns > 0
