"""A residual encoder: each halving is followed by residual blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lapa.nn.layers import down_block
from lapa_plugins.encoders.halving import HalvingConfig, HalvingEncoder


class ResidualEncoder(HalvingEncoder):
    """Strided convolutions with residual blocks between them (He et al. 2016, section 3.2)."""

    @dataclasses.dataclass(frozen=True)
    class Config(HalvingConfig):
        """Options of ``residual``.

        Attributes:
            num_blocks: number of residual blocks after each halving.
        """

        channels: tuple[int, ...] = (32, 64, 128, 256, 256)
        num_blocks: int = 1

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.num_blocks < 0:
                raise ValueError("num_blocks: must not be negative")

    def __init__(self, config: Config, *, channels: int, latent_dim: int, frames: int = 2) -> None:
        self.num_blocks = config.num_blocks
        super().__init__(config, channels=channels, latent_dim=latent_dim, frames=frames)

    def stage(self, before: int, after: int) -> Iterable[nn.Module]:
        yield down_block(before, after)
        for _ in range(self.num_blocks):
            yield ResidualBlock(after)


class ResidualBlock(nn.Module):
    """Two convolutions, 3x3 unless told otherwise, added to their input."""

    def __init__(self, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))
