"""The descriptor's network: a patch's azimuths as a closed line of 24 cells, convolved and then pooled over.

Circular convolutions turn with the patch; what is pooled afterwards, maxima, means, and magnitudes of the first Fourier
coefficients, does not change when it turns by whole cells. This is SpinNet's argument (Ao et al., CVPR 2021) with its
cylindrical volume flattened into channels, which is what makes it cheap on a CPU: about 0.6 million multiplications a
keypoint, and little but plain matrix products in the ONNX file.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from registration.distant.patches import AZIMUTHS, BITS, RINGS_M, SLABS_M

DIMENSIONS = 32
_HARMONICS = 4
_COARSE = AZIMUTHS // 2
_HEIGHTS_M = (*(0.5 * (a + b) for a, b in pairwise(SLABS_M)), 9.0)


class Normalised(nn.Module):
    """A linear map of the last axis, batch normalisation, and a ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.normalise = nn.BatchNorm1d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, inputs) to (N, outputs)."""
        return torch.relu(self.normalise(self.linear(x)))


class Ring(nn.Module):
    """A circular convolution of width 3 over azimuth, dilated, added to its input; as one matrix product, which both
    torch and onnxruntime compute several times as fast as so small a convolution."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.mix = Normalised(3 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(K, azimuths, channels) to the same."""
        d, azimuths, channels = self.dilation, x.shape[1], x.shape[2]
        wrapped = torch.cat([x[:, -d:], x, x[:, :d]], dim=1)
        beside = torch.cat([wrapped[:, : -2 * d], x, wrapped[:, 2 * d :]], dim=2)
        return x + self.mix(beside.reshape(-1, 3 * channels)).reshape(-1, azimuths, channels)


class Descriptor(nn.Module):
    """Patches (K, AZIMUTHS, rings * BITS) uint8 and heights (K,) to descriptors (K, DIMENSIONS) of unit length."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.width = width
        self.stem = Normalised(len(RINGS_M) * BITS, width)
        self.fine = Ring(width, 1)
        self.coarse = nn.Sequential(*(Ring(width, dilation) for dilation in (1, 2, 3)))
        self.spectral = nn.Linear(width, 16)
        angles = 2 * torch.pi * torch.arange(1, _HARMONICS + 1)[:, None] * torch.arange(_COARSE)[None] / _COARSE
        waves = torch.cat([torch.cos(angles), torch.sin(angles)]) / _COARSE
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("heights_m", torch.tensor(_HEIGHTS_M), persistent=False)
        self.head = nn.Sequential(
            Normalised(2 * width + 16 * _HARMONICS + len(_HEIGHTS_M), 128), nn.Linear(128, DIMENSIONS)
        )

    def azimuths(self, patches: torch.Tensor) -> torch.Tensor:
        """Features (K, AZIMUTHS / 2, width) that still turn with the patch."""
        flat = patches.to(torch.float32).reshape(-1, len(RINGS_M) * BITS)
        fine = self.fine(self.stem(flat).reshape(-1, AZIMUTHS, self.width))
        return self.coarse(fine.reshape(-1, _COARSE, 2, self.width).amax(dim=2))

    def pooled(self, features: torch.Tensor, height_m: torch.Tensor) -> torch.Tensor:
        """Descriptors of such features and the keypoints' heights."""
        waves = torch.matmul(self.waves, self.spectral(features))
        real, imaginary = waves[:, :_HARMONICS], waves[:, _HARMONICS:]
        magnitudes = torch.sqrt(real * real + imaginary * imaginary + 1e-6).flatten(1)
        level = torch.exp(-((height_m[:, None] - self.heights_m) ** 2))
        parts = [features.amax(dim=1), features.mean(dim=1), magnitudes, level]
        return nn.functional.normalize(self.head(torch.cat(parts, dim=1)), dim=1)

    def forward(self, patches: torch.Tensor, height_m: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.pooled(self.azimuths(patches), height_m)


class Completion(nn.Module):
    """APR's decoder (Kuang et al., "APR: online distant point cloud registration through aggregated point cloud
    reconstruction", IJCAI 2023), on grids: what the accumulated cloud of many scans holds where the patch looks. It is
    needed for training only."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.decode = nn.Linear(width, 2 * len(RINGS_M) * BITS // 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits (K, AZIMUTHS, rings * BITS / 2) of features (K, AZIMUTHS / 2, width)."""
        return self.decode(features).reshape(len(features), AZIMUTHS, -1)
