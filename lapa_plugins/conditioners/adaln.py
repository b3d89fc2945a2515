"""Adaptive layer norm."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Conditioner
from lapa.nn.layers import over_grid


class AdaLnConditioner(Conditioner):
    """Normalizes each place, scales and shifts it by what the latent says, and adds a gated two-layer perceptron of it.

    The block of a diffusion transformer (Peebles and Xie 2023, section 3.2), without attention. Its gates begin at
    zero there; here that would hide the latent from the first steps, so they begin at one.
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``expansion``: width of the perceptron's hidden layer, as a multiple of the features' width."""

        expansion: int = 2

        def __post_init__(self) -> None:
            if self.expansion < 1:
                raise ValueError(f"expansion: must be at least 1, not {self.expansion}")

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(features)
        self.modulation = nn.Conv2d(latent_dim, 3 * features, 1)
        self.body = nn.Sequential(
            nn.Conv2d(features, config.expansion * features, 1),
            nn.GELU(),
            nn.Conv2d(config.expansion * features, features, 1),
        )

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(over_grid(latent, features)).chunk(3, dim=1)
        return features + (1 + gate) * self.body((1 + scale) * self.norm(features) + shift)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each place, without weights of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.layer_norm(x.movedim(1, -1), self.channels).movedim(-1, 1)
