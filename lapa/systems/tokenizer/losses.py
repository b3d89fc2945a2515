"""The loss of the tokenizer, as named and weighted terms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lapa.contracts import Progress, Quantized, Terms
from lapa.nn.losses import stepped, worst_pixels
from lapa.systems.tokenizer.config import LossConfig


def perceptual_weight(config: LossConfig, progress: float) -> float:
    """The weight of the perceptual loss by the steps or epochs that are done."""
    at = Progress.of(progress)
    done = at.epochs if config.perceptual_unit == "epochs" else at.step
    cap = max(config.perceptual, config.perceptual_cap)
    return stepped(config.perceptual, config.perceptual_increment, config.perceptual_every, cap, done)


def pixel_terms(errors: Tensor, config: LossConfig, codes: Tensor | None = None) -> Terms:
    """The mean error of all pixels and, if it has a weight, that of each frame's worst.

    Args:
        errors: (B, H, W), how wrong each pixel is, as the frame decoder measures it.
        config: the weights.
        codes: (B, h, w) int64, the one code of each place; None leaves all places alike.
    """
    weighted = errors
    if config.rare and codes is not None:
        weights = rarity(codes, config.rare)[:, None]  # (B, 1, h, w)
        weighted = errors * F.interpolate(weights, errors.shape[1:], mode="nearest")[:, 0]
    terms: Terms = {"reconstruction": (config.reconstruction, weighted.mean())}
    if config.worst:
        terms["worst"] = (config.worst, worst_pixels(errors, config.worst_share).mean())
    return terms


def rarity(codes: Tensor, power: float) -> Tensor:
    """Weights (B, ...) of places by their codes, of mean 1: ``n ** -power`` for a code that n of the places have."""
    counts = torch.bincount(codes.flatten())
    weights = counts[codes].float() ** -power
    return weights / weights.mean()


def quantizer_term(quantized: Quantized, config: LossConfig, has_loss: bool) -> Terms:
    """The quantizer's own loss, without a weight where it has none."""
    return {"quantizer": (config.quantizer if has_loss else 0.0, quantized.loss)}
