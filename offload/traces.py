"""Recorded links: what a link could carry over time, held so that questions are answered in O(log n), and its files.

A trace repeats for ever. Formats, told apart by their content; any of them may be gzipped or a member of a ZIP archive
(`ARCHIVE.zip::MEMBER`, where the end of the member's name is enough):

mahimahi    one line for each opportunity to deliver 1500 bytes, its time in whole ms; repeats after the last stamp, as
            mm-link does (Netravali et al., USENIX ATC 2015). Departure: what is stamped t is carried evenly during the
            ms that ends at t, not at one instant, so that an upload that ends within a burst leaves the rest of it to
            the next. At whole ms both have carried the same.
CSV         a header with time_s and bandwidth_mbps, and if wanted rtt_ms and loss (0..1). A row holds until the next,
            the last as long as the one before it. Time starts at the first row.
UCC 5G      the CSV of G-NetTrack Pro (Raca et al., MMSys 2020): Timestamp (whole seconds), DL_bitrate and UL_bitrate
            in kbit/s, PINGAVG in ms. They were recorded in downloads and streaming, so only DL_bitrate is a direction
            under load; UL_bitrate is acknowledgements. "down" is therefore the usual choice, for an uplink too. Rows of
            one second are averaged; a row holds until the next, but no longer than MAX_HOLD_S, after which nothing is
            carried; a row whose stamp lies before its predecessor's is counted in `skipped` and left out.

Loss on a TCP stream is a lower goodput, min(rate (1 - p), MSS/RTT sqrt(3/2) / sqrt(p)) (Mathis et al., CCR 1997,
equation 3), and a round trip of RTT / (1 - p): what is lost is sent again a round trip later.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import math
import zipfile
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal

from tercel.core.errors import UserError, nearest_hint

Direction = Literal["down", "up"]

MTU_BYTES = 1500
"""Of one opportunity in a mahimahi trace."""
MSS_BYTES = 1460
MAX_FILE_BYTES = 16 << 20
MAX_DURATION_NS = 7 * 24 * 3600 * 10**9
MAX_RATE_BPS = 10**12
MAX_RTT_NS = 60 * 10**9
MAX_HOLD_S = 10

UNITS_PER_BYTE = 8 * 10**9
"""Capacity is counted in bit/s x ns, as whole numbers: sums are exact, and the same on every machine."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What a link carries over one period, which then repeats.

    times_ns: (N+1,) ascending from 0, the last one the period. units: (N+1,) carried from 0 to a time. rates_bps: (N,)
    from a time to the next. rtts_ns: (N,) or (0,) where nothing is known. skipped: rows of the file that could not be
    used.
    """

    times_ns: Sequence[int]
    units: Sequence[int]
    rates_bps: Sequence[int]
    rtts_ns: Sequence[int] = ()
    skipped: int = 0

    @property
    def period_ns(self) -> int:
        """After this it repeats."""
        return self.times_ns[-1]

    def units_until(self, now_ns: int) -> int:
        """What it carries from time 0 to now_ns."""
        loops, inside_ns = divmod(now_ns, self.times_ns[-1])
        i = bisect_right(self.times_ns, inside_ns) - 1
        return loops * self.units[-1] + self.units[i] + self.rates_bps[i] * (inside_ns - self.times_ns[i])

    def reaches_ns(self, units: int) -> int | None:
        """The first instant at which units_until is at least this; None: never."""
        total = self.units[-1]
        if total == 0:
            return None
        loops = (units - 1) // total
        inside = units - loops * total
        i = bisect_left(self.units, inside) - 1
        into_ns = -((self.units[i] - inside) // self.rates_bps[i])
        return loops * self.times_ns[-1] + self.times_ns[i] + into_ns

    def rtt_ns(self, now_ns: int) -> int | None:
        """The round trip as recorded; None where nothing is known."""
        if not self.rtts_ns:
            return None
        return self.rtts_ns[bisect_right(self.times_ns, now_ns % self.times_ns[-1]) - 1]


def steps_trace(
    times_ns: Sequence[int], rates_bps: Sequence[int], rtts_ns: Sequence[int] = (), skipped: int = 0
) -> Trace:
    """A trace of constant pieces: (N+1,) times from 0 to the period, (N,) rates and, if known, (N,) round trips."""
    units = [0]
    for i, rate_bps in enumerate(rates_bps):
        units.append(units[-1] + rate_bps * (times_ns[i + 1] - times_ns[i]))
    return Trace(times_ns, units, rates_bps, rtts_ns, skipped)


def goodput_bps(rate_bps: float, rtt_ns: int, loss: float) -> int:
    """What TCP makes of a rate at a loss of 0..1."""
    if loss >= 1:
        return 0
    kept_bps = rate_bps * (1 - loss)
    if loss > 0 and rtt_ns > 0:
        kept_bps = min(kept_bps, MSS_BYTES * 8 * 1e9 / rtt_ns * math.sqrt(1.5 / loss))
    return round(kept_bps)


def lossy_rtt_ns(rtt_ns: int, loss: float) -> int:
    """The round trip with its repetitions, at most MAX_RTT_NS."""
    return MAX_RTT_NS if loss >= 1 else min(MAX_RTT_NS, round(rtt_ns / (1 - loss)))


# --- files ---------------------------------------------------------------------------------------------------------


def read_trace(
    source: str, *, scale: float = 1.0, direction: Direction | None = None, default_rtt_ns: int = 0
) -> Trace:
    """Read a trace of any format.

    scale: factor on what it carries. direction: of a UCC 5G file (None: down). default_rtt_ns: for the loss model where
    the file has no round trips. Raises UserError for a file that cannot be read or is no trace.
    """
    if not (math.isfinite(scale) and 0 < scale <= 1e4):
        raise UserError(f"scale {scale:g}: a factor above 0 and up to 10000 is wanted")
    text = _text(source)
    first = next((line for line in io.StringIO(text) if line.strip()), "").strip()
    if not first:
        raise UserError(f"{source} is empty; a mahimahi or CSV trace is wanted")
    is_ucc = first.startswith("Timestamp,")
    if direction is not None and not is_ucc:
        raise UserError(f"{source}: leave direction out; only UCC 5G files hold both")
    try:
        if is_ucc:
            trace = _read_ucc(source, io.StringIO(text), scale, direction or "down")
        elif "," in first or not first.lstrip("-").isdigit():
            trace = _read_csv(source, io.StringIO(text.lstrip()), scale, default_rtt_ns)
        else:
            trace = _read_mahimahi(source, io.StringIO(text), scale)
    except csv.Error as error:
        raise UserError(f"{source} is no CSV ({error}); a mahimahi or CSV trace is wanted") from None
    if trace.units[-1] == 0:
        raise UserError(f"{source} carries nothing at all; name another trace")
    return trace


_DAMAGES = (
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    zipfile.BadZipFile,
)


def _text(source: str) -> str:
    """The file's text. Never holds more than MAX_FILE_BYTES, whatever the file says of itself."""
    path, _, member = source.partition("::")
    try:
        with Path(path).open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(b"PK"):
                data = _zip_member(path, file, member)
            elif member:
                raise UserError(f"{path} is no ZIP archive; leave ::{member} out")
            else:
                data = _bounded(source, gzip.GzipFile(fileobj=file) if magic.startswith(b"\x1f\x8b") else file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such trace") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; name a trace in it") from None
    except _DAMAGES as error:
        raise UserError(f"{source} cannot be unpacked ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror or error}; name another file") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{source} is not text; a mahimahi or CSV trace is wanted") from None


def _bounded(source: str, stream: IO[bytes] | gzip.GzipFile) -> bytes:
    data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UserError(f"{source} is larger than {MAX_FILE_BYTES >> 20} MiB; cut it into shorter traces")
    return data


def _zip_member(path: str, file: IO[bytes], member: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and not name.endswith("/")]
        found = [name for name in names if member and (name == member or name.endswith("/" + member))]
        if not found:
            hint = nearest_hint(member, names) if member else f"its first is {names[0] if names else 'none'}"
            raise UserError(f"{path} is an archive of {len(names)} files: write {path}::MEMBER; {hint[:300]}")
        if len(found) > 1 and member not in found:
            raise UserError(f"{path}::{member} could be any of {len(found)}; write more of its name: {found[0]}")
        with archive.open(member if member in found else found[0]) as stream:
            return _bounded(f"{path}::{member}", stream)


def _read_mahimahi(source: str, lines: Iterable[str], scale: float) -> Trace:
    burst_bps = round(MTU_BYTES * 8 * 1000 * scale)
    times_ns, rates_bps, last_ms, at_zero = [0], [], 0, 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            stamp_ms = int(line)
        except ValueError:
            raise UserError(f"{source}:{number}: {line.strip()[:30]!r} is no time in whole ms") from None
        _check_time(source, number, stamp_ms * 10**6)
        if stamp_ms < last_ms:
            raise UserError(f"{source}:{number}: {stamp_ms} ms comes after {last_ms} ms; sort the stamps")
        if stamp_ms == 0:
            at_zero += 1
            continue
        if stamp_ms > last_ms + 1:
            times_ns.append((stamp_ms - 1) * 10**6)
            rates_bps.append(0)
        if stamp_ms > last_ms:
            times_ns.append(stamp_ms * 10**6)
            rates_bps.append(0)
        rates_bps[-1] += burst_bps
        last_ms = stamp_ms
    if last_ms == 0:
        raise UserError(f"{source}: the last stamp is 0, so the trace has no length; the period in ms is wanted there")
    rates_bps[-1] += at_zero * burst_bps  # the last stamp is the next round's 0
    return steps_trace(times_ns, rates_bps)


def _check_time(source: str, number: int, time_ns: int) -> None:
    if not 0 <= time_ns <= MAX_DURATION_NS:
        raise UserError(f"{source}:{number}: a time of 0 to 7 days from the start is wanted")


_COLUMNS = ("time_s", "bandwidth_mbps", "rtt_ms", "loss")


def _read_csv(source: str, lines: Iterable[str], scale: float, default_rtt_ns: int) -> Trace:
    rows = csv.reader(lines)
    header = [name.strip() for name in next(rows)]
    for name in header:
        if name not in _COLUMNS:
            raise UserError(f"{source}: unknown column {name[:40]!r}; {nearest_hint(name, _COLUMNS)}")
    if len(set(header)) < len(header) or not {"time_s", "bandwidth_mbps"} <= set(header):
        raise UserError(f"{source}: the header wants time_s and bandwidth_mbps, and each column once")
    times_ns: list[int] = []
    rates_bps, rtts_ns, began_s = [], [], 0.0
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        values = _numbers(source, number, header, row)
        began_s = values["time_s"] if not times_ns else began_s
        times_ns.append(round((values["time_s"] - began_s) * 1e9))
        _check_time(source, number, times_ns[-1])
        if len(times_ns) > 1 and times_ns[-1] <= times_ns[-2]:
            raise UserError(f"{source}:{number}: time_s does not rise; sort the rows and leave doubles out")
        rtt_ns = round(values["rtt_ms"] * 1e6) if "rtt_ms" in values else default_rtt_ns
        loss = values.get("loss", 0.0)
        rates_bps.append(goodput_bps(values["bandwidth_mbps"] * 1e6 * scale, rtt_ns, loss))
        rtts_ns.append(lossy_rtt_ns(rtt_ns, loss))
    if not times_ns:
        raise UserError(f"{source} has a header and no rows")
    last_ns = times_ns[-1] - times_ns[-2] if len(times_ns) > 1 else 10**9
    times_ns.append(times_ns[-1] + last_ns)
    return steps_trace(times_ns, rates_bps, rtts_ns if {"rtt_ms", "loss"} & set(header) else ())


_LIMITS = {"bandwidth_mbps": MAX_RATE_BPS / 1e6, "rtt_ms": MAX_RTT_NS / 1e6, "loss": 1.0, "time_s": 1e11}


def _numbers(source: str, number: int, header: Sequence[str], row: Sequence[str]) -> dict[str, float]:
    if len(row) != len(header):
        raise UserError(f"{source}:{number}: {len(row)} columns, the header has {len(header)}")
    values = {}
    for name, text in zip(header, row, strict=True):
        try:
            values[name] = float(text)
        except ValueError:
            raise UserError(f"{source}:{number}: {name} {text[:30]!r} is no number") from None
        if not 0 <= values[name] <= _LIMITS[name]:
            raise UserError(f"{source}:{number}: {name} {text[:30]} must be in 0..{_LIMITS[name]:g}")
    return values


def _read_ucc(source: str, lines: Iterable[str], scale: float, direction: Direction) -> Trace:
    rows = csv.DictReader(lines)
    column = {"down": "DL_bitrate", "up": "UL_bitrate"}[direction]
    seconds: dict[int, list[float]] = {}
    pings_ns: dict[int, int] = {}
    began, second, skipped = None, -1, 0
    for row in rows:
        try:
            stamp = datetime.strptime(row["Timestamp"], "%Y.%m.%d_%H.%M.%S")
            began = began or stamp
            row_second = round((stamp - began).total_seconds())
            rate_bps = float(row[column]) * 1e3 * scale
        except (KeyError, TypeError, ValueError):
            skipped += 1
            continue
        if row_second < second or not 0 <= rate_bps <= MAX_RATE_BPS or row_second * 10**9 > MAX_DURATION_NS:
            skipped += 1
            continue
        second = row_second
        seconds.setdefault(second, []).append(rate_bps)
        ping = row.get("PINGAVG") or ""
        if ping.replace(".", "", 1).isdigit():
            pings_ns[second] = min(MAX_RTT_NS, round(float(ping) * 1e6))
    if not seconds or skipped > len(seconds):
        raise UserError(f"{source}: {skipped} rows without Timestamp and {column}; is this a UCC 5G file?")
    return _trace_of_seconds(seconds, pings_ns, skipped)


def _trace_of_seconds(seconds: dict[int, list[float]], pings_ns: dict[int, int], skipped: int) -> Trace:
    times_ns, rates_bps, rtts_ns = [], [], []
    rtt_ns = next(iter(pings_ns.values()), 0)
    stamps = [*seconds, max(seconds) + 1]
    for second, following in pairwise(stamps):
        rtt_ns = pings_ns.get(second, rtt_ns)
        pieces = [(second, sum(seconds[second]) / len(seconds[second]))]
        if following - second > MAX_HOLD_S:
            pieces.append((second + MAX_HOLD_S, 0.0))
        for start, rate_bps in pieces:
            times_ns.append(start * 10**9)
            rates_bps.append(round(rate_bps))
            rtts_ns.append(rtt_ns)
    times_ns.append(stamps[-1] * 10**9)
    return steps_trace(times_ns, rates_bps, rtts_ns if pings_ns else (), skipped)


# --- statistics ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TraceStatistics:
    """duration_s; mean_mbps; below_1mbps: share of its whole seconds that carried less; outage_s: the longest time with
    nothing carried.
    """

    duration_s: float
    mean_mbps: float
    below_1mbps: float
    outage_s: float


def trace_statistics(trace: Trace) -> TraceStatistics:
    """What kind of link this is, over one period."""
    period_s = trace.period_ns / 1e9
    seconds = [trace.units_until(second * 10**9) for second in range(int(period_s) + 1)]
    slow = sum(later - earlier < 10**6 * 10**9 for earlier, later in pairwise(seconds))
    return TraceStatistics(
        duration_s=period_s,
        mean_mbps=trace.units[-1] / trace.period_ns / 1e6,
        below_1mbps=slow / max(1, len(seconds) - 1),
        outage_s=max(_silences_ns(trace)) / 1e9,
    )


def _silences_ns(trace: Trace) -> Iterable[int]:
    """Lengths of all stretches in which nothing is carried; 0 first."""
    yield 0
    silent_ns = 0
    for i, rate_bps in enumerate(trace.rates_bps):
        silent_ns = 0 if rate_bps > 0 else silent_ns + trace.times_ns[i + 1] - trace.times_ns[i]
        yield silent_ns
