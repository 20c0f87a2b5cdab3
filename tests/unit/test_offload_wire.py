"""The wire: message classes from the committed descriptor, and tensors to bytes and back, on hostile bytes too."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from offload.executors import WallClock
from offload.remote import LinkTimes, RemoteExecutor
from offload.wire import messages as pb
from offload.wire import renew
from offload.wire.addresses import is_loopback, split_address
from offload.wire.tensors import DATATYPES, MAX_CODED_BYTES, MAX_TENSOR_BYTES, get_tensors, put_tensors
from tercel.core.errors import Rejected, UserError
from tests.unit.onnx_files import field


def over_the_wire(tensors: dict[str, np.ndarray], codec: Any = "none") -> tuple[dict[str, np.ndarray], int]:
    """Tensors after a request has been serialised and parsed, and the bytes of its contents."""
    request = pb.ModelInferRequest(model_name="m")
    size_bytes = put_tensors(request.inputs, request.raw_input_contents, tensors, codec)
    parsed = pb.ModelInferRequest.FromString(request.SerializeToString())
    return get_tensors(parsed.inputs, parsed.raw_input_contents), size_bytes


def request_of(shape: tuple[int, ...], raw: bytes | None, datatype: str = "FP32", codec: str = "") -> Any:
    request = pb.ModelInferRequest()
    entry = request.inputs.add(name="x", datatype=datatype, shape=shape)
    if codec:
        entry.parameters["tercel_codec"].string_param = codec
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def test_renewing_the_descriptor_changes_nothing() -> None:
    pytest.importorskip("grpc_tools")
    assert renew.rendered() == renew.TARGET.read_text(encoding="ascii")


def test_a_request_has_the_bytes_that_the_public_field_numbers_give() -> None:
    request = request_of((2,), struct.pack("<2f", 1.0, 2.0))
    request.model_name, request.id = "m", "7"
    request.parameters["timeout"].int64_param = 5
    tensor = field(1, "x") + field(2, "FP32") + field(3, bytes([2]))
    parameter = field(1, "timeout") + field(2, field(2, 5))
    by_hand = field(1, "m") + field(3, "7") + field(4, parameter) + field(5, tensor)
    assert request.SerializeToString() == by_hand + field(7, struct.pack("<2f", 1.0, 2.0))


def test_the_classes_live_beside_others_of_the_same_name() -> None:
    code = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='grpc_service.proto', package='inference', syntax='proto3')\n"
        "file.message_type.add(name='ModelInferRequest')\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
        "from offload.wire import messages\n"
        "assert messages.ModelInferRequest(model_name='m').model_name == 'm'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


numeric = st.sampled_from(sorted(DATATYPES)).flatmap(
    lambda name: hnp.arrays(DATATYPES[name], hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)


@given(tensors=st.dictionaries(st.text(max_size=8), numeric, max_size=3), codec=st.sampled_from(["none", "zlib"]))
def test_tensors_come_out_as_they_went_in(tensors: dict[str, np.ndarray], codec: str) -> None:
    received, _ = over_the_wire(tensors, codec)
    assert list(received) == list(tensors)
    for name, tensor in tensors.items():
        assert received[name].dtype == tensor.dtype
        assert received[name].shape == tensor.shape
        assert received[name].tobytes() == tensor.tobytes()


def test_views_and_the_other_byte_order_are_sent_as_their_values() -> None:
    base = np.arange(24, dtype=">f8").reshape(4, 6)
    received, _ = over_the_wire({"x": base[::2, ::-3], "y": base.T.astype(np.float32)})
    assert np.array_equal(received["x"], base[::2, ::-3])
    assert np.array_equal(received["y"], base.T)


def test_zlib_makes_a_sparse_tensor_smaller_and_sends_noise_raw() -> None:
    sparse = np.zeros((64, 64), np.float32)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    assert over_the_wire({"x": sparse}, "zlib")[1] < sparse.nbytes / 50
    received, size_bytes = over_the_wire({"x": noise}, "zlib")
    assert size_bytes == noise.nbytes
    assert np.array_equal(received["x"], noise)


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3), (1, 48, 64, 3)])
def test_an_image_as_jpeg_is_smaller_and_nearly_the_same(shape: tuple[int, ...]) -> None:
    ramp = np.linspace(0, 255, 64)[None, :] * np.linspace(0.2, 1, 48)[:, None]
    image = np.broadcast_to(ramp[..., None] if shape[-1] == 3 else ramp, shape).astype(np.uint8)
    received, size_bytes = over_the_wire({"image": image}, "jpeg")
    assert size_bytes < image.nbytes / 2
    assert received["image"].shape == shape
    assert np.abs(received["image"].astype(int) - image).max() < 12


def test_what_is_no_image_goes_raw_where_jpeg_is_asked_for() -> None:
    for tensor in (np.zeros((4, 4, 4), np.uint8), np.zeros((8, 8), np.float32), np.zeros((0, 8), np.uint8)):
        received, size_bytes = over_the_wire({"x": tensor}, "jpeg")
        assert size_bytes == tensor.nbytes
        assert np.array_equal(received["x"], tensor)


def test_elements_in_typed_fields_are_read_too() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="f", datatype="FP32", shape=(2, 1)).contents.fp32_contents.extend([1.5, -2.0])
    request.inputs.add(name="u", datatype="UINT8", shape=(3,)).contents.uint_contents.extend([0, 7, 255])
    request.inputs.add(name="b", datatype="BOOL", shape=(2,)).contents.bool_contents.extend([True, False])
    request.inputs.add(name="l", datatype="UINT64", shape=(1,)).contents.uint64_contents.extend([2**64 - 1])
    tensors = get_tensors(request.inputs, request.raw_input_contents)
    assert tensors["f"].tolist() == [[1.5], [-2.0]]
    assert tensors["f"].dtype == np.float32
    assert tensors["u"].tolist() == [0, 7, 255]
    assert tensors["b"].tolist() == [True, False]
    assert tensors["l"].tolist() == [2**64 - 1]


def test_an_element_beyond_its_datatype_is_rejected_and_not_wrapped() -> None:
    request = pb.ModelInferRequest()
    request.inputs.add(name="u", datatype="UINT8", shape=(1,)).contents.uint_contents.append(256)
    with pytest.raises(Rejected, match="out of its datatype's range"):
        get_tensors(request.inputs, request.raw_input_contents)


BIG_JPEG = cv2.imencode(".jpg", np.zeros((64, 64), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (request_of((2, 2), b"\0" * 12), "shape contradicts the number of bytes"),
        (request_of((2, -2), b"\0" * 16), "shape is not a shape"),
        (request_of((1,) * 40, b"\0" * 4), "shape is not a shape"),
        (request_of((1 << 29,), b"\0" * 4), "tensor is too large"),
        (request_of((1 << 62, 1 << 62, 0), b""), "tensor is too large"),
        (request_of((2,), b"\0" * 8, datatype="FP128"), "unknown datatype"),
        (request_of((2,), None), "shape contradicts the number of elements"),
        (request_of((4,), b"\0" * 9, codec="zlib"), "zlib contents are damaged"),
        (request_of((4,), zlib.compress(bytes(17)), codec="zlib"), "shape contradicts the number of bytes"),
        (request_of((4,), zlib.compress(bytes(15)), codec="zlib"), "shape contradicts the number of bytes"),
        (request_of((4,), zlib.compress(bytes(16))[:-1], codec="zlib"), "shape contradicts the number of bytes"),
        (request_of((4,), b"\0" * 16, codec="brotli"), "unknown codec"),
        (request_of((32, 64), BIG_JPEG, datatype="UINT8", codec="jpeg"), "shape contradicts the JPEG's size"),
        (request_of((64, 64), BIG_JPEG[:40], datatype="UINT8", codec="jpeg"), "shape contradicts the JPEG's size"),
        (request_of((64, 64), b"no image", datatype="UINT8", codec="jpeg"), "shape contradicts the JPEG's size"),
        (request_of((64, 64), BIG_JPEG, codec="jpeg"), "no image"),
    ],
)
def test_contents_that_contradict_themselves_are_rejected(request_: Any, words: str) -> None:
    with pytest.raises(Rejected, match=words):
        get_tensors(request_.inputs, request_.raw_input_contents)


def test_raw_contents_are_as_many_as_tensors_and_names_are_unique() -> None:
    request = request_of((1,), b"\0" * 4)
    request.inputs.add(name="x", datatype="FP32", shape=(1,))
    with pytest.raises(Rejected, match="differ in number"):
        get_tensors(request.inputs, request.raw_input_contents)
    request.raw_input_contents.append(b"\0" * 4)
    with pytest.raises(Rejected, match="given twice"):
        get_tensors(request.inputs, request.raw_input_contents)


@given(
    data=st.binary(max_size=200),
    shape=st.lists(st.integers(-2, 1 << 40), max_size=4),
    datatype=st.sampled_from([*DATATYPES, "", "BYTES"]),
    codec=st.sampled_from(["", "zlib", "jpeg", "x"]),
)
def test_any_contents_are_a_tensor_of_the_announced_shape_or_rejected(
    data: bytes, shape: list[int], datatype: str, codec: str
) -> None:
    request = request_of(tuple(shape), data, datatype, codec)
    try:
        tensor = get_tensors(request.inputs, request.raw_input_contents)["x"]
    except Rejected:
        return
    assert tensor.shape == tuple(shape)
    assert tensor.dtype == DATATYPES[datatype]


@given(flips=st.lists(st.tuples(st.integers(0, len(BIG_JPEG) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_jpeg_is_an_image_of_its_shape_or_rejected(flips: list[tuple[int, int]]) -> None:
    data = bytearray(BIG_JPEG)
    for at, value in flips:
        data[at] = value
    request = request_of((64, 64), bytes(data), datatype="UINT8", codec="jpeg")
    with contextlib.suppress(Rejected):
        assert get_tensors(request.inputs, request.raw_input_contents)["x"].shape == (64, 64)


def test_a_bomb_allocates_no_more_than_its_shape_says() -> None:
    bomb = zlib.compress(bytes(200_000_000), 9)
    request = request_of((1000,), bomb, datatype="UINT8", codec="zlib")
    tracemalloc.start()
    try:
        with pytest.raises(Rejected):
            get_tensors(request.inputs, request.raw_input_contents)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_two_gigabytes_that_are_announced_and_not_there_are_not_allocated() -> None:
    for codec in ("", "zlib", "jpeg"):
        request = request_of((1 << 31,), b"\0" * 64, datatype="UINT8", codec=codec)
        tracemalloc.start()
        try:
            with pytest.raises(Rejected, match="too large"):
                get_tensors(request.inputs, request.raw_input_contents)
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()
    assert MAX_TENSOR_BYTES < 1 << 31


def test_a_large_tensor_is_neither_decoded_nor_coded() -> None:
    request = request_of((MAX_CODED_BYTES // 4 + 1,), zlib.compress(bytes(MAX_CODED_BYTES + 4)), codec="zlib")
    with pytest.raises(Rejected, match="coded tensor is too large"):
        get_tensors(request.inputs, request.raw_input_contents)
    large = np.zeros(MAX_CODED_BYTES + 1, np.uint8)
    received, size_bytes = over_the_wire({"x": large}, "zlib")
    assert size_bytes == large.nbytes
    assert np.array_equal(received["x"], large)


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype("U3"), np.dtype("O"), np.dtype("M8[ns]")])
def test_a_dtype_that_the_protocol_lacks_is_the_programmers_mistake(dtype: Any) -> None:
    request = pb.ModelInferRequest()
    with pytest.raises(ValueError, match="cannot be sent"):
        put_tensors(request.inputs, request.raw_input_contents, {"x": np.zeros(2, dtype)})


def test_addresses_are_read_and_loopback_is_told_from_the_rest() -> None:
    assert split_address("127.0.0.1:8001", "--listen") == ("127.0.0.1", 8001)
    assert split_address("[::1]:0", "--listen") == ("::1", 0)
    for wrong in ("8001", ":8001", "host:", "host:port", "host:70000", ""):
        with pytest.raises(UserError, match="write HOST:PORT"):
            split_address(wrong, "--listen")
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5  # noqa: S104


# --- what the client expects of the link ---------------------------------------------------------------------------


def test_the_links_time_is_a_round_trip_and_what_the_last_bytes_took() -> None:
    link = LinkTimes()
    assert link.expected_ns(10_000, rtt_ns=7) == 7
    link.add(1000, 2000)
    link.add(3000, 10_000)
    assert link.expected_ns(10_000, rtt_ns=7) == 7 + 30_000
    for _ in range(16):
        link.add(1000, 500)  # a faster link: what came before is forgotten
    assert link.expected_ns(10_000, rtt_ns=7) == 7 + 5000


@given(
    seen=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**10)), max_size=20),
    remaining_ns=st.integers(2000, 10**10),
    upload_bytes=st.integers(0, 10**7),
    rtt_ns=st.integers(0, 10**9),
)
def test_the_server_is_told_of_what_is_left_at_least_half_and_never_more(
    seen: list[tuple[int, int]], remaining_ns: int, upload_bytes: int, rtt_ns: int
) -> None:
    executor = RemoteExecutor("127.0.0.1:1", WallClock())
    for one in seen:
        executor._link_times.add(*one)
    message = pb.ModelInferRequest()
    executor._put_timeout(message, remaining_ns, upload_bytes, rtt_ns)
    told_us = message.parameters["timeout"].int64_param
    assert remaining_ns // 2000 <= told_us <= remaining_ns // 1000
