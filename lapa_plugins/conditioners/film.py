"""Feature-wise linear modulation."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner
from lapa.nn.layers import over_grid


class FilmConditioner(Conditioner):
    """Scales and shifts the features, place by place, by what the latent says (Perez et al. 2018, section 2).

    A latent grid of another size is first spread over the features' grid, so one token steers the whole frame.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """FiLM has no options."""

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Conv2d(features, features, 1, bias=False), nn.BatchNorm2d(features))
        self.modulation = nn.Conv2d(latent_dim, 2 * features, 1)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        scale, shift = self.modulation(over_grid(latent, features)).chunk(
            2, dim=1
        )  # (B, 2F, h, w) -> twice (B, F, h, w)
        return torch.relu(features + (1 + scale) * self.mix(features) + shift)
