"""The latent as further channels."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner
from lapa.nn.layers import over_grid


class ConcatConditioner(Conditioner):
    """Puts the latent beside the features and mixes both by a convolution."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``kernel``: odd size of the mixing convolution; from 3 on a position sees its neighbours' codes."""

        kernel: int = 3

        def __post_init__(self) -> None:
            if self.kernel < 1 or self.kernel % 2 == 0:
                raise ValueError(f"kernel: must be odd and positive, not {self.kernel}")

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(features + latent_dim, features, config.kernel, padding=config.kernel // 2, bias=False),
            nn.BatchNorm2d(features),
        )

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        return torch.relu(features + self.mix(torch.cat([features, over_grid(latent, features)], dim=1)))
