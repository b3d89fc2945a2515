"""Named loss terms and their one weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lapa.config import LossConfig
from lapa.nn.perceptual import PerceptualLoss, load_vgg16
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


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The one loss that is minimized.

    Raises:
        ValueError: a term without a weight, a weight without a term, or a term that is no scalar.
    """
    if terms.keys() != weights.keys():
        raise ValueError(f"loss terms {sorted(terms)} and weights {sorted(weights)} must have equal names")
    for name, term in terms.items():
        if term.ndim:
            raise ValueError(f"loss term '{name}' must be a scalar, not of shape {tuple(term.shape)}")
    return torch.stack([weights[name] * terms[name] for name in terms]).sum()


def weighted_squared_error(prediction: Tensor, target: Tensor, changed: Tensor, motion: float) -> Tensor:
    """Mean squared error in which a changed pixel weighs ``1 + motion``.

    The ball is 8 of 33,600 pixels: without the weight, a model that never draws it loses nothing.
    """
    error = (prediction.float() - target).square()
    if motion:
        error = torch.where(changed, error * (1 + motion), error)
    return error.mean()


def scheduled(start: float, end: float, progress: float) -> float:
    """A weight on its way from ``start`` to ``end``: geometric where both are positive, else linear.

    A motion weight falls so: first find what moves, then draw it cleanly.
    """
    if not (start and end):
        return start + (end - start) * progress
    return start * (end / start) ** progress
