"""Quantizers of the package vector-quantize-pytorch, behind our contract; they need the extra ``vq``.

Only those whose state is learnt by gradient alone. Its moving averages are moved in the forward pass, which would
count micro-batches and ranks one by one.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lapa.contracts import Quantized, Quantizer
from lapa_plugins.quantizers.codebook import (
    TIE,
    flatten,
    full_precision,
    nearest,
    nearest_with_margin,
    squared_distances,
    unflatten,
)

try:
    from vector_quantize_pytorch import LFQ, SimVQ  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'lapa[vq]'") from error


class LibraryQuantizer(Quantizer):
    """A quantizer of the package as a module ``inner`` that returns latent, codes and loss."""

    inner: Any

    def __init__(self, num_codes: int, inner: Any) -> None:
        super().__init__()
        self._num_codes = num_codes
        self.inner = inner

    @property
    def num_codes(self) -> int:
        return self._num_codes

    def forward(self, latent: Tensor) -> Quantized:
        with torch.autocast(latent.device.type, enabled=False):
            quantized, codes, loss = self.inner(full_precision(latent))
            if not self.training:  # the package leaves ties to rounding
                codes = self.decided(full_precision(latent))
                quantized = self.codes_to_latent(codes)
        return Quantized(quantized, codes.long(), loss, {})

    @abstractmethod
    def decided(self, latent: Tensor) -> Tensor:
        """(B, D, h, w) -> codes (B, h, w), of tied ones the lowest."""

    def codes_to_latent(self, codes: Tensor) -> Tensor:
        latent: Tensor = self.inner.indices_to_codes(codes)
        return latent


class LfqQuantizer(LibraryQuantizer):
    """Lookup-free: a code is the signs of a few dimensions (Yu et al. 2023, section 3.1)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``lfq``.

        Attributes:
            num_codes: K, a power of 2.
            entropy: weight of the term that makes each assignment certain and the use of codes even.
            commitment: weight of the term that moves encodings to codes.
            spherical: bring encodings and codes to length 1 (Zhao et al. 2024, section 4).
        """

        num_codes: int = 256
        entropy: float = 0.01
        commitment: float = 0.25
        spherical: bool = False

        def __post_init__(self) -> None:
            if self.num_codes < 2 or self.num_codes & (self.num_codes - 1):
                raise ValueError(f"num_codes: must be a power of 2, not {self.num_codes}")
            if min(self.entropy, self.commitment) < 0:
                raise ValueError("entropy and commitment must not be negative")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        inner = LFQ(
            dim=latent_dim,
            codebook_size=config.num_codes,
            has_projections=True,
            entropy_loss_weight=config.entropy,
            commitment_loss_weight=config.commitment,
            spherical=config.spherical,
            force_quantization_f32=False,  # in double precision borders are decided for good
        )
        super().__init__(config.num_codes, inner)
        self.config = config

    @property
    def has_loss(self) -> bool:
        return max(self.config.entropy, self.config.commitment) > 0

    def decided(self, latent: Tensor) -> Tensor:
        signed, tied = self._signed(latent)
        return unflatten(((signed > tied) * self.inner.mask).sum(1), latent)

    def margin(self, latent: Tensor) -> Tensor:
        signed, tied = self._signed(latent)
        steepest = self.inner.project_in.weight.norm(dim=1)
        return unflatten(((signed.abs() - tied).clamp_min(0) / steepest).amin(1), latent)

    def _signed(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) -> (N, d), whose signs are the bits, and (N, d), up to which a sign is tied with the other."""
        projection = self.inner.project_in
        flat = flatten(full_precision(latent))
        size = flat.abs() @ projection.weight.abs().T + projection.bias.abs()  # of the terms, which can cancel out
        return projection(flat), TIE[flat.dtype] * size


class SimVqQuantizer(LibraryQuantizer):
    """A frozen codebook seen through one learnt linear layer, which moves all codes at once (Zhu et al. 2024)."""

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Options of ``simvq``.

        Attributes:
            num_codes: K, the number of codes.
            codebook: weight of the term that moves codes to encodings.
            commitment: weight of the term that moves encodings to codes.
            rotation: turn the gradient by a rotation (Fifty et al. 2024) rather than pass it unchanged.
        """

        num_codes: int = 256
        codebook: float = 1.0
        commitment: float = 0.25
        rotation: bool = True

        def __post_init__(self) -> None:
            if self.num_codes < 2:
                raise ValueError(f"num_codes: needs at least 2, not {self.num_codes}")
            if self.codebook <= 0 or self.commitment < 0:
                raise ValueError("codebook must be positive, and commitment not negative")

    def __init__(self, config: Config, *, latent_dim: int) -> None:
        inner = SimVQ(
            dim=latent_dim,
            codebook_size=config.num_codes,
            channel_first=True,
            rotation_trick=config.rotation,
            commitment_weight=config.codebook,
            input_to_quantize_commit_loss_weight=config.commitment / config.codebook,
        )
        super().__init__(config.num_codes, inner)

    def decided(self, latent: Tensor) -> Tensor:
        flat = flatten(latent)
        return unflatten(nearest(squared_distances(flat, self.inner.codebook.to(flat.dtype)), flat), latent)

    def margin(self, latent: Tensor) -> Tensor:
        flat = full_precision(flatten(latent))
        squares = squared_distances(flat, self.inner.codebook.to(flat.dtype))
        return unflatten(nearest_with_margin(squares, flat)[1], latent)
