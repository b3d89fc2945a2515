"""Which episodes are for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lapa.errors import DataError

SPLITS = ("train", "val", "test")


def split_episodes(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deals whole episodes to ``train``, ``val`` and ``test``; each gets at least one.

    Args:
        names: the episodes, in any order; the result depends on the set alone.
        fractions: shares of train, val and test.
        seed: of the shuffle.

    Raises:
        DataError: fewer than three episodes.
    """
    if len(names) < len(SPLITS):
        raise DataError(f"only {len(names)} usable episode(s), but train, val and test need one each; record more")
    order = np.random.default_rng(seed).permutation(sorted(names)).tolist()
    held_out = [max(1, round(len(names) * fraction)) for fraction in fractions[1:]]
    bounds = np.cumsum([len(names) - sum(held_out), *held_out])
    if bounds[0] < 1:
        raise DataError(f"data.split leaves no training episode out of {len(names)}; record more or hold out fewer")
    parts = np.split(np.array(order, dtype=object), bounds[:-1])
    return {split: sorted(part.tolist()) for split, part in zip(SPLITS, parts, strict=True)}


def evenly_spaced(count: int, sample: int) -> np.ndarray:
    """At most ``sample`` of the numbers below ``count``, at even distances: int64, ascending."""
    return np.linspace(0, count - 1, min(sample, count)).astype(np.int64)
