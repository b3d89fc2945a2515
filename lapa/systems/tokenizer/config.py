"""The settings of the tokenizer and of its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

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
    """

    reconstruction: float = 1.0
    quantizer: float = 1.0
    worst: float = 0.0
    worst_share: float = 0.001

    def __post_init__(self) -> None:
        for name, weight in dataclasses.asdict(self).items():
            if isinstance(weight, float):
                require(math.isfinite(weight) and weight >= 0, name, f"must be finite and not negative, not {weight}")
        require(0 < self.worst_share <= 1, "worst_share", f"must be a share in (0, 1], not {self.worst_share}")
