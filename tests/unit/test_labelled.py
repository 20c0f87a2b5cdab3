"""Image files, labelled folders and their splits: what is read, what is refused, and what is said about it."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from perception.class_maps import label_table
from perception.classes import TERCEL_CLASSES, tercel_from_coco
from perception.coco import COCO_CLASSES
from perception.coco_json import COCO_CATEGORY_IDS
from perception.image_files import bgr_from_bytes, find_image_files, read_image_file
from perception.label_files import DATASET_CLASSES
from perception.labelled import (
    ANY_CLASS,
    in_classes,
    labelled_from_messages,
    load_coco_folder,
    load_kitti_folder,
    load_labelled,
    load_yolo_folder,
)
from perception.splits import DATASET_SPLITS, WORLD_SEEDS, split_of, split_of_world
from tercel.core.errors import Rejected, UserError
from tercel.core.messages import Detections2D, Image

REPOSITORY = Path(__file__).resolve().parents[2]


def encoded(pixels: Any, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, np.asarray(pixels))[1])


def write_image(path: Path, height: int = 40, width: int = 60) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(np.full((height, width, 3), 90, np.uint8), path.suffix))
    return path


# --- image files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".jpg"])
@pytest.mark.parametrize("shape", [(30, 20, 3), (30, 20), (1, 1, 3), (4320, 7680, 3)])
def test_every_kind_and_size_of_image_becomes_bgr(suffix: str, shape: tuple[int, ...]) -> None:
    if shape[0] > 4000 and suffix in (".webp", ".bmp"):
        shape = (300, 16000, 3)
    pixels = np.full(shape, 77, np.uint8)
    bgr = bgr_from_bytes(encoded(pixels, suffix))
    assert (bgr.shape, bgr.dtype) == ((*shape[:2], 3), np.uint8)
    assert abs(int(bgr[0, 0, 0]) - 77) <= 2


def test_sixteen_bits_keep_their_upper_eight_whatever_the_camera_fills() -> None:
    for bits in (16, 12, 10):
        ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(1, 64)
        bgr = bgr_from_bytes(encoded(ramp))
        assert bgr[0, :, 0].tolist() == (ramp[0] >> (bits - 8)).tolist()
    dark = np.full((4, 4, 3), 200, np.uint16)
    assert (bgr_from_bytes(encoded(dark)) == 200).all()


def test_transparency_is_dropped_and_colours_stay() -> None:
    rgba = np.zeros((5, 6, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = (10, 20, 30), 128
    assert bgr_from_bytes(encoded(rgba))[2, 2].tolist() == [10, 20, 30]


def exif_jpeg(pixels: np.ndarray, orientation: int) -> bytes:
    """A JPEG with an EXIF orientation (TIFF tag 0x0112), written byte by byte."""
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    plain = encoded(pixels, ".jpg")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def test_a_turned_photograph_comes_out_upright() -> None:
    lying = np.zeros((20, 40, 3), np.uint8)
    lying[:, :20] = 255  # white on the left, which orientation 6 (turn clockwise) puts on top
    upright = bgr_from_bytes(exif_jpeg(lying, 6))
    assert upright.shape == (40, 20, 3)
    assert upright[:15].mean() > 240
    assert upright[-15:].mean() < 15


def png_that_claims(width: int, height: int) -> bytes:
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "none of JPEG"),
        (encoded(np.random.default_rng(0).integers(0, 255, (50, 50, 3)), ".jpg")[:-200], "damaged"),
        (encoded(np.zeros((50, 50, 3), np.uint8))[:-20], "damaged"),
        (png_that_claims(60_000, 60_000), "too large"),
        (b"BM" + b"\0" * 16 + struct.pack("<ii", 50_000, 50_000) + b"\0" * 40, "too large"),
        (b"RIFF" + struct.pack("<I", 4000) + b"WEBPVP8X" + b"\0" * 40, "too large"),
        (png_that_claims(30, 30), "does not decode|damaged"),
    ],
)
def test_what_is_no_sound_image_is_rejected_before_it_is_decoded(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=reason):
        bgr_from_bytes(data)
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(Rejected, match=reason):
        read_image_file(tmp_path / "x.png")


@given(
    data=st.binary(max_size=200), start=st.sampled_from([b"", b"BM", b"RIFF", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_do_worse_than_being_rejected(data: bytes, start: bytes) -> None:
    with contextlib.suppress(Rejected):
        assert bgr_from_bytes(start + data).ndim == 3


def test_files_folders_and_patterns_are_found_once_each(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.jpg", "b/deep/3.PNG", "c.jpg"):
        write_image(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    found = find_image_files([tmp_path / "c.jpg", tmp_path / "b", str(tmp_path / "**" / "*.jpg")])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["c.jpg", "b/1.jpg", "b/2.png", "b/deep/3.PNG"]
    (tmp_path / "empty").mkdir()
    for word, reason in (("nothing.jpg", "no such file"), ("*.gif", "check the pattern"), ("empty", "holds no image")):
        with pytest.raises(UserError, match=reason):
            find_image_files([tmp_path / word])


# --- classes ---------------------------------------------------------------------------------------------------------


def test_names_of_other_sources_lead_to_the_same_classes_as_cocos() -> None:
    assert label_table(COCO_CLASSES, TERCEL_CLASSES).tolist() == tercel_from_coco().tolist()
    assert label_table(TERCEL_CLASSES, TERCEL_CLASSES).tolist() == list(range(6))
    names = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "minibus", "teapot")
    mapped = [TERCEL_CLASSES[label] if label >= 0 else None for label in label_table(names, TERCEL_CLASSES)]
    assert mapped == [
        "car", "car", "large vehicle", "person", "person", "two-wheeler", "large vehicle", "large vehicle", None,
    ]  # fmt: skip
    in_coco = [COCO_CLASSES[label] if label >= 0 else None for label in label_table(names, COCO_CLASSES)]
    assert in_coco == ["car", "car", "truck", "person", "person", None, "train", "bus", None]


def test_cocos_category_ids_are_the_published_ones() -> None:
    assert len(COCO_CATEGORY_IDS) == 80
    published = {
        "person": 1,
        "stop sign": 13,
        "bird": 16,
        "backpack": 27,
        "bed": 65,
        "cell phone": 77,
        "toothbrush": 90,
    }
    assert {name: COCO_CATEGORY_IDS[COCO_CLASSES.index(name)] for name in published} == published


# --- YOLO ------------------------------------------------------------------------------------------------------------


def yolo_folder(root: Path, rows: dict[str, str], *, names: str = "cat\ndog\n") -> Path:
    for name, text in rows.items():
        write_image(root / "images" / f"{name}.png")
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    if names:
        (root / "classes.txt").write_text(names)
    return root


def test_yolo_rows_become_boxes_in_pixels(tmp_path: Path) -> None:
    rows = {"a": "1 0.5 0.5 0.5 0.5\n\n0 0.1 0.2 0.4 0.2 0.4 0.6 0.1 0.6\n", "b": ""}
    data = load_yolo_folder(yolo_folder(tmp_path, rows))
    assert (len(data), data.class_names, data.problems) == (2, ("cat", "dog"), [])
    np.testing.assert_allclose(data[0].truth.boxes_xyxy_px, [[15, 10, 45, 30], [6, 8, 24, 24]], atol=1e-5)
    assert data[0].truth.labels.tolist() == [1, 0]
    assert data[0].image.pixels.shape == (40, 60, 3)
    assert len(data[1].truth.labels) == 0
    assert [labelled.image.frame_id for labelled in data] == ["images/a.png", "images/b.png"]


def test_labels_may_lie_beside_their_images_and_names_in_data_yaml(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("nc: 2\nnames: {0: cat, 1: dog}\n")
    data = load_labelled(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data[0].truth.labels.tolist() == [1]
    assert data.problems == ["1 of 2 images have no label file: they are taken to show nothing"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0..1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 320 240 50 50", "not in 0..1"),
        ("0 0.5 0.5 nan 0.1", "not finite"),
        ("0 0.5 0.5 0 0.1", "no area"),
        ("cat 0.5 0.5 0.1 0.1", "could not convert"),
    ],
)
def test_a_row_that_makes_no_sense_is_named_and_the_rest_is_kept(tmp_path: Path, row: str, reason: str) -> None:
    data = load_yolo_folder(yolo_folder(tmp_path, {"a": f"{row}\n0 0.5 0.5 0.2 0.2\n"}))
    assert data[0].truth.labels.tolist() == [0]
    assert len(data.problems) == 1
    assert data.problems[0].startswith("labels/a.txt line 1: ")
    assert reason in data.problems[0]


@given(
    box=st.tuples(*[st.floats(0, 1)] * 2, *[st.floats(0.02, 1)] * 2),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=60, deadline=None)
def test_boxes_lie_in_their_image(tmp_path_factory: pytest.TempPathFactory, box: Any, size: tuple[int, int]) -> None:
    root = tmp_path_factory.mktemp("yolo")
    write_image(root / "a.png", *size)
    (root / "a.txt").write_text("0 " + " ".join(map(str, box)))
    (root / "classes.txt").write_text("cat\n")
    x1, y1, x2, y2 = load_yolo_folder(root)[0].truth.boxes_xyxy_px.T
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= size[1]) & (y2 <= size[0]) & (x2 > x1) & (y2 > y1)).all()


def test_a_folder_that_is_no_data_set_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data"):
        load_labelled(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image"):
        load_labelled(tmp_path)
    write_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="none of its 1 images has labels"):
        load_labelled(tmp_path)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match="no class names"):
        load_labelled(tmp_path)
    for text, reason in (("names: 7", "must be a list"), ("names: [a", "no YAML"), ("{}", "must be a list")):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError, match=reason):
            load_labelled(tmp_path)


def test_a_damaged_image_is_rejected_when_it_is_asked_for_and_the_others_are_not(tmp_path: Path) -> None:
    folder = yolo_folder(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": "0 0.5 0.5 0.2 0.2"})
    (folder / "images" / "a.png").write_bytes(b"\x89PNG broken")
    data = load_yolo_folder(folder)
    with pytest.raises(Rejected, match="damaged"):
        data[0]
    assert len(data[1].truth.labels) == 1


# --- KITTI -----------------------------------------------------------------------------------------------------------


def test_kittis_regions_are_ignored_and_its_rows_are_all_there(shared_data: Path) -> None:
    folder = shared_data / "kitti_object_3frames"
    data = load_kitti_folder(folder)
    rows = Counter(
        line.split()[0] for path in sorted(folder.glob("label_2_*.txt")) for line in path.read_text().splitlines()
    )
    truths = Counter(item.truth.class_names[label] for item in data for label in item.truth.labels)
    assert truths == {name: n for name, n in rows.items() if name not in ("DontCare", "Misc")}
    ignored = sum(len(item.ignored.labels) for item in data)
    assert ignored == rows["DontCare"] + rows["Misc"]
    assert all((item.ignored.labels == ANY_CLASS).all() for item in data)


def test_where_a_cyclist_rides_people_are_not_judged(shared_data: Path) -> None:
    cyclist = next(item for item in load_kitti_folder(shared_data / "kitti_object_3frames") if 6 in item.truth.labels)
    box = cyclist.truth.boxes_xyxy_px[cyclist.truth.labels == 6]
    ours = in_classes(cyclist, TERCEL_CLASSES)
    assert "two-wheeler" in [TERCEL_CLASSES[label] for label in ours.truth.labels]
    people = ours.ignored.boxes_xyxy_px[ours.ignored.labels == TERCEL_CLASSES.index("person")]
    np.testing.assert_array_equal(people, box)
    in_coco = in_classes(cyclist, COCO_CLASSES)
    assert sorted(COCO_CLASSES[label] for label in in_coco.ignored.labels if label != ANY_CLASS) == [
        "bicycle", "motorcycle", "person",
    ]  # fmt: skip


# --- COCO JSON -------------------------------------------------------------------------------------------------------


def coco_json(**changes: Any) -> dict[str, Any]:
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [5, 6, 20, 10], "area": 111.0, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [50, 30, 40, 40]},
        ],
    }
    return document | changes


def test_a_coco_file_gives_boxes_areas_and_crowds(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a.png")
    (tmp_path / "labels.json").write_text(json.dumps(coco_json()))
    data = load_labelled(tmp_path)
    assert data.class_names == ("dog", "cat")
    item = data[0]
    np.testing.assert_allclose(item.truth.boxes_xyxy_px, [[5, 6, 25, 16], [50, 30, 60, 40]])
    assert item.truth.labels.tolist() == [1, 0]
    assert item.areas_px2 is not None
    assert item.areas_px2.tolist() == [111.0, 1600.0]
    assert (item.ignored.labels.tolist(), item.ignored.boxes_xyxy_px.tolist()) == ([0], [[0, 0, 60, 40]])


def test_the_parts_of_a_coco_folder_are_its_splits(tmp_path: Path) -> None:
    for part in ("train2017", "val2017"):
        write_image(tmp_path / part / "a.png")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco_json()))
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    assert len(load_coco_folder(tmp_path)) == 2
    assert [file.name for file in load_coco_folder(tmp_path, split="evaluate").files] == ["val2017/a.png"]
    assert [file.name for file in load_coco_folder(tmp_path, split="train").files] == ["train2017/a.png"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1, 2]", "holds a list"),
        ("{}", "not COCO's format"),
        (json.dumps(coco_json(images=[{"id": 7}])), "not COCO's format"),
        (
            json.dumps(coco_json(annotations=[{"image_id": 8, "category_id": 3, "bbox": [0, 0, 1, 1]}])),
            "not COCO's format",
        ),
        (
            json.dumps(coco_json(annotations=[{"image_id": 7, "category_id": 4, "bbox": [0, 0, 1, 1]}])),
            "not COCO's format",
        ),
        (
            json.dumps(coco_json(annotations=[{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1]}])),
            "not COCO's format",
        ),
        (
            json.dumps(coco_json(annotations=[{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, float("nan")]}])),
            "finite",
        ),
        (json.dumps(coco_json(images=[], annotations=[])), "has no images"),
        (json.dumps(coco_json(images=[{"id": 7, "file_name": "../a.png"}])), "none of its 1 images is found"),
    ],
)
def test_a_file_that_is_not_cocos_is_refused_in_one_line(tmp_path: Path, content: str, reason: str) -> None:
    write_image(tmp_path / "a.png")
    path = tmp_path / "data" / "labels.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        load_labelled(path)
    assert "\n" not in str(error.value)


# --- splits and real data --------------------------------------------------------------------------------------------


def test_the_catalog_and_the_code_split_alike() -> None:
    catalog = YAML(typ="safe").load((REPOSITORY / "datasets" / "catalog.yaml").read_text())["labelled"]
    written = {row["name"]: row["splits"] for row in catalog}
    worlds = written.pop("simulated worlds")
    assert written == {
        name: {split: list(patterns) for split, patterns in splits.items()} for name, splits in DATASET_SPLITS.items()
    }
    assert worlds == {split: f"seeds {seeds[0]} to {seeds[-1]}" for split, seeds in WORLD_SEEDS.items()}


def test_worlds_are_split_by_seed() -> None:
    assert [split_of_world(seed) for seed in (0, 99, 100, 999, 1000, 1999, 2000)] == [
        "evaluate", "evaluate", None, None, "train", "train", None,
    ]  # fmt: skip


def source_of(name: str) -> str:
    """The folder of an image, or its name without the number of the frame."""
    return name.rpartition("/")[0] or re.sub(r"(-?(MOS)?\d+)?\.jpg$", r"\2", name)


@pytest.mark.parametrize(("name", "counts"), [("img_coco256", (71, 128)), ("img_aerial_cars", (41, 25))])
def test_every_real_image_is_in_one_split_and_no_source_in_two(
    shared_data: Path, name: str, counts: tuple[int, int]
) -> None:
    every = load_labelled(shared_data / name)
    parts = [load_labelled(shared_data / name, split=split) for split in ("train", "evaluate")]
    assert tuple(map(len, parts)) == counts
    unused = {file.name for file in every.files if split_of(name, file.name) is None}
    assert unused == ({"DJI_0013-0041.jpg"} if name == "img_aerial_cars" else set())
    assert sum(counts) == len(every) - len(unused)
    assert every.problems == []
    sources = [{source_of(file.name) for file in part.files} for part in parts]
    assert all(sources)
    assert not sources[0] & sources[1]
    assert split_of(name, "somewhere/else.jpg") is None


def test_real_labels_are_those_of_the_files(shared_data: Path) -> None:
    folder = shared_data / "img_aerial_cars"
    rows = np.concatenate([np.loadtxt(path, ndmin=2).reshape(-1, 5) for path in sorted(folder.glob("*.txt"))])
    data = load_yolo_folder(folder)
    labels = np.concatenate([file.boxes.labels for file in data.files])
    assert np.bincount(labels, minlength=5).tolist() == np.bincount(rows[:, 0].astype(int), minlength=5).tolist()
    assert data.class_names == DATASET_CLASSES["img_aerial_cars"]
    first = data[0]
    height, width = first.image.pixels.shape[:2]
    expected = np.loadtxt(data.files[0].path.with_suffix(".txt"), ndmin=2)[:, 1:] * [width, height, width, height]
    centres = (first.truth.boxes_xyxy_px[:, :2] + first.truth.boxes_xyxy_px[:, 2:]) / 2
    np.testing.assert_allclose(centres, expected[:, :2], atol=1e-3)


def test_a_split_that_is_empty_or_unknown_is_a_users_error(shared_data: Path) -> None:
    with pytest.raises(UserError, match="none of its 3 images is in the split 'train'"):
        load_labelled(shared_data / "kitti_object_3frames", split="train")
    with pytest.raises(UserError, match="no split is named 'test'"):
        load_labelled(shared_data / "kitti_object_3frames", split="test")


# --- messages --------------------------------------------------------------------------------------------------------


def test_images_and_truths_of_one_stamp_are_paired_and_the_rest_is_passed_over() -> None:
    def image(stamp_ns: int, encoding: str = "rgb8") -> tuple[str, int, Image]:
        pixels = np.full((8, 8, 3), (1, 2, 3), np.uint8)
        message = Image(stamp_ns=stamp_ns, frame_id="camera", pixels=pixels, encoding=encoding)
        return "/camera/image", stamp_ns, message

    def truth(stamp_ns: int) -> tuple[str, int, Detections2D]:
        boxes = np.array([[1, 1, 20, 5], [9, 9, 12, 12]])
        message = Detections2D(
            stamp_ns=stamp_ns,
            frame_id="camera",
            boxes_xyxy_px=boxes,
            scores=[1, 1],
            labels=[0, 1],
            class_names=("a", "b"),
        )
        return "/truth/tracks_2d", stamp_ns, message

    items = [image(1), truth(1), truth(2), image(2), image(3), truth(4), image(5, "32FC1"), truth(5)]
    items += [image(stamp) for stamp in range(100, 300)] + [truth(100), truth(299)]
    found = list(labelled_from_messages(items))
    assert [item.image.stamp_ns for item in found] == [1, 2, 299]  # 100 waited too long
    assert found[0].image.pixels[0, 0].tolist() == [3, 2, 1]
    assert found[0].truth.boxes_xyxy_px.tolist() == [[1, 1, 8, 5]]  # clipped; the other lies outside
