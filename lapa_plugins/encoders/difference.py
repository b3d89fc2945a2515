"""Both frames through one network, and the difference of what it finds."""

from __future__ import annotations

import dataclasses
import itertools

from torch import Tensor, nn

from lapa.contracts import Encoder
from lapa.nn.layers import check_widths, down_block, halved


class DifferenceEncoder(Encoder):
    """Encodes each frame by the same weights and subtracts, as LAPA does (Ye et al. 2024, section 3.1).

    Unlike ``conv`` with ``sees=difference``, which subtracts pixels, it can tell where the ball was and is.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``channels``: the width after each halving."""

        channels: tuple[int, ...] = (64, 128, 256, 512, 512)

        def __post_init__(self) -> None:
            check_widths(self.channels)

    def __init__(self, config: Config, *, channels: int, latent_dim: int) -> None:
        super().__init__()
        widths = (channels, *config.channels)
        self.depth = len(config.channels)
        self.frame = nn.Sequential(*(down_block(a, b) for a, b in itertools.pairwise(widths)))
        self.project = nn.Conv2d(widths[-1], latent_dim, 1)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, self.depth)

    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        return self.project(self.frame(next) - self.frame(current))  # (B, C, H, W) twice -> (B, D, h, w)
