"""Static quantization: ranges, what is left out, and integers that compute what the float network does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.quantize.calibration import Histogram, measure, overflow, quantizer_range
from perception.quantize.graph import Graph, prepared, read_float_model, rewrite, write_model
from perception.quantize.plan import LAYOUTS, make_plan
from perception.quantize.static import (
    WEIGHT_LIMITS,
    activation_parameters,
    quantized_model,
    rounded_weights,
)
from tercel.core.errors import UserError
from tests.unit.quantize_nets import NetBuilder, small_net


def session(model: Any, *, optimised: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model if isinstance(model, (str, bytes)) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def images(count: int, side: int = 32) -> list[np.ndarray]:
    draw = np.random.default_rng(5)
    return [draw.uniform(0.0, 1.0, (1, 3, side, side)).astype(np.float32) for _ in range(count)]


def sqnr_db(truth: np.ndarray, found: np.ndarray) -> float:
    return float(10.0 * np.log10((truth**2).sum() / ((truth - found) ** 2).sum()))


def quantize(path: Path, layout: str, target: str = "vnni", side: int = 32) -> tuple[Any, Any, Graph]:
    model = prepared(path)
    graph = Graph(model)
    plan = make_plan(graph, layout=layout)
    ranges = {name: quantizer_range(h, "mse") for name, h in measure(model, plan.tensors, images(8, side)).items()}
    weights = {
        node.name: rounded_weights(graph.constants[node.input[1]], WEIGHT_LIMITS[target])
        for node in graph.convolutions()
    }
    return quantized_model(model, plan, ranges, weights, target=target), plan, graph


# --- calibration -----------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_histogram_does_not_depend_on_the_order_and_loses_no_value(batches: list[list[float]]) -> None:
    forward, backward = Histogram(), Histogram()
    for batch in batches:
        forward.add(np.array(batch, np.float32))
    for batch in reversed(batches):
        backward.add(np.array(batch, np.float32))
    flat = np.concatenate([np.array(batch, np.float32) for batch in batches])
    assert forward.counts.sum() == len(flat)
    assert np.array_equal(forward.counts, backward.counts)
    assert (forward.low, forward.high) == (flat.min(), flat.max())


def test_the_least_error_range_beats_all_others_of_a_fine_grid_within_two_percent() -> None:
    values = np.random.default_rng(0).laplace(0.0, 1.0, 16000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)

    def error(low: float, high: float) -> float:
        step = (high - low) / 15.0
        zero = round(-low / step)
        return float(((values - (np.clip(np.round(values / step) + zero, 0, 15) - zero) * step) ** 2).sum())

    chosen = error(*quantizer_range(histogram, "mse", levels=16))
    grid = np.linspace(0.1, 1.0, 46)
    best = min(error(float(values.min()) * a, float(values.max()) * b) for a in grid for b in grid)
    assert chosen <= best * 1.15
    assert chosen < 0.5 * error(*quantizer_range(histogram, "minmax", levels=16))


def test_a_percentile_range_leaves_outliers_out_and_overflow_says_how_many() -> None:
    histogram = Histogram()
    for _ in range(4):
        histogram.add(np.linspace(0.0, 1.0, 16000, dtype=np.float32))
    histogram.add(np.array([50.0]))
    low, high = quantizer_range(histogram, "percentile")
    assert low == 0.0
    assert 0.99 < high < 1.1
    other = Histogram()
    other.add(np.array([0.5, 2.0, 3.0, 0.1], np.float32))
    assert overflow({"t": other}, {"t": (low, high)}) == {"t": 0.5}


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Histogram().add(np.array([1.0, np.nan]))


def test_measured_ranges_are_those_of_the_activations_themselves(tmp_path: Path) -> None:
    model = prepared(small_net(tmp_path / "net.onnx"))
    name = Graph(model).convolutions()[0].output[0]
    (histogram,) = measure(model, [name], images(3)).values()
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.ValueInfoProto(name=name))
    seen = np.stack([session(probe).run([name], {"image": x})[0] for x in images(3)])
    assert (histogram.low, histogram.high) == (seen.min(), seen.max())


def test_no_calibration_image_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no calibration image could be used"):
        measure(prepared(small_net(tmp_path / "net.onnx")), ["image"], [])


# --- the plan --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "SiLU"])
def test_stem_and_tail_stay_in_float(tmp_path: Path, layout: str, activation: str) -> None:
    graph = Graph(prepared(small_net(tmp_path / "net.onnx", activation=activation)))
    plan = make_plan(graph, layout=layout)
    assert len(graph.convolutions()) == 9
    assert (len(plan.stem), len(plan.convolutions), len(plan.heads)) == (1, 6, 2)
    by_name = {node.name: node for node in graph.nodes}
    assert {by_name[name].op_type for name in plan.tail} == {"Sigmoid", "Concat", "Reshape"}
    tail_made = {name for node in plan.tail for name in by_name[node].output}
    assert not tail_made & set(plan.tensors)
    assert not set(graph.outputs) & set(plan.tensors)


def test_nearest_resize_stays_in_float_and_what_shares_values_shares_the_range(tmp_path: Path) -> None:
    b = NetBuilder()
    x = b.node("Relu", b.conv(b.node("Relu", b.conv("image", 3, 8)), 8, 8))
    pooled = b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    scales = b.constant(np.array([1, 1, 2, 2], np.float32))
    up = b.node("Resize", pooled, b.constant(np.zeros(0, np.float32)), scales, mode="nearest")
    out = b.conv(b.node("Concat", x, up, axis=1), 16, 4)
    onnx.save(b.model({out: (1, 4, 16, 16)}, (1, 3, 16, 16)), str(tmp_path / "net.onnx"))
    graph = Graph(prepared(tmp_path / "net.onnx"))
    plan = make_plan(graph, layout="stepwise")
    assert plan.shares == {pooled: x}
    assert {x, pooled, up} <= set(plan.tensors)
    model, _, _ = quantize(tmp_path / "net.onnx", "stepwise", side=16)
    reader = next(node for node in model.graph.node if node.op_type == "Resize")
    assert reader.input[0] == pooled  # the dequantized tensor under its own name
    found = session(model).run(None, {"image": images(1, 16)[0]})[0]
    truth = session(str(tmp_path / "net.onnx")).run(None, {"image": images(1, 16)[0]})[0]
    assert sqnr_db(truth, found) > 25.0


def test_a_plan_for_some_convolutions_quantizes_no_tensor_between_the_others(tmp_path: Path) -> None:
    graph = Graph(prepared(small_net(tmp_path / "net.onnx")))
    last = graph.convolutions()[-1]
    plan = make_plan(graph, layout="stepwise", convolutions=[last.name])
    assert plan.tensors == (last.input[0], last.output[0])
    with pytest.raises(ValueError, match="no such convolutions"):
        make_plan(graph, layout="fused", convolutions=["nonsense"])


# --- the quantized graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["avx2", "vnni", "arm"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["Relu", "SiLU"])
def test_the_integer_network_computes_nearly_the_same(
    tmp_path: Path, target: str, layout: str, activation: str
) -> None:
    path = small_net(tmp_path / "net.onnx", activation=activation)
    model, _, _ = quantize(path, layout, target)
    truth = [session(str(path)).run(None, {"image": x})[0] for x in images(2)]
    plain = [session(model, optimised=False).run(None, {"image": x})[0] for x in images(2)]
    assert sqnr_db(np.stack(truth), np.stack(plain)) > 22.0


def test_seven_bit_weights_do_not_saturate_where_vpmaddubsw_adds_in_16_bits(tmp_path: Path) -> None:
    path = small_net(tmp_path / "net.onnx")
    model, _, _ = quantize(path, "stepwise", "avx2")
    integer, exact = session(model), session(model, optimised=False)
    for x in images(2):
        assert sqnr_db(exact.run(None, {"image": x})[0], integer.run(None, {"image": x})[0]) > 30.0
    weights = [one for one in model.graph.initializer if one.name.endswith("weights_integer")]
    assert weights
    assert all(np.abs(onnx.numpy_helper.to_array(one).astype(int)).max() <= 64 for one in weights)


def test_integer_convolutions_run_as_such_in_onnxruntime(tmp_path: Path) -> None:
    model, plan, _ = quantize(small_net(tmp_path / "net.onnx"), "stepwise")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "run.onnx")).graph.node]
    assert kinds.count("QLinearConv") == len(plan.convolutions)


def test_a_quantized_output_keeps_its_name_and_an_input_can_be_quantized(tmp_path: Path) -> None:
    b = NetBuilder()
    out = b.conv(b.node("Relu", b.conv("image", 3, 8)), 8, 4)
    onnx.save(b.model({out: (1, 4, 16, 16)}, (1, 3, 16, 16)), str(tmp_path / "net.onnx"))
    model = prepared(tmp_path / "net.onnx")
    graph = Graph(model)
    plan = make_plan(graph, layout="fused", convolutions=[node.name for node in graph.convolutions()])
    assert {"image", out} <= set(plan.tensors)
    ranges = {name: quantizer_range(h, "minmax") for name, h in measure(model, plan.tensors, images(4, 16)).items()}
    weights = {node.name: rounded_weights(graph.constants[node.input[1]], 64) for node in graph.convolutions()}
    made = session(quantized_model(model, plan, ranges, weights))
    assert [one.name for one in made.get_outputs()] == [out]
    x = images(1, 16)[0]
    assert sqnr_db(session(model).run(None, {"image": x})[0], made.run(None, {"image": x})[0]) > 28.0


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.booleans())
@settings(max_examples=100, deadline=None)
def test_zero_is_exact_in_every_quantizer(first: float, second: float, signed: bool) -> None:
    step, zero = activation_parameters(min(first, second), max(first, second), signed=signed)
    assert step > 0.0
    assert zero.dtype == (np.int8 if signed else np.uint8)
    lowest = -128 if signed else 0
    assert (lowest - int(zero)) * float(step) <= min(first, second, 0.0) + 0.51 * float(step) + 1e-6
    assert (lowest + 255 - int(zero)) * float(step) >= max(first, second, 0.0) - 0.51 * float(step) - 1e-6


@given(st.integers(0, 1000), st.sampled_from([7, 64, 127]))
@settings(max_examples=40, deadline=None)
def test_weights_are_within_half_a_step_of_their_channel(seed: int, limit: int) -> None:
    weights = np.random.default_rng(seed).normal(0.0, 1.0, (5, 3, 3, 3)).astype(np.float32)
    weights[2] = 0.0
    integers = rounded_weights(weights, limit)
    assert np.abs(integers.values.astype(int)).max() <= limit
    error = np.abs(weights - integers.dequantized())
    assert (error <= 0.5001 * integers.steps[:, None, None, None]).all()


# --- files -----------------------------------------------------------------------------------------------------------


def test_preparing_folds_batch_normalisation_and_changes_no_result(tmp_path: Path) -> None:
    b = NetBuilder()
    x = b.conv("image", 3, 8)
    parts = [b.constant(v.astype(np.float32)) for v in (b.draw.uniform(0.5, 2, 8), b.draw.normal(size=8))]
    parts += [b.constant(v.astype(np.float32)) for v in (b.draw.normal(size=8), b.draw.uniform(0.5, 2, 8))]
    out = b.conv(b.node("Relu", b.node("BatchNormalization", x, *parts)), 8, 4)
    onnx.save(b.model({out: (1, 4, 16, 16)}, ("batch", 3, 16, 16), opset=11), str(tmp_path / "net.onnx"))
    model = prepared(tmp_path / "net.onnx")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu", "Conv"]
    assert model.opset_import[0].version >= 13
    assert {one.domain for one in model.opset_import} == {""}
    x = images(1, 16)[0]
    np.testing.assert_allclose(
        session(model).run(None, {"image": x})[0],
        session(str(tmp_path / "net.onnx")).run(None, {"image": x})[0],
        atol=1e-5,
    )


def test_a_written_model_keeps_its_metadata_and_is_never_half_there(tmp_path: Path) -> None:
    model = prepared(small_net(tmp_path / "net.onnx"))
    onnx.helper.set_model_props(model, {"class_names": "a,b"})
    write_model(tmp_path / "deep" / "out.onnx", model, {"tercel_quantization": "static"})
    assert session(str(tmp_path / "deep" / "out.onnx")).get_modelmeta().custom_metadata_map == {
        "class_names": "a,b",
        "tercel_quantization": "static",
    }
    broken = rewrite(model, model.graph.node[1:], [])
    with pytest.raises(onnx.checker.ValidationError):
        write_model(tmp_path / "deep" / "broken.onnx", broken, {})
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.onnx"]


def test_files_that_cannot_be_quantized_are_a_line_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model file"):
        read_float_model(tmp_path / "none.onnx")
    (tmp_path / "page.onnx").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match="not a sound ONNX model"):
        read_float_model(tmp_path / "page.onnx")
    model, _, _ = quantize(small_net(tmp_path / "net.onnx"), "fused")
    onnx.save(model, str(tmp_path / "int8.onnx"))
    with pytest.raises(UserError, match="is quantized already"):
        read_float_model(tmp_path / "int8.onnx")
    b = NetBuilder()
    onnx.save(b.model({b.node("Relu", "image"): (1, 3, 4, 4)}, (1, 3, 4, 4)), str(tmp_path / "relu.onnx"))
    with pytest.raises(UserError, match="has no convolution"):
        read_float_model(tmp_path / "relu.onnx")
    half = onnx.load(str(tmp_path / "relu.onnx"))
    half.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    half.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(half, str(tmp_path / "half.onnx"))
    with pytest.raises(UserError, match="float16"):
        read_float_model(tmp_path / "half.onnx")


def test_an_addition_before_a_relu_is_one_with_it_and_runs_in_integers(tmp_path: Path) -> None:
    b = NetBuilder()
    x = b.node("Relu", b.conv("image", 3, 8))
    y = b.conv(b.node("Relu", b.conv(x, 8, 8)), 8, 8, kernel=1)
    total = b.node("Add", x, y)
    out = b.conv(b.node("Relu", b.conv(b.node("Relu", total), 8, 8)), 8, 4)
    onnx.save(b.model({out: (1, 4, 16, 16)}, (1, 3, 16, 16)), str(tmp_path / "net.onnx"))
    model, plan, _ = quantize(tmp_path / "net.onnx", "fused", side=16)
    assert total not in plan.tensors
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "run.onnx")).graph.node]
    assert kinds.count("QLinearConv") == 3
    assert kinds.count("QLinearAdd") == 1
    assert "Add" not in kinds
