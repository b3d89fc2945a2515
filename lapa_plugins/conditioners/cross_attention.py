"""Cross-attention from the decoder's features to the latent tokens."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Conditioner
from lapa.errors import ConfigError


class CrossAttentionConditioner(Conditioner):
    """Each place of the features attends to all latent tokens (Vaswani et al. 2017, section 3.2)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``num_heads``: attention heads, a divisor of the features' width that leaves heads of a multiple of 4."""

        num_heads: int = 4

    def __init__(self, config: Config, *, features: int, latent_dim: int) -> None:
        super().__init__()
        if config.num_heads < 1 or features % (4 * config.num_heads):
            raise ConfigError(
                f"model.conditioner.num_heads: {config.num_heads} heads do not divide "
                f"{features} features into widths of a multiple of 4; take another number"
            )
        self.num_heads = config.num_heads
        self.norm = nn.GroupNorm(1, features)
        self.query = nn.Conv2d(features, features, 1)
        self.key = nn.Conv2d(latent_dim, features, 1)
        self.value = nn.Conv2d(latent_dim, features, 1)
        self.output = nn.Conv2d(features, features, 1)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        query = self.query(self.norm(features))
        query = query + sine_positions(query)
        key = self.key(latent)
        key = key + sine_positions(key)
        attended = F.scaled_dot_product_attention(
            self._heads(query), self._heads(key), self._heads(self.value(latent))
        )  # (B, heads, h*w, F/heads)
        return features + self.output(attended.transpose(2, 3).reshape(features.shape))

    def _heads(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)  # (B, heads, h*w, F/heads)


def sine_positions(x: Tensor) -> Tensor:
    """(F, h, w) sine positions in [-1, 1] for features (B, F, h, w): half of the channels say the row, half the column.

    Rows and columns are counted in [0, 1], so that a place means the same on grids of different sizes.
    """
    width, rows, columns = x.shape[1:]
    quarter = width // 4
    frequency = math.pi * torch.exp2(torch.arange(quarter, device=x.device) * (5.0 / max(quarter - 1, 1)))
    angles = [((torch.arange(count, device=x.device) + 0.5) / count)[:, None] * frequency for count in (rows, columns)]
    row, column = (torch.cat([angle.sin(), angle.cos()], dim=1).T for angle in angles)  # (F/2, h) and (F/2, w)
    grid = torch.cat([row[:, :, None].expand(-1, -1, columns), column[:, None, :].expand(-1, rows, -1)])
    return grid.to(x.dtype)
