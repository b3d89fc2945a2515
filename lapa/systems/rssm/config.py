"""The settings of the recurrent world model and of its loss."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from lapa.sections import require


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The parts of the model.

    Attributes:
        sequence: T, the number of frames of a training sequence.
        latent_dim: D, channels of the grid that the encoder gives and the frame decoder gets.
        encoder: name and options of the encoder; one that sees a single frame.
        frame_decoder: name and options of the frame decoder.
        state: one ``vector`` for the whole frame, or a ``grid``: a state at each place of the encoder's grid.
        embedding: width of what a ``vector`` state is told of a frame.
        hidden: H, width of the recurrent state.
        categoricals: N, categorical variables of the stochastic state, at each place.
        classes: K of each.
        width: of the hidden layer of the prior and of the posterior.
        kernel: size of the recurrent convolutions of a ``grid``: how far a step can move something.
        input_width: of a layer before the recurrent cell (DreamerV2); null has none.
        layer_norm: a recurrent cell with layer norm (DreamerV2).
        learnt_start: the recurrent state before the first frame is learnt (DreamerV3), not 0.
        sampling: classes are drawn by ``gumbel_softmax`` (Jang et al. 2017), or with the ``straight_through`` gradient
            of their probabilities (DreamerV2); both give one-hot vectors.
        temperature: of the Gumbel-softmax.
        unimix: share of a uniform distribution that is mixed into each categorical (DreamerV3).
        head_width: of the hidden layer of the heads for reward and end.
        reward_head: its ``mean``, or a distribution over bins of the symmetric logarithm, ``two_hot`` (DreamerV3).
        reward_bins: number of bins of the latter.
        ends: what counts as an end: the ``life`` that is lost, or the ``game`` that is over.
    """

    sequence: int = 15
    latent_dim: int = 256
    encoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "resnet"})
    frame_decoder: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "resnet"})
    state: Literal["vector", "grid"] = "vector"
    embedding: int = 512
    hidden: int = 512
    categoricals: int = 32
    classes: int = 32
    width: int = 512
    kernel: int = 3
    input_width: int | None = None
    layer_norm: bool = False
    learnt_start: bool = False
    sampling: Literal["gumbel_softmax", "straight_through"] = "gumbel_softmax"
    temperature: float = 1.0
    unimix: float = 0.0
    head_width: int = 256
    reward_head: Literal["mean", "two_hot"] = "mean"
    reward_bins: int = 41
    ends: Literal["life", "game"] = "life"

    def __post_init__(self) -> None:
        require(self.sequence >= 2, "sequence", f"needs at least 2 frames, not {self.sequence}")
        for name in ("latent_dim", "embedding", "hidden", "categoricals", "width", "head_width"):
            require(getattr(self, name) >= 1, name, f"must be at least 1, not {getattr(self, name)}")
        require(self.classes >= 2, "classes", f"needs at least 2, not {self.classes}")
        require(self.kernel in (1, 3, 5), "kernel", f"must be 1, 3 or 5, not {self.kernel}")
        require(self.input_width is None or self.input_width >= 1, "input_width", "must be at least 1, or null")
        require(self.temperature > 0, "temperature", f"must be positive, not {self.temperature}")
        require(0 <= self.unimix < 1, "unimix", f"must be a share in [0, 1), not {self.unimix}")
        odd = self.reward_bins >= 3 and self.reward_bins % 2 == 1
        require(odd, "reward_bins", f"needs an odd number from 3, so that one of them is 0, not {self.reward_bins}")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; which error ``reconstruction`` weighs, the frame decoder says.

    Attributes:
        reconstruction: weight of the error of the pixels.
        pixels: the error of a frame is the ``sum`` over its pixels, as Dreamer has it, or their ``mean``. With the mean
            the posterior says nothing: a frame is worth less than a nat.
        dynamics: weight of the divergence that moves the prior towards the posterior.
        representation: weight of the divergence that moves the posterior towards the prior.
        free_nats: a divergence below this is no loss (Kingma et al. 2016).
        reward: weight of the reward's error.
        ends: weight of the cross-entropy of the ends.
        worst: weight of the mean error of each frame's worst pixels (Micheli et al. 2024).
        worst_share: how many of a frame's pixels are its worst, as a share.
    """

    reconstruction: float = 1.0
    pixels: Literal["sum", "mean"] = "sum"
    dynamics: float = 0.8
    representation: float = 0.2
    free_nats: float = 0.0
    reward: float = 1.0
    ends: float = 1.0
    worst: float = 0.0
    worst_share: float = 0.001

    def __post_init__(self) -> None:
        for name, weight in dataclasses.asdict(self).items():
            if isinstance(weight, float):
                require(math.isfinite(weight) and weight >= 0, name, f"must be finite and not negative, not {weight}")
        require(0 < self.worst_share <= 1, "worst_share", f"must be a share in (0, 1], not {self.worst_share}")
