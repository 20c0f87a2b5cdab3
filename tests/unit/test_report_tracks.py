"""The report and the video of `tercel track`: whole in themselves, safe, bounded, and true to the tracks."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tercel.cli import main
from tercel.report import track_player
from tercel.report.track_charts import bars_of, counts_panel
from tercel.report.track_images import find_images, fit, small_jpeg
from tercel.report.track_player import film, films, image_size
from tercel.report.track_report import write_track_report
from tercel.report.track_video import write_video
from tercel.report.tracking_input import find_sources, load
from tercel.report.tracking_run import TrackOptions, TrackRun, run_tracking
from tercel.report.tracking_steps import Tracked, track
from tracking.screening import Outcome

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "br", "link"}


def detections(folder: Path, *, frames: int = 30, size: bool = True, name: str = "S") -> Path:
    """Two people; the second is hidden in frames 12 to 16, a third thing is seen once."""
    rows = []
    for f in range(1, frames + 1):
        rows.append(f"{f},-1,{50 + 4 * f},100,40,90,0.9")
        if not 12 <= f <= 16:
            rows.append(f"{f},-1,{400 - 3 * f},120,44,95,0.8")
    rows.append("20,-1,300,300,20,20,0.3")
    rows.append("21,-1,300,300,-20,20,0.3")
    (folder / name / "det").mkdir(parents=True)
    (folder / name / "det" / "det.txt").write_text("\n".join(rows) + "\n")
    told = "imWidth=640\nimHeight=480\n" if size else ""
    (folder / name / "seqinfo.ini").write_text(f"[Sequence]\nframeRate=10\nseqLength={frames}\n{told}")
    return folder / name


def pictures(folder: Path, frames: range, size: tuple[int, int] = (320, 240)) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for frame in frames:
        pixels = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), size)
        cv2.imwrite(str(folder / f"{frame:06d}.jpg"), pixels)
    return folder


def tracked(path: Path, **settings: Any) -> Tracked:
    (source,) = find_sources(path)
    return track("tercel", {"min_hits": 3, "max_age_s": 1.0, **settings}, load(source, (), []))


def run(tmp_path: Path, path: Path, **options: Any) -> TrackRun:
    report = tmp_path / "report.html"
    return run_tracking(TrackOptions(path, tmp_path / "out", report=report, **options), [])


def page(tmp_path: Path, done: TrackRun) -> str:
    write_track_report(tmp_path / "report.html", done)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def data_of(html: str, identity: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{identity}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


class Checker(HTMLParser):
    """Every tag is closed, and nothing is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# --- the page


def test_the_page_is_sound_html_and_loads_nothing(tmp_path: Path) -> None:
    html = page(tmp_path, run(tmp_path, detections(tmp_path)))
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert all(address.startswith(("data:", "#")) for address in checker.addresses)
    assert "default-src 'none'" in html


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    path = detections(tmp_path, name=EVIL.replace("/", ""))
    html = page(tmp_path, run(tmp_path, path))
    assert "<img src=x" not in html


def test_the_same_run_gives_the_same_page_but_for_the_wall_time(tmp_path: Path) -> None:
    path = detections(tmp_path)
    pages = [page(tmp_path, _without_wall_time(run(tmp_path, path))) for _ in range(2)]
    assert pages[0] == pages[1]


def _without_wall_time(done: TrackRun) -> TrackRun:
    return replace(done, accounts={name: replace(account, seconds=1.0) for name, account in done.accounts.items()})


def test_the_account_on_the_page_adds_up(tmp_path: Path) -> None:
    done = run(tmp_path, detections(tmp_path))
    html = page(tmp_path, done)
    total = done.total
    assert total.detections == 57
    assert f"Of 57 detections {total.matched}" in html
    assert "no size: 1" in html


def test_every_sequence_has_its_film_and_its_timeline(tmp_path: Path) -> None:
    for name in ("A", "B"):
        detections(tmp_path / "train", name=name)
    html = page(tmp_path, run(tmp_path, tmp_path / "train"))
    assert [content["name"] for content in data_of(html, "films")] == ["A", "B"]
    assert len(data_of(html, "spans")) == html.count('<article class="sequence"') == 2


def test_a_sequence_without_detections_has_a_page_too(tmp_path: Path) -> None:
    path = tmp_path / "S.txt"
    path.write_text("")
    done = run(tmp_path, path, kind="mot", rate_hz=10.0)
    html = page(tmp_path, done)
    assert "not one detection" in html
    assert "no track was confirmed" in html


def test_more_sequences_than_a_page_holds_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tercel.report.track_report.MAX_SEQUENCES", 1)
    for name in ("A", "B"):
        detections(tmp_path / "train", name=name)
    html = page(tmp_path, run(tmp_path, tmp_path / "train"))
    assert "the first 1 of 2 sequences" in html
    assert len(data_of(html, "films")) == 1


# --- the film


def test_a_film_holds_every_box_of_every_frame(tmp_path: Path) -> None:
    done = tracked(detections(tmp_path))
    content = film(done).content
    boxes = unpacked(content["boxes"], "<i2").reshape(-1, 4) / content["scale"]
    assert boxes == pytest.approx(done.tracks.boxes_xyxy_px, abs=0.51 / content["scale"])
    ids = np.array(content["ids"])[unpacked(content["index"], "<u2")]
    assert ids.tolist() == done.tracks.ids.tolist()
    counts = unpacked(content["counts"], "<u2")
    assert np.repeat(unpacked(content["frames"], "<u4"), counts).tolist() == done.tracks.frames.tolist()


def test_what_continued_no_track_is_in_the_film_with_its_reason(tmp_path: Path) -> None:
    done = tracked(detections(tmp_path))
    others = film(done).content["others"]
    kinds = np.array(others["kinds"])[unpacked(others["index"], "u1")].tolist()
    assert sorted(set(kinds)) == ["new", "rejected: no size", "tentative"]
    assert len(kinds) == (done.outcomes != Outcome.MATCHED).sum()


def test_films_that_are_too_large_are_thinned_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run(tmp_path, detections(tmp_path))
    whole = films(list(done.tracked.values()), {})[0]
    monkeypatch.setattr(track_player, "MAX_BYTES", 500)
    (thinned,) = films(list(done.tracked.values()), {})
    assert (whole.every, thinned.every) == (1, 3)
    assert len(unpacked(thinned.content["frames"], "<u4")) == 10
    assert "every third frame is shown" in page(tmp_path, done)


def test_a_film_from_space_has_the_boxes_from_above(tmp_path: Path) -> None:
    rows = [f"{f},2,600,170,660,230,8,1.5,1.6,4,-3,1.7,{15 + 0.1 * f},-1.57,-1.5" for f in range(12)]
    (tmp_path / "0001.txt").write_text("\n".join(rows))
    (source,) = find_sources(tmp_path / "0001.txt")
    done = track("ab3dmot", {}, load(source, (), []))
    above = film(done).content["above"]
    boxes = unpacked(above["boxes"], "<i2").reshape(-1, 5)
    x, y, length, width, yaw = boxes[-1] / [above["scale"], above["scale"], 100.0, 100.0, 1e4]
    assert [x, y, length, width] == pytest.approx([16.1, 3.0, 4.0, 1.6], abs=0.1)
    assert np.cos(yaw) == pytest.approx(1.0, abs=1e-3)
    assert unpacked(above["poses"], "<i2").reshape(-1, 3).tolist() == [[0, 0, 0]] * 12


def test_an_image_of_unknown_size_reaches_as_far_as_the_boxes(tmp_path: Path) -> None:
    assert image_size(tracked(detections(tmp_path / "a"))) == (640, 480)
    width, height = image_size(tracked(detections(tmp_path / "b", size=False)))
    assert 400 <= width <= 445
    assert 210 <= height <= 325


# --- charts


def test_a_bar_pauses_where_its_track_was_not_seen(tmp_path: Path) -> None:
    first, second = bars_of(tracked(detections(tmp_path)))
    assert (first.identity, second.identity) == (1, 2)
    assert first.pale_s == pytest.approx(np.array([[0.0, 0.2]]))
    assert first.seen_s == pytest.approx(np.array([[0.2, 3.0]]))
    assert second.seen_s == pytest.approx(np.array([[0.2, 1.1], [1.6, 3.0]]))
    assert second.words == "track 2, pedestrian: 0.00 s to 3.00 s (3.00 s), seen 25 times, 1 pause, the longest 0.50 s"


def test_the_areas_of_the_chart_stand_on_each_other(tmp_path: Path) -> None:
    panel, axes = counts_panel(tracked(detections(tmp_path)))
    kinds = ("matched", "new", "tentative", "rejected")
    areas = {kind: shape for shape in panel.shapes for kind in kinds if f"area {kind}" in shape}
    assert list(areas) == ["rejected", "new", "tentative", "matched"]  # the highest lies under the others
    tops = {kind: min(float(y) for y in re.findall(r"V([\d.]+)", shape)) for kind, shape in areas.items()}
    unit = axes.height / axes.y_range[1]
    assert (axes.top + axes.height - tops["matched"]) / unit == pytest.approx(2.0, abs=0.01)
    assert (axes.top + axes.height - tops["rejected"]) / unit == pytest.approx(3.0, abs=0.01)


# --- images


def test_images_are_found_in_the_usual_places(tmp_path: Path) -> None:
    pictures(tmp_path / "mot" / "S" / "img1", range(1, 4))
    pictures(tmp_path / "kitti" / "image_02" / "S", range(3))
    pictures(tmp_path / "plain", range(1, 3))
    assert list(find_images(tmp_path / "mot", "S", alone=False)) == [1, 2, 3]
    assert list(find_images(tmp_path / "mot" / "S", "T", alone=True)) == [1, 2, 3]
    assert list(find_images(tmp_path / "kitti", "S", alone=False)) == [0, 1, 2]
    assert list(find_images(tmp_path / "plain", "S", alone=True)) == [1, 2]
    assert find_images(tmp_path / "plain", "S", alone=False) == {}


def test_images_stay_within_their_budget(tmp_path: Path) -> None:
    images = find_images(pictures(tmp_path / "S", range(1, 31)).parent, "S", alone=False)
    each = len(small_jpeg(images[1], 320) or b"")
    width_px, every = fit(images, range(1, 31), 10 * each)
    chosen = list(range(1, 31))[::every]
    assert width_px == 320
    assert 6 <= len(chosen) <= 10
    assert sum(len(small_jpeg(images[frame], width_px) or b"") for frame in chosen) <= 10 * each


def test_a_film_with_images_shows_one_for_each_frame(tmp_path: Path) -> None:
    path = detections(tmp_path)
    pictures(tmp_path / "img" / "S" / "img1", range(1, 31))
    (tmp_path / "img" / "S" / "img1" / "000003.jpg").write_bytes(b"no picture")
    html = page(tmp_path, run(tmp_path, path, images=tmp_path / "img"))
    (content,) = data_of(html, "films")
    assert [image is None for image in content["images"]] == [frame == 2 for frame in range(30)]
    data = base64.b64decode(content["images"][0].removeprefix("data:image/jpeg;base64,"))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (240, 320, 3)


# --- video


@pytest.mark.parametrize("suffix", [".webm", ".mp4"])
@pytest.mark.parametrize("with_images", [True, False])
def test_the_video_can_be_read_back(tmp_path: Path, suffix: str, with_images: bool) -> None:
    path = detections(tmp_path)
    images = {}
    if with_images:
        images = find_images(pictures(tmp_path / "img", range(1, 31), (321, 241)), "S", alone=True)
    write_video(tmp_path / f"film{suffix}", tracked(path), images)
    reader = cv2.VideoCapture(str(tmp_path / f"film{suffix}"))
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
    seen = []
    while (read := reader.read())[0]:
        seen.append(read[1])
    assert len(seen) == 30
    assert seen[0].shape == (480, 640, 3)
    if not with_images:  # the box of the first track, from x 130 to 170, is drawn on the dark ground
        assert seen[19][100:190, 125:135].max() > 100
        assert seen[19][250:290, 400:600].max() < 60
    assert sorted(found.name for found in tmp_path.glob("film*")) == [f"film{suffix}"]


def test_the_command_writes_report_and_video_and_names_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = detections(tmp_path)
    arguments = ["-o", tmp_path / "out", "--report", tmp_path / "r" / "a.html", "--video", tmp_path / "r" / "a.webm"]
    assert main(["track", str(path), *(str(argument) for argument in arguments)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-2:] == [f"html: {tmp_path / 'r' / 'a.html'}", f"webm: {tmp_path / 'r' / 'a.webm'}"]
    assert said.err == ""


def test_a_video_of_several_sequences_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("A", "B"):
        detections(tmp_path / "train", name=name)
    arguments = ["track", str(tmp_path / "train"), "-o", str(tmp_path / "out"), "--video", str(tmp_path / "a.webm")]
    assert main(arguments) == 2
    assert "--sequences A" in capsys.readouterr().err


# --- real recordings


def test_the_page_of_mot15_is_small(shared_data: Path, tmp_path: Path) -> None:
    done = run(tmp_path, shared_data / "mot15", sequences=("TUD-Campus", "TUD-Stadtmitte", "KITTI-17"))
    assert len(page(tmp_path, done)) < 500_000
