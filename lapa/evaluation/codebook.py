"""Whether the codebook lives: how many codes are used, how evenly, and how many bits a transition carries."""

from __future__ import annotations

import numpy as np


def code_map(vectors: np.ndarray, seed: int = 0) -> np.ndarray | None:
    """t-SNE (van der Maaten and Hinton 2008) of K code vectors: (K, D) -> (K, 2); None for fewer than four codes."""
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    places: np.ndarray = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors)
    return places
