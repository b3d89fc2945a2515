"""The reference encoder: two frames stacked on channels, or their difference, halved by strided convolutions."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

from torch import Tensor, nn

from lapa.contracts import Encoder
from lapa.layers import PairInput, check_widths, down_block, halved


class ConvEncoder(Encoder):
    """Strided convolutions on the pair, then 1x1 to the latent width."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``conv``.

        Attributes:
            channels: the width after each halving.
            sees: both ``frames``, or their ``difference`` alone.
        """

        channels: tuple[int, ...] = (64, 128, 256, 512, 512)
        sees: Literal["frames", "difference"] = "frames"

        def __post_init__(self) -> None:
            check_widths(self.channels)

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.pair = PairInput(config.sees, channels)
        widths = (self.pair.channels, *config.channels)
        self.depth = len(config.channels)
        self.layers = nn.Sequential(
            *(down_block(a, b) for a, b in itertools.pairwise(widths)),
            nn.Conv2d(widths[-1], latent_dim, 1),
        )

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, self.depth)

    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        return self.layers(self.pair(current, next))  # (B, 2C or C, H, W) -> (B, D, h, w)
