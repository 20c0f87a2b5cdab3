"""The inertial part of EuRoC MAV recordings (Burri et al., IJRR 2016), and their truth.

Some copies of imu0/data.csv went through a spreadsheet, which leaves 15 digits of a 19-digit stamp, or fewer. Such
stamps are found (written as 1.4E+018, or not increasing) and rebuilt at the sensor's rate; it is always said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devices.sensors.recorded.reading import (
    Item,
    floats,
    in_time_order,
    note,
    ns_from_text,
    require_rate,
    short_name,
    text_rows,
)
from devices.sensors.recorded.truth_files import euroc_states, tum_trajectory
from tercel.core.errors import UserError
from tercel.core.messages import Imu

_IMU_FILES = ("mav0/imu0/data.csv", "imu0/data.csv", "data.csv", "imu0_data.csv")
_TRUTH_FILES = ("mav0/state_groundtruth_estimate0/data.csv", "state_groundtruth_estimate0/data.csv")


@dataclass(frozen=True)
class _Clock:
    """How rows get their stamps: as written (period_ns 0), or rebuilt from start_ns in steps of period_ns.

    by_row: step k is the row's number; else the step nearest to its rounded stamp, which keeps gaps.
    """

    start_ns: int
    period_ns: float
    by_row: bool

    def stamp_ns(self, row: int, written_ns: int) -> int:
        if self.period_ns == 0.0:
            return written_ns
        step = row if self.by_row else round((written_ns - self.start_ns) / self.period_ns)
        return self.start_ns + round(step * self.period_ns)


def read_euroc_imu(
    source: Path,
    *,
    stamps: str = "auto",
    rate_hz: float = 200.0,
    start_ns: int = 0,
    truth: str = "",
    problems: list[str] | None = None,
) -> Iterator[Item]:
    """/imu/data of a EuRoC folder (holding mav0/imu0/data.csv) or of a data.csv itself (.gz too), /truth/odometry.

    stamps: "auto" rebuilds rounded stamps as start_ns + k / rate_hz, "keep" and "rebuild" leave no choice. start_ns:
    the first stamp, 0 for what the file says. truth: a trajectory file (EuRoC's states .csv, TUM text); empty: the
    recording's own state_groundtruth_estimate0 or *groundtruth*.txt, if there. Raises UserError without an IMU file.
    """
    problems = [] if problems is None else problems
    if stamps not in ("auto", "keep", "rebuild"):
        raise UserError(f"stamps is {stamps!r}; give auto, keep or rebuild")
    require_rate(rate_hz)
    path = _imu_file(source)
    streams = [_imu_stream(path, _choose_clock(path, stamps, rate_hz, start_ns, problems), problems)]
    truth_path = _truth_file(source, truth)
    if truth_path is not None:
        is_states = ".csv" in truth_path.name.lower()
        streams.append(euroc_states(truth_path, problems) if is_states else tum_trajectory(truth_path, "imu", problems))
    return in_time_order(streams, None, problems)


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, int, str, list[str]]]:
    """(row from 0, stamp, stamp's text, the other words) of the rows of seven columns; others are noted."""
    row = 0
    for number, line in text_rows(path, problems):
        words = line.split(",")
        if not any(word.strip() for word in words):
            continue  # a spreadsheet's empty row
        try:
            if len(words) < 7 or not all(word.strip() for word in words[:7]):
                raise ValueError("not seven columns")
            written_ns = ns_from_text(words[0])
        except ValueError as error:
            note(problems, f"{short_name(path)} line {number}: {error}; skipped")
            continue
        yield row, written_ns, words[0], words[1:]
        row += 1


def _choose_clock(path: Path, stamps: str, rate_hz: float, start_ns: int, problems: list[str]) -> _Clock:
    """Look through the stamps once, without keeping them."""
    first_ns = last_ns = None
    rounded, increasing = False, True
    for _, written_ns, text, _ in _rows(path, []):
        rounded = rounded or "e" in text.lower()
        increasing = increasing and (last_ns is None or written_ns > last_ns)
        first_ns, last_ns = written_ns if first_ns is None else first_ns, written_ns
    if first_ns is None:
        raise UserError(f"{path} has no row of seven numbers; euroc-imu wants EuRoC's imu0/data.csv")
    if stamps == "keep" or (stamps == "auto" and increasing and not rounded):
        return _Clock(first_ns, 0.0, False)
    if stamps == "auto":
        why = "rounded" if increasing else "not increasing"
        note(problems, f"{short_name(path)}: its stamps are {why}; rebuilt at {rate_hz:g} Hz (stamps=keep leaves them)")
    return _Clock(start_ns or first_ns, 1e9 / rate_hz, by_row=not increasing)


def _imu_stream(path: Path, clock: _Clock, problems: list[str]) -> Iterator[Item]:
    for row, written_ns, _, words in _rows(path, problems):
        try:
            values = floats(words, 6)
        except ValueError as error:
            note(problems, f"{short_name(path)} row {row}: {error}; skipped")
            continue
        stamp_ns = clock.stamp_ns(row, written_ns)
        imu = Imu(
            stamp_ns=stamp_ns,
            frame_id="imu",
            angular_velocity_radps=values[:3],
            linear_acceleration_mps2=values[3:],
        )
        yield "/imu/data", stamp_ns, imu


def _imu_file(source: Path) -> Path:
    if source.is_file():
        return source
    for name in _IMU_FILES:
        for path in (source / name, source / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(f"no mav0/imu0/data.csv under {source}; euroc-imu wants the recording's folder or that file")


def _truth_file(source: Path, truth: str) -> Path | None:
    if truth:
        if not Path(truth).is_file():
            raise UserError(f"truth={truth} does not exist; give a trajectory file")
        return Path(truth)
    if not source.is_dir():
        return None
    own = [path for name in _TRUTH_FILES for path in (source / name, source / f"{name}.gz") if path.is_file()]
    return next(iter([*own, *sorted(source.glob("*groundtruth*.txt*"))]), None)
