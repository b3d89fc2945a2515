"""What an encoder, a quantizer and a conditioner must do.

Shape legend, used throughout the project:

    B batch    C channels (1 grey, 3 RGB)    H W frame    D latent width    h w latent grid
    K codes    F decoder width    n codes at each place of the grid
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latent: (B, D, h, w), what the decoder gets; gradients pass through to the encoder.
        codes: (B, h, w * n) int64 in ``[0, num_codes)``, the n of a place side by side; None when the latent is
            continuous.
        loss: scalar, the quantizer's own weighted loss.
        metrics: detached scalars worth logging.
    """

    latent: Tensor
    codes: Tensor | None
    loss: Tensor
    metrics: dict[str, Tensor]


class Encoder(nn.Module, ABC):
    """Maps two frames to a latent grid.

    Subclasses take ``(config, *, channels, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        """Latent grid ``(h, w)`` for frames of ``(H, W)``, known before any data is seen."""

    @abstractmethod
    def forward(self, current: Tensor, next: Tensor) -> Tensor:
        """(B, C, H, W) float twice -> (B, D, h, w)."""


class Quantizer(nn.Module, ABC):
    """Maps latents to discrete codes and back.

    Subclasses take ``(config, *, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @property
    @abstractmethod
    def num_codes(self) -> int | None:
        """K, or None when the latent is continuous."""

    @property
    def codes_per_place(self) -> int:
        """n, how many codes each place of the latent grid has; 1 unless a quantizer says otherwise."""
        return 1

    @property
    def bits(self) -> float:
        """Nominal bits per place of the grid, ``n log2(K)``; ``inf`` when the latent is continuous."""
        return math.inf if self.num_codes is None else self.codes_per_place * math.log2(self.num_codes)

    @property
    def num_distinct(self) -> int:
        """n K, the codes there are if those of a place are told apart; 0 when the latent is continuous."""
        return self.codes_per_place * (self.num_codes or 0)

    def distinct(self, codes: Tensor) -> Tensor:
        """Tells a place's codes apart, for each means something of its own: (B, h, w * n) below K -> below n K."""
        which = torch.arange(codes.shape[2], device=codes.device) % self.codes_per_place
        return codes + (self.num_codes or 0) * which

    @abstractmethod
    def forward(self, latent: Tensor) -> Quantized:
        """(B, D, h, w) float -> :class:`Quantized`."""

    @abstractmethod
    def codes_to_latent(self, codes: Tensor) -> Tensor:
        """(B, h, w * n) int64 -> the (B, D, h, w) that ``forward`` gave for them in eval mode."""

    def margin(self, latent: Tensor) -> Tensor | None:
        """How far each latent can move before one of its codes changes: (B, D, h, w) -> (B, h, w), a lower bound >= 0.

        Labelling uses it to find latents so near a border that rounding could decide. None means unknown.
        """
        return None

    def assign(self, latent: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, D, h, w) -> codes (B, h, w * n) and :meth:`margin`, for labelling.

        Where the margin is 0, the codes may be any of the nearest. Quantizers that find both in one go say so here,
        and save labelling half its time.
        """
        codes = self(latent).codes
        assert codes is not None
        return codes, self.margin(latent)

    def anneal(self, progress: float) -> None:
        """Sets what changes over the training; called before each step.

        ``progress`` is the share of it that is done, in [0, 1]. Quantizers without a schedule keep this default.
        """

    def update(self) -> None:
        """Takes in what the ``forward`` calls of one optimizer step have seen, over all ranks; called after the step.

        Quantizers that learn by gradient alone keep this default.
        """

    def reseed_unused(self, latent: Tensor) -> int:
        """Moves codes that went unused since the last call onto encodings from ``latent`` (B, D, h, w).

        Unused is what no rank used; ``latent`` is this rank's. All ranks call it at the same step. Returns how many
        moved. Quantizers whose codes cannot die keep this default.
        """
        return 0


class Conditioner(nn.Module, ABC):
    """Lets the latent action steer the decoder's features.

    Subclasses take ``(config, *, features, latent_dim)`` and carry a frozen dataclass ``Config``.
    """

    Config: ClassVar[type[Any]]

    @abstractmethod
    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """(B, F, h, w) and (B, D, h', w'), any h' w' down to 1 x 1 -> (B, F, h, w)."""
