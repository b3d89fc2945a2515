"""The loss of the tokenizer, as named and weighted terms."""

from __future__ import annotations

from torch import Tensor

from lapa.contracts import Quantized, Terms
from lapa.systems.tokenizer.config import LossConfig


def loss_terms(errors: Tensor, quantized: Quantized, config: LossConfig) -> Terms:
    """The terms of one batch.

    Args:
        errors: (B, H, W), how wrong each pixel is, as the frame decoder measures it.
        quantized: what the quantizer gave.
        config: the weights.
    """
    terms: Terms = {
        "reconstruction": (config.reconstruction, errors.mean()),
        "quantizer": (config.quantizer, quantized.loss),
    }
    if config.worst:
        pixels = errors.flatten(1)
        count = max(1, round(config.worst_share * pixels.shape[1]))
        terms["worst"] = (config.worst, pixels.topk(count, sorted=False).values.mean())
    return terms
