"""Finite scalar quantization: each of a few dimensions is rounded to one of a few levels."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from lapa.contracts import Quantized, Quantizer
from lapa_plugins.quantizers.codebook import TIE, full_precision


class FsqQuantizer(Quantizer):
    """Bounds and rounds; codes are all combinations of levels, so none can die (Mentzer et al. 2023, section 3.1)."""

    levels: Tensor
    basis: Tensor

    @dataclasses.dataclass(frozen=True)
    class Config:
        """``levels``: number of levels of each dimension, at least 3; K is their product. For 2, use ``lfq``."""

        levels: tuple[int, ...] = (8, 8, 4)

        def __post_init__(self) -> None:
            # Two levels would put their border where the bounding function is flat.
            if not self.levels or min(self.levels) < 3:
                raise ValueError(f"levels: each must be at least 3, not {list(self.levels)}; for 2 take lfq")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.down = nn.Conv2d(latent_dim, len(config.levels), 1)
        self.up = nn.Conv2d(len(config.levels), latent_dim, 1)
        levels = torch.tensor(config.levels)
        # In mixed radix, the first dimension counting least.
        self.register_buffer("basis", levels.cumprod(0) // levels, persistent=False)
        self.register_buffer("levels", levels, persistent=False)

    @property
    def num_codes(self) -> int:
        return math.prod(self.config.levels)

    @property
    def has_loss(self) -> bool:
        return False

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            bounded = self.bounded(latent)
            digits = bounded + (rounded(bounded) - bounded).detach()
            quantized = self.up(digits / _column(self.levels // 2))
        codes = (digits.detach().round().long() + _column(self.levels // 2)) * _column(self.basis)
        return Quantized(quantized, codes.sum(1), quantized.new_zeros(()), {})

    def bounded(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, d, h, w), which rounds to as many whole numbers as each dimension has levels."""
        half, offset, shift = self._bounds(latent)
        return (self.down(full_precision(latent)) + shift).tanh() * half - offset

    def _bounds(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels = _column(self.levels).to(full_precision(latent).dtype)
        half = (levels - 1) * (1 + 1e-3) / 2  # a little more, so that the outer levels can be reached
        offset = torch.where(levels % 2 == 0, 0.5, 0.0).to(half.dtype)  # an even number of levels has no middle one
        return half, offset, (offset / half).atanh()

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        digits = codes[:, None] // _column(self.basis) % _column(self.levels) - _column(self.levels // 2)
        return self.up((digits / _column(self.levels // 2)).to(self.up.weight.dtype))

    def margin(self, latent: Tensor) -> Tensor:
        # Beyond the outermost level there is no border, but to say so costs more than it saves.
        bounded, (half, _, _) = self.bounded(latent), self._bounds(latent)
        to_border = (0.5 - TIE[bounded.dtype] - (bounded - rounded(bounded)).abs()).clamp_min(0)
        steepest = half * self.down.weight.flatten(1).norm(dim=1)[:, None, None]  # of tanh, and of the projection
        return (to_border / steepest).amin(1)


def rounded(bounded: Tensor) -> Tensor:
    """The nearest whole numbers; half-way between two, within :data:`TIE`, the lower one, whose code is lower."""
    return (bounded - (0.5 + TIE[bounded.dtype])).ceil()


def _column(values: Tensor) -> Tensor:
    """(d,) -> (d, 1, 1)."""
    return values[:, None, None]
