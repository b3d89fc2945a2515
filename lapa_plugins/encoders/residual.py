"""A residual encoder: each halving is followed by residual blocks."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import torch
from torch import Tensor, nn

from lapa.contracts import Encoder
from lapa.layers import PairInput, check_widths, down_block, halved


class ResidualEncoder(Encoder):
    """Strided convolutions with residual blocks between them (He et al. 2016, section 3.2)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``residual``.

        Attributes:
            channels: the width after each halving.
            num_blocks: residual blocks after each.
            sees: both ``frames``, or their ``difference`` alone.
        """

        channels: tuple[int, ...] = (32, 64, 128, 256, 256)
        num_blocks: int = 1
        sees: Literal["frames", "difference"] = "frames"

        def __post_init__(self) -> None:
            check_widths(self.channels)
            if self.num_blocks < 0:
                raise ValueError("num_blocks: must not be negative")

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.pair = PairInput(config.sees, channels)
        widths = (self.pair.channels, *config.channels)
        self.depth = len(config.channels)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers.append(down_block(before, after))
            layers.extend(ResidualBlock(after) for _ in range(config.num_blocks))
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], latent_dim, 1))

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, self.depth)

    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        return self.layers(self.pair(current, next))  # (B, 2C or C, H, W) -> (B, D, h, w)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))
