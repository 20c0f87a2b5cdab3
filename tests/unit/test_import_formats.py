"""What all importers share: options, exact times, time order, errors of layout, determinism."""

from __future__ import annotations

import inspect
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from devices.sensors.recorded import EPOCH_NS, FORMATS
from devices.sensors.recorded.kitti_raw import parse_timestamp
from devices.sensors.recorded.reading import (
    MAX_PROBLEMS,
    Item,
    fixed_transforms,
    in_time_order,
    natural_key,
    note,
    ns_from_seconds,
)
from tercel.core.errors import UserError
from tercel.core.messages import NavSatFix, PointCloud
from tercel.hosts.recording import RecordingWriter, open_recording


def imported(name: str, source: Path, **options: Any) -> Iterator[tuple[str, int, Any]]:
    """The importer's items, with messages of no particular type."""
    return FORMATS[name].read(source, **options)


def fixes(*stamps_ns: int, topic: str = "/gps/fix") -> Iterator[Item]:
    for stamp_ns in stamps_ns:
        fix = NavSatFix(stamp_ns=stamp_ns, frame_id="imu", latitude_deg=0.0, longitude_deg=0.0, altitude_m=0.0)
        yield topic, stamp_ns, fix


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_keyword_of_every_importer_is_documented(name: str) -> None:
    importer = FORMATS[name]
    keywords = set(inspect.signature(importer.read).parameters) - {"source", "problems"}
    assert set(importer.options) == keywords
    assert all(isinstance(option.default, (bool, int, float, str)) for option in importer.options.values())


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_missing_source_is_a_one_line_user_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere") as caught:
        imported(name, tmp_path / "nowhere", problems=[])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"video"}))
def test_an_empty_folder_is_a_user_error_that_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no |wants"):
        imported(name, tmp_path, problems=[])


def test_options_are_parsed_to_the_type_of_their_default() -> None:
    importer = FORMATS["kitti-tracking"]
    parsed = importer.parse_options({"sequence": "0013", "rate_hz": "5", "sweep_times": "true"})
    assert parsed == {"sequence": "0013", "rate_hz": 5.0, "sweep_times": True}
    with pytest.raises(UserError, match="did you mean 'sequence'"):
        importer.parse_options({"sequense": "0"})
    with pytest.raises(UserError, match="a number"):
        importer.parse_options({"rate_hz": "fast"})


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_a_user_error(rate_hz: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rate_hz"):
        imported("images", tmp_path, rate_hz=rate_hz)


@given(st.integers(0, 2**62))
def test_seconds_keep_their_last_nanosecond(stamp_ns: int) -> None:
    assert ns_from_seconds(f"{Decimal(stamp_ns).scaleb(-9):f}") == stamp_ns


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e30", "9e999999", "one"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        ns_from_seconds(text)


def test_kitti_dates_agree_with_numpys_calendar() -> None:
    text = "2011-09-26 13:02:25.964389445"
    assert parse_timestamp(text) == int(np.datetime64(text.replace(" ", "T"), "ns").astype(np.int64))
    assert parse_timestamp("1970-01-01 00:00:01.5") == 1_500_000_000
    for bad in ("2011-13-26 13:02:25", "yesterday", ""):
        with pytest.raises(ValueError, match="time"):
            parse_timestamp(bad)


@given(st.lists(st.lists(st.integers(0, 50), max_size=8), min_size=1, max_size=4))
def test_streams_are_merged_in_time_order_and_late_messages_dropped(stamps: list[list[int]]) -> None:
    problems: list[str] = []
    statics = fixed_transforms([("lidar", "imu", np.eye(4))])
    kept = [s for stream in stamps for i, s in enumerate(stream) if s >= max(stream[:i], default=0)]
    merged = in_time_order([fixes(*stream) for stream in stamps], statics, problems)
    if not any(stamps):
        with pytest.raises(UserError, match="nothing could be read"):
            list(merged)
        return
    (first_topic, first_ns, first), *rest = list(merged)
    assert (first_topic, first_ns, first.stamp_ns) == ("/tf_static", min(kept), min(kept))
    assert [stamp_ns for _, stamp_ns, _ in rest] == sorted(kept)
    assert len(problems) == sum(map(len, stamps)) - len(kept)


def test_a_stamp_that_ros_cannot_say_is_dropped_and_noted() -> None:
    problems: list[str] = []
    kept = list(in_time_order([fixes(-5, 7, 2**31 * 10**9)], None, problems))
    assert [stamp_ns for _, stamp_ns, _ in kept] == [7]
    assert len(problems) == 2


def test_the_list_of_problems_is_bounded() -> None:
    problems: list[str] = []
    for _ in range(MAX_PROBLEMS * 2):
        note(problems, "again")
    assert len(problems) == MAX_PROBLEMS + 1


def test_files_are_in_natural_order() -> None:
    names = ["scan10.ply", "scan9.ply", "scan1.ply", "a.ply"]
    assert [p.name for p in sorted(map(Path, names), key=natural_key)] == [
        "a.ply",
        "scan1.ply",
        "scan9.ply",
        "scan10.ply",
    ]


def test_the_epoch_is_a_fixed_round_number() -> None:
    assert EPOCH_NS == 10**18


def test_the_same_input_gives_the_same_messages(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        np.full((number, 4), number, "<f4").tofile(tmp_path / f"{number}.bin")
    first, second = (list(imported("clouds", tmp_path, problems=[])) for _ in range(2))
    assert [item[:2] for item in first] == [item[:2] for item in second]
    for (_, _, a), (_, _, b) in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.points_m, b.points_m)


def test_a_long_recording_is_never_held_in_memory(tmp_path: Path) -> None:
    for number in range(40):
        np.zeros((50_000, 4), "<f4").tofile(tmp_path / f"{number:06d}.bin")
    tracemalloc.start()
    count = sum(1 for _ in imported("clouds", tmp_path, problems=[]))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 40
    assert peak_bytes < 5 * 800_000  # of 32 MB


def test_what_is_imported_survives_an_mcap_file(tmp_path: Path) -> None:
    for number in range(3):
        np.random.default_rng(number).normal(size=(20, 5)).astype("<f4").tofile(tmp_path / f"{number}.pcd.bin")
    items = list(imported("clouds", tmp_path, problems=[]))
    with RecordingWriter(tmp_path / "out.mcap") as writer:
        for topic, log_time_ns, message in items:
            writer.write(topic, log_time_ns, message)
    recording = open_recording(tmp_path / "out.mcap")
    back = [recording.decode(recorded) for recorded in recording.messages(["/lidar/points"])]
    for (_, _, message), copy in zip(items, back, strict=True):
        assert isinstance(copy, PointCloud)
        assert (copy.stamp_ns, copy.frame_id) == (message.stamp_ns, message.frame_id)
        np.testing.assert_array_equal(copy.points_m, message.points_m)
        np.testing.assert_array_equal(copy.intensity, message.intensity)


def test_the_catalog_names_only_importers_that_exist() -> None:
    catalog = Path(__file__).parents[2] / "datasets" / "catalog.yaml"
    recordings = YAML(typ="safe", pure=True).load(catalog.read_text(encoding="utf-8"))["recordings"]
    names = [recording["name"] for recording in recordings]
    assert len(names) == len(set(names))
    assert {recording["format"] for recording in recordings} <= {*FORMATS, None}
    assert all(set(r) == {"name", "url", "licence", "sha256", "format", "notes"} for r in recordings)
