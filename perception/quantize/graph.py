"""Reading, preparing and writing ONNX graphs for quantization.

A model is prepared before it is quantized: a free batch becomes 1, old operator sets are raised to one that knows
per-channel DequantizeLinear, batch normalisations are folded into convolutions and constants are computed
(onnxruntime's own basic optimisations, written to a file and read back), and every node gets a name. What is prepared
computes what the original did.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tercel.core.errors import UserError, require

Array = NDArray[Any]

MIN_OPSET = 13
"""The first operator set whose DequantizeLinear takes a scale for each channel."""
INT4_OPSET = 21
"""The first operator set with four-bit integers, and the IR version that goes with it."""
INT4_IR = 10
MAX_FILE_BYTES = 1 << 29

_QUANTIZED = ("QuantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearMatMul")


@dataclass(eq=False)
class Graph:
    """Look-ups in a model's main graph. They are of the moment: make a new Graph after an edit.

    constants: initializers by name, as arrays; producer: the node that makes a tensor; consumers: the nodes that read
    it, in the file's order; outputs: names of the graph's outputs; shapes: of the tensors whose shape is known.
    """

    model: Any
    constants: dict[str, Array] = field(init=False)
    producer: dict[str, Any] = field(init=False)
    consumers: dict[str, list[Any]] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    shapes: dict[str, tuple[int, ...]] = field(init=False)

    def __post_init__(self) -> None:
        onnx = require("onnx", extra="quantize")
        graph = self.model.graph
        self.constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        self.producer = {name: node for node in graph.node for name in node.output}
        self.consumers = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.consumers[name].append(node)
        self.outputs = tuple(output.name for output in graph.output)
        self.shapes = {
            info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            for info in (*graph.input, *graph.value_info, *graph.output)
        }

    @property
    def nodes(self) -> list[Any]:
        """All nodes, each after those whose outputs it reads."""
        return list(self.model.graph.node)

    def convolutions(self) -> list[Any]:
        """The convolutions whose weights are constants, in order."""
        return [node for node in self.nodes if node.op_type == "Conv" and node.input[1] in self.constants]

    def with_descendant(self, kind: str) -> set[str]:
        """Names of the nodes from which a node of that operator can be reached."""
        found: set[str] = set()
        for node in reversed(self.nodes):
            later = [other for name in node.output for other in self.consumers[name]]
            if any(other.op_type == kind or other.name in found for other in later):
                found.add(node.name)
        return found

    def with_ancestor(self, kind: str) -> set[str]:
        """Names of the nodes that a node of that operator reaches."""
        found: set[str] = set()
        for node in self.nodes:
            earlier = [self.producer[name] for name in node.input if name in self.producer]
            if any(other.op_type == kind or other.name in found for other in earlier):
                found.add(node.name)
        return found


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute's value, or the default."""
    onnx = require("onnx", extra="quantize")
    for one in node.attribute:
        if one.name == name:
            return onnx.helper.get_attribute_value(one)
    return default


def read_float_model(path: Path) -> Any:
    """The model of an ONNX file that may be quantized.

    Raises UserError for a file that is missing, too large, no ONNX, quantized already, of float16, or without a
    convolution.
    """
    onnx = require("onnx", extra="quantize")
    if not path.is_file():
        raise UserError(f"{path}: no such model file; check the path")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path}: {path.stat().st_size >> 20} MiB is too large to quantize here; at most 512")
    try:
        model = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's and onnx's errors share no base class
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a sound ONNX model ({reason}); export or download it again") from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in model.graph.initializer):
        raise UserError(f"{path}: keeps its weights in other files; export it as one file")
    kinds = {node.op_type for node in model.graph.node}
    if found := sorted(kinds & set(_QUANTIZED)):
        raise UserError(f"{path}: is quantized already ({', '.join(found)}); give the float model it was made from")
    half = onnx.TensorProto.FLOAT16
    typed = [one.data_type for one in model.graph.initializer]
    typed += [one.type.tensor_type.elem_type for one in model.graph.input]
    if half in typed or onnx.TensorProto.BFLOAT16 in typed:
        raise UserError(f"{path}: is a float16 model; export it in float32, quantization starts from there")
    if "Conv" not in kinds:
        raise UserError(f"{path}: has no convolution; there is nothing here that quantizing would make faster")
    return model


def prepared(path: Path, *, opset: int = MIN_OPSET) -> Any:
    """The model of a float ONNX file, ready to be quantized: see the module's docstring.

    Raises UserError as read_float_model does, for an operator set that cannot be raised, and for a model that
    onnxruntime cannot load.
    """
    onnx = require("onnx", extra="quantize")
    from onnx import version_converter

    model = read_float_model(path)
    graph = model.graph
    constants = {one.name for one in graph.initializer}
    fed = [one for one in graph.input if one.name not in constants]
    del graph.input[:]
    graph.input.extend(fed)
    for one in fed:
        dims = one.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == 0:
            dims[0].dim_value = 1
    current = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if current < opset:
        try:
            model = version_converter.convert_version(model, opset)
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{path}: operator set {current} cannot be raised to {opset} ({reason})") from None
        model.ir_version = max(model.ir_version, 7)
    model = _folded(path, model)
    _name_nodes(model)
    model = onnx.shape_inference.infer_shapes(model)
    if "Conv" not in {node.op_type for node in model.graph.node}:
        raise UserError(f"{path}: no convolution is left once constants are folded; nothing can be quantized")
    return model


def _folded(path: Path, model: Any) -> Any:
    """The model after onnxruntime's basic optimisations, which keep to ONNX's own operators."""
    onnx = require("onnx", extra="quantize")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(target)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class of their own
            reason = " ".join(str(error).split()).rsplit(" : ", 1)[-1][:120]
            raise UserError(f"{path}: not a model that onnxruntime can load ({reason}); export it again") from None
        folded = onnx.load(str(target))
    used = {node.domain for node in folded.graph.node} | {""}
    kept = [one for one in folded.opset_import if one.domain in used]
    del folded.opset_import[:]
    folded.opset_import.extend(kept)
    folded.metadata_props.extend(model.metadata_props if not folded.metadata_props else [])
    return folded


def _name_nodes(model: Any) -> None:
    """Give a name of its own to every node that has none."""
    seen: set[str] = set()
    for node in model.graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        while name in seen:
            name += "_"
        seen.add(name)
        node.name = name


def rewrite(model: Any, nodes: Iterable[Any], constants: Iterable[Any]) -> Any:
    """A copy of the model with these nodes (in any order that the file may have) and these more constants.

    Constants that nothing reads any more are dropped, and so are stale types of inner tensors.
    """
    onnx = require("onnx", extra="quantize")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(nodes)
    used = {name for node in nodes for name in node.input} | {one.name for one in model.graph.output}
    kept = [one for one in (*model.graph.initializer, *constants) if one.name in used]
    for repeated in (result.graph.node, result.graph.initializer, result.graph.value_info):
        del repeated[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(kept)
    return result


def write_model(path: Path, model: Any, metadata: dict[str, str]) -> None:
    """Check a model and write it, with more metadata; a file that is half written is never left under the name."""
    onnx = require("onnx", extra="quantize")
    kept = {one.key: one.value for one in model.metadata_props}
    onnx.helper.set_model_props(model, kept | metadata)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(model.SerializeToString(deterministic=True))
    partial.replace(path)


def constant(name: str, values: Array) -> Any:
    """An initializer."""
    onnx = require("onnx", extra="quantize")
    return onnx.numpy_helper.from_array(values, name)
