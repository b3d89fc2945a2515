"""Named loss terms and their one weighted sum."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lapa.nn.losses import scheduled, weighted_squared_error
from lapa.nn.perceptual import PerceptualLoss, load_vgg16
from lapa.systems.latent_action.config import LossConfig
from lapa.systems.latent_action.model import ModelOutput


def make_perceptual(config: LossConfig, device: torch.device) -> PerceptualLoss | None:
    """The perceptual loss if the configuration asks for one.

    Raises:
        ConfigError: its weights cannot be read.
    """
    if not (config.perceptual or config.perceptual_end):
        return None
    assert config.perceptual_weights is not None  # the configuration has been checked
    return load_vgg16(Path(config.perceptual_weights)).to(device)


def loss_terms(
    output: ModelOutput,
    current: Tensor,
    next: Tensor,
    config: LossConfig,
    progress: float,
    perceptual: PerceptualLoss | None = None,
) -> dict[str, Tensor]:
    """The unweighted terms of one batch: scalars by name, those of :func:`loss_weights`.

    Args:
        output: what the model gave for the pair.
        current: (B, C, H, W) float in [0, 1].
        next: the same, one step on.
        config: how motion is weighted.
        progress: share of the training that is done, in [0, 1].
        perceptual: from :func:`make_perceptual`.
    """
    motion = scheduled(config.motion, config.motion_end, progress)
    changed = (next - current).abs() > config.motion_threshold
    terms = {
        "reconstruction": weighted_squared_error(output.prediction, next, changed, motion),
        "quantizer": output.quantized.loss,
    }
    if perceptual is not None and "perceptual" in loss_weights(config, progress):
        terms["perceptual"] = perceptual(output.prediction, next)
    return terms


def loss_weights(config: LossConfig, progress: float) -> dict[str, float]:
    """The weight of each term at a time; the perceptual term is there while its weight is not 0."""
    weights = {"reconstruction": config.reconstruction, "quantizer": config.quantizer}
    if perceptual := scheduled(config.perceptual, config.perceptual_end, progress):
        weights["perceptual"] = perceptual
    return weights
