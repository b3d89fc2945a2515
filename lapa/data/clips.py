"""Clips of consecutive frames with their tracks: which there are, and how batches are drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lapa.contracts import MASK, Clips, ClipSpec
from lapa.data.choice import EVERY_CLIP, ClipChoice
from lapa.data.episodes import MADE, PER_STEP, TRACKS
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.splits import evenly_spaced
from lapa.data.store import FrameStore, StoredEpisode
from lapa.errors import DataError

WINDOW = 64
"""Files whose clips are shuffled together, where there are several. Each may be another game: of a few at a time, a
model forgets the others, and at the end of an epoch knows those of the last window."""
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

    def prepared(self, device: torch.device, frame_format: FrameFormat) -> Clips:
        """The clips as the model wants them, on the device, which does the conversion."""
        frames = prepare(self.frames.to(device, non_blocking=True), frame_format)
        tracks = {name: track.to(device, non_blocking=True) for name, track in self.tracks.items()}
        return Clips(frames[self.rows.to(device, non_blocking=True)], tracks)


class ClipDataset(Dataset[Clips]):
    """The clips of some episodes of a store. Index it with a list of clip numbers to get a batch.

    Frames are read from the store each time, unless :meth:`keep_on` has put them all on a device.

    Args:
        store: the packed frames.
        episodes: which of its episodes.
        frame_format: what the model sees of a frame.
        spec: how many frames a clip has, and which tracks beside them.
        choice: which of the episodes' clips.

    Raises:
        DataError: there is no clip, or an episode lacks a track.
    """

    def __init__(
        self,
        store: FrameStore,
        episodes: Sequence[StoredEpisode],
        frame_format: FrameFormat,
        spec: ClipSpec = PAIR,
        choice: ClipChoice = EVERY_CLIP,
    ) -> None:
        self.store = store
        self.episodes = list(episodes)
        self.format = frame_format
        self.spec = spec
        self._steps = np.arange(spec.frames)
        # Of a million clips without a gap between them one line is kept, not a million numbers.
        runs = np.array(
            [
                (*run, owner)
                for owner, episode in enumerate(self.episodes)
                for run in choice.runs(episode, spec.frames, padded=spec.padded)
            ]
        ).reshape(-1, 4)
        self._run_starts, self._run_ends, self._run_steps, self._owners = runs[:, 0], runs[:, 1].cumsum(), *runs.T[2:]
        self._run_frames = self._real_frames()
        if not len(runs):
            if any(episode.runs(spec.frames, padded=spec.padded) for episode in self.episodes):
                raise DataError(
                    f"data.skip_first: the chosen episodes have no clip after their first {choice.skip_first} frames; "
                    "lower it"
                )
            raise DataError(
                f"the chosen episodes hold no {spec.frames} consecutive frames; check the numbers in the file names"
            )
        for track in spec.tracks:
            check_track(store, self.episodes, track)
        self._kept: Tensor | None = None
        self._kept_firsts = np.empty(0, dtype=np.int64)  # row of each run's first frame among those kept

    def __len__(self) -> int:
        return int(self._run_ends[-1])

    def _real_frames(self) -> np.ndarray:
        """(R,) int64, of each run: how many frames of a clip are real; all T unless it is padded."""
        if not self.spec.padded or not len(self._run_starts):
            return np.full(len(self._run_starts), self.spec.frames)
        segments = np.array([segment for episode in self.episodes for segment in episode.segments()])
        segments = segments[segments[:, 0].argsort()]
        owner = np.searchsorted(segments[:, 0], self._run_starts, side="right") - 1
        return np.minimum(segments[owner].sum(1) - self._run_starts, self.spec.frames)

    def _rows(self, run: np.ndarray) -> np.ndarray:
        """(B, T) int64, of clips of these runs: how far each frame is from the first; a padded one repeats its last."""
        return np.minimum(self._steps, self._run_frames[run, None] - 1)

    @property
    def starts(self) -> np.ndarray:
        """(P,) int64, the store index of each clip's first frame; made anew each time."""
        return self._starts(np.arange(len(self)))

    @property
    def groups(self) -> list[int]:
        """How many clips come from each file of the store, in order."""
        file = np.searchsorted(self.store.parts, self._run_starts, side="right")
        last = np.flatnonzero(np.diff(file, append=-1))  # the last run of each file
        return np.diff(self._run_ends[last], prepend=0).tolist()

    def _starts(self, index: Any) -> np.ndarray:
        """(B,) int64, the store index of the first frame of these clips."""
        run, before = self._runs(index)
        return self._run_starts[run] + before * self._run_steps[run]

    @property
    def _kept_steps(self) -> np.ndarray:
        """(R,) int64, of each run: rows from one clip to the next among the frames that are kept, each once."""
        return np.minimum(self._run_steps, self.spec.frames)

    @property
    def _kept_counts(self) -> np.ndarray:
        """(R,) int64, the frames of each run that are kept."""
        return (np.diff(self._run_ends, prepend=0) - 1) * self._kept_steps + self._run_frames

    def _runs(self, index: Any) -> tuple[np.ndarray, np.ndarray]:
        """Of each clip the run that it belongs to, and how many clips of the run come before it."""
        index = np.atleast_1d(np.asarray(index))
        index = np.where(index < 0, index + len(self), index)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"no such clip: there are {len(self)}")
        run = np.searchsorted(self._run_ends, index, side="right")
        return run, index - np.where(run > 0, self._run_ends[run - 1], 0)

    def __getitem__(self, index: Any) -> Clips:
        if self._kept is not None:
            run, before = self._runs(index)
            firsts = self._kept_firsts[run] + before * self._kept_steps[run]
            rows = torch.from_numpy(firsts[:, None] + self._rows(run)).to(self._kept.device)
            tracks = self._tracks(run, before)
            return Clips(self._kept[rows], {name: track.to(self._kept.device) for name, track in tracks.items()})
        return self.read(index).prepared(torch.device("cpu"), self.format)

    __getitems__ = __getitem__

    def read(self, index: Any) -> RawClips:
        """The batch as it lies in the store. Clips that overlap share frames: each is read once."""
        run, before = self._runs(index)
        starts = self._run_starts[run] + before * self._run_steps[run]
        wanted, rows = np.unique(starts[:, None] + self._rows(run), return_inverse=True)
        frames = torch.from_numpy(self.store.frames(wanted.tolist()))
        return RawClips(frames, torch.from_numpy(rows.reshape(len(starts), -1)), self._tracks(run, before))

    def _tracks(self, run: np.ndarray, before: np.ndarray) -> dict[str, Tensor]:
        """The tracks of clips, each the ``before``-th of its run."""
        found: dict[str, Tensor] = {}
        starts, owners, offsets = (
            self._run_starts[run] + before * self._run_steps[run],
            self._owners[run],
            self._rows(run),
        )
        for name in self.spec.tracks:
            steps = np.minimum(offsets[:, :-1], offsets[:, -1:] - 1) if name in PER_STEP else offsets
            rows = []
            for owner, start, taken in zip(owners.tolist(), starts.tolist(), steps, strict=True):
                episode = self.episodes[owner]
                rows.append(episode.tracks[name][episode.step_rows(start) + taken])
            found[name] = torch.from_numpy(np.stack(rows).astype(TRACKS[name]))
        if self.spec.padded:
            found[MASK] = torch.from_numpy(self._steps < self._run_frames[run, None])
        return found

    @property
    def kept_on(self) -> torch.device | None:
        """The device that keeps all frames, or None."""
        return None if self._kept is None else self._kept.device

    @property
    def frame_bytes(self) -> int:
        """Bytes of the prepared frames of all clips."""
        return int(self._kept_counts.sum()) * self.format.channels * self.format.size[0] * self.format.size[1]

    def keep_on(self, device: torch.device, chunk: int = 256) -> None:
        """Prepares each frame of the clips once and keeps it on the device, where batches are then put together."""
        runs = zip(self._run_starts, np.diff(self._run_ends, prepend=0), self._run_steps, self._run_frames, strict=True)
        wanted = np.concatenate(
            [
                np.unique((start + step * np.arange(count))[:, None] + self._steps[:frames])
                for start, count, step, frames in runs
            ]
        )
        kept = torch.empty(len(wanted), self.format.channels, *self.format.size, dtype=torch.uint8, device=device)
        for first in range(0, len(wanted), chunk):
            raw = torch.from_numpy(self.store.frames(wanted[first : first + chunk].tolist()))
            kept[first : first + chunk] = prepare(raw.to(device), self.format)
        self._kept, self._kept_firsts = kept, self._kept_counts.cumsum() - self._kept_counts

    def mean_frame(self, sample: int = 2048) -> Tensor:
        """(C, H, W) float in [0, 1], the mean of at most ``sample`` frames at even distances."""
        chosen = evenly_spaced(len(self), sample)
        parts = np.array_split(chosen, max(len(chosen) // 64, 1))
        return torch.stack([to_float(self[part].frames[:, 0]).sum(0) for part in parts]).sum(0) / len(chosen)

    def where(self, index: int) -> str:
        """Where a clip was recorded: ``<episode>/<n>.png``, its first frame; for pictures and videos, in words."""
        (start,) = self._starts(index).tolist()
        episode = next(episode for episode in self.episodes if episode.start <= start < episode.stop)
        if "source" in episode.tracks.meta:
            return f"{episode.name}, frame {episode.numbers[start - episode.start]}"
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

    Clips that come from more than :data:`WINDOW` files are shuffled so many files at a time, the files in an order of
    their own: so an epoch's order fits memory however many clips there are, and not all files are open at once.

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
        groups: how many clips come from each file, in order; one file if None.

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
        groups: Sequence[int] | None = None,
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
        self.groups = list(groups or [num_clips])
        self.share = np.arange(batch_size).reshape(parts, world_size, -1)[:, rank].ravel()
        assert sum(self.groups) == num_clips

    def __iter__(self) -> Iterator[list[int]]:
        epoch, position = divmod(self.first, self.num_clips // self.batch_size)
        while True:
            rest = np.empty(0, dtype=np.int64)
            last = self.num_clips // self.batch_size * self.batch_size
            done = position * self.batch_size
            for order in self._orders(epoch, done):
                rest = np.concatenate([rest, order])
                while len(rest) >= self.batch_size and done < last:
                    yield rest[: self.batch_size][self.share].tolist()
                    rest, done = rest[self.batch_size :], done + self.batch_size
            epoch, position = epoch + 1, 0

    def _orders(self, epoch: int, skip: int) -> Iterator[np.ndarray]:
        """The clip numbers of an epoch in order, window by window, without the first ``skip``."""
        if len(self.groups) == 1:
            yield np.random.default_rng((self.seed, epoch)).permutation(self.num_clips)[skip:]
            return
        firsts = np.cumsum([0, *self.groups])
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.groups))
        for number, window in enumerate(np.array_split(order, -(-len(order) // WINDOW))):
            size = sum(self.groups[group] for group in window)
            if skip < size:
                clips = np.concatenate([np.arange(firsts[group], firsts[group + 1]) for group in window])
                yield np.random.default_rng((self.seed, epoch, number)).permutation(clips)[skip:]
            skip = max(0, skip - size)
