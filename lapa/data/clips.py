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
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import DataError


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A batch of pairs: ``current`` and ``next`` are (B, C, H, W) uint8, prepared for the model."""

    current: Tensor
    next: Tensor

    def __len__(self) -> int:
        return len(self.current)

    def to(self, device: torch.device) -> Pairs:
        """The same pairs on another device."""
        return Pairs(self.current.to(device, non_blocking=True), self.next.to(device, non_blocking=True))

    def pin_memory(self) -> Pairs:
        """The same in page-locked memory, which a GPU can read by itself."""
        return Pairs(self.current.pin_memory(), self.next.pin_memory())

    def chunk(self, count: int) -> list[Pairs]:
        """Cut into so many batches of equal size."""
        parts = zip(self.current.chunk(count), self.next.chunk(count), strict=True)
        return [Pairs(current, next) for current, next in parts]


@dataclasses.dataclass(frozen=True)
class RawPairs:
    """A batch of pairs as recorded, each frame once, so that little is moved and the device can prepare it.

    Attributes:
        frames: (U, H, W, 3) uint8 RGB.
        rows: (2B,) int64, the row in ``frames`` of each current frame, then of each next one.
    """

    frames: Tensor
    rows: Tensor

    def pin_memory(self) -> RawPairs:
        """The same in page-locked memory, which a GPU can read by itself."""
        return RawPairs(self.frames.pin_memory(), self.rows.pin_memory())

    def prepared(self, device: torch.device, format: FrameFormat) -> Pairs:
        """The pairs as the model wants them, on the device, which does the conversion."""
        frames = prepare(self.frames.to(device, non_blocking=True), format)
        return Pairs(*frames[self.rows.to(device, non_blocking=True)].chunk(2))


class PairDataset(Dataset[Pairs]):
    """The pairs of some episodes of a store. Index it with a list of pair numbers to get a batch.

    Frames are read from the store each time, unless :meth:`keep_on` has put them all on a device.

    Args:
        store: the packed frames.
        episodes: which of its episodes.
        format: what the model sees of a frame.

    Raises:
        DataError: there is no pair.
    """

    def __init__(self, store: FrameStore, episodes: Sequence[StoredEpisode], format: FrameFormat) -> None:
        self.store = store
        self.episodes = list(episodes)
        self.format = format
        starts = [episode.pair_starts() for episode in self.episodes]
        self.starts = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
        if not len(self.starts):
            raise DataError("the chosen episodes hold no two consecutive frames; check the numbers in the file names")
        self._kept: Tensor | None = None
        self._kept_rows = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Pairs:
        if self._kept is not None:
            rows = self._kept_rows[torch.from_numpy(np.atleast_1d(np.asarray(index))).to(self._kept.device)]
            return Pairs(self._kept[rows], self._kept[rows + 1])
        return self.read(index).prepared(torch.device("cpu"), self.format)

    __getitems__ = __getitem__

    def read(self, index: Any) -> RawPairs:
        """The batch as it lies in the store. Neighbouring pairs share a frame: each is read once."""
        starts = self.starts[np.atleast_1d(np.asarray(index))]
        wanted, rows = np.unique(np.concatenate([starts, starts + 1]), return_inverse=True)
        return RawPairs(torch.from_numpy(self.store.frames(wanted.tolist())), torch.from_numpy(rows))

    @property
    def kept_on(self) -> torch.device | None:
        """The device that keeps all frames, or None."""
        return None if self._kept is None else self._kept.device

    @property
    def frame_bytes(self) -> int:
        """Bytes of all prepared frames."""
        frames = sum(len(episode.numbers) for episode in self.episodes)
        return frames * self.format.channels * self.format.size[0] * self.format.size[1]

    def keep_on(self, device: torch.device, chunk: int = 256) -> None:
        """Prepares each frame of the episodes once and keeps it on the device, where batches are then put together."""
        wanted = np.concatenate([np.arange(episode.start, episode.stop) for episode in self.episodes])
        kept = torch.empty(len(wanted), self.format.channels, *self.format.size, dtype=torch.uint8, device=device)
        for first in range(0, len(wanted), chunk):
            raw = torch.from_numpy(self.store.frames(wanted[first : first + chunk].tolist()))
            kept[first : first + chunk] = prepare(raw.to(device), self.format)
        rows = np.zeros(len(self.store), dtype=np.int64)  # store index -> row
        rows[wanted] = np.arange(len(wanted))
        self._kept, self._kept_rows = kept, torch.from_numpy(rows[self.starts]).to(device)

    def mean_frame(self, sample: int = 2048) -> Tensor:
        """(C, H, W) float in [0, 1], the mean of at most so many frames at even distances."""
        chosen = evenly_spaced(len(self), sample)
        parts = [to_float(self[part].current).sum(0) for part in np.array_split(chosen, max(len(chosen) // 64, 1))]
        return torch.stack(parts).sum(0) / len(chosen)

    def where(self, index: int) -> str:
        """Where a pair was recorded: ``<episode>/<n>.png``, its first frame."""
        start = int(self.starts[index])
        episode = next(episode for episode in self.episodes if episode.start <= start < episode.stop)
        return f"{episode.name}/{episode.numbers[start - episode.start]}.png"


class PairSampler:
    """Endless batches of pair numbers: each epoch is a fresh seeded shuffle of all pairs, its short rest dropped.

    Batch ``n`` depends on the arguments and on ``n`` alone. So a resumed run draws the very next batch, and ranks
    draw their shares of one batch without talking to each other.

    Args:
        num_pairs: how many there are.
        batch_size: pairs in a batch, over all ranks.
        seed: of the shuffles.
        first: number of the first batch.
        parts: micro-batches that a batch is cut into.
        rank: which share of each micro-batch; consecutive ranks get consecutive pairs of it.
        world_size: how many shares there are.

    Raises:
        DataError: there are too few pairs for one batch.
    """

    def __init__(
        self,
        num_pairs: int,
        batch_size: int,
        seed: int,
        *,
        first: int = 0,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_pairs < batch_size:
            raise DataError(
                f"{num_pairs} training pairs do not fill one batch of {batch_size}; "
                "record more or lower training.batch_size"
            )
        self.num_pairs = num_pairs
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.share = np.arange(batch_size).reshape(parts, world_size, -1)[:, rank].ravel()

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = divmod(self.first, self.num_pairs // self.batch_size)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_pairs)
            for start in range(position * self.batch_size, self.num_pairs - self.batch_size + 1, self.batch_size):
                yield order[start : start + self.batch_size][self.share].tolist()
            epoch, position = epoch + 1, 0
