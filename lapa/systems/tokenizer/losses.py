"""The loss of the tokenizer, as named and weighted terms."""

from __future__ import annotations

from torch import Tensor

from lapa.contracts import Quantized, Terms
from lapa.systems.tokenizer.config import LossConfig


def loss_terms(
    reconstruction: Tensor,
    quantized: Quantized,
    frame: Tensor,
    config: LossConfig,
) -> Terms:
    """The terms of one batch.

    Args:
        reconstruction: (B, C, H, W) in [0, 1], the frame as predicted from its codes.
        quantized: what the quantizer gave.
        frame: (B, C, H, W) float in [0, 1].
        config: the weights.
    """
    squared = (reconstruction.float() - frame).square().mean(1).flatten(1)  # (B, H * W)
    terms: Terms = {
        "reconstruction": (config.reconstruction, squared.mean()),
        "quantizer": (config.quantizer, quantized.loss),
    }
    if config.worst:
        count = max(1, round(config.worst_share * squared.shape[1]))
        terms["worst"] = (config.worst, squared.topk(count, sorted=False).values.mean())
    return terms
