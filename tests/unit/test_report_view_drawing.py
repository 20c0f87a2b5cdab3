"""What is drawn for Foxglove, read back by Google's protobuf with the schema that is advertised."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercel.core import geometry
from tercel.core.errors import Rejected
from tercel.core.messages import Tracks2D, Tracks3D
from tercel.report.view_drawing import DRAWINGS, MAX_BOXES, MAX_BYTES, image_annotations, numbers, scene
from tercel.ros import convert
from tests.scenarios import dashboard_robot as robot

messages = pytest.importorskip("foxglove.messages")


def read(kind: str, data: bytes) -> Any:
    """A message of the schema that viewers get, decoded without the SDK."""
    schema = getattr(messages, kind).get_schema()
    files = descriptor_pb2.FileDescriptorSet.FromString(schema.data)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name)).FromString(data)


def tracks_2d(boxes: Any, **changes: Any) -> bytes:
    n = len(boxes)
    fields: dict[str, Any] = {
        "boxes_xyxy_px": boxes, "scores": np.full(n, 0.5), "labels": np.zeros(n), "class_names": ("car",),
        "ids": np.arange(n), "velocities_px_per_s": np.zeros((n, 2)), "ages_s": np.zeros(n),
    }  # fmt: skip
    return bytes(convert.encode(Tracks2D(stamp_ns=5_000_000_007, frame_id="camera", **{**fields, **changes}))[1])


def tracks_3d(centers: Any, yaws: Any, **changes: Any) -> bytes:
    n = len(centers)
    fields: dict[str, Any] = {
        "centers_m": centers, "sizes_m": np.tile([4.0, 2.0, 1.5], (n, 1)), "yaws_rad": yaws, "scores": np.full(n, 0.5),
        "labels": np.zeros(n), "class_names": ("car",), "ids": np.arange(n), "velocities_mps": np.zeros((n, 3)),
        "ages_s": np.zeros(n),
    }  # fmt: skip
    return bytes(convert.encode(Tracks3D(stamp_ns=5_000_000_007, frame_id="odom", **{**fields, **changes}))[1])


def test_a_box_of_an_image_becomes_its_four_corners_and_words() -> None:
    drawn = read("ImageAnnotations", image_annotations(tracks_2d([[10.0, 20.0, 110.0, 70.0]], ids=np.array([42]))))
    (shape,), (text,) = drawn.points, drawn.texts
    assert [(p.x, p.y) for p in shape.points] == [(10, 20), (110, 20), (110, 70), (10, 70)]
    assert shape.type == 2, "a closed line"
    assert (shape.timestamp.seconds, shape.timestamp.nanos) == (5, 7)
    assert text.text == "42 car 0.50"
    assert (text.position.x, text.position.y) == (10, 20)


def test_a_detection_without_an_id_has_the_colour_of_its_class_and_no_number() -> None:
    drawn = read("ImageAnnotations", image_annotations(tracks_2d([[0, 0, 9, 9], [5, 5, 9, 9]], ids=np.array([-1, -1]))))
    assert {text.text for text in drawn.texts} == {"car 0.50"}
    assert drawn.points[0].outline_color == drawn.points[1].outline_color
    drawn = read("ImageAnnotations", image_annotations(tracks_2d([[0, 0, 9, 9], [5, 5, 9, 9]])))
    assert drawn.points[0].outline_color != drawn.points[1].outline_color


@given(
    arrays(np.float64, (3, 3), elements=st.floats(-1e5, 1e5)),
    arrays(np.float64, 3, elements=st.floats(-math.pi, math.pi)),
)
@settings(max_examples=30, deadline=None)
def test_a_cube_has_the_corners_of_its_box(centers: Any, yaws: Any) -> None:
    drawn = read("SceneUpdate", scene(tracks_3d(centers, yaws)))
    sizes = np.tile([4.0, 2.0, 1.5], (3, 1))
    expected = geometry.box_corners(centers, sizes, yaws)
    for entity, corners in zip(drawn.entities, expected, strict=True):
        (cube,) = entity.cubes
        q, p = cube.pose.orientation, cube.pose.position
        assert (q.x, q.y) == (0, 0)
        assert math.hypot(q.z, q.w) == pytest.approx(1)
        turn = complex(q.w, q.z) ** 2
        half = np.array([cube.size.x, cube.size.y, cube.size.z]) / 2
        mine = []
        for corner in np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3) * half:
            turned = complex(*corner[:2]) * turn
            mine.append([p.x + turned.real, p.y + turned.imag, p.z + corner[2]])
        apart = np.linalg.norm(np.array(mine)[:, None] - corners[None], axis=2)
        assert apart.min(axis=0).max() < 1e-3
        assert apart.min(axis=1).max() < 1e-3


def test_a_scene_first_takes_away_the_last_one_and_does_not_stay_for_ever() -> None:
    drawn = read("SceneUpdate", scene(tracks_3d(np.array([[1.0, 2, 3]]), np.zeros(1), ids=np.array([7]))))
    (gone,), (entity,) = drawn.deletions, drawn.entities
    assert gone.type == 1, "all of them"
    assert (entity.id, entity.frame_id, entity.lifetime.seconds) == ("track 7", "odom", 2)
    assert entity.texts[0].text == "7 car 0.50"
    empty = read("SceneUpdate", scene(tracks_3d(np.zeros((0, 3)), np.zeros(0))))
    assert len(empty.deletions) == 1
    assert not empty.entities


def test_boxes_that_no_scene_can_hold_are_left_out_and_many_are_bounded() -> None:
    odd = [[math.nan, 0, 1, 1], [0, 0, math.inf, 1], [0, 0, 1e9, 1], [0, 0, 5, 5]]
    assert len(read("ImageAnnotations", image_annotations(tracks_2d(odd))).points) == 1
    centers = np.array([[math.nan, 0, 0], [0, 1e9, 0], [1, 2, 3]])
    assert len(read("SceneUpdate", scene(tracks_3d(centers, np.zeros(3)))).entities) == 1
    many = np.tile([0.0, 0, 5, 5], (MAX_BOXES + 5, 1))
    assert len(read("ImageAnnotations", image_annotations(tracks_2d(many))).points) == MAX_BOXES


def test_numbers_of_diagnostics_become_a_tree_that_message_paths_can_name() -> None:
    data = robot.diagnostics(
        [
            (0, "tercel: tracker_3d", "", {"rate_hz": 9.5, "latency_ms.p50": "12", "word": "fast", "x": "nan"}),
            (0, "tercel: tracker_3d", "", {"latency_ms": 3}),
            (0, "tercel: tracker_3d", "", {"rate_hz.deeper": 3, "inputs.image.dropped.queue full": 2, "y": "-inf"}),
            (0, "alone", "", {"done-edge": 4, "": 1}),
        ]
    )
    assert json.loads(numbers(data)) == {
        "tercel": {
            "tracker_3d": {
                "rate_hz": 9.5,
                "latency_ms": {"p50": 12.0},
                "inputs": {"image": {"dropped": {"queue_full": 2.0}}},
            }
        },
        "alone": {"done_edge": 4.0, "_": 1.0},
    }


@given(st.sampled_from(sorted(DRAWINGS)), st.binary(max_size=200), st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_damaged_messages_are_rejected_and_nothing_else(ros_type: str, garbage: bytes, at: int) -> None:
    whole = {
        "vision_msgs/msg/Detection2DArray": tracks_2d([[0, 0, 5, 5]]),
        "vision_msgs/msg/Detection3DArray": tracks_3d(np.zeros((1, 3)), np.zeros(1)),
    }.get(ros_type) or robot.diagnostics([robot.component("a", "B", 1.0)])
    for damaged in (garbage, whole[: at % len(whole)], whole[:at] + garbage + whole[at + len(garbage) :]):
        with contextlib.suppress(Rejected):
            DRAWINGS[ros_type].draw(damaged)


def test_what_is_far_too_large_is_not_even_decoded() -> None:
    with pytest.raises(Rejected, match="too large"):
        scene(bytes(MAX_BYTES + 1))
