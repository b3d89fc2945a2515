"""The settings of the tokenizer and of its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from lapa.sections import require


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
class LossConfig:
    """Weights of the loss terms.

    Attributes:
        reconstruction: weight of the mean error of all pixels; which error it is, the frame decoder says.
        quantizer: weight of the quantizer's own loss.
        worst: weight of the mean error of each frame's worst pixels; small things such as a ball are among
            these until they are predicted.
        worst_share: how many of a frame's pixels are its worst, as a share.
        perceptual: weight of the perceptual loss, at the start of training.
        perceptual_increment: how much that weight grows each time.
        perceptual_every: after how many epochs or steps it grows.
        perceptual_unit: ``epochs`` or ``steps``.
        perceptual_cap: the largest weight that it grows to.
        perceptual_kind: ``lpips`` (Zhang et al. 2018), or distances of ``vgg16`` features without learnt weights.
        perceptual_weights: file with the weights of VGG16; required if a perceptual weight is not 0.
        perceptual_heads: file with the learnt weights of LPIPS; null takes that of the installed package ``lpips``.
    """

    reconstruction: float = 1.0
    quantizer: float = 1.0
    worst: float = 0.0
    worst_share: float = 0.001
    perceptual: float = 0.0
    perceptual_increment: float = 0.0
    perceptual_every: int = 5
    perceptual_unit: Literal["epochs", "steps"] = "epochs"
    perceptual_cap: float = 0.3
    perceptual_kind: Literal["lpips", "vgg16"] = "lpips"
    perceptual_weights: str | None = None
    perceptual_heads: str | None = None

    def __post_init__(self) -> None:
        for name, weight in dataclasses.asdict(self).items():
            if isinstance(weight, float):
                require(math.isfinite(weight) and weight >= 0, name, f"must be finite and not negative, not {weight}")
        require(0 < self.worst_share <= 1, "worst_share", f"must be a share in (0, 1], not {self.worst_share}")
        require(self.perceptual_every >= 1, "perceptual_every", f"must be at least 1, not {self.perceptual_every}")
        require(
            self.perceptual <= self.perceptual_cap or not self.perceptual_increment,
            "perceptual_cap",
            f"{self.perceptual_cap} is below the weight at the start, {self.perceptual}",
        )
        require(
            bool(self.perceptual_weights) or not self.is_perceptual,
            "perceptual_weights",
            "the perceptual loss needs a file of VGG16 weights; name one, or set perceptual and perceptual_increment "
            "to 0",
        )

    @property
    def is_perceptual(self) -> bool:
        """Whether a perceptual loss is asked for, now or later."""
        return bool(self.perceptual or self.perceptual_increment)
