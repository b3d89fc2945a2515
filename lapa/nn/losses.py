"""Loss terms that systems share, and their one weighted sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def weighted_sum(terms: Mapping[str, tuple[float, Tensor]]) -> Tensor:
    """The one loss that is minimized, from weight and value of each term by name.

    Raises:
        ValueError: there is no term, a weight is not finite, or a term is no scalar.
    """
    if not terms:
        raise ValueError("a loss needs at least one term")
    for name, (weight, term) in terms.items():
        if not math.isfinite(weight):
            raise ValueError(f"the weight of loss term '{name}' must be finite, not {weight}")
        if term.ndim:
            raise ValueError(f"loss term '{name}' must be a scalar, not of shape {tuple(term.shape)}")
    return torch.stack([weight * term for weight, term in terms.values()]).sum()


def weighted_squared_error(prediction: Tensor, target: Tensor, changed: Tensor, motion: float) -> Tensor:
    """Mean squared error in which a changed pixel weighs ``1 + motion``.

    The ball is 8 of 33,600 pixels: without the weight, a model that never draws it loses nothing.
    """
    error = (prediction.float() - target).square()
    if motion:
        error = torch.where(changed, error * (1 + motion), error)
    return error.mean()


def worst_pixels(errors: Tensor, share: float) -> Tensor:
    """(B,) the mean error of each frame's worst pixels.

    Args:
        errors: (B, H, W), how wrong each pixel is.
        share: how many of a frame's pixels are its worst; at least one.
    """
    pixels = errors.flatten(1)
    count = max(1, round(share * pixels.shape[1]))
    return pixels.topk(count, sorted=False).values.mean(1)


def scheduled(start: float, end: float, progress: float) -> float:
    """A weight on its way from ``start`` to ``end``: geometric where both are positive, else linear.

    A motion weight falls so: first find what moves, then draw it cleanly.
    """
    if not (start and end):
        return start + (end - start) * progress
    return start * (end / start) ** progress


def stepped(start: float, increment: float, every: float, cap: float, count: float) -> float:
    """A weight that begins at ``start`` and rises by ``increment`` after each ``every``, up to ``cap``.

    Args:
        every: length of a stair, positive, in steps or epochs.
        count: of these, how many are done.
    """
    stairs = math.floor(count / every + 1e-9)  # 0.3 epochs are three times 0.1, whatever rounding says
    return min(cap, start + increment * stairs)
