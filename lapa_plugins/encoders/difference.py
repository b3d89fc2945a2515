"""Each frame through one network, and the differences of what it finds."""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch import Tensor, nn

from lapa.contracts import Encoder
from lapa.nn.layers import check_widths, down_block, halved


class DifferenceEncoder(Encoder):
    """Encodes each frame by the same weights and subtracts, as LAPA does (Ye et al. 2024, section 3.1).

    Unlike ``conv`` with ``sees=difference``, which subtracts pixels, it can tell where the ball was and is.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``channels``: number of channels after each halving of the frame."""

        channels: tuple[int, ...] = (64, 128, 256, 512, 512)

        def __post_init__(self) -> None:
            check_widths(self.channels)

    def __init__(self, config: Config, *, channels: int, latent_dim: int, frames: int = 2) -> None:
        super().__init__()
        if frames < 2:
            raise ValueError("one frame has no difference; take another encoder")
        widths = (channels, *config.channels)
        self.depth = len(config.channels)
        self.frame = nn.Sequential(*(down_block(a, b) for a, b in itertools.pairwise(widths)))
        self.project = nn.Conv2d((frames - 1) * widths[-1], latent_dim, 1)

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, self.depth)

    def forward(self, *frames: Tensor) -> Tensor:
        latest, *earlier = (self.frame(frame) for frame in reversed(frames))
        changes = [after - before for after, before in itertools.pairwise([latest, *earlier])]
        return self.project(torch.cat(changes[::-1], dim=1))  # -> (B, D, h, w)
