"""`tercel detect`: images of every kind in, pictures, COCO JSON and a page out, and a word about each that failed."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from perception.coco import COCO_CLASSES
from tercel.cli import main

ROOM = "000000000139.jpg"


@pytest.fixture
def model(shared_data: Path) -> Path:
    return shared_data / "models" / "fastestdet_352.onnx"


@pytest.fixture
def photographs(shared_data: Path, tmp_path: Path) -> Path:
    """Four real images."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for path in sorted((shared_data / "img_coco256" / "images" / "val2017").glob("*.jpg"))[:4]:
        shutil.copy(path, folder)
    return folder


def detect(tmp_path: Path, *words: object, code: int = 0) -> dict[str, Any]:
    """Run the command; its detections.json."""
    out = tmp_path / "out"
    assert main(["detect", *map(str, words), "--out", str(out), "--json", str(tmp_path / "numbers.json")]) == code
    if code == 2:
        return {}
    document: dict[str, Any] = json.loads((out / "detections.json").read_text())
    return document


def numbers(tmp_path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((tmp_path / "numbers.json").read_text())
    return summary


def test_boxes_pictures_and_page_of_a_folder(
    model: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = detect(tmp_path, model, photographs)
    summary = numbers(tmp_path)
    assert [image["file_name"] for image in document["images"]] == sorted(path.name for path in photographs.iterdir())
    assert summary["boxes"] == len(document["annotations"]) == sum(summary["classes"].values()) > 0
    for image in document["images"]:
        pixels = cv2.imread(str(photographs / image["file_name"]))
        assert (image["height"], image["width"]) == pixels.shape[:2]
        drawn = cv2.imread(str(tmp_path / "out" / "images" / f"{image['file_name']}.jpg"))
        assert drawn.shape == pixels.shape
        found = [row for row in document["annotations"] if row["image_id"] == image["id"]]
        assert (np.abs(drawn.astype(int) - pixels) > 60).any() == bool(found)
        for row in found:
            x, y, width, height = row["bbox"]
            assert x >= 0
            assert y >= 0
            assert x + width <= image["width"] + 1e-3
            assert y + height <= image["height"] + 1e-3
            assert 0.3 <= row["score"] <= 1.0
    page = (tmp_path / "out" / "detections.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert page.count('class="box flat"') == summary["boxes"]
    assert "http" not in page.replace("http-equiv", "")
    said = capsys.readouterr().out
    assert f"4 images, {len({row['image_id'] for row in document['annotations']})} with boxes" in said
    assert "ms an image (median)" in said


def test_the_json_is_one_that_pycocotools_reads(model: Path, photographs: Path, tmp_path: Path) -> None:
    document = detect(tmp_path, model, photographs / ROOM)
    coco = COCO(str(tmp_path / "out" / "detections.json"))
    assert len(coco.loadRes(document["annotations"]).anns) == len(document["annotations"])
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert tuple(names.values()) == COCO_CLASSES
    assert names[1] == "person"
    assert names[90] == "toothbrush"
    assert "chair" in {names[row["category_id"]] for row in document["annotations"]}


def test_score_and_classes_choose(model: Path, photographs: Path, tmp_path: Path) -> None:
    many = detect(tmp_path, model, photographs, "--score", "0.1")["annotations"]
    people = detect(tmp_path, model, photographs, "--score", "0.1", "--classes", "person")["annotations"]
    assert 0 < len(people) < len(many)
    assert {row["category_id"] for row in people} == {1}
    assert len(detect(tmp_path, model, photographs, "--score", "0.6")["annotations"]) < len(many)


def test_the_same_images_give_the_same_bytes(model: Path, photographs: Path, tmp_path: Path) -> None:
    files = []
    for run in ("1", "2"):
        detect(tmp_path, model, photographs)
        files.append((tmp_path / "out" / "detections.json").read_bytes())
        shutil.move(tmp_path / "out", tmp_path / run)
    assert files[0] == files[1]


def test_images_of_every_kind_are_seen_alike(model: Path, photographs: Path, tmp_path: Path) -> None:
    pixels = cv2.imread(str(photographs / ROOM))
    kinds = tmp_path / "kinds"
    kinds.mkdir()
    variants = {
        "plain": pixels,
        "sixteen": pixels.astype(np.uint16) << 8 | 0x80,
        "alpha": np.dstack([pixels, np.full(pixels.shape[:2], 99, np.uint8)]),
    }
    for name, variant in variants.items():
        cv2.imwrite(str(kinds / f"{name}.png"), variant)
    cv2.imwrite(str(kinds / "grey.png"), cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY))
    document = detect(tmp_path, model, kinds)
    boxes = {
        image["file_name"]: [row["bbox"] for row in document["annotations"] if row["image_id"] == image["id"]]
        for image in document["images"]
    }
    assert boxes["plain.png"] == boxes["sixteen.png"] == boxes["alpha.png"] != []
    assert boxes["grey.png"] != []


def turned(path: Path, target: Path) -> None:
    """The image lying on its side, with the EXIF orientation that sets it upright (6: turn clockwise)."""
    lying = cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_90_COUNTERCLOCKWISE)
    data = bytes(cv2.imencode(".jpg", lying, [cv2.IMWRITE_JPEG_QUALITY, 98])[1])
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHHI", 0x0112, 3, 1, 6, 0, 0)
    target.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])


def test_boxes_of_a_turned_photograph_are_those_of_the_upright_one(
    model: Path, photographs: Path, tmp_path: Path
) -> None:
    turned(photographs / ROOM, tmp_path / "turned.jpg")
    upright = detect(tmp_path, model, photographs / ROOM)
    set_right = detect(tmp_path, model, tmp_path / "turned.jpg")
    assert [set_right["images"][0][side] for side in ("width", "height")] == [
        upright["images"][0][side] for side in ("width", "height")
    ]
    first = [max(document["annotations"], key=lambda row: row["score"]) for document in (upright, set_right)]
    assert first[0]["category_id"] == first[1]["category_id"]
    np.testing.assert_allclose(first[0]["bbox"], first[1]["bbox"], atol=8)


def test_the_smallest_and_a_huge_image_are_no_trouble(model: Path, photographs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sizes"
    folder.mkdir()
    cv2.imwrite(str(folder / "one.png"), np.full((1, 1, 3), 9, np.uint8))
    large = cv2.resize(cv2.imread(str(photographs / ROOM)), (7680, 4320), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(folder / "large.jpg"), large)
    document = detect(tmp_path, model, folder)
    assert [(image["width"], image["height"]) for image in document["images"]] == [(7680, 4320), (1, 1)]
    assert (tmp_path / "out" / "detections.html").stat().st_size < 1_000_000
    large_boxes = [row["bbox"] for row in document["annotations"] if row["image_id"] == 1]
    assert max(box[0] + box[2] for box in large_boxes) > 4000


def test_files_that_are_no_images_are_counted_and_named(
    model: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "a.jpg").write_bytes((photographs / ROOM).read_bytes()[:3000])
    (photographs / "b.png").write_bytes(b"")
    (photographs / "c\n.jpg").write_text("no image")
    document = detect(tmp_path, model, photographs)
    assert len(document["images"]) == 4
    assert {row["image"]: row["reason"] for row in numbers(tmp_path)["skipped"]} == {
        "a.jpg": "image file is damaged or cut off",
        "b.png": "image file is empty",
        "c\n.jpg": "image file is none of JPEG, PNG, BMP and WebP",
    }
    said = capsys.readouterr()
    assert "skipped: a.jpg: image file is damaged or cut off\n" in said.err
    assert len(said.err.splitlines()) == 3
    assert "3 images skipped" in said.out
    assert "Images that could not be used" in (tmp_path / "out" / "detections.html").read_text()


def test_where_no_image_can_be_read_the_run_has_failed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    document = detect(tmp_path, model, tmp_path / "a.png", code=1)
    assert (document["images"], document["annotations"]) == ([], [])
    assert numbers(tmp_path)["latency_ms_p50"] is None


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: object) -> str:
    detect(tmp_path, *words, code=2)
    said = capsys.readouterr().err
    assert said.startswith("tercel detect: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "out" / "detections.json").exists()
    return said


def test_what_the_user_can_mend_is_one_line(
    model: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file" in refused(capsys, tmp_path, model, tmp_path / "no.jpg")
    assert "check the pattern" in refused(capsys, tmp_path, model, str(photographs / "*.tiff"))
    assert "no such model file" in refused(capsys, tmp_path, tmp_path / "no.onnx", photographs)
    assert "did you mean 'person'" in refused(capsys, tmp_path, model, photographs, "--classes", "persn")
    assert "must be in 0..1" in refused(capsys, tmp_path, model, photographs, "--score", "3")
    assert "--threads 0" in refused(capsys, tmp_path, model, photographs, "--threads", "0")
    assert "tercel models pull yolox-s" in refused(capsys, tmp_path, "yolox-s", photographs)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x01garbage")
    assert "bad.onnx" in refused(capsys, tmp_path, tmp_path / "bad.onnx", photographs)
    (tmp_path / "out").write_text("in the way")
    assert "is a file" in refused(capsys, tmp_path, model, photographs)


def test_no_image_is_written_over(
    model: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "out" / "images"
    images.mkdir(parents=True)
    for name in ("x.jpg", "x.jpg.jpg"):
        shutil.copy(photographs / ROOM, images / name)
    before = (images / "x.jpg.jpg").read_bytes()
    assert "would be written over an image" in refused(capsys, tmp_path, model, images)
    assert (images / "x.jpg.jpg").read_bytes() == before


def test_nothing_is_written_over_a_photograph_by_any_of_its_names(
    model: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = Path(shutil.copy(photographs / ROOM, tmp_path / "p.jpg"))
    before = photograph.read_bytes()
    command = ["detect", str(model), str(photograph), "--out", str(tmp_path / "out")]
    assert main([*command, "--json", str(photograph)]) == 2
    assert "would be written over an image" in capsys.readouterr().err
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "detections.json").hardlink_to(photograph)
    assert main(command) == 2
    assert photograph.read_bytes() == before


def test_an_image_named_in_three_ways_is_one_and_a_link_leaks_no_folder(
    model: Path, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(photographs / ROOM, tmp_path / "p.jpg")
    (tmp_path / "linked.jpg").symlink_to(sorted(photographs.glob("*.jpg"))[1])
    monkeypatch.chdir(tmp_path)
    words = ["p.jpg", str(tmp_path / "p.jpg"), "./p.jpg", "linked.jpg"]
    assert main(["detect", str(model), *words, "--out", "out"]) == 0
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["p.jpg", "linked.jpg"]
