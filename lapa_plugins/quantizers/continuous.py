"""A Gaussian bottleneck without codes: what quantizing costs is seen beside it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from lapa.contracts import Quantized, Quantizer
from lapa.errors import DataError
from lapa_plugins.quantizers.codebook import full_precision


class ContinuousQuantizer(Quantizer):
    """The latent is drawn from a normal distribution in training, else it is its mean (Kingma and Welling 2013)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``kl``: weight of the KL divergence from the standard normal distribution, in nats a place."""

        kl: float = 1e-4

        def __post_init__(self) -> None:
            if self.kl < 0:
                raise ValueError(f"kl: must not be negative, as {self.kl} is")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.moments = nn.Conv2d(latent_dim, 2 * latent_dim, 1)

    @property
    def num_codes(self) -> None:
        return None

    @property
    def has_loss(self) -> bool:
        return self.config.kl > 0

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            mean, log_variance = self.moments(full_precision(latent)).chunk(2, dim=1)
            log_variance = log_variance.clamp(-20, 10)
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
            noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
            drawn = mean + noise * (0.5 * log_variance).exp()
        return Quantized(drawn, None, self.config.kl * divergence, {"kl": divergence.detach()})

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        raise DataError("the quantizer 'continuous' has no codes")
