"""A third party's quantizer and conditioner, those of the README."""

import dataclasses

import torch
from torch import nn

from lapa import Conditioner, Quantized, Quantizer


class Signs(Quantizer):
    """A code is the signs of a few linear projections."""

    has_loss = False  # it learns from the reconstruction alone

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``bits``: projections."""

        bits: int = 4

    def __init__(self, config, *, latent_dim):
        super().__init__()
        self.down, self.up = nn.Conv2d(latent_dim, config.bits, 1), nn.Conv2d(config.bits, latent_dim, 1)
        self.register_buffer("powers", 2 ** torch.arange(config.bits)[:, None, None])

    @property
    def num_codes(self):
        return 2 ** len(self.powers)

    def forward(self, latent):
        soft = self.down(latent).tanh()
        bits = soft > 0
        latent = self.up(soft + (2.0 * bits - 1 - soft).detach())  # signs, with the gradient of soft ones
        return Quantized(latent, (bits * self.powers).sum(1), latent.new_zeros(()), {})

    def codes_to_latent(self, codes):
        bits = codes[:, None] // self.powers % 2
        return self.up((2 * bits - 1).to(self.up.weight.dtype))


class Shift(Conditioner):
    """Adds one linear image of the mean latent to all places."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``scale``: of what is added."""

        scale: float = 1.0

    def __init__(self, config, *, features, latent_dim):
        super().__init__()
        self.scale = config.scale
        self.project = nn.Linear(latent_dim, features)

    def forward(self, features, latent):
        return features + self.scale * self.project(latent.mean((2, 3)))[:, :, None, None]
