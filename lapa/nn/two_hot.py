"""Regression as classification over bins of the symmetric logarithm (DreamerV3, Hafner et al. 2023, "Twohot loss")."""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(1 + |x|)``: near 0 the number itself, far from it its logarithm."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of :func:`symlog`."""
    return x.sign() * x.abs().expm1()


def bins(count: int, limit: float, like: Tensor) -> Tensor:
    """(K,) the symmetric logarithm at each of K bins, from ``-limit`` to ``limit``, on the device of ``like``."""
    return torch.linspace(-limit, limit, count, device=like.device)


def two_hot(x: Tensor, count: int, limit: float) -> Tensor:
    """(...) numbers -> (..., K) weights of the two bins next to each, in sum 1; beyond the last bin, all of it."""
    at = (symlog(x).clamp(-limit, limit) + limit) * (count - 1) / (2 * limit)
    below = at.floor().clamp(max=count - 2)
    share = (at - below)[..., None]
    index = below.long()[..., None]
    weights = torch.zeros(*x.shape, count, device=x.device)
    return weights.scatter(-1, index, 1 - share).scatter(-1, index + 1, share)


def two_hot_mean(logits: Tensor, limit: float) -> Tensor:
    """(..., K) logits -> (...) the number that they predict."""
    return symexp((logits.softmax(-1) * bins(logits.shape[-1], limit, logits)).sum(-1))
