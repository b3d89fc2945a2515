"""Clips of consecutive frames with their tracks: which there are, and how batches are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lapa.contracts import Clips, ClipSpec
from lapa.data.episodes import MADE, PER_STEP, TRACKS
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import DataError

PAIR = ClipSpec(2)
"""Two consecutive frames and no track."""


@dataclasses.dataclass(frozen=True)
class RawClips:
    """A batch of clips as recorded, each frame once, so that little is moved and the device can prepare it.

    Attributes:
        frames: (U, H, W, 3) uint8 RGB.
        rows: (B, T) int64, the row in ``frames`` of each clip's frames.
        tracks: as in :class:`lapa.contracts.Clips`.
    """

    frames: Tensor
    rows: Tensor
    tracks: dict[str, Tensor]

    def pin_memory(self) -> RawClips:
        """The same in page-locked memory, which a GPU can read by itself."""
        tracks = {name: track.pin_memory() for name, track in self.tracks.items()}
        return RawClips(self.frames.pin_memory(), self.rows.pin_memory(), tracks)

    def prepared(self, device: torch.device, format: FrameFormat) -> Clips:
        """The clips as the model wants them, on the device, which does the conversion."""
        frames = prepare(self.frames.to(device, non_blocking=True), format)
        tracks = {name: track.to(device, non_blocking=True) for name, track in self.tracks.items()}
        return Clips(frames[self.rows.to(device, non_blocking=True)], tracks)


class ClipDataset(Dataset[Clips]):
    """The clips of some episodes of a store. Index it with a list of clip numbers to get a batch.

    Frames are read from the store each time, unless :meth:`keep_on` has put them all on a device.

    Args:
        store: the packed frames.
        episodes: which of its episodes.
        format: what the model sees of a frame.
        spec: how many frames a clip has, and which tracks beside them.

    Raises:
        DataError: there is no clip, or an episode lacks a track.
    """

    def __init__(
        self,
        store: FrameStore,
        episodes: Sequence[StoredEpisode],
        format: FrameFormat,
        spec: ClipSpec = PAIR,
    ) -> None:
        self.store = store
        self.episodes = list(episodes)
        self.format = format
        self.spec = spec
        self._steps = np.arange(spec.frames)
        starts = [episode.clip_starts(spec.frames) for episode in self.episodes]
        self.starts = np.concatenate(starts) if starts else np.empty(0, dtype=np.int64)
        if not len(self.starts):
            raise DataError(
                f"the chosen episodes hold no {spec.frames} consecutive frames; check the numbers in the file names"
            )
        for track in spec.tracks:
            check_track(store, self.episodes, track)
        self._kept: Tensor | None = None
        self._kept_rows = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Clips:
        if self._kept is not None:
            index = np.atleast_1d(np.asarray(index))
            rows = self._kept_rows[torch.from_numpy(index).to(self._kept.device)]
            steps = torch.arange(self.spec.frames, device=rows.device)
            tracks = {name: track.to(self._kept.device) for name, track in self.tracks(self.starts[index]).items()}
            return Clips(self._kept[rows[:, None] + steps], tracks)
        return self.read(index).prepared(torch.device("cpu"), self.format)

    __getitems__ = __getitem__

    def read(self, index: Any) -> RawClips:
        """The batch as it lies in the store. Clips that overlap share frames: each is read once."""
        starts = self.starts[np.atleast_1d(np.asarray(index))]
        wanted, rows = np.unique(starts[:, None] + self._steps, return_inverse=True)
        frames = torch.from_numpy(self.store.frames(wanted.tolist()))
        return RawClips(frames, torch.from_numpy(rows.reshape(len(starts), -1)), self.tracks(starts))

    def tracks(self, starts: np.ndarray) -> dict[str, Tensor]:
        """The tracks of the clips that begin at these store indices (B,)."""
        if not self.spec.tracks:
            return {}
        firsts = np.array([episode.start for episode in self.episodes])
        owners = np.searchsorted(firsts, starts, side="right") - 1
        found: dict[str, Tensor] = {}
        for name in self.spec.tracks:
            steps = self._steps[:-1] if name in PER_STEP else self._steps
            rows = [
                self.episodes[owner].tracks[name][self.episodes[owner].step_rows(start) + steps]
                for owner, start in zip(owners.tolist(), starts.tolist(), strict=True)
            ]
            found[name] = torch.from_numpy(np.stack(rows).astype(TRACKS[name]))
        return found

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
        """(C, H, W) float in [0, 1], the mean of at most ``sample`` frames at even distances."""
        chosen = evenly_spaced(len(self), sample)
        parts = np.array_split(chosen, max(len(chosen) // 64, 1))
        return torch.stack([to_float(self[part].frames[:, 0]).sum(0) for part in parts]).sum(0) / len(chosen)

    def where(self, index: int) -> str:
        """Where a clip was recorded: ``<episode>/<n>.png``, its first frame."""
        start = int(self.starts[index])
        episode = next(episode for episode in self.episodes if episode.start <= start < episode.stop)
        return f"{episode.name}/{episode.numbers[start - episode.start]}.png"


def check_track(store: FrameStore, episodes: Sequence[StoredEpisode], name: str) -> None:
    """Checks that all episodes have a track.

    Raises:
        DataError: one has not.
    """
    for episode in episodes:
        if name not in episode.tracks:
            remedy = "make a dataset with `lapa extract` and name it as data.root" if name in MADE else "record it"
            raise DataError(f"{store.path}: episode '{episode.name}' has no track '{name}'; {remedy}")


class ClipSampler:
    """Endless batches of clip numbers: each epoch is a fresh seeded shuffle of all clips, its short rest dropped.

    Batch ``n`` depends on the arguments and on ``n`` alone. So a resumed run draws the very next batch, and ranks
    draw their shares of one batch without talking to each other.

    Args:
        num_clips: how many there are.
        batch_size: clips in a batch, over all ranks.
        seed: of the shuffles.
        first: number of the first batch.
        parts: micro-batches that a batch is cut into.
        rank: which share of each micro-batch; consecutive ranks get consecutive clips of it.
        world_size: how many shares there are.

    Raises:
        DataError: there are too few clips for one batch.
    """

    def __init__(
        self,
        num_clips: int,
        batch_size: int,
        seed: int,
        *,
        first: int = 0,
        parts: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_clips < batch_size:
            raise DataError(
                f"{num_clips} training clips do not fill one batch of {batch_size}; "
                "record more or lower training.batch_size"
            )
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.seed = seed
        self.first = first
        self.share = np.arange(batch_size).reshape(parts, world_size, -1)[:, rank].ravel()

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = divmod(self.first, self.num_clips // self.batch_size)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_clips)
            for start in range(position * self.batch_size, self.num_clips - self.batch_size + 1, self.batch_size):
                yield order[start : start + self.batch_size][self.share].tolist()
            epoch, position = epoch + 1, 0
