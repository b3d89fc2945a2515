"""Loss terms that systems share, and their one weighted sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


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
