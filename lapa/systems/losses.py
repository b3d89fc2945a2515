"""What the losses of systems with codes share: their weights, and a perceptual loss."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

from lapa.nn.perceptual import FeatureLoss, load_perceptual
from lapa.sections import require

PerceptualKind = Literal["lpips", "vgg16"]


@dataclasses.dataclass(frozen=True)
class CodingLossConfig:
    """Weights of the loss terms that every system with codes has.

    Attributes:
        reconstruction: weight of the mean error of all pixels.
        quantizer: weight of the quantizer's own loss.
        perceptual: weight of the perceptual loss, at the start of training.
        perceptual_kind: ``lpips`` (Zhang et al. 2018), or distances of ``vgg16`` features without learnt weights.
        perceptual_weights: file with the weights of VGG16; required if a perceptual weight is not 0.
        perceptual_heads: file with the learnt weights of LPIPS; null takes that of the installed package ``lpips``.
    """

    reconstruction: float = 1.0
    quantizer: float = 1.0
    perceptual: float = 0.0
    perceptual_kind: PerceptualKind = "lpips"
    perceptual_weights: str | None = None
    perceptual_heads: str | None = None

    def __post_init__(self) -> None:
        for name, weight in dataclasses.asdict(self).items():
            if isinstance(weight, float):
                require(math.isfinite(weight) and weight >= 0, name, f"must be finite and not negative, not {weight}")
        require(
            bool(self.perceptual_weights) or not self.is_perceptual,
            "perceptual_weights",
            "the perceptual loss needs a file of VGG16 weights; name one, or set "
            f"{' and '.join(self.perceptual_fields())} to 0",
        )

    @classmethod
    def perceptual_fields(cls) -> tuple[str, ...]:
        """Names of the weights that ask for a perceptual loss, now or later in the training."""
        return ("perceptual",)

    @property
    def is_perceptual(self) -> bool:
        """Whether a perceptual loss is asked for, now or later."""
        return any(getattr(self, name) for name in self.perceptual_fields())


def make_perceptual(config: CodingLossConfig) -> FeatureLoss | None:
    """The perceptual loss if the configuration asks for one, now or later in the training.

    Raises:
        ConfigError: its weights cannot be read.
    """
    if not config.is_perceptual:
        return None
    assert config.perceptual_weights is not None  # the configuration has been checked
    heads = Path(config.perceptual_heads) if config.perceptual_heads else None
    return load_perceptual(config.perceptual_kind, Path(config.perceptual_weights), heads)
