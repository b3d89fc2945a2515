"""Vector quantization with a codebook that follows the encodings by moving averages."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from lapa import distributed
from lapa_plugins.quantizers.codebook import CodebookConfig, CodebookQuantizer, normal_codebook


@dataclasses.dataclass(frozen=True)
class EmaConfig(CodebookConfig):
    """Options of ``ema``, beside those of every codebook.

    Attributes:
        decay: decay of the moving averages per training step.
        smoothing: Laplace smoothing of the counts, so that a rare code is never divided by zero.
    """

    decay: float = 0.99
    smoothing: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1 or self.smoothing <= 0:
            raise ValueError("decay must lie in [0, 1), and smoothing be positive")


class EmaQuantizer(CodebookQuantizer):
    """Codes are moving averages of the encodings they win (van den Oord et al. 2017, appendix A.1).

    ``forward`` only collects them, ``update`` moves the codes: however a batch is cut into micro-batches and ranks,
    the averages see it as one.
    """

    counts: Tensor
    sums: Tensor
    new_counts: Tensor
    new_sums: Tensor

    Config = EmaConfig

    def __init__(self, config: EmaConfig, *, latent_dim: int) -> None:
        super().__init__(config, latent_dim=latent_dim)
        self.config = config
        codebook = normal_codebook(config.num_codes, self.width)
        self.register_buffer("codebook", codebook)
        self.register_buffer("counts", torch.ones(config.num_codes))
        self.register_buffer("sums", codebook.clone())
        self.register_buffer("new_counts", torch.zeros(config.num_codes), persistent=False)
        self.register_buffer("new_sums", torch.zeros_like(codebook), persistent=False)

    @property
    def has_loss(self) -> bool:
        return self.config.commitment > 0

    def losses(self, flat: Tensor, chosen: Tensor, distances: Tensor) -> dict[str, tuple[float, Tensor]]:
        return {"commitment_loss": (self.config.commitment, F.mse_loss(flat, chosen))}

    @torch.no_grad()
    def collect(self, flat: Tensor, codes: Tensor) -> None:
        # A product of matrices: index_add_ is slower, and on GPUs its sums come in any order.
        chosen = self.new_sums.new_zeros(len(codes), self.num_codes).scatter_(1, codes[:, None], 1)  # (N, K)
        self.new_counts += chosen.sum(0)
        self.new_sums += chosen.T @ flat.to(self.new_sums.dtype)

    @torch.no_grad()
    def update(self) -> None:
        won, sums = distributed.summed(self.new_counts), distributed.summed(self.new_sums)
        self.counts.lerp_(won, 1 - self.config.decay)
        self.sums.lerp_(sums, 1 - self.config.decay)
        total = self.counts.sum()
        smoothed = (self.counts + self.config.smoothing) / (total + self.num_codes * self.config.smoothing) * total
        # A code that won nothing stays: the smoothing would draw it to 0, and what is rare would lose its code.
        self.codebook.copy_(torch.where(won[:, None] > 0, self.sums / smoothed[:, None], self.codebook))
        self.new_counts.zero_()
        self.new_sums.zero_()

    def place(self, which: Tensor | slice, vectors: Tensor) -> None:
        super().place(which, vectors)
        self.counts[which] = 1.0
        self.sums[which] = self.codebook[which]
