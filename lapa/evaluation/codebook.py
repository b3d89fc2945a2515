"""Whether the codebook lives: how many codes are used, how evenly, and how many bits a transition carries."""

from __future__ import annotations

import math

import numpy as np


def codebook_metrics(codes: np.ndarray, num_codes: int) -> dict[str, float]:
    """Usage of the codes (P, h, w) of P transitions.

    ``bits_nominal`` is what the code grid could carry; ``bits_empirical`` sums the entropies of the single grid
    positions, an upper bound of what it does carry.
    """
    counts = np.bincount(codes.ravel(), minlength=num_codes)
    positions = codes.reshape(len(codes), -1).T
    return {
        "num_codes": float(num_codes),
        "codes_used": float((counts > 0).sum()),
        "perplexity": 2 ** entropy_bits(counts),
        "bits_nominal": len(positions) * math.log2(num_codes),
        "bits_empirical": sum(entropy_bits(np.bincount(column)) for column in positions),
    }


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of a distribution given as counts."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())
