"""Vector quantization with a codebook that follows the encodings by moving averages."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lapa import distributed
from lapa.contracts import Quantized
from lapa_plugins.quantizers.codebook import CodebookQuantizer, check_codebook, flatten, full_precision, unflatten


class EmaQuantizer(CodebookQuantizer):
    """Codes are moving averages of the encodings they win (van den Oord et al. 2017, appendix A.1).

    ``forward`` only collects them, ``update`` moves the codes: however a batch is cut into micro-batches and ranks,
    the averages see it as one.
    """

    counts: Tensor
    sums: Tensor
    new_counts: Tensor
    new_sums: Tensor

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``ema``.

        Attributes:
            num_codes: K.
            commitment: weight of the term that moves encodings to codes.
            decay: of the moving averages, per training step.
            smoothing: Laplace smoothing of the counts, so that a rare code is never divided by zero.
            reseed_below: re-seed codes used less than this share of the mean, not only unused ones.
            reseed_by_error: re-seed codes onto encodings that are far from any code, rather than onto any.
        """

        num_codes: int = 256
        commitment: float = 0.25
        decay: float = 0.99
        smoothing: float = 1e-5
        reseed_below: float = 0.0
        reseed_by_error: bool = False

        def __post_init__(self) -> None:
            check_codebook(self.num_codes, self.reseed_below)
            if self.commitment < 0 or not 0 <= self.decay < 1 or self.smoothing <= 0:
                raise ValueError("commitment must not be negative, decay lies in [0, 1), smoothing is positive")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__(
            config.num_codes,
            latent_dim,
            reseed_below=config.reseed_below,
            reseed_by_error=config.reseed_by_error,
        )
        self.config = config
        codebook = torch.randn(config.num_codes, latent_dim) / math.sqrt(latent_dim)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(config.num_codes))
        self.register_buffer("sums", codebook.clone())
        self.register_buffer("new_counts", torch.zeros(config.num_codes), persistent=False)
        self.register_buffer("new_sums", torch.zeros_like(codebook), persistent=False)

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            flat = full_precision(flatten(latent))
            if self.training:
                self.start_from(flat.detach())
            _, codes = self.nearest(flat)
            chosen = F.embedding(codes, self.codebook)
            loss = self.config.commitment * F.mse_loss(flat, chosen)
            quantized = flat + (chosen - flat).detach()
            if self.training:
                self._collect(flat.detach(), codes)
        return Quantized(
            latent=unflatten(quantized, latent).movedim(-1, 1),
            codes=unflatten(codes, latent),
            loss=loss,
            metrics=self.usage_metrics(codes),
        )

    @torch.no_grad()
    def _collect(self, flat: Tensor, codes: Tensor) -> None:
        # A product of matrices: index_add_ is slower, and on GPUs its sums come in any order.
        chosen = F.one_hot(codes, self.num_codes).to(self.new_sums.dtype)  # (N, K)
        self.new_counts += chosen.sum(0)
        self.new_sums += chosen.T @ flat.to(self.new_sums.dtype)

    @torch.no_grad()
    def update(self) -> None:
        self.counts.lerp_(distributed.summed(self.new_counts), 1 - self.config.decay)
        self.sums.lerp_(distributed.summed(self.new_sums), 1 - self.config.decay)
        self.new_counts.zero_()
        self.new_sums.zero_()
        total = self.counts.sum()
        smoothed = (self.counts + self.config.smoothing) / (total + self.num_codes * self.config.smoothing) * total
        self.codebook.copy_(self.sums / smoothed[:, None])

    def _move(self, which: Tensor, flat: Tensor, weights: Tensor) -> None:
        super()._move(which, flat, weights)
        self.counts[which] = 1.0
        self.sums[which] = self.codebook[which]
