"""A trained network -> an ONNX file that every runtime takes: normalisation folded, fixed sizes, named outputs.

Batch normalisation and the scale of the pixels go into the convolutions before or after them, so that the released
graph is convolutions, additions, two upsamplings and nothing else; the final box sides keep their ReLU.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from perception.classes import TERCEL_CLASSES
from perception.train.network import PIXEL_SCALE, STRIDES_PX, Shape, TercelNano
from tercel.core.errors import UserError

OPSET = 13
OUTPUT_NAMES = [f"{kind}_{stride}" for stride in STRIDES_PX for kind in ("cls", "box")]


class Released(nn.Module):
    """The network without the head that only teaches, folded; takes pictures 0..255 as TercelNano does."""

    def __init__(self, network: TercelNano) -> None:
        super().__init__()
        self.network = fold(network)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """As TercelNano.forward."""
        network = self.network
        heads = network.one_to_one(network.neck_of(network.stem(network.edges(pictures))))
        return tuple(out for logits, sides in heads for out in (logits, torch.relu(sides)))


def fold(network: TercelNano) -> TercelNano:
    """A copy in evaluation mode whose convolutions have taken in batch normalisation and the pixels' scale."""
    folded = copy.deepcopy(network).eval().cpu()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential):
            for index in range(len(module) - 1):
                if isinstance(module[index], nn.Conv2d) and isinstance(module[index + 1], nn.BatchNorm2d):
                    module[index] = fuse_conv_bn_eval(module[index], module[index + 1])
                    module[index + 1] = nn.Identity()
    stem: Any = folded.stem[0]
    stem.weight.data /= PIXEL_SCALE
    folded.one_to_many = nn.Identity()
    return folded


def export_onnx(network: TercelNano, path: Path, side_px: int) -> None:
    """Write the released network for pictures (1, 3, side_px, side_px). Raises OSError if it cannot be written."""
    export_released(Released(network), path, side_px)


def export_released(released: nn.Module, path: Path, side_px: int) -> None:
    """Write an already folded network."""
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its other exporter, which needs one more package
        torch.onnx.export(
            released.eval(), (torch.zeros(1, 3, side_px, side_px),), str(path), dynamo=False, opset_version=OPSET,
            input_names=["image"], output_names=OUTPUT_NAMES,
        )  # fmt: skip
    model = onnx.load(str(path))
    metadata = {"class_names": ",".join(TERCEL_CLASSES), "head": "tercel", "colour": "bgr", "licence": "Apache-2.0"}
    onnx.helper.set_model_props(model, metadata)
    model.producer_name, model.producer_version, model.doc_string = "tercel", "", ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def released_from_onnx(path: Path) -> tuple[Released, int]:
    """The folded network of a file that export_onnx wrote, and the side of its pictures in pixels.

    Raises UserError for a file of another kind.
    """
    import onnx

    model = onnx.load(str(path))
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    try:
        released = Released(TercelNano(_shape_of(weights), len(weights["network.one_to_one.classes.0.bias"])))
        released.load_state_dict({name: torch.tensor(weights[name]) for name in released.state_dict()})
        side_px = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    except (KeyError, RuntimeError, IndexError):
        raise UserError(f"{path}: only Tercel's own detectors in float32 can be trained with rounding") from None
    return released, int(side_px)


def _shape_of(weights: dict[str, Any]) -> Shape:
    """The shape of a folded network with these weights."""
    channels, blocks = [], []
    for stage in range(4):
        names = [name for name in weights if name.startswith(f"network.stages.{stage}.") and name.endswith("weight")]
        blocks.append(sum(".body." in name for name in names))
        down = f"network.stages.{stage}.0.0.weight" if stage else "network.stem.0.weight"
        channels.append(weights[down].shape[0])
    neck = weights["network.laterals.0.0.weight"].shape[0]
    return Shape(tuple(channels), tuple(blocks), neck)  # type: ignore[arg-type]
