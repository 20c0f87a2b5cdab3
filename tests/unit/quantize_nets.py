"""Small convolutional networks for the tests of quantization, with weights drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class NetBuilder:
    """Nodes one after the other; each method returns the name of what it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, source: str, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, group: int = 1) -> str:
        shape = (outputs, inputs // group, kernel, kernel)
        fan_in = float(np.prod(shape[1:]))
        weights = self.draw.normal(0.0, (2.0 / fan_in) ** 0.5, shape).astype(np.float32)
        bias = self.draw.normal(0.0, 0.1, outputs).astype(np.float32)
        pads = [kernel // 2] * 4
        return self.node(
            "Conv",
            source,
            self.constant(weights),
            self.constant(bias),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=pads,
            group=group,
        )

    def silu(self, source: str) -> str:
        return self.node("Mul", source, self.node("Sigmoid", source))

    def model(self, outputs: dict[str, tuple[int, ...]], shape: tuple[int, ...], opset: int = 13) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in outputs.items()],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(made)
        return made


def small_net(path: Path, *, activation: str = "Relu", side: int = 32, seed: int = 0) -> Path:
    """A stem, three pairs of depthwise and pointwise convolutions with a residual, and a YOLOX-like decoded tail."""
    b = NetBuilder(seed)

    def act(name: str) -> str:
        return b.silu(name) if activation == "SiLU" else b.node(activation, name)

    x = act(b.conv("image", 3, 16, stride=2))
    for _ in range(3):
        y = act(b.conv(x, 16, 16, group=16))
        x = b.node("Add", x, act(b.conv(y, 16, 16, kernel=1)))
    boxes, scores = b.conv(x, 16, 4, kernel=1), b.node("Sigmoid", b.conv(x, 16, 6, kernel=1))
    joined = b.node("Concat", boxes, scores, axis=1)
    out = b.node("Reshape", joined, b.constant(np.array([1, 10, -1], np.int64)))
    onnx.save(b.model({out: (1, 10, (side // 2) ** 2)}, (1, 3, side, side)), str(path))
    return path


def tiny_yolox(path: Path, seed: int = 0) -> Path:
    """A detector of three classes for 64 x 64 pixels with YOLOX's head, which finds boxes in any picture."""
    b = NetBuilder(seed)
    scaled = b.node("Mul", "image", b.constant(np.array(1.0 / 255.0, np.float32)))
    x = b.node("Relu", b.conv(scaled, 3, 16, stride=2))
    x = b.node("Relu", b.conv(x, 16, 16, stride=2))
    parts = []
    for stride in (8, 16, 32):
        x = b.node("Relu", b.conv(x, 16, 16, stride=2))
        y = b.node("Relu", b.conv(x, 16, 16, group=16))
        x = b.node("Add", x, b.node("Relu", b.conv(y, 16, 16, kernel=1)))
        head = b.conv(b.node("Relu", b.conv(x, 16, 16, kernel=1)), 16, 8, kernel=1)
        parts.append(b.node("Reshape", head, b.constant(np.array([1, 8, (64 // stride) ** 2], np.int64))))
    out = b.node("Transpose", b.node("Sigmoid", b.node("Concat", *parts, axis=2)), perm=[0, 2, 1])
    onnx.save(b.model({out: (1, 84, 8)}, (1, 3, 64, 64)), str(path))
    return path
