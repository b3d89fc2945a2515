"""Convolutions with the strides that are asked for: the encoder of single-frame tokenizers."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Encoder
from lapa.nn.layers import FrameInput, PlainResidualBlock, check_widths
from lapa.sections import require


@dataclasses.dataclass(frozen=True)
class StridedConfig:
    """Options that ``strided`` and the decoders that mirror it have.

    Attributes:
        channels: number of channels of each stage.
        strides: stride of each stage, 1 or 2; null halves the grid in each.
        num_blocks: number of residual blocks in each stage.
        kernel: size of the convolutions of stride 1; with 1, each place of the grid is computed by itself.
        patch: rows and columns of the patches that frames are cut into first; one place of the grid sees one patch
            where there are no strides.
    """

    channels: tuple[int, ...] = (64, 128)
    strides: tuple[int, ...] | None = None
    num_blocks: int = 0
    kernel: int = 3
    patch: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        check_widths(self.channels)
        number, strides = len(self.channels), self.strides
        fits = strides is None or (len(strides) == number and set(strides) <= {1, 2})
        require(fits, "strides", f"needs {number}, one for each of channels, 1 or 2, not {strides and list(strides)}")
        require(self.num_blocks >= 0, "num_blocks", f"must not be negative, as {self.num_blocks} is")
        require(self.kernel in (1, 3, 5), "kernel", f"must be 1, 3 or 5, not {self.kernel}")
        require(min(self.patch) >= 1, "patch", f"must be positive, not {list(self.patch)}")


def strides_of(config: StridedConfig) -> tuple[int, ...]:
    """The stride of each stage."""
    return config.strides or (2,) * len(config.channels)


def cell_of(config: StridedConfig) -> tuple[int, int]:
    """Rows and columns of pixels at each place of the grid."""
    scale = math.prod(strides_of(config))
    return config.patch[0] * scale, config.patch[1] * scale


class StridedEncoder(Encoder):
    """Convolutions, of which those of stride 2 halve the frame (van den Oord et al. 2017, section 4.1); no batch norm.

    Frames that strides and patches do not divide are filled up with zeros at the bottom and on the right.
    """

    @dataclasses.dataclass(frozen=True)
    class Config(StridedConfig):
        """Options of ``strided``.

        Attributes:
            sees: what the encoder gets: the ``frames``, or the ``difference`` of each frame from the one before.
        """

        sees: Literal["frames", "difference"] = "frames"

    def __init__(self, config: Config, *, channels: int, latent_dim: int, frames: int = 2) -> None:
        super().__init__()
        self.input = FrameInput(config.sees, channels, frames)
        self.cell, self.patch = cell_of(config), config.patch
        before = self.input.channels * config.patch[0] * config.patch[1]
        self.layers = nn.Sequential(*self.make_layers(config, before, latent_dim))

    def make_layers(self, config: StridedConfig, before: int, latent_dim: int) -> Iterator[nn.Module]:
        """The layers from (B, before, ...) to (B, latent_dim, h, w), one after the other."""
        widths = itertools.pairwise((before, *config.channels))
        for (width, after), stride in zip(widths, strides_of(config), strict=True):
            yield convolution(width, after, stride, config.kernel)
            for _ in range(config.num_blocks):
                yield PlainResidualBlock(after, config.kernel)
            yield nn.ReLU()
        yield convolution(config.channels[-1], latent_dim, 1, config.kernel)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return -(-frame_size[0] // self.cell[0]), -(-frame_size[1] // self.cell[1])

    def forward(self, *frames: Tensor) -> Tensor:
        seen = self.input(*frames)
        missing = [-side % cell for side, cell in zip(seen.shape[-2:], self.cell, strict=True)]
        if any(missing):
            seen = F.pad(seen, (0, missing[1], 0, missing[0]))
        latent: Tensor = self.layers(patches(seen, self.patch))
        return latent


def convolution(before: int, after: int, stride: int, kernel: int) -> nn.Conv2d:
    """One that keeps height and width, or halves them exactly: with a kernel of twice the stride."""
    if stride == 1:
        return nn.Conv2d(before, after, kernel, padding=kernel // 2)
    return nn.Conv2d(before, after, 2 * stride, stride=stride, padding=stride // 2)


def patches(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h * p, w * q) -> (B, C * p * q, h, w): the pixels of each patch side by side."""
    rows, columns = size
    if size == (1, 1):
        return frames
    cut = frames.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))  # (B, C, h, p, w, q)
    return cut.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unpatched(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of :func:`patches`."""
    rows, columns = size
    if size == (1, 1):
        return pixels
    cut = pixels.unflatten(1, (-1, rows, columns)).permute(0, 1, 4, 2, 5, 3)  # (B, C, h, p, w, q)
    return torch.flatten(torch.flatten(cut, 4, 5), 2, 3)
