"""Weights without data: SQuant's flipping, ANT's number formats; and rounding borders of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.quantize.graph import INT4_OPSET, Graph, prepared, write_model
from perception.quantize.number_formats import FORMATS, best_format, grid, in_format
from perception.quantize.rounding import NEAREST, output_mse, patches_of, rounded, study
from perception.quantize.squant import flip_channels, flip_kernels, squant_weights
from perception.quantize.static import INT4_LIMIT, rounded_weights, weights_only_model
from tests.unit.quantize_nets import small_net

SLACK = 1e-9
shapes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 4, 9, 25]))


@given(shapes, st.integers(0, 10_000), st.sampled_from([7, 64, 127]))
@settings(max_examples=150, deadline=None)
def test_after_flipping_errors_are_below_a_step_and_their_sums_at_most_half_of_one(
    shape: tuple[int, int, int], seed: int, limit: int
) -> None:
    scaled = np.random.default_rng(seed).uniform(-limit, limit, shape)
    errors = np.rint(scaled) - scaled
    kernels = flip_kernels(errors)
    assert (np.abs(kernels) < 1.0).all()
    assert (np.abs(kernels.sum(axis=2)) <= 0.5 + SLACK).all()
    channels = flip_channels(kernels)
    assert (np.abs(channels) < 1.0).all()
    assert (np.abs(channels.sum(axis=2)) < 1.0).all()
    assert (np.abs(channels.sum(axis=(1, 2))) <= 0.5 + SLACK).all()
    untouched = (channels == kernels).all(axis=2)
    assert (np.abs(channels.sum(axis=2))[untouched] <= 0.5 + SLACK).all()
    integers = scaled + channels
    assert np.allclose(integers, np.rint(integers), atol=1e-9)
    assert (np.abs(np.rint(integers)) <= limit).all()


def test_flipping_is_the_papers_loop_over_kernels_and_channels() -> None:
    errors = np.random.default_rng(3).uniform(-0.5, 0.5, (6, 5, 9))
    wanted = errors.copy()
    for channel in wanted:
        for kernel in channel:
            total = kernel.sum()
            leaning = sorted(range(9), key=lambda i: -kernel[i] * np.sign(total))
            for i in leaning[: round(abs(total))]:
                kernel[i] -= np.sign(total)
    assert np.allclose(flip_kernels(errors), wanted)
    for channel in wanted:
        total = channel.sum()
        sums = channel.sum(axis=1)
        for k in sorted(range(5), key=lambda k: -sums[k] * np.sign(total))[: round(abs(total))]:
            i = int(np.argmax(channel[k] * np.sign(total)))
            channel[k, i] -= np.sign(total)
    assert np.allclose(flip_channels(flip_kernels(errors)), wanted)


def test_squant_beats_rounding_to_nearest_on_inputs_whose_mean_is_not_zero() -> None:
    draw = np.random.default_rng(0)
    weights = draw.normal(0.0, 1.0, (32, 16, 3, 3)).astype(np.float32)
    inputs = draw.gamma(2.0, 1.0, (16, 1, 1)) * draw.uniform(0.7, 1.3, (500, 16, 3, 3))  # alike within a kernel
    truth = np.einsum("nikl,oikl->no", inputs, weights)

    def error(found: np.ndarray) -> float:
        return float(((np.einsum("nikl,oikl->no", inputs, found) - truth) ** 2).mean())

    nearest = error(rounded_weights(weights, INT4_LIMIT).dequantized())
    flipped = error(squant_weights(weights, INT4_LIMIT).dequantized())
    assert flipped < 0.5 * nearest


@pytest.mark.parametrize("weights", [np.zeros(4, np.float32), np.full((2, 2), np.nan, np.float32)])
def test_squant_refuses_what_is_no_weight(weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be"):
        squant_weights(weights, 7)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_file_of_integer_weights_is_smaller_and_gives_what_its_weights_say(tmp_path: Path, bits: int) -> None:
    path = small_net(tmp_path / "net.onnx")
    model = prepared(path, opset=INT4_OPSET if bits == 4 else 13)
    graph = Graph(model)
    limit = INT4_LIMIT if bits == 4 else 127
    weights = {node.name: squant_weights(graph.constants[node.input[1]], limit) for node in graph.convolutions()}
    write_model(tmp_path / "out.onnx", weights_only_model(model, weights, bits=bits), {})
    stored = sum(one.values.size for one in weights.values())
    held = sum(
        len(one.raw_data)
        for one in onnx.load(str(tmp_path / "out.onnx")).graph.initializer
        if one.name.endswith("_integer")
    )
    assert held == pytest.approx(stored * bits / 8, abs=len(weights))
    replaced = onnx.ModelProto()
    replaced.CopyFrom(model)
    for node in Graph(replaced).convolutions():
        constant = next(one for one in replaced.graph.initializer if one.name == node.input[1])
        constant.CopyFrom(onnx.numpy_helper.from_array(weights[node.name].dequantized(), constant.name))
    x = np.random.default_rng(0).uniform(0, 1, (1, 3, 32, 32)).astype(np.float32)
    found = ort.InferenceSession(str(tmp_path / "out.onnx")).run(None, {"image": x})[0]
    truth = ort.InferenceSession(replaced.SerializeToString()).run(None, {"image": x})[0]
    np.testing.assert_allclose(found, truth, atol=1e-4)


# --- number formats --------------------------------------------------------------------------------------------------


def test_the_grids_are_ants() -> None:
    assert grid("flint", 4, signed=False) == (*range(9), 10, 12, 14, 16, 24, 32, 64)
    assert grid("flint", 4, signed=True) == (-16, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 16)
    assert grid("pot", 4, signed=True)[-7:] == (1, 2, 4, 8, 16, 32, 64)
    assert grid("int", 4, signed=True) == tuple(range(-7, 8))
    for name in FORMATS:
        assert len(grid(name, 4, signed=False)) == 16
        assert len(grid(name, 5, signed=False)) == 32
    with pytest.raises(ValueError, match="not offered"):
        grid("pot", 8, signed=True)


@given(st.integers(0, 1000), st.sampled_from(FORMATS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_value_goes_to_the_nearest_of_its_grid(seed: int, name: str, per_channel: bool) -> None:
    values = np.random.default_rng(seed).standard_t(3, (4, 30))
    found = in_format(values, name, 4, per_channel=per_channel)
    levels = np.array(grid(name, 4, signed=True))
    for row, got in zip(*((values, found) if per_channel else (values[None], found[None])), strict=True):
        step = np.abs(got).max() / levels[-1]  # the largest may be clipped, and is at the grid's end then
        if not np.isclose(np.abs(got[..., None] / step - levels).min(axis=-1), 0.0, atol=1e-6).all():
            continue  # no value reached the end of the grid
        nearest = levels[np.abs(row[..., None] / step - levels).argmin(axis=-1)] * step
        assert np.abs(got - row).max() <= np.abs(nearest - row).max() + 1e-9


def test_the_format_follows_the_distribution() -> None:
    draw = np.random.default_rng(0)
    assert best_format(draw.uniform(-1, 1, (8, 200)), 4).format == "int"
    assert best_format(draw.normal(0, 1, (8, 200)), 4).format in ("int", "flint")
    tailed = draw.standard_t(2.0, (8, 400))
    assert best_format(tailed, 4).format in ("flint", "pot")
    wide = np.sign(draw.normal(size=(8, 400))) * 2.0 ** draw.integers(-6, 1, (8, 400))
    choice = best_format(wide, 4)
    assert choice.format == "pot"
    assert choice.mse["pot"] == pytest.approx(0.0, abs=1e-12)
    assert np.allclose(choice.values, wide)


# --- rounding borders ------------------------------------------------------------------------------------------------


def test_with_no_border_moved_it_is_rounding_to_nearest() -> None:
    values = np.random.default_rng(0).uniform(-0.2, 1.4, 1000)
    step = 1.2 / 15
    assert np.allclose(rounded(values, 1.2, 15), np.clip(np.round(values / step), 0, 15) * step)


def test_an_adapted_border_lowers_the_outputs_error_where_values_lean_to_zero() -> None:
    draw = np.random.default_rng(1)
    patches = np.maximum(draw.laplace(-0.02, 0.05, (1200, 72)), 0.0)
    weights = draw.normal(0.1, 0.2, (72, 8))
    found = study(patches[:600], patches[600:], weights, high=1.2)
    assert found.nearest_mse == output_mse(patches[600:], weights, 1.2, 15, NEAREST)
    assert found.gain > 1.1
    with pytest.raises(ValueError, match="do not fit"):
        study(patches, patches[:, :3], weights, high=1.0)


def test_patches_give_what_the_convolution_gives() -> None:
    draw = np.random.default_rng(2)
    activation, weights = draw.normal(size=(1, 3, 6, 7)), draw.normal(size=(4, 3, 3, 3))
    patches = patches_of(activation, (3, 3), most=10_000, seed=0)
    found = (patches @ weights.reshape(4, -1).T).reshape(4, 5, 4, order="F")
    wanted = np.array(
        [[[(activation[0, :, y : y + 3, x : x + 3] * w).sum() for y in range(4)] for x in range(5)] for w in weights]
    )
    assert np.allclose(np.sort(found.ravel()), np.sort(wanted.ravel()))
