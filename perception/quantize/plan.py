"""Which convolutions and which activations of a graph become integers, from the graph alone.

A detector's *tail*, everything from which no convolution can be reached any more (Sigmoid, Exp, Softmax, Mul, Concat,
Reshape that decode boxes), stays in float32: in eight bits its scores go to zero (onnxruntime issue 14233). So do the
*heads*, the last convolutions before it, because boxes and scores in 256 steps cost 0.1 to 0.5 points of AP and the
small convolutions gain nothing; the *stem*, the first convolutions after the image, whose integer kernels are slower
than float (three times, measured), and nearest Resize (nine times). The rest follows from the convolutions: each reads
and gives a quantized tensor, and what lies between two of them is carried along in integers where all of it can be.

A convolution and its activation are one unit: with ReLU the integer kernel clips for nothing, so only the ReLU's
result is a tensor. Whether SiLU, LeakyReLU and their like are such a unit depends on who runs the file: OpenVINO and
TensorRT fuse them into the integer convolution (`fused`), onnxruntime wants each step on its own (`stepwise`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from perception.quantize.graph import Graph

Layout = Literal["fused", "stepwise"]
LAYOUTS: tuple[Layout, ...] = ("fused", "stepwise")

_SAME_VALUES = {"MaxPool", "Reshape", "Transpose", "Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Flatten"}
_CARRIED = _SAME_VALUES | {
    "Relu", "Clip", "LeakyRelu", "Sigmoid", "Mul", "Add", "Concat", "AveragePool", "GlobalAveragePool",
}  # fmt: skip
_ACTIVATIONS = {"LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "PRelu", "Elu", "Tanh", "Mish"}


@dataclass(frozen=True)
class Plan:
    """What is quantized.

    convolutions: names of the nodes whose weights become integers; tensors: activations that get a QuantizeLinear and
    a DequantizeLinear, in graph order; shares: of those, the ones that hold values of another one and take its range;
    tail, heads, stem: decoding nodes and convolutions that are left out because of where they stand.
    """

    convolutions: tuple[str, ...]
    tensors: tuple[str, ...]
    shares: dict[str, str]
    tail: tuple[str, ...]
    heads: tuple[str, ...]
    stem: tuple[str, ...]


def eligible(graph: Graph) -> list[str]:
    """Names of the convolutions that become integers unless something speaks against it: neither stem nor head."""
    after, before = graph.with_ancestor("Conv"), graph.with_descendant("Conv")
    return [node.name for node in graph.convolutions() if node.name in after and node.name in before]


def make_plan(graph: Graph, *, layout: Layout, convolutions: Collection[str] | None = None) -> Plan:
    """The plan for these convolutions, by name; None: those that are eligible.

    Raises ValueError for a name that is no convolution with constant weights.
    """
    known = {node.name: node for node in graph.convolutions()}
    chosen = eligible(graph) if convolutions is None else [name for name in known if name in convolutions]
    if convolutions is not None and (unknown := sorted(set(convolutions) - set(known))):
        raise ValueError(f"no such convolutions: {unknown[:3]}")
    after, before = graph.with_ancestor("Conv"), graph.with_descendant("Conv")
    ends = {name: unit_end(graph, known[name], layout) for name in chosen}
    wanted = {known[name].input[0] for name in chosen} | set(ends.values())
    inner = {name for start, end in ends.items() for name in _between(graph, known[start].output[0], end)}
    tensors, shares = _carried(graph, wanted, inner, before)
    tail = [node.name for node in graph.nodes if node.name in after - before and node.op_type != "Conv"]
    heads = [name for name in known if name not in before and name not in chosen]
    stem = [name for name in known if name not in after and name not in chosen]
    return Plan(tuple(chosen), tensors, shares, tuple(tail), tuple(heads), tuple(stem))


def unit_end(graph: Graph, convolution: Any, layout: Layout) -> str:
    """The tensor in which a convolution's unit ends: its activation's result, or its own."""
    made: str = convolution.output[0]
    readers = graph.consumers[made]
    kinds = sorted(node.op_type for node in readers)
    if made in graph.outputs:
        return made
    if len(readers) == 1 and _is_relu(graph, readers[0]):
        return str(readers[0].output[0])
    if layout == "stepwise":
        return made
    if len(readers) == 1 and kinds[0] in _ACTIVATIONS and graph.with_descendant("Conv") & {readers[0].name}:
        return str(readers[0].output[0])
    if kinds in (["Mul", "Sigmoid"], ["HardSigmoid", "Mul"]):
        gate, product = sorted(readers, key=lambda node: node.op_type == "Mul")
        if graph.consumers[gate.output[0]] == [product] and set(product.input) == {made, gate.output[0]}:
            return str(product.output[0])
    return made


def _is_relu(graph: Graph, node: Any) -> bool:
    """ReLU, or ReLU6 and its like: the integer range already begins at 0."""
    low = graph.constants.get(node.input[1]) if len(node.input) > 1 else None
    return node.op_type == "Relu" or (node.op_type == "Clip" and low is not None and float(low) == 0.0)


def _between(graph: Graph, start: str, end: str) -> set[str]:
    """Tensors of a unit that must not be quantized: those from its convolution up to, and without, its end."""
    if start == end:
        return set()
    gates = {node.output[0] for node in graph.consumers[start] if node.output[0] != end}
    return {start} | gates


def _carried(
    graph: Graph, wanted: set[str], inner: set[str], reaching: set[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The wanted tensors and those that come out of them in integers; and which of them share a range."""
    quantized = set(wanted)
    shares: dict[str, str] = {}
    summed: set[str] = set()  # results of additions that a ReLU right behind them takes in
    for node in graph.nodes:
        dynamic = [name for name in node.input if name and name not in graph.constants]
        if node.op_type not in _CARRIED or node.name not in reaching or not dynamic or inner & set(node.output):
            continue
        if node.op_type in ("Mul", "Add") and len(dynamic) < 2:
            continue
        if node.op_type == "Concat" and quantized & set(dynamic) and not inner & set(dynamic):
            quantized |= set(dynamic)
        if not set(dynamic) <= quantized | summed:
            continue
        readers = graph.consumers[node.output[0]]
        if node.op_type == "Add" and len(readers) == 1 and _is_relu(graph, readers[0]):
            summed |= set(node.output) - quantized
            continue
        quantized |= set(node.output)
        if node.op_type in _SAME_VALUES:
            shares |= {name: shares.get(dynamic[0], dynamic[0]) for name in node.output}
    order = [name for one in graph.model.graph.input for name in (one.name,)]
    order += [name for node in graph.nodes for name in node.output]
    return tuple(name for name in order if name in quantized), shares
