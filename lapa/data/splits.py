"""Which episodes are for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lapa.data.store import StoredEpisode
from lapa.errors import DataError

SPLITS = ("train", "val", "test")

ALL = "all"
"""In place of a split: every episode, as of a recording that the run has never seen."""


def deal(episodes: Sequence[StoredEpisode], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deals recorded episodes by :func:`split_episodes`; those that begin at one moment of the game are a group.

    Args:
        episodes: with the ``start`` of each in its ``meta``, if it is known.
        fractions: shares of train, val and test.
        seed: of the shuffle.

    Raises:
        DataError: there are too few.
    """
    starts = [str(episode.tracks.meta.get("start", "")) for episode in episodes]
    return split_episodes([episode.name for episode in episodes], fractions, seed, starts)


def split_episodes(
    names: Sequence[str], fractions: Sequence[float], seed: int, groups: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """Deals whole episodes to ``train``, ``val`` and ``test``; each gets at least one.

    Each group is dealt by itself: where it has three episodes or more, it gives at least one to ``val`` and to
    ``test``. Smaller groups are put together.

    Args:
        names: the episodes, in any order; the result depends on the set alone.
        fractions: shares of train, val and test.
        seed: of the shuffle.
        groups: the group of each episode; None is one group of all.

    Raises:
        DataError: fewer than three episodes, or none is left for training.
    """
    if len(names) < len(SPLITS):
        raise DataError(
            f"only {len(names)} usable episode(s), but train, val and test need one each; record more, or "
            "put pictures into at least three folders, or use at least three videos"
        )
    rng = np.random.default_rng(seed)
    split: dict[str, list[str]] = {part: [] for part in SPLITS}
    for members in _grouped(names, groups):
        order = rng.permutation(members).tolist()
        held_out = [max(1, round(len(members) * fraction)) for fraction in fractions[1:]]
        bounds = np.cumsum([max(0, len(members) - sum(held_out)), *held_out])
        for part, some in zip(SPLITS, np.split(np.array(order, dtype=object), bounds[:-1]), strict=True):
            split[part] += some.tolist()
    if not split["train"]:
        raise DataError(f"data.split leaves no training episode out of {len(names)}; record more or hold out fewer")
    return {part: sorted(chosen) for part, chosen in split.items()}


def _grouped(names: Sequence[str], groups: Sequence[str] | None) -> list[list[str]]:
    """The names of each group, sorted, in the order of the groups; none has fewer than three."""
    by_group: dict[str, list[str]] = {}
    for name, group in sorted(zip(names, groups or [""] * len(names), strict=True)):
        by_group.setdefault(group, []).append(name)
    large = [by_group[group] for group in sorted(by_group) if len(by_group[group]) >= len(SPLITS)]
    pool = [name for members in by_group.values() if len(members) < len(SPLITS) for name in members]
    if len(pool) >= len(SPLITS):
        large.append(pool)
    elif pool:  # too few for each split: the largest group is changed least by them
        max(large, key=len).extend(pool)
    return [sorted(members) for members in large]


def evenly_spaced(count: int, sample: int) -> np.ndarray:
    """At most ``sample`` of the numbers below ``count``, at even distances: int64, ascending."""
    return np.linspace(0, count - 1, min(sample, count)).astype(np.int64)
