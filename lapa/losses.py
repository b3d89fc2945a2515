"""Named loss terms and their one weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lapa.config import LossConfig
from lapa.model import ModelOutput


def loss_terms(
    output: ModelOutput, current: Tensor, next: Tensor, config: LossConfig, progress: float
) -> dict[str, Tensor]:
    """The unweighted terms of one batch: scalars by name.

    Args:
        output: what the model gave for the pair.
        current: (B, C, H, W) float in [0, 1].
        next: the same, one step on.
        config: how motion is weighted.
        progress: share of the training that is done, in [0, 1].
    """
    motion = motion_weight(config, progress)
    changed = (next - current).abs() > config.motion_threshold
    return {
        "reconstruction": weighted_squared_error(output.prediction, next, changed, motion),
        "quantizer": output.quantized.loss,
    }


def loss_weights(config: LossConfig) -> dict[str, float]:
    """The weight of each term."""
    return {"reconstruction": config.reconstruction, "quantizer": config.quantizer}


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


def motion_weight(config: LossConfig, progress: float) -> float:
    """Falls geometrically from ``motion`` to ``motion_end``: first find what moves, then draw it cleanly."""
    start, end = config.motion, config.motion_end
    if not (start and end):
        return start + (end - start) * progress
    return start * (end / start) ** progress
