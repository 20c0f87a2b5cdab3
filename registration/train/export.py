"""A trained descriptor as an ONNX file, for any number of keypoints."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from registration.distant.patches import AZIMUTHS, BITS, RINGS_M
from registration.train.network import Descriptor

OPSET = 13


def export_onnx(network: Descriptor, path: Path) -> None:
    """Write the network: patches (K, AZIMUTHS, rings * BITS) uint8 and height_m (K,) float32 to descriptors (K, D)."""
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    example = (torch.zeros(3, AZIMUTHS, len(RINGS_M) * BITS, dtype=torch.uint8), torch.zeros(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces its other exporter, which needs one more package
        torch.onnx.export(
            network.eval(), example, str(path), dynamo=False, opset_version=OPSET,
            input_names=["patches", "height_m"], output_names=["descriptors"],
            dynamic_axes={name: {0: "K"} for name in ("patches", "height_m", "descriptors")},
        )  # fmt: skip
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"licence": "Apache-2.0"})
    model.producer_name, model.producer_version, model.doc_string = "tercel", "", ""
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
