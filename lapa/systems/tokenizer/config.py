"""The settings of the tokenizer and of its loss."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from lapa.sections import require
from lapa.systems.losses import CodingLossConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The parts of the model.

    Attributes:
        latent_dim: D, the number of channels of the latent.
        encoder: name and options of the encoder; one that sees a single frame.
        quantizer: name and options of the quantizer.
        frame_decoder: name and options of the frame decoder.
    """

    latent_dim: int = 64
    encoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "strided"})
    quantizer: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "ema"})
    frame_decoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "transposed"})

    def __post_init__(self) -> None:
        require(self.latent_dim >= 1, "latent_dim", f"must be at least 1, not {self.latent_dim}")


@dataclasses.dataclass(frozen=True)
class LossConfig(CodingLossConfig):
    """Weights of the loss terms; which error ``reconstruction`` weighs, the frame decoder says.

    Attributes:
        rare: how much more an error counts where the code of its place is rare in the batch: it is divided by the
            number of places with that code, to the power of this; 0 counts all places alike, 1 all codes.
        worst: weight of the mean error of each frame's worst pixels; small things such as a ball are among
            these until they are predicted.
        worst_share: how many of a frame's pixels are its worst, as a share.
        perceptual_increment: how much the weight of the perceptual loss grows each time.
        perceptual_every: after how many epochs or steps it grows.
        perceptual_unit: ``epochs`` or ``steps``.
        perceptual_cap: the largest weight that it grows to.
    """

    rare: float = 0.0
    worst: float = 0.0
    worst_share: float = 0.001
    perceptual_increment: float = 0.0
    perceptual_every: int = 5
    perceptual_unit: Literal["epochs", "steps"] = "epochs"
    perceptual_cap: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rare <= 1, "rare", f"must be at most 1, not {self.rare}")
        require(0 < self.worst_share <= 1, "worst_share", f"must be a share in (0, 1], not {self.worst_share}")
        require(self.perceptual_every >= 1, "perceptual_every", f"must be at least 1, not {self.perceptual_every}")
        require(
            self.perceptual <= self.perceptual_cap or not self.perceptual_increment,
            "perceptual_cap",
            f"{self.perceptual_cap} is below the weight at the start, {self.perceptual}",
        )

    @classmethod
    def perceptual_fields(cls) -> tuple[str, ...]:
        return ("perceptual", "perceptual_increment")
