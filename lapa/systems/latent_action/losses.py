"""The loss of the latent action model, as named and weighted terms."""

from __future__ import annotations

from torch import Tensor

from lapa.contracts import Quantized, Terms
from lapa.nn.losses import scheduled, weighted_squared_error
from lapa.nn.perceptual import FeatureLoss
from lapa.systems.latent_action.config import LossConfig


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
        perceptual: from :func:`lapa.systems.losses.make_perceptual`.
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
