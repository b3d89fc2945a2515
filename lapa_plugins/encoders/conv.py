"""The reference encoder: two frames stacked on channels, halved by strided convolutions."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from lapa.contracts import Encoder
from lapa.layers import check_widths, down_block, halved


class ConvEncoder(Encoder):
    """Strided convolutions on the stacked pair, then 1x1 to the latent width."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``channels``: the width after each halving."""

        channels: tuple[int, ...] = (64, 128, 256, 512, 512)

        def __post_init__(self) -> None:
            check_widths(self.channels)

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        widths = (2 * channels, *config.channels)
        self.depth = len(config.channels)
        self.layers = nn.Sequential(
            *(down_block(a, b) for a, b in itertools.pairwise(widths)),
            nn.Conv2d(widths[-1], latent_dim, 1),
        )

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, self.depth)

    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        return self.layers(torch.cat([current, next], dim=1))  # (B, 2C, H, W) -> (B, D, h, w)
