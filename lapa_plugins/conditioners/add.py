"""The latent added to the features."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner
from lapa.nn.layers import over_grid


class AddConditioner(Conditioner):
    """Adds a linear image of the latent: what Genie does with its latent actions (Bruce et al. 2024, section 2.1)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Addition has no options."""

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(latent_dim, features, 1)
        self.mix = nn.Sequential(nn.Conv2d(features, features, 1, bias=False), nn.BatchNorm2d(features))

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        # The layer after the sum lets the latent act on the features, not only beside them.
        return torch.relu(features + self.mix(torch.relu(features + self.project(over_grid(latent, features)))))
