"""A gate between the features and what the latent says."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner
from lapa.nn.layers import over_grid


class GatedConditioner(Conditioner):
    """Each feature is a mixture of itself and a proposal; features and latent together say how much of each.

    The update of a gated recurrent unit (Cho et al. 2014, section 2.3), with the latent as its input.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """The gate has no options."""

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(features + latent_dim, features, 1)
        self.proposal = nn.Conv2d(features + latent_dim, features, 1)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        both = torch.cat([features, over_grid(latent, features)], dim=1)
        gate = torch.sigmoid(self.gate(both))
        return (1 - gate) * features + gate * torch.relu(self.proposal(both))
