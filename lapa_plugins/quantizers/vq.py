"""Vector quantization with a codebook learnt by gradient."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa import distributed
from lapa.contracts import Quantized
from lapa_plugins.quantizers.codebook import CodebookQuantizer, check_codebook, flatten, full_precision, unflatten


class VectorQuantizer(CodebookQuantizer):
    """Straight-through vector quantization (van den Oord et al. 2017, equation 3).

    The entropy term raises the entropy of the mean assignment and lowers that of each single one. It is
    computed from soft assignments, since an argmin has no gradient (Yu et al. 2023, equation 6).
    """

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``vq``.

        Attributes:
            num_codes: K.
            codebook: weight of the term that moves codes to encodings.
            commitment: weight of the term that moves encodings to codes.
            entropy: weight of the codebook entropy term; 0 leaves it out.
            temperature: softness of the assignments in the entropy term, in units of squared distance.
            reseed_below: re-seed codes used less than this share of the mean, not only unused ones.
            reseed_by_error: re-seed codes onto encodings that are far from any code, rather than onto any.
        """

        num_codes: int = 256
        codebook: float = 1.0
        commitment: float = 0.25
        entropy: float = 0.0
        temperature: float = 1.0
        reseed_below: float = 0.0
        reseed_by_error: bool = False

        def __post_init__(self) -> None:
            check_codebook(self.num_codes, self.reseed_below)
            if min(self.codebook, self.commitment, self.entropy) < 0 or self.temperature <= 0:
                raise ValueError("codebook, commitment and entropy must not be negative, and temperature positive")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__(
            config.num_codes,
            latent_dim,
            reseed_below=config.reseed_below,
            reseed_by_error=config.reseed_by_error,
        )
        self.config = config
        self.codebook = nn.Parameter(torch.randn(config.num_codes, latent_dim) / math.sqrt(latent_dim))

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            flat = full_precision(flatten(latent))
            if self.training:
                self.start_from(flat.detach())
            distances, codes = self.nearest(flat)
            chosen = F.embedding(codes, self.codebook)
            terms = {
                "codebook_loss": (self.config.codebook, F.mse_loss(chosen, flat.detach())),
                "commitment_loss": (self.config.commitment, F.mse_loss(flat, chosen.detach())),
            }
            if self.config.entropy:
                terms["entropy_loss"] = (self.config.entropy, self._entropy_loss(distances))
            loss = torch.stack([weight * term for weight, term in terms.values()]).sum()
            quantized = flat + (chosen - flat).detach()
        return Quantized(
            latent=unflatten(quantized, latent).movedim(-1, 1),
            codes=unflatten(codes, latent),
            loss=loss,
            metrics={**self.usage_metrics(codes), **{name: term.detach() for name, (_, term) in terms.items()}},
        )

    def _entropy_loss(self, distances: Tensor) -> Tensor:
        soft = torch.softmax(-distances / self.config.temperature, dim=1)  # (N, K)
        each = torch.special.entr(soft).sum(1).mean()
        mean = torch.special.entr(distributed.mean_with_gradient(soft.mean(0))).sum()
        return each - mean
