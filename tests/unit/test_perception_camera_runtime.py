"""Loading and running ONNX files. The small models are written here byte by byte, so that no ONNX library is needed."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perception.model_spec import ModelSpec
from perception.runtime import LocalModels, load_network
from tercel.core.errors import Rejected, UserError

FLOAT, INT64 = 1, 7


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protocol buffer: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def value_info(name: str, shape: tuple[int | str, ...], kind: int = FLOAT) -> bytes:
    dims = b"".join(field(1, field(1 if isinstance(side, int) else 2, side)) for side in shape)
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, dims)))


def onnx_model(
    inputs: list[bytes], operator: str = "Identity", input_names: tuple[str, ...] = ("x",), kind: int = FLOAT
) -> bytes:
    """A model of one node, from the inputs to the output y of unstated shape."""
    node = b"".join(field(1, name) for name in input_names) + field(2, "y") + field(4, operator)
    output = field(1, "y") + field(2, field(1, field(1, kind)))
    graph = field(1, node) + field(2, "g") + b"".join(field(11, one) for one in inputs) + field(12, output)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    return saved(tmp_path, onnx_model([value_info("x", (1, 3, 4, 5))]))


def test_a_model_is_loaded_with_its_shapes_and_hash(identity: Path) -> None:
    network = load_network(identity)
    assert network.input_shape == (1, 3, 4, 5)
    assert network.output_names == ("y",)
    assert network.output_shapes == ((1, 3, 4, 5),)
    assert network.sha256 == hashlib.sha256(identity.read_bytes()).hexdigest()
    tensor = np.random.default_rng(0).random((1, 3, 4, 5), dtype=np.float32)
    assert np.array_equal(network.run(tensor)[0], tensor)


def test_a_free_batch_is_run_with_one(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, onnx_model([value_info("x", ("batch", 3, 4, 5))])))
    assert network.input_shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty; download it again"),
        (b"<html>404 not found</html>", "not a model that onnxruntime can load"),
        (onnx_model([value_info("x", (1, 3, 4, 5))])[:40], "not a model that onnxruntime can load"),
        (onnx_model([value_info("x", (1, 3, 4, 5))], "NoSuchOperator"), "not a model that onnxruntime can load"),
        (onnx_model([value_info("x", (1, 3, "height", "width"))]), "export the model with fixed sizes"),
        (onnx_model([value_info("x", (2,)), value_info("z", (2,))], "Add", ("x", "z")), "has 2 inputs"),
        (onnx_model([value_info("x", (1, 3, 100_000, 100_000))]), "too large"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, data: bytes, words: str) -> None:
    path = saved(tmp_path, data)
    with pytest.raises(UserError, match=words) as caught:
        load_network(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_without_a_model_file_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model file"):
        load_network(tmp_path / "missing.onnx")
    with pytest.raises(UserError, match="not a file"):
        load_network(tmp_path)


def test_an_unknown_provider_is_a_users_error(identity: Path) -> None:
    with pytest.raises(
        UserError, match=r"no provider 'CUDAExecutionProvidr'; (did you mean|known: .*CPUExecutionProvider)"
    ):
        load_network(identity, providers=("CUDAExecutionProvidr",))


def test_a_wrong_tensor_and_a_wrong_thread_count_are_programmers_errors(identity: Path) -> None:
    network = load_network(identity)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\) float32, not \(1, 3, 4, 5\) float32"):
        network.run(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(ValueError, match="float64"):
        network.run(np.zeros((1, 3, 4, 5)))
    with pytest.raises(ValueError, match="threads 0"):
        load_network(identity, threads=0)


def test_a_network_that_fails_in_flight_is_a_rejected_message(identity: Path) -> None:
    class Failing:
        def run(self, *args: object) -> None:
            raise RuntimeError("out of memory\nin node 7")

    network = load_network(identity)
    network._session = Failing()
    with pytest.raises(Rejected, match=r"^model run failed$"):
        network.run(np.zeros((1, 3, 4, 5), np.float32))


def test_local_models_answer_by_name(identity: Path) -> None:
    models = LocalModels({"detector": load_network(identity)})
    tensor = np.ones((1, 3, 4, 5), np.float32)
    (output,) = asyncio.run(models.infer("detector", tensor, deadline_ns=1))
    assert np.array_equal(output, tensor)
    with pytest.raises(UserError, match="no model is named 'detectr'; did you mean 'detector'"):
        asyncio.run(models.infer("detectr", tensor))
    with pytest.raises(UserError, match="no head known"):
        models.spec("detector")


def test_a_given_spec_overrides_the_recognised_one(identity: Path) -> None:
    networks = {"detector": load_network(identity)}
    spec = ModelSpec("yolox", 4, 5, "stretch", ("thing",))
    assert LocalModels(networks, {"detector": spec}).spec("detector") is spec
    with pytest.raises(UserError, match=r"takes \(1, 3, 4, 5\), not \(1, 3, 32, 32\) as its spec says"):
        LocalModels(networks, {"detector": ModelSpec("yolox", 32, 32, "stretch", ("thing",))})
    with pytest.raises(UserError, match="no model is named 'other'"):
        LocalModels(networks, {"other": spec})


def test_a_grey_network_is_no_camera_detector(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, onnx_model([value_info("x", (1, 1, 4, 5))])))
    with pytest.raises(UserError, match="1 channels; a camera detector needs 3"):
        LocalModels({"detector": network}).spec("detector")


def test_a_detector_with_integer_input_is_refused(tmp_path: Path) -> None:
    network = load_network(saved(tmp_path, onnx_model([value_info("x", (1, 3, 4, 5), INT64)], kind=INT64)))
    with pytest.raises(UserError, match="int64; a detector needs float32"):
        LocalModels({"detector": network}).spec("detector")


def test_importing_perception_does_not_import_onnxruntime() -> None:
    code = (
        "import sys, perception.camera_detector, perception.runtime; "
        "sys.exit(bool({'onnxruntime', 'openvino'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
