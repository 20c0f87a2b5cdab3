"""onnxruntime and OpenVINO behind one interface: equal answers, answers of their own, and files that cannot be run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from perception.backend_onnxruntime import CPU, PREFERRED_PROVIDERS, checked_providers, with_options
from perception.backend_openvino import settings
from perception.images import TensorMaker
from perception.runtime import LocalModels, Network, load_network
from tercel.core.errors import Rejected, UserError
from tests.unit import onnx_files

BACKENDS = ("onnxruntime", "openvino")
MODELS = ("fastestdet_352", "nanodet_m_320", "nanodet_m_416", "yolox_nano_416")


def saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    sides: list[Any],
    outputs: tuple[str, ...] = ("y",),
    weights: tuple[onnx.TensorProto, ...] = (),
    opset: int = 17,
    metadata: dict[str, str] | None = None,
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
) -> Path:
    """A model from x to its outputs, whose shapes it leaves open."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kinds[0], sides)],
        [helper.make_tensor_value_info(name, kinds[1], None) for name in outputs],
        list(weights),
    )
    domains = {node.domain for node in nodes if node.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def relu(path: Path, sides: list[Any], **changes: Any) -> Path:
    return saved(path, [helper.make_node("Relu", ["x"], ["y"])], sides=sides, **changes)


# --- equal answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_openvino_answers_as_onnxruntime_does(shared_data: Path, model: str) -> None:
    path = shared_data / "models" / f"{model}.onnx"
    one, other = (load_network(path, backend=backend) for backend in BACKENDS)
    assert one.output_names == other.output_names
    assert one.output_shapes == other.output_shapes
    assert (one.input_shape, one.input_dtype, one.sha256) == (other.input_shape, other.input_dtype, other.sha256)
    picture = next((shared_data / "img_coco256" / "images" / "val2017").glob("*.jpg"))
    make_tensor = TensorMaker(LocalModels({"detector": one}).spec("detector"))
    tensor, _ = make_tensor(np.asarray(cv2.imread(str(picture))))
    for left, right in zip(one.run(tensor), other.run(tensor), strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(right, left, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_keep_their_order_and_names_however_the_graph_is_simplified(tmp_path: Path, backend: Any) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["above"]),
        helper.make_node("Identity", ["above"], ["again"]),
        helper.make_node("Neg", ["above"], ["below"]),
    ]
    path = saved(tmp_path / "m.onnx", nodes, sides=[1, 4], outputs=("below", "again", "same", "above"))
    network = load_network(path, backend=backend)
    assert network.output_names == ("below", "again", "same", "above")
    x = np.array([[-1, 2, -3, 4]], np.float32)
    above = np.maximum(x, 0)
    for output, wanted in zip(network.run(x), (-above, above, x, above), strict=True):
        assert np.array_equal(output, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.FLOAT16, np.float16), (TensorProto.UINT8, np.uint8), (TensorProto.INT64, np.int64)],
)
def test_a_network_takes_and_gives_the_types_of_its_file(tmp_path: Path, backend: Any, kind: int, dtype: Any) -> None:
    node = helper.make_node("Concat", ["x", "x"], ["y"], axis=1)
    network = load_network(saved(tmp_path / "m.onnx", [node], sides=["n", 3], kinds=(kind, kind)), backend=backend)
    x = np.array([[1, 2, 250 if dtype == np.uint8 else -3]], dtype)
    (output,) = network.run(x)
    assert (network.input_dtype, output.dtype) == (dtype, dtype)
    assert output.tolist() == [x[0].tolist() * 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scalar_goes_in_and_out(tmp_path: Path, backend: Any) -> None:
    network = load_network(relu(tmp_path / "m.onnx", []), backend=backend)
    assert network.run(np.asarray(2.5, np.float32))[0].tolist() == 2.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_output_whose_size_depends_on_the_data_has_the_size_of_each_run(tmp_path: Path, backend: Any) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, sides=[1, 4], kinds=(TensorProto.FLOAT, TensorProto.INT64))
    network = load_network(path, backend=backend)
    (two,) = network.run(np.array([[0, 1, 0, 1]], np.float32))
    (three,) = network.run(np.array([[1, 1, 0, 1]], np.float32))
    assert two.tolist() == [[0, 0], [1, 3]]
    assert three.tolist() == [[0, 0, 0], [0, 1, 3]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinite_outputs_are_handed_on_as_they_are(tmp_path: Path, backend: Any) -> None:
    network = load_network(
        saved(tmp_path / "m.onnx", [helper.make_node("Log", ["x"], ["y"])], sides=[1, 3]), backend=backend
    )
    (output,) = network.run(np.array([[-1, 0, 1]], np.float32))
    assert np.array_equal(output, [[np.nan, -np.inf, 0]], equal_nan=True)


def quantized(path: Path) -> Path:
    """Two convolutions between roundings to 8 bits: unsigned activations, signed weights."""
    rng = np.random.default_rng(0)

    def constant(name: str, values: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(values), name)

    weights = [
        constant("step", np.float32(1 / 16)),
        constant("weight_step", np.float32(1 / 128)),
        constant("middle", np.uint8(100)),
        constant("zero", np.int8(0)),
        constant("w1", rng.integers(-60, 61, (8, 3, 3, 3)).astype(np.int8)),
        constant("w2", rng.integers(-60, 61, (4, 8, 1, 1)).astype(np.int8)),
    ]
    nodes = []
    for number, source in ((1, "x"), (2, "c1")):
        nodes += [
            helper.make_node("QuantizeLinear", [source, "step", "middle"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "step", "middle"], [f"d{number}"]),
            helper.make_node("DequantizeLinear", [f"w{number}", "weight_step", "zero"], [f"v{number}"]),
            helper.make_node("Conv", [f"d{number}", f"v{number}"], [f"c{number}"]),
        ]
    return saved(path, nodes, sides=[1, 3, 16, 16], outputs=("c2",), weights=tuple(weights))


def test_the_layers_of_a_quantized_network_are_compared_with_themselves_in_float(tmp_path: Path) -> None:
    path = quantized(tmp_path / "m.onnx")
    load_network(path, backend="auto", cache_dir=tmp_path, say=pytest.fail)
    (entry,) = json.loads((tmp_path / "backends.json").read_text()).values()
    assert set(entry["median_ms"]) == {"onnxruntime x1", "openvino x1"}, "both agree with the reference"


# --- answers of their own -------------------------------------------------------------------------------------------


@pytest.fixture(params=BACKENDS)
def doubler(request: pytest.FixtureRequest, tmp_path: Path) -> Network:
    return load_network(onnx_files.doubling(tmp_path / "m.onnx", (1, 3, 64, 64)), backend=request.param)


def test_an_answer_stays_as_it_is_when_the_next_image_comes(doubler: Network) -> None:
    tensors = [np.full(doubler.input_shape, value, np.float32) for value in range(5)]
    answers = [doubler.run(tensor)[0] for tensor in tensors]
    for value, answer in enumerate(answers):
        assert (answer == 2 * value).all()
        assert answer.flags.writeable
        assert not any(np.shares_memory(answer, other) for other in (*tensors, *answers) if other is not answer)


def test_an_answer_outlives_its_network(tmp_path: Path) -> None:
    for backend in BACKENDS:
        network = load_network(onnx_files.doubling(tmp_path / "m.onnx", (1, 4)), backend=backend)
        (answer,) = network.run(np.ones((1, 4), np.float32))
        del network
        gc.collect()
        assert answer.tolist() == [[2, 2, 2, 2]]


def test_a_tensor_is_read_where_it_lies_and_never_written(doubler: Network) -> None:
    tensor = np.ones(doubler.input_shape, np.float32)
    tensor.setflags(write=False)
    assert (doubler.run(tensor)[0] == 2).all()
    mirrored = np.arange(64, dtype=np.float32) * np.ones(doubler.input_shape, np.float32)
    assert np.array_equal(doubler.run(mirrored[..., ::-1])[0], 2 * mirrored[..., ::-1])


def test_threads_that_share_a_network_get_their_own_answers(doubler: Network) -> None:
    wrong: list[int] = []

    def ask(value: int) -> None:
        tensor = np.full(doubler.input_shape, value, np.float32)
        wrong.extend(value for _ in range(100) if not (doubler.run(tensor)[0] == 2 * value).all())

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_stays_flat_over_two_thousand_runs(doubler: Network) -> None:
    def resident_bytes() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    tensor = np.ones(doubler.input_shape, np.float32)  # 48 kB in and out: a leak of either would be 96 MB
    for _ in range(200):
        doubler.run(tensor)
    before = resident_bytes()
    for _ in range(2000):
        doubler.run(tensor)
    assert resident_bytes() - before < 8 << 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tensor_is_not_written_to_by_layers_that_could_work_in_place(tmp_path: Path, backend: Any) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])]
    network = load_network(saved(tmp_path / "m.onnx", nodes, sides=[1, 4]), backend=backend)
    tensor = np.array([[-1, 2, -3, 4]], np.float32)
    network.run(tensor)
    assert tensor.tolist() == [[-1, 2, -3, 4]]


def test_a_run_that_fails_is_a_rejected_message_and_the_next_one_works(tmp_path: Path) -> None:
    four = numpy_helper.from_array(np.arange(4), "four")
    one_more = numpy_helper.from_array(np.array([4]), "count")
    nodes = [helper.make_node("Add", ["x", "count"], ["size"]), helper.make_node("Reshape", ["four", "size"], ["y"])]
    kinds = (TensorProto.INT64, TensorProto.INT64)
    path = saved(tmp_path / "m.onnx", nodes, sides=[1], weights=(four, one_more), kinds=kinds)
    network = load_network(path)
    with pytest.raises(Rejected, match="model run failed"):
        network.run(np.array([1]))  # 4 values do not fill 5 places
    assert network.run(np.array([0]))[0].tolist() == [0, 1, 2, 3]


def test_a_model_that_fails_on_its_first_run_is_refused(tmp_path: Path) -> None:
    values = numpy_helper.from_array(np.arange(4), "values")
    node = helper.make_node("Reshape", ["values", "x"], ["y"], allowzero=1)
    kinds = (TensorProto.INT64, TensorProto.INT64)
    path = saved(tmp_path / "m.onnx", [node], sides=[1], weights=(values,), kinds=kinds)
    assert "fails on a tensor of zeros" in refused(path, "onnxruntime")


# --- files that cannot be run ---------------------------------------------------------------------------------------


def refused(path: Path, backend: Any, **given: Any) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as caught:
        load_network(path, backend=backend, **given)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert len(line) < 400
    return line


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_that_are_no_models_are_refused(tmp_path: Path, shared_data: Path, backend: Any) -> None:
    whole = (shared_data / "models" / "fastestdet_352.onnx").read_bytes()
    rng = np.random.default_rng(0)
    noise = bytes(rng.integers(0, 256, 5000, dtype=np.uint8))
    for data in (b"<html>404</html>", noise, whole[:1000], whole[: len(whole) // 2], whole[:-1]):
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        assert "not a model that" in refused(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_with_wrong_bytes_runs_or_is_refused_in_one_line_and_nothing_is_printed(
    tmp_path: Path, backend: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = quantized(tmp_path / "whole.onnx").read_bytes()
    rng, refusals = np.random.default_rng(0), 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            data[place] = rng.integers(0, 256)
        path = tmp_path / "m.onnx"
        path.write_bytes(data)
        try:
            load_network(path, backend=backend)
        except UserError as error:
            refusals += 1
            assert str(error).startswith(str(path))
            assert "\n" not in str(error)
    assert refusals > 10
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_operators_are_named(tmp_path: Path, backend: Any) -> None:
    plain = saved(tmp_path / "a.onnx", [helper.make_node("NoSuchOperator", ["x"], ["y"])], sides=[1, 4])
    assert "has no operator NoSuchOperator" in refused(plain, backend)
    custom = saved(tmp_path / "b.onnx", [helper.make_node("Foo", ["x"], ["y"], domain="my.ops")], sides=[1, 4])
    line = refused(custom, backend)
    assert "has no operator my.ops" in line
    assert "Foo" in line


def test_an_opset_from_the_future_is_named(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.onnx", [1, 4], opset=99)
    assert "opset 99; it knows opsets up to" in refused(path, "onnxruntime")


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_weights_are_named(tmp_path: Path, backend: Any) -> None:
    weights = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    path = saved(tmp_path / "m.onnx", [helper.make_node("Mul", ["x", "w"], ["y"])], sides=[1, 4], weights=(weights,))
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_network(path, backend=backend).output_shapes == ((1, 4),)
    (tmp_path / "weights.bin").unlink()
    assert "weights.bin is missing" in refused(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["../secret.bin", "{folder}/secret.bin"])
def test_weights_outside_of_the_models_folder_are_not_read(tmp_path: Path, backend: Any, place: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    (tmp_path / "models").mkdir()
    weights = numpy_helper.from_array(np.ones((1, 4), np.float32), "w")
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    path = saved(tmp_path / "models" / "m.onnx", [node], sides=[1, 4], weights=(weights,))
    model = onnx.load(path)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place.format(folder=tmp_path)), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    assert "not a model that" in refused(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_inputs_and_tensors_without_measure_are_refused(tmp_path: Path, backend: Any) -> None:
    two = [onnx_files.value_info(name, (2,)) for name in "xz"]
    path = tmp_path / "m.onnx"
    path.write_bytes(
        onnx_files.model([onnx_files.node("Add", ["x", "z"], "y")], two, [onnx_files.value_info("y", (2,))])
    )
    assert "has 2 inputs; export it with one" in refused(path, backend)
    assert "is too large" in refused(relu(path, [1, 3, 100_000, 100_000]), backend)
    shape = numpy_helper.from_array(np.array([100_000, 100_000]), "s")
    grown = saved(path, [helper.make_node("Expand", ["x", "s"], ["y"])], sides=[1, 1], weights=(shape,))
    assert "'y' of shape (100000, 100000) is too large" in refused(grown, backend)


def test_a_checksum_that_is_not_the_files_is_refused(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.onnx", [1, 4])
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_network(path, sha256=right.upper()).sha256 == right
    assert f"has the checksum {right[:12]}..., not 000000000000...; download it again" in refused(
        path, "openvino", sha256="0" * 64
    )
    card = path.with_suffix(".yaml")
    card.write_text(f"sha256: {right}\n")
    assert load_network(path).sha256 == right
    card.write_text(f"sha256: {'1' * 64}\n")
    assert "not 111111111111...; download it again" in refused(path, "onnxruntime")


def test_a_backend_that_there_is_none_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = relu(tmp_path / "m.onnx", [1, 4])
    with pytest.raises(UserError, match="no backend is named 'openvin'; did you mean 'openvino'"):
        load_network(path, backend="openvin")  # type: ignore[arg-type]
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"openvino is not installed: pip install 'tercel\[openvino\]'"):
        load_network(path, backend="openvino")


# --- free sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sides", [["n", 3, "h", "w"], [None, 3, None, None], ["n", "h", "w", 3], [1, 3, "s", "s"]])
def test_free_sizes_are_fixed_to_what_is_named(tmp_path: Path, backend: Any, sides: list[Any]) -> None:
    path = relu(tmp_path / "m.onnx", sides)
    square = sides[-1] == "s"
    network = load_network(path, backend=backend, input_size=(32, 32 if square else 48))
    assert network.input_shape == ((1, 32, 48, 3) if sides[-1] == 3 else (1, 3, 32, 32 if square else 48))
    assert network.output_shapes == (network.input_shape,)
    line = refused(path, backend)
    assert f"has the shape ({', '.join(map(str, sides))})" in line or backend == "openvino"
    assert "export the model with fixed sizes, or write its input_size into a model card" in line


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_size_named_by_the_user_wins_over_the_cards_and_that_over_the_exporters(tmp_path: Path, backend: Any) -> None:
    path = relu(tmp_path / "m.onnx", ["n", 3, "h", "w"], metadata={"imgsz": "[64, 96]", "names": "{0: 'a'}"})
    network = load_network(path, backend=backend)
    assert network.input_shape == (1, 3, 64, 96)
    assert network.metadata == {"imgsz": "[64, 96]", "names": "{0: 'a'}"}
    path.with_suffix(".yaml").write_text("input_size: [32, 48]\n")
    assert load_network(path, backend=backend).input_shape == (1, 3, 32, 48)
    assert load_network(path, backend=backend, input_size=(16, 8)).input_shape == (1, 3, 16, 8)


@pytest.mark.parametrize(
    "noted", ["", "[64]", "[64, 96, 3]", "[0, 64]", "big", "[[64], 96]", "__import__('os')", "9" * 80, "[1.5, 2]", "["]
)
def test_a_noted_size_that_is_none_is_not_taken(tmp_path: Path, noted: str) -> None:
    path = relu(tmp_path / "m.onnx", ["n", 3, "h", "w"], metadata={"imgsz": noted})
    assert "export the model with fixed sizes" in refused(path, "onnxruntime")


def test_a_noted_number_is_both_sides(tmp_path: Path) -> None:
    path = relu(tmp_path / "m.onnx", ["n", 3, "h", "w"], metadata={"imgsz": "64"})
    assert load_network(path).input_shape == (1, 3, 64, 64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_size_that_the_model_cannot_take_is_refused(tmp_path: Path, backend: Any) -> None:
    fixed = relu(tmp_path / "a.onnx", [1, 3, 32, 48])
    assert "takes images of 32x48, not 48x32 (height x width)" in refused(fixed, backend, input_size=(48, 32))
    shape = numpy_helper.from_array(np.array([7, -1]), "s")
    sevens = saved(
        tmp_path / "b.onnx", [helper.make_node("Reshape", ["x", "s"], ["y"])], sides=[1, 3, "h", "w"], weights=(shape,)
    )
    refused(sevens, backend, input_size=(32, 32))
    free_channels = relu(tmp_path / "c.onnx", ["n", "c", "h", "w"])
    assert "export the model with fixed sizes" in refused(free_channels, backend, input_size=(32, 32))


# --- how they are asked ---------------------------------------------------------------------------------------------


def test_the_cpu_always_comes_last_and_only_what_there_is_is_asked_for() -> None:
    there = ["CUDAExecutionProvider", CPU, "TensorrtExecutionProvider"]
    assert checked_providers(None, there) == (CPU,)
    assert checked_providers([CPU, "CUDAExecutionProvider"], there) == ("CUDAExecutionProvider", CPU)
    with pytest.raises(UserError, match="no provider 'XnnpackExecutionProvider'"):
        checked_providers(["XnnpackExecutionProvider"], there)


def test_tensorrt_keeps_its_engines_and_timings_in_the_folder_and_cuda_counts_in_float32(tmp_path: Path) -> None:
    asked = dict(with_options(PREFERRED_PROVIDERS, tmp_path))
    assert list(asked) == list(PREFERRED_PROVIDERS)
    folder = str(tmp_path / "tensorrt")
    assert asked["TensorrtExecutionProvider"] == {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }
    assert asked["CUDAExecutionProvider"] == {"use_tf32": "0"}
    assert asked["XnnpackExecutionProvider"] == asked[CPU] == {}
    assert (tmp_path / "tensorrt").is_dir()
    assert dict(with_options(PREFERRED_PROVIDERS, None))["TensorrtExecutionProvider"] == {}
    (tmp_path / "file").write_text("")
    assert dict(with_options(PREFERRED_PROVIDERS, tmp_path / "file"))["TensorrtExecutionProvider"] == {}


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_not_silently_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    path = relu(tmp_path / "m.onnx", [1, 4])
    assert "CUDAExecutionProvider does not start here" in refused(
        path, "onnxruntime", providers=["CUDAExecutionProvider"]
    )
    network = load_network(path, backend="auto", cache_dir=tmp_path, say=pytest.fail)
    assert network.output_shapes == ((1, 4),), "the candidate with CUDA drops out"


def test_openvino_is_asked_for_one_stream_of_float32_and_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    model = openvino.Core().read_model(str(relu(tmp_path / "m.onnx", [1, 4])))
    compiled = openvino.Core().compile_model(model, "CPU", settings(2))
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
