"""Quantization-aware training: the folded network learns to give its own float answers through 8-bit arithmetic.

Weights are rounded per output channel and activations per tensor in the forward pass, at the places and with the steps
of perception/quantize/static.py; gradients pass the rounding as if it were not there (straight-through estimator, arXiv
1308.3432). The teacher is the float network itself on the same augmented pictures, so no label is needed, and a
deviation counts where the float network sees something. What comes out is a float network whose weights and
activations bear rounding; static quantization then makes the integers.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.images import bgr_from_image
from perception.quantize.images import calibration_files
from perception.train.export import Released, export_released, released_from_onnx
from perception.train.losses import flatten
from perception.train.network import Residual
from perception.train.samples import Picture, Sampler, Source
from tercel.core.errors import UserError

WEIGHT_LIMIT = 64  # what vpmaddubsw of a processor without VNNI adds without saturating
CALIBRATION_BATCHES = 12
LEARNING_RATE = 2e-4
MAX_IMAGES = 512  # kept in memory


class Rounded(nn.Module):
    """A tensor on the 256 steps of a range that was measured before; passes everything on while `measuring`."""

    def __init__(self) -> None:
        super().__init__()
        self.measuring = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        low: Tensor = self.low
        high: Tensor = self.high
        if self.measuring:
            low.copy_(torch.minimum(low, x.detach().amin()))
            high.copy_(torch.maximum(high, x.detach().amax()))
            return x
        step = max(float(high - low), 1e-6) / 255.0
        zero = round(-float(low) / step)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(x, step, zero, 0, 255)
        return rounded


class RoundedConvolution(nn.Module):
    """A convolution with weights on the integer grid of its output channels; `after` rounds what it gives."""

    def __init__(self, convolution: nn.Conv2d, after: Rounded | None) -> None:
        super().__init__()
        self.convolution = convolution
        self.after = after
        self.measuring = True

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        convolution = self.convolution
        if self.measuring:
            out = convolution(x)
        else:
            largest = convolution.weight.detach().abs().amax((1, 2, 3)).clamp(min=1e-12)
            zeros = torch.zeros(len(largest), dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(
                convolution.weight, largest / WEIGHT_LIMIT, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT
            )
            out = functional.conv2d(x, weight, convolution.bias, convolution.stride, convolution.padding)
        result: Tensor = self.after(out) if self.after else out
        return result


def with_rounding(released: Released) -> Released:
    """Put rounding into a folded network, in place: not in the stem, and not in the heads' last convolutions."""
    network = released.network
    bodies = {id(module.body[0]) for module in network.modules() if isinstance(module, Residual)}
    laterals = {id(lateral[0]) for lateral in network.laterals[:2]}
    kept = {id(network.stem[0])} | {
        id(last) for lasts in (network.one_to_one.classes, network.one_to_one.sides) for last in lasts
    }
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and id(child) not in kept:
                added = id(child) in bodies | laterals
                setattr(parent, name, RoundedConvolution(child, Rounded() if added else None))
            elif isinstance(child, nn.ReLU6 | nn.ReLU):
                setattr(parent, name, nn.Sequential(type(child)(), Rounded()))
    return released


def without_rounding(released: Released) -> Released:
    """Take the rounding out again, in place; the weights are as the training left them."""
    for parent in list(released.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, RoundedConvolution):
                setattr(parent, name, child.convolution)
            elif isinstance(child, nn.Sequential) and len(child) == 2 and isinstance(child[1], Rounded):
                setattr(parent, name, child[0])
    return released


def _measure(released: Released, measuring: bool) -> None:
    for module in released.modules():
        if isinstance(module, Rounded | RoundedConvolution):
            module.measuring = measuring


def distance(student: list[tuple[Tensor, Tensor]], teacher: list[tuple[Tensor, Tensor]]) -> Tensor:
    """How far outputs are from the float network's: scores in cross entropy over its own, sides where it is sure."""
    (logits, sides), (true_logits, true_sides) = flatten(student), flatten(teacher)
    target = true_logits.sigmoid()
    sure = target.amax(-1, keepdim=True)
    gap = functional.binary_cross_entropy_with_logits(logits, target, reduction="none") - (
        functional.binary_cross_entropy_with_logits(true_logits, target, reduction="none")
    )
    scores = (gap * (0.02 + sure)).sum() / (sure.sum() + 1.0)
    boxes = (functional.smooth_l1_loss(sides, true_sides, reduction="none", beta=0.2) * sure).sum() / (sure.sum() + 1.0)
    return scores + 0.5 * boxes


def run(
    released: Released,
    stream: Iterator[Tensor],
    *,
    budget_min: float,
    most_steps: int | None = None,
    report: Callable[[str], None] = print,
) -> Released:
    """Fine-tune a copy of a folded network for the given wall time, on pictures (B, 3, H, W) 0..255.

    most_steps: stop after so many, for the same result on every machine.
    """
    float_one = copy.deepcopy(released).eval().requires_grad_(False)
    student = with_rounding(copy.deepcopy(released).requires_grad_(True))
    with torch.no_grad():
        for _ in range(CALIBRATION_BATCHES):
            student(next(stream))
    _measure(student, False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    began, step = time.monotonic(), 0
    losses: list[float] = []
    while (progress := (time.monotonic() - began) / (budget_min * 60.0)) < 1.0 and step != most_steps:
        pictures = next(stream)
        with torch.no_grad():
            wanted = _heads(float_one, pictures)
        loss = distance(_heads(student, pictures), wanted)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - 0.98 * progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % 25 == 0:
            report(f"rounded step {step}  {100 * progress:5.1f} %  distance {sum(losses[-25:]) / 25:.4f}")
    return without_rounding(student)


def run_on_file(
    model: Path, images: Sequence[str], budget_min: float, report: Callable[[str], None] = print, seed: int = 0
) -> Path:
    """Fine-tune a released ONNX file of ours on images without labels; the path of a new float ONNX file.

    Raises UserError for a model of another kind and where there is no image.
    """
    torch.set_num_threads(1)
    released, side_px = released_from_onnx(model)
    files = calibration_files(images, MAX_IMAGES)
    pictures = [Picture(bgr_from_image(image), np.zeros((0, 4)), np.zeros(0, np.int32)) for image in files.read()]
    if not pictures:
        raise UserError("none of the calibration images can be read; training with rounding needs some")
    sampler = Sampler([Source("images", pictures, 1.0, False, (0.6, 2.0))], side_px, seed)
    trained = run(released, _pictures(sampler), budget_min=budget_min, report=report)
    target = Path(tempfile.mkdtemp(prefix="tercel-qat-")) / model.name
    export_released(trained, target, side_px)
    return target


def _pictures(sampler: Sampler, size: int = 8) -> Iterator[Tensor]:
    while True:
        drawn = np.stack([sampler.draw()[0] for _ in range(size)])
        yield torch.from_numpy(drawn).permute(0, 3, 1, 2).float()


def _heads(released: Released, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
    outputs = released(pictures)
    return [(outputs[index], outputs[index + 1]) for index in range(0, len(outputs), 2)]
