"""Pairs of consecutive frames: which there are, how episodes are split, how batches are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.store import FrameStore, StoredEpisode
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


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A batch of pairs: ``current`` and ``next`` are (B, C, H, W) uint8, prepared for the model."""

    current: Tensor
    next: Tensor

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on another device."""
        return Pairs(self.current.to(device, non_blocking=True), self.next.to(device, non_blocking=True))


class PairDataset(Dataset[Pairs]):
    """The pairs of some episodes of a store. Index it with a list of pair numbers to get a batch.

    Args:
        store: the packed frames.
        episodes: which of its episodes.
        format: what the model sees of a frame.
        preload: keep all prepared frames in memory; for recordings that fit.
    """

    def __init__(
        self, store: FrameStore, episodes: Sequence[StoredEpisode], format: FrameFormat, *, preload: bool = False
    ) -> None:
        self.store = store
        self.episodes = list(episodes)
        self.format = format
        starts = [episode.pair_starts() for episode in self.episodes]
        self.starts = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
        if not len(self.starts):
            raise DataError("the chosen episodes hold no two consecutive frames; check the numbers in the file names")
        self._prepared: Tensor | None = None
        if preload:
            self._preload()

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Pairs:
        starts = self.starts[np.atleast_1d(np.asarray(index))]
        # Neighbouring pairs share a frame: read and prepare each only once.
        wanted, rows = np.unique(np.concatenate([starts, starts + 1]), return_inverse=True)
        frames = self._frames(wanted)[torch.from_numpy(rows)]  # (2B, C, H, W)
        return Pairs(*frames.chunk(2))

    __getitems__ = __getitem__

    def mean_frame(self, sample: int = 2048) -> Tensor:
        """(C, H, W) float in [0, 1], the mean of at most so many frames at even distances."""
        chosen = self.starts[np.linspace(0, len(self) - 1, min(sample, len(self))).astype(int)]
        parts = [to_float(self._frames(part)).sum(0) for part in np.array_split(chosen, max(len(chosen) // 64, 1))]
        return torch.stack(parts).sum(0) / len(chosen)

    def where(self, index: int) -> str:
        """Where a pair was recorded: ``<episode>/<n>.png``, its first frame."""
        start = int(self.starts[index])
        episode = next(episode for episode in self.episodes if episode.start <= start < episode.stop)
        return f"{episode.name}/{episode.numbers[start - episode.start]}.png"

    def _frames(self, indices: np.ndarray) -> Tensor:
        if self._prepared is not None:
            return self._prepared[torch.from_numpy(self._rows[indices])]
        return prepare(torch.from_numpy(self.store.frames(indices.tolist())), self.format)

    def _preload(self, chunk: int = 256) -> None:
        """Prepares each frame of the episodes once."""
        wanted = np.concatenate([np.arange(episode.start, episode.stop) for episode in self.episodes])
        self._rows = np.zeros(len(self.store), dtype=np.int64)  # store index -> row
        self._rows[wanted] = np.arange(len(wanted))
        prepared = [self._frames(wanted[i : i + chunk]) for i in range(0, len(wanted), chunk)]
        self._prepared = torch.cat(prepared)


class PairSampler:
    """Endless batches of pair numbers: each epoch is a fresh seeded shuffle of all pairs, its short rest dropped.

    The state is ``(epoch, position)``, so a resumed run draws the very next batch.
    """

    def __init__(self, num_pairs: int, batch_size: int, seed: int) -> None:
        if num_pairs < batch_size:
            raise DataError(
                f"{num_pairs} training pairs do not fill one batch of {batch_size}; "
                "record more or lower training.batch_size"
            )
        self.num_pairs = num_pairs
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.position = 0

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.num_pairs)
            while self.position + self.batch_size <= self.num_pairs:
                batch = order[self.position : self.position + self.batch_size]
                self.position += self.batch_size
                yield batch.tolist()
            self.epoch, self.position = self.epoch + 1, 0
