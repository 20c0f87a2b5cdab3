"""Quantization-aware training: the folded network learns to give its own float answers through 8-bit arithmetic.

Weights are rounded per output channel and activations per tensor in the forward pass, at the places and with the steps
of perception/quantize/static.py; gradients pass the rounding as if it were not there (straight-through estimator, arXiv
1308.3432). The teacher is the float network itself on the same augmented pictures, so no label is needed, and a
deviation counts where the float network sees something. What comes out is a float network whose weights and
activations bear rounding; static quantization then makes the integers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from perception.train.export import Released
from perception.train.losses import Batch, flatten
from perception.train.network import Residual, TercelNano

WEIGHT_LIMIT = 64  # what vpmaddubsw of a processor without VNNI adds without saturating
CALIBRATION_BATCHES = 12
LEARNING_RATE = 2e-4


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
    network: TercelNano,
    stream: Iterator[Batch],
    *,
    budget_min: float,
    report: Callable[[str], None] = print,
) -> Released:
    """Fine-tune a folded copy of the network for the given wall time; ready for export_released."""
    float_one = Released(network).eval().requires_grad_(False)
    student = with_rounding(Released(network))
    with torch.no_grad():
        for _ in range(CALIBRATION_BATCHES):
            student(next(stream).pictures)
    _measure(student, False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    began, step, losses = time.monotonic(), 0, []
    while (progress := (time.monotonic() - began) / (budget_min * 60.0)) < 1.0:
        pictures = next(stream).pictures
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


def _heads(released: Released, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
    outputs = released(pictures)
    return [(outputs[index], outputs[index + 1]) for index in range(0, len(outputs), 2)]
