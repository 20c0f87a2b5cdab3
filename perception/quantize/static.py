"""Static quantization: a float graph, a plan, ranges and integer weights -> a graph with QuantizeLinear pairs.

Conventions, which every method and the training share:

- weights int8, symmetric, one step for each output channel; activations uint8, asymmetric, one step for each tensor
  (U8S8: signed activations are slower on x86), biases int32 in steps of input times weight; all of it as
  QuantizeLinear / DequantizeLinear around float operators (QDQ), which every runtime reads;
- a processor with AVX2 alone multiplies by vpmaddubsw, which adds pairs of products in 16 bits and *saturates*:
  weights keep to -64..64 there, for 2 x 255 x 64 is below 2^15. With VNNI, or on ARM, they use -127..127. On ARM
  activations are int8.

The file is written here, with `onnx`, and not by onnxruntime.quantization: its calibration keeps every activation of
every image in memory, its choice of nodes is by operator and not by place, and integer weights that are made elsewhere
(SQuant, training) cannot be given to it. What is left of it would be the node surgery, the hundred lines below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from perception.quantize.calibration import Range
from perception.quantize.graph import INT4_IR, Graph, constant, rewrite
from perception.quantize.plan import Plan
from tercel.core.errors import require

Array = NDArray[Any]
Target = Literal["avx2", "vnni", "arm"]
TARGETS: tuple[Target, ...] = ("avx2", "vnni", "arm")

WEIGHT_LIMITS: dict[Target, int] = {"avx2": 64, "vnni": 127, "arm": 127}
INT4_LIMIT = 7


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """values (O, I, kh, kw) int8, within -limit..limit; steps (O,) float32: weight = value * step of its channel."""

    values: Array
    steps: Array

    def dequantized(self) -> Array:
        """(O, I, kh, kw) float32."""
        result: Array = self.values.astype(np.float32) * self.steps.reshape(-1, *[1] * (self.values.ndim - 1))
        return result


def weight_steps(weights: Array, limit: int) -> Array:
    """(O,) float32: the step with which each output channel of weights (O, ...) just fits into -limit..limit."""
    largest = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    steps = np.where(largest > 0.0, largest / limit, 1.0).astype(np.float32)
    result: Array = np.maximum(steps, np.float32(1e-30))  # subnormal weights are as good as none
    return result


def rounded_weights(weights: Array, limit: int) -> IntegerWeights:
    """Weights (O, ...) float32 rounded to nearest."""
    steps = weight_steps(weights, limit)
    scaled = weights / steps.reshape(-1, *[1] * (weights.ndim - 1))
    return IntegerWeights(np.clip(np.round(scaled), -limit, limit).astype(np.int8), steps)


def activation_parameters(low: float, high: float, *, signed: bool = False) -> tuple[np.float32, Array]:
    """(step, zero point) of an 8-bit quantizer over low..high, which is widened to hold 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32((high - low) / 255.0)
    if step < np.finfo(np.float32).tiny:
        step = np.float32(1.0)
    zero = int(np.clip(np.round(-low / float(step)), 0, 255))
    return step, np.array(zero - 128, np.int8) if signed else np.array(zero, np.uint8)


def quantized_model(
    model: Any,
    plan: Plan,
    ranges: Mapping[str, Range],
    weights: Mapping[str, IntegerWeights],
    *,
    target: Target = "avx2",
) -> Any:
    """The prepared model with integers where the plan says so.

    ranges: of each of the plan's tensors that shares no other one's. weights: of each of its convolutions, by name.
    Raises ValueError if one is missing.
    """
    graph = Graph(model)
    owners = {name: plan.shares.get(name, name) for name in plan.tensors}
    if missing := sorted({owner for owner in owners.values() if owner not in ranges}):
        raise ValueError(f"no range for {missing[:3]}")
    parameters = {name: activation_parameters(*ranges[owner], signed=target == "arm") for name, owner in owners.items()}
    nodes: list[Any] = []
    constants: list[Any] = []
    renamed = {name: f"{name}_dequantized" for name in plan.tensors if name not in graph.producer}
    for name, dequantized in renamed.items():  # the graph's own input
        nodes += _pair(name, name, dequantized, parameters[name], constants)
    for node in graph.nodes:
        copy = _copied(node, renamed)
        if node.name in plan.convolutions:
            step = float(parameters[node.input[0]][0])
            nodes += _integer_operands(graph, copy, weights[node.name], step, constants)
        nodes.append(copy)
        for index, name in enumerate(node.output):
            if name in parameters:  # who read the float tensor now reads the dequantized one under its name
                copy.output[index] = f"{name}_float"
                nodes += _pair(name, f"{name}_float", name, parameters[name], constants)
    return rewrite(model, nodes, constants)


def weights_only_model(model: Any, weights: Mapping[str, IntegerWeights], *, bits: int = 8) -> Any:
    """The prepared model with the weights of these convolutions as integers of so many bits; activations stay float.

    Four bits want a model of opset INT4_OPSET (see graph.prepared). Raises ValueError for other numbers of bits.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits {bits} must be 4 or 8")
    nodes: list[Any] = []
    constants: list[Any] = []
    for node in Graph(model).nodes:
        copy = _copied(node, {})
        if node.name in weights:
            nodes.append(_integer_weights(copy, weights[node.name], bits, constants))
        nodes.append(copy)
    result = rewrite(model, nodes, constants)
    if bits == 4:
        result.ir_version = max(result.ir_version, INT4_IR)
    return result


def _copied(node: Any, renamed: Mapping[str, str]) -> Any:
    """A copy of the node that reads renamed tensors."""
    onnx = require("onnx", extra="quantize")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for index, name in enumerate(node.input):
        copy.input[index] = renamed.get(name, name)
    return copy


def _pair(name: str, source: str, result: str, parameters: tuple[np.float32, Array], constants: list[Any]) -> list[Any]:
    """QuantizeLinear of the tensor `source` and DequantizeLinear into `result`."""
    make = require("onnx", extra="quantize").helper.make_node
    step, zero = parameters
    constants += [constant(f"{name}_step", np.array(step)), constant(f"{name}_zero", zero)]
    operands = [f"{name}_step", f"{name}_zero"]
    return [
        make("QuantizeLinear", [source, *operands], [f"{name}_quantized"], name=f"quantize_{name}"),
        make("DequantizeLinear", [f"{name}_quantized", *operands], [result], name=f"dequantize_{name}"),
    ]


def _integer_weights(node: Any, weights: IntegerWeights, bits: int, constants: list[Any]) -> Any:
    """DequantizeLinear before a convolution's weights, which it is made to read."""
    onnx = require("onnx", extra="quantize")
    name = f"{node.name}_weights"
    values = constant(f"{name}_integer", weights.values) if bits == 8 else _four_bits(onnx, name, weights.values)
    constants += [values, constant(f"{name}_step", weights.steps)]
    operands = [f"{name}_integer", f"{name}_step"]
    if bits == 8:
        constants.append(constant(f"{name}_zero", np.zeros(len(weights.steps), np.int8)))
        operands.append(f"{name}_zero")
    node.input[1] = name
    return onnx.helper.make_node("DequantizeLinear", operands, [name], name=f"dequantize_{name}", axis=0)


def _four_bits(onnx: Any, name: str, values: Array) -> Any:
    """An initializer of int4, two in a byte, the first one low."""
    flat = values.reshape(-1).astype(np.int16) & 0xF
    padded = np.append(flat, 0) if len(flat) % 2 else flat
    data = (padded[0::2] | padded[1::2] << 4).astype(np.uint8).tobytes()
    return onnx.helper.make_tensor(f"{name}_integer", onnx.TensorProto.INT4, values.shape, data, raw=True)


def _integer_operands(
    graph: Graph, node: Any, weights: IntegerWeights, input_step: float, constants: list[Any]
) -> list[Any]:
    """DequantizeLinear before the weights and the bias of a convolution that reads a quantized tensor."""
    onnx = require("onnx", extra="quantize")
    made = [_integer_weights(node, weights, 8, constants)]
    if len(node.input) > 2 and node.input[2]:
        bias, name = graph.constants[node.input[2]], f"{node.name}_bias"
        steps = (weights.steps.astype(np.float64) * input_step).astype(np.float32)
        integers = np.clip(np.round(bias / steps.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        constants += [constant(f"{name}_integer", integers), constant(f"{name}_step", steps)]
        constants.append(constant(f"{name}_zero", np.zeros(len(steps), np.int32)))
        operands = [f"{name}_integer", f"{name}_step", f"{name}_zero"]
        made.append(onnx.helper.make_node("DequantizeLinear", operands, [name], name=f"dequantize_{name}", axis=0))
        node.input[2] = name
    return made
