"""Vector quantization with a codebook learnt by gradient."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa_plugins.quantizers.codebook import (
    CodebookConfig,
    CodebookQuantizer,
    assignment_entropy_loss,
    normal_codebook,
)


class VectorQuantizer(CodebookQuantizer):
    """Straight-through vector quantization (van den Oord et al. 2017, equation 3)."""

    @dataclasses.dataclass(frozen=True)
    class Config(CodebookConfig):
        """Options of ``vq``, beside those of every codebook.

        Attributes:
            codebook: weight of the term that moves codes to encodings.
            entropy: weight of the codebook entropy term; 0 leaves it out.
            temperature: softness of the assignments in the entropy term, in units of squared distance.
        """

        codebook: float = 1.0
        entropy: float = 0.0
        temperature: float = 1.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if min(self.codebook, self.entropy) < 0 or self.temperature <= 0:
                raise ValueError("codebook and entropy must not be negative, and temperature positive")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__(config, latent_dim=latent_dim)
        self.config = config
        self.codebook = nn.Parameter(normal_codebook(config.num_codes, self.width))

    @property
    def has_loss(self) -> bool:
        return max(self.config.codebook, self.config.commitment, self.config.entropy) > 0

    def losses(self, flat: Tensor, chosen: Tensor, distances: Tensor) -> dict[str, tuple[float, Tensor]]:
        terms = {
            "codebook_loss": (self.config.codebook, F.mse_loss(chosen, flat.detach())),
            "commitment_loss": (self.config.commitment, F.mse_loss(flat, chosen.detach())),
        }
        if self.config.entropy:
            soft = torch.softmax(-distances / self.config.temperature, dim=1)  # (N, K)
            terms["entropy_loss"] = (self.config.entropy, assignment_entropy_loss(soft))
        return terms
