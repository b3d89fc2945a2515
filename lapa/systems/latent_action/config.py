"""The settings of the latent action model and of its loss."""

from __future__ import annotations

import dataclasses
from typing import Any

from lapa.sections import require
from lapa.systems.losses import CodingLossConfig, PerceptualKind


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The parts of the model.

    Attributes:
        latent_dim: D, the number of channels of the latent.
        tokens: number of tokens that the latent grid is pooled to; 0 keeps the grid.
        token_positions: let tokens say where something happened, not only what.
        encoder: name and options of the encoder.
        quantizer: name and options of the quantizer.
        conditioner: name and options of the conditioner.
        decoder: name and options of the decoder.
    """

    latent_dim: int = 128
    tokens: int = 0
    token_positions: bool = True
    encoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "conv"})
    quantizer: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "vq"})
    conditioner: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "film"})
    decoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "plain"})

    def __post_init__(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", f"must be at least 1, not {self.latent_dim}")
        require(self.tokens >= 0, "tokens", f"must be 0 (keep the grid) or more, not {self.tokens}")


@dataclasses.dataclass(frozen=True)
class LossConfig(CodingLossConfig):
    """Weights of the loss terms; ``reconstruction`` weighs the squared error.

    Attributes:
        motion: extra weight of changed pixels in the squared error, at the start of training.
        motion_end: the same at the end of training; in between the weight changes geometrically, or linearly if one of
            the two is 0.
        motion_threshold: a pixel has changed when it differs by more than this, on a scale of 0 to 1.
        perceptual_end: weight of the perceptual loss at the end of training; in between it changes as that of motion.
    """

    perceptual_kind: PerceptualKind = "vgg16"
    motion: float = 0.0
    motion_end: float = 0.0
    motion_threshold: float = 0.02
    perceptual_end: float = 0.0

    @classmethod
    def perceptual_fields(cls) -> tuple[str, ...]:
        return ("perceptual", "perceptual_end")
