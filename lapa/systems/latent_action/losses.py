"""The loss of the latent action model, as named and weighted terms."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from lapa.contracts import Quantized, Terms
from lapa.nn.losses import scheduled, weighted_squared_error
from lapa.nn.perceptual import FeatureLoss, load_perceptual
from lapa.systems.latent_action.config import LossConfig


def make_perceptual(config: LossConfig) -> FeatureLoss | None:
    """The perceptual loss if the configuration asks for one.

    Raises:
        ConfigError: its weights cannot be read.
    """
    if not (config.perceptual or config.perceptual_end):
        return None
    assert config.perceptual_weights is not None  # the configuration has been checked
    return load_perceptual("vgg16", Path(config.perceptual_weights))


def loss_terms(
    prediction: Tensor,
    quantized: Quantized,
    current: Tensor,
    following: Tensor,
    config: LossConfig,
    progress: float,
    perceptual: FeatureLoss | None = None,
) -> Terms:
    """The terms of one batch; the perceptual one is there while its weight is not 0.

    Args:
        prediction: (B, C, H, W) float, the next frame as the model draws it.
        quantized: what the quantizer gave for the pair.
        current: (B, C, H, W) float in [0, 1].
        next: the same, one step on.
        config: the weights, and how motion is weighted.
        progress: share of the training that is done, in [0, 1].
        perceptual: from :func:`make_perceptual`.
    """
    motion = scheduled(config.motion, config.motion_end, progress)
    changed = (following - current).abs() > config.motion_threshold
    terms: Terms = {
        "reconstruction": (config.reconstruction, weighted_squared_error(prediction, following, changed, motion)),
        "quantizer": (config.quantizer, quantized.loss),
    }
    weight = scheduled(config.perceptual, config.perceptual_end, progress)
    if perceptual is not None and weight:
        terms["perceptual"] = (weight, perceptual(prediction, following))
    return terms
