"""Whether a codebook lives: how many codes are used, how evenly, and how many bits a transition carries."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class CodeUse:
    """How often each code stands at each place of the grid.

    Attributes:
        counts: (h, w * n, n K) int64, the n codes of a place told apart.
        per_place: n.
    """

    counts: np.ndarray
    per_place: int = 1

    @property
    def totals(self) -> np.ndarray:
        """(n K,) int64, over all places."""
        totals: np.ndarray = self.counts.sum((0, 1))
        return totals

    def perplexities(self) -> np.ndarray:
        """(h, w * n), the perplexity at each place: how many codes it uses, as if it used them evenly."""
        height, width, _ = self.counts.shape
        return np.array([[2 ** entropy_bits(self.counts[r, c]) for c in range(width)] for r in range(height)])

    def metrics(self) -> dict[str, float]:
        """Figures over all places, and of the places by themselves.

        ``bits_nominal`` is what the code grid could carry; ``bits_empirical`` sums the entropies of the single grid
        places, an upper bound of what it does carry.
        """
        height, width, num_codes = self.counts.shape
        used = (self.counts > 0).sum(2)
        return {
            "num_codes": float(num_codes),
            "codes_used": float((self.totals > 0).sum()),
            "perplexity": 2 ** entropy_bits(self.totals),
            "bits_nominal": height * width * math.log2(num_codes // self.per_place),
            "bits_empirical": float(np.log2(self.perplexities()).sum()),
            "place_codes_used_min": float(used.min()),
            "place_codes_used_max": float(used.max()),
            "place_perplexity_min": float(self.perplexities().min()),
            "place_perplexity_max": float(self.perplexities().max()),
        }


def code_use(codes: np.ndarray, number: int, per_place: int = 1) -> CodeUse:
    """Counts the codes (P, h, w * n) of P transitions, out of n K, the ``per_place`` of a place told apart."""
    _, height, width = codes.shape
    columns = codes.reshape(len(codes), -1).T
    counts = np.stack([np.bincount(column, minlength=number) for column in columns])
    return CodeUse(counts.reshape(height, width, number), per_place)


def code_names(num_codes: int, per_place: int) -> list[str]:
    """What people call each of the n K codes: its number, with a place's second one being such as "2:17"."""
    return [
        f"{level}:{code}" if per_place > 1 else str(code)
        for level in range(1, per_place + 1)
        for code in range(num_codes)
    ]


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of a distribution given as counts."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def perplexity(counts: Any) -> float:
    """How many codes are used, as if evenly, of counts (K,): 2 to the power of their entropy."""
    return 2 ** entropy_bits(np.asarray(counts))
