"""What systems with codes share: how often each code was used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lapa.contracts import Quantized, Quantizer
from lapa.metrics.codes import perplexity


def code_counts(quantizer: Quantizer, quantized: Quantized) -> dict[str, Tensor]:
    """Counts of a system's readings: ``codebook``, (n K,) times that each code was used; empty without codes."""
    if quantized.codes is None:
        return {}
    codes = quantizer.distinct(quantized.codes)
    return {"codebook": torch.bincount(codes.flatten(), minlength=quantizer.num_distinct)}


def code_metrics(stage: str, counts: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics of such counts, without the stage: codes used, and their perplexity."""
    if (used := counts.get("codebook")) is None:
        return {}
    group = "quantizer" if stage == "train" else "codebook"
    return {f"{group}/codes_used": float((used > 0).sum()), f"{group}/perplexity": perplexity(used)}
