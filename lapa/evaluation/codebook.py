"""Whether the codebook lives: how many codes are used, how evenly, and how many bits a transition carries."""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class CodeUse:
    """How often each code stands at each place of the grid.

    Attributes:
        counts: (h, w, K) int64.
    """

    counts: np.ndarray

    @property
    def totals(self) -> np.ndarray:
        """(K,) int64, over all places."""
        totals: np.ndarray = self.counts.sum((0, 1))
        return totals

    def perplexities(self) -> np.ndarray:
        """(h, w), the perplexity at each place: how many codes it uses, as if it used them evenly."""
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
            "bits_nominal": height * width * math.log2(num_codes),
            "bits_empirical": float(np.log2(self.perplexities()).sum()),
            "place_codes_used_min": float(used.min()),
            "place_codes_used_max": float(used.max()),
            "place_perplexity_min": float(self.perplexities().min()),
            "place_perplexity_max": float(self.perplexities().max()),
        }


def code_use(codes: np.ndarray, num_codes: int) -> CodeUse:
    """Counts the codes (P, h, w) of P transitions."""
    _, height, width = codes.shape
    columns = codes.reshape(len(codes), -1).T
    counts = np.stack([np.bincount(column, minlength=num_codes) for column in columns])
    return CodeUse(counts.reshape(height, width, num_codes))


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of a distribution given as counts."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log2(share)).sum())


def code_map(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """t-SNE (van der Maaten and Hinton 2008) of K code vectors: (K, D) -> (K, 2); None for fewer than four codes."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return places
