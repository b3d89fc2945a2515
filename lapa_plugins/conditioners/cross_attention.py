"""Cross-attention from the decoder's features to the latent tokens."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Conditioner
from lapa.errors import ConfigError
from lapa.nn.layers import sine_positions


class CrossAttentionConditioner(Conditioner):
    """Each place of the features attends to all latent tokens (Vaswani et al. 2017, section 3.2)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``num_heads``: number of attention heads; must divide the features' width into heads of a multiple of 4."""

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
