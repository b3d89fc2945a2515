"""Categorical codes drawn with Gumbel noise."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lapa.contracts import Quantized, Quantizer
from lapa_plugins.quantizers.codebook import TIE, assignment_entropy_loss, flatten, full_precision, lowest, unflatten


class GumbelQuantizer(Quantizer):
    """Each place is n categorical variables of K classes: drawn in training, with a straight-through gradient; the most
    likely ones otherwise (Jang et al. 2017, section 2.2; n x K as in Hafner et al. 2021, section 2).

    A place's latent is the sum of its codes' vectors.
    """

    temperature: Tensor

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``gumbel``.

        Attributes:
            num_codes: K, the number of codes.
            categoricals: n, the number of categorical variables at each position.
            temperature: temperature of the Gumbel softmax at the start of training.
            temperature_end: the same at the end of training; it changes geometrically in between.
            entropy: weight of the term that makes each assignment certain and the use of codes even.
        """

        num_codes: int = 256
        categoricals: int = 1
        temperature: float = 1.0
        temperature_end: float = 0.1
        entropy: float = 0.01

        def __post_init__(self) -> None:
            if self.num_codes < 2 or self.categoricals < 1:
                raise ValueError("num_codes must be at least 2, and categoricals at least 1")
            if min(self.temperature, self.temperature_end) <= 0 or self.entropy < 0:
                raise ValueError("temperature and temperature_end must be positive, and entropy not negative")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.logits = nn.Linear(latent_dim, config.categoricals * config.num_codes)
        self.codebook = nn.Parameter(torch.randn(config.categoricals, config.num_codes, latent_dim))
        self.register_buffer("temperature", torch.tensor(config.temperature), persistent=False)

    @property
    def num_codes(self) -> int:
        return self.config.num_codes

    @property
    def codes_per_place(self) -> int:
        return self.config.categoricals

    @property
    def has_loss(self) -> bool:
        return self.config.entropy > 0

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            logits = self._logits(latent)  # (N, n, K)
            soft = logits.softmax(-1)
            if self.training:
                exponential = torch.empty_like(logits).exponential_().clamp_min(torch.finfo(logits.dtype).tiny)
                noisy = logits - exponential.log()  # Gumbel noise
                drawn = (noisy / self.temperature).softmax(-1)
            else:
                drawn = soft
            codes = likeliest(noisy if self.training else logits)  # (N, n)
            hard = F.one_hot(codes, self.num_codes).to(drawn.dtype)
            chosen = hard + (drawn - drawn.detach())
            quantized = torch.einsum("nck,ckd->nd", chosen, self.codebook)
            entropy = assignment_entropy_loss(soft)
        return Quantized(
            latent=unflatten(quantized, latent).movedim(-1, 1),
            codes=unflatten(codes, latent).flatten(2),
            loss=self.config.entropy * entropy,
            metrics={"entropy_loss": entropy.detach(), "temperature": self.temperature.clone()},
        )

    def _logits(self, latent: Tensor) -> Tensor:
        flat = full_precision(flatten(latent))
        return self.logits(flat).unflatten(1, (self.config.categoricals, self.num_codes))

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        parts = codes.unflatten(2, (-1, self.config.categoricals)).unbind(-1)  # n of (B, h, w)
        vectors = [F.embedding(part, book) for part, book in zip(parts, self.codebook, strict=True)]
        return torch.stack(vectors).sum(0).movedim(-1, 1)

    def margin(self, latent: Tensor) -> Tensor:
        # Two logits come as near as the latent moves, times the length of the difference of their weights.
        top = self._logits(latent).topk(2, dim=-1).values
        gap = (top[..., 0] - top[..., 1] - tie(top[..., 0])).clamp_min(0)
        steepest = 2 * self.logits.weight.norm(dim=1).max().clamp_min(1e-30)
        return unflatten((gap / steepest).amin(1), latent)

    def anneal(self, progress: float) -> None:
        start, end = self.config.temperature, self.config.temperature_end
        self.temperature.fill_(start * (end / start) ** progress)


def likeliest(logits: Tensor) -> Tensor:
    """(..., K) -> (...) int64, the column of the largest, of tied ones the lowest."""
    largest = logits.amax(-1)
    return lowest(logits >= (largest - tie(largest))[..., None])


def tie(largest: Tensor) -> Tensor:
    """How far below the largest a logit is tied with it; see :data:`lapa_plugins.quantizers.codebook.TIE`."""
    return TIE[largest.dtype] * (1 + largest.abs())
