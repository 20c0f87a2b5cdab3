"""Detection arrays are written and read without rosbags: its bytes and its answers are the oracle."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercel.core.errors import Rejected
from tercel.core.messages import Detections2D, Detections3D, Message, Tracks2D, Tracks3D
from tercel.ros import convert, detection_arrays
from tercel.ros.store import make

TYPES = ("vision_msgs/msg/Detection2DArray", "vision_msgs/msg/Detection3DArray")


def text(max_size: int = 9) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=max_size)


@st.composite
def messages(draw: st.DrawFn) -> Detections2D | Detections3D:
    n = draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    names = tuple(draw(st.lists(text(), min_size=1, max_size=3)))
    common: dict[str, Any] = {
        "stamp_ns": draw(st.integers(0, 2**31 * 10**9 - 1)), "frame_id": draw(text()), "scores": rng.uniform(size=n),
        "labels": rng.integers(0, len(names), n), "class_names": names,
    }  # fmt: skip
    tracks = draw(st.booleans())
    ids = {"ids": rng.integers(-2, 10 ** draw(st.integers(1, 12)), n), "ages_s": np.full(n, np.nan)}
    if draw(st.booleans()):
        corners = rng.uniform(0, 1000, (n, 2, 2))
        common["boxes_xyxy_px"] = np.sort(corners, axis=1).reshape(n, 4)
        return Tracks2D(**common, **ids, velocities_px_per_s=np.zeros((n, 2))) if tracks else Detections2D(**common)
    common |= {
        "centers_m": rng.normal(size=(n, 3)), "sizes_m": rng.uniform(0, 4, (n, 3)), "yaws_rad": rng.uniform(-3, 3, n)
    }  # fmt: skip
    return Tracks3D(**common, **ids, velocities_mps=np.zeros((n, 3))) if tracks else Detections3D(**common)


def by_rosbags(message: Any) -> bytes:
    """The bytes of a message, built of rosbags' objects, field by field."""
    stamp = make("builtin_interfaces/msg/Time", sec=message.stamp_ns // 10**9, nanosec=message.stamp_ns % 10**9)
    header = make("std_msgs/msg/Header", stamp=stamp, frame_id=message.frame_id)
    flat = isinstance(message, Detections2D)
    detections = []
    for i, label in enumerate(message.labels):
        hypothesis = make(
            "vision_msgs/msg/ObjectHypothesis", class_id=message.class_names[label], score=float(message.scores[i])
        )
        if flat:
            x0, y0, x1, y1 = message.boxes_xyxy_px[i]
            middle = make("vision_msgs/msg/Point2D", x=float((x0 + x1) / 2), y=float((y0 + y1) / 2))
            center = make("vision_msgs/msg/Pose2D", position=middle)
            box = make("vision_msgs/msg/BoundingBox2D", center=center, size_x=float(x1 - x0), size_y=float(y1 - y0))
        else:
            half = message.yaws_rad[i] / 2
            turn = make("geometry_msgs/msg/Quaternion", z=float(np.sin(half)), w=float(np.cos(half)))
            place = make("geometry_msgs/msg/Point", **dict(zip("xyz", message.centers_m[i].tolist(), strict=True)))
            size = make("geometry_msgs/msg/Vector3", **dict(zip("xyz", message.sizes_m[i].tolist(), strict=True)))
            pose = make("geometry_msgs/msg/Pose", position=place, orientation=turn)
            box = make("vision_msgs/msg/BoundingBox3D", center=pose, size=size)
        identity = message.ids[i] if isinstance(message, (Tracks2D, Tracks3D)) else -1
        detections.append(
            make(
                f"vision_msgs/msg/Detection{'2D' if flat else '3D'}", header=header, bbox=box,
                results=[make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis)],
                id=str(identity) if identity >= 0 else "",
            )
        )  # fmt: skip
    ros_type = TYPES[0 if flat else 1]
    return bytes(convert.STORE.serialize_cdr(make(ros_type, header=header, detections=detections), ros_type))


@given(messages())
@settings(max_examples=60, deadline=None)
def test_the_bytes_are_those_of_rosbags(message: Message) -> None:
    assert bytes(convert.encode(message)[1]) == by_rosbags(message)


def assert_same(ours: Message, theirs: Message) -> None:
    assert type(ours) is type(theirs)
    for field in fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=field.name)
            assert a.dtype == b.dtype
        else:
            assert a == b, field.name


def answer_of_rosbags(data: bytes, ros_type: str) -> Message | None:
    try:
        return convert.from_ros(convert.STORE.deserialize_cdr(data, ros_type), ros_type)
    except Exception:
        return None


@given(messages(), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_are_answered_as_rosbags_answers_them(message: Message, draw: st.DataObject) -> None:
    ros_type, whole = convert.encode(message)
    damaged = bytearray(whole)
    for _ in range(draw.draw(st.integers(0, 2))):
        damaged[draw.draw(st.integers(4, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    if draw.draw(st.booleans()):
        del damaged[draw.draw(st.integers(0, len(damaged))) :]
    with np.errstate(all="ignore"):
        theirs = answer_of_rosbags(bytes(damaged), ros_type)
        if theirs is None:
            with pytest.raises(Rejected):
                convert.decode(ros_type, bytes(damaged))
        else:
            assert_same(convert.decode(ros_type, bytes(damaged)), theirs)


def hypothesis_of(name: str, score: float) -> Any:
    inner = make("vision_msgs/msg/ObjectHypothesis", class_id=name, score=score)
    return make("vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=inner)


@pytest.mark.parametrize("ros_type", TYPES)
def test_of_several_hypotheses_the_best_counts_and_none_is_no_name(ros_type: str) -> None:
    kind = ros_type.removesuffix("Array")
    detections = [
        make(kind, results=[hypothesis_of("cat", 0.2), hypothesis_of("dog", 0.7), hypothesis_of("cow", 0.1)], id="x9"),
        make(kind, id="12"),
        make(kind, results=[hypothesis_of("cat", 0.3)], id="9" * 19),
    ]
    data = convert.STORE.serialize_cdr(make(ros_type, detections=detections), ros_type)
    message = convert.decode(ros_type, data)
    assert isinstance(message, (Tracks2D, Tracks3D))
    assert [message.class_names[i] for i in message.labels] == ["dog", "", "cat"]
    assert message.ids.tolist() == [-1, 12, -1]
    assert message.scores.tolist() == pytest.approx([0.7, 0.0, 0.3])


def test_the_yaw_of_a_box_that_is_not_upright_is_read() -> None:
    # Turned by 90 degrees about z, then rolled by 30 degrees about its own x.
    roll, yaw = np.radians(15), np.radians(45)
    turn = make(
        "geometry_msgs/msg/Quaternion", w=float(np.cos(yaw) * np.cos(roll)), x=float(np.cos(yaw) * np.sin(roll)),
        y=float(np.sin(yaw) * np.sin(roll)), z=float(np.sin(yaw) * np.cos(roll)),
    )  # fmt: skip
    box = make("vision_msgs/msg/BoundingBox3D", center=make("geometry_msgs/msg/Pose", orientation=turn))
    array = make(TYPES[1], detections=[make("vision_msgs/msg/Detection3D", bbox=box)])
    message = convert.decode(TYPES[1], convert.STORE.serialize_cdr(array, TYPES[1]))
    assert isinstance(message, Tracks3D)
    assert np.degrees(message.yaws_rad[0]) == pytest.approx(90)


def test_an_array_that_claims_more_detections_than_it_has_bytes_is_rejected_at_once() -> None:
    whole = bytearray(convert.STORE.serialize_cdr(make(TYPES[0]), TYPES[0]))
    whole[-4:] = (2**32 - 1).to_bytes(4, "little")
    with pytest.raises(Rejected):
        convert.decode(TYPES[0], bytes(whole))


def test_bytes_of_another_order_are_left_to_rosbags() -> None:
    assert detection_arrays.read(b"\x00\x00\x00\x00", detection_arrays.BOX_2D) is None
