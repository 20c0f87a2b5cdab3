"""What rounding some layers alone does to a network's outputs, and which activations therefore stay in float.

A trial is the float network with a rounding at some activations and some weights, computed in float, so that nothing
saturates. Its error is relative: the outputs' squared difference from the float network's over their variance,
averaged over outputs and images. Errors of several small roundings nearly add up (a sum of 126 single errors predicted
-7.5 dB where all together made -8.0), which is why a group with a small error holds no fragile member, and why few
trials find the fragile ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.quantize.calibration import Range
from perception.quantize.graph import Graph, constant, rewrite
from perception.quantize.plan import Layout, Plan, unit_end
from perception.quantize.static import IntegerWeights, quantized_model

Array = NDArray[Any]

FRAGILE = 10.0**-2.5
"""An activation whose rounding alone makes this relative error (25 dB) is left in float."""


class Trials:
    """Trials on a prepared model over some tensors of its input; see the module's docstring."""

    def __init__(
        self, model: Any, ranges: Mapping[str, Range], weights: Mapping[str, IntegerWeights], inputs: Sequence[Array]
    ) -> None:
        self._model, self._ranges, self._weights = model, ranges, weights
        self._graph = Graph(model)
        self._inputs = list(inputs)
        self.count = 0
        self._truth = self._outputs(model)
        self._power = [np.mean([out.var() for out in outs]) + 1e-30 for outs in zip(*self._truth, strict=True)]

    def error(self, tensors: Collection[str], convolutions: Collection[str] = ()) -> float:
        """Relative error of the outputs with only these activations, and these convolutions' weights, rounded."""
        self.count += 1
        nodes = {node.name: node for node in self._graph.convolutions()}
        rounded = {nodes[name].input[1]: self._weights[name].dequantized() for name in convolutions}
        model = rewrite(self._model, self._graph.nodes, [constant(name, values) for name, values in rounded.items()])
        kept = {one.name: one for one in model.graph.initializer}  # of two with one name, the later
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept.values())
        plan = Plan((), tuple(tensors), {}, (), (), ())
        total = 0.0
        found = self._outputs(quantized_model(model, plan, self._ranges, {}))
        for outputs, truth in zip(found, self._truth, strict=True):
            for output, wanted, power in zip(outputs, truth, self._power, strict=True):
                total += float(((output - wanted) ** 2).mean() / power)
        return total / (len(self._inputs) * len(self._power))

    def _outputs(self, model: Any) -> list[list[Array]]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # round, but compute in float
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        fed = model.graph.input[0].name
        return [session.run(None, {fed: tensor}) for tensor in self._inputs]


def fragile_tensors(trials: Trials, plan: Plan) -> dict[str, float]:
    """The activations of a plan whose rounding alone errs by more than FRAGILE, with their errors; by halving."""
    found: dict[str, float] = {}

    def search(names: list[str]) -> None:
        error = trials.error(names) if names else 0.0
        if error <= FRAGILE:
            return
        if len(names) == 1:
            found[names[0]] = error
            return
        search(names[: len(names) // 2])
        search(names[len(names) // 2 :])

    search([name for name in plan.tensors if name not in plan.shares])
    return found


def sturdy_convolutions(graph: Graph, plan: Plan, fragile: Collection[str]) -> list[str]:
    """The convolutions of a plan that read no fragile activation: those that do stay in float, and so does it."""
    nodes = {node.name: node for node in graph.convolutions()}
    read = {name: plan.shares.get(nodes[name].input[0], nodes[name].input[0]) for name in plan.convolutions}
    return [name for name in plan.convolutions if read[name] not in fragile]


def convolution_errors(trials: Trials, graph: Graph, plan: Plan, layout: Layout) -> dict[str, float]:
    """For each convolution of the plan, the error of rounding its weights, its input and its unit's result."""
    nodes = {node.name: node for node in graph.convolutions()}
    errors = {}
    for name in plan.convolutions:
        ends = (nodes[name].input[0], unit_end(graph, nodes[name], layout))
        errors[name] = trials.error(dict.fromkeys(plan.shares.get(end, end) for end in ends), [name])
    return errors
