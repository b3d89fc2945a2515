"""Recorded frames -> the latent-action dataset, one self-contained file.

The file is a packed store (each frame once) whose index also holds, for each pair of consecutive frames, the
index of its first frame (``pair_starts``) and its codes (``codes``).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from lapa import distributed
from lapa.config import config_to_dict
from lapa.contracts import Coder
from lapa.data.clips import ClipDataset
from lapa.data.store import FrameStore, store_writer
from lapa.engine.checkpoint import Checkpoint, check_format
from lapa.errors import DataError
from lapa.inference.labelling import Labeller
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

KIND = "latent_actions"


@dataclasses.dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction wrote: the file, how many pairs, and at what rate."""

    path: Path
    num_pairs: int
    pairs_per_second: float


class Transition(NamedTuple):
    """One pair with its latent action; a batch of them collates field by field.

    Attributes:
        current: (H, W, 3) uint8 RGB.
        code: (h, w) codes in the narrowest unsigned type.
        next: (H, W, 3) uint8 RGB.
        action: the true action, or -1 where the recording does not tell.
    """

    current: np.ndarray
    code: np.ndarray
    next: np.ndarray
    action: int


class EpisodeTransitions(NamedTuple):
    """A whole episode: its frames (N, H, W, 3), and for each of its P pairs the frame it starts at, code and action."""

    frames: np.ndarray
    starts: np.ndarray
    codes: np.ndarray
    actions: np.ndarray


def extract(
    checkpoint: Checkpoint,
    store: FrameStore,
    out: Path,
    *,
    batch_size: int = 64,
    notify: Callable[[str], None] = print_line,
) -> ExtractionSummary:
    """Labels every pair of a store and writes the latent-action dataset to ``out``, atomically.

    In a group of processes each labels its share, and the first one writes: the same bytes as one process alone.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
    """
    seen = check_format(checkpoint, store.frame_size)
    labeller = Labeller(checkpoint.model)
    if labeller.model.track != "codes":
        raise DataError(
            f"{checkpoint.path}: its system gives {labeller.model.track}, codes of single frames; only codes of "
            "transitions can be extracted; name a checkpoint of a latent action model"
        )
    num_codes = labeller.model.quantizer.num_codes
    assert num_codes is not None
    started = time.monotonic()
    pairs = ClipDataset(store, store.episodes, seen)
    share = np.array_split(np.arange(len(pairs)), distributed.world_size())[distributed.rank()]
    with progress_bar(total=len(share), desc="extract", unit="pair") as bar:
        labelled = [np.empty((0, *labeller.model.code_grid), dtype=np.int64)]
        for batch in label_pairs(labeller, pairs, batch_size, share):
            labelled.append(batch)
            bar.update(len(batch))
    codes = np.concatenate(labelled).astype(np.min_scalar_type(num_codes - 1))
    parts = distributed.gathered_on_main(codes)
    if distributed.is_main():
        write_dataset(out, checkpoint, labeller.model, store, pairs.starts, np.concatenate(parts))
    rate = len(pairs) / (time.monotonic() - started)
    notify(f"extracted {len(pairs)} latent actions into {out} ({rate:.0f} pairs/s)")
    return ExtractionSummary(out, len(pairs), rate)


def write_dataset(
    out: Path, checkpoint: Checkpoint, coder: Coder, store: FrameStore, pair_starts: np.ndarray, codes: np.ndarray
) -> None:
    """Writes the dataset's file: the store's frames as they lie there, and the codes (P, h, w) of its pairs."""
    with store_writer(out, store.frame_size) as writer:
        for episode in store.episodes:
            blocks = (store.block(i) for i in range(episode.start, episode.stop))
            writer.add(episode.name, episode.numbers, episode.tracks, blocks)
        writer.extra = {
            "codes": codes,
            "pair_starts": pair_starts,
            "actions": np.concatenate([episode.actions(episode.clip_starts()) for episode in store.episodes]),
        }
        writer.header = {
            "kind": KIND,
            "checkpoint": checkpoint.digest,
            "config": config_to_dict(checkpoint.config),
            "split": checkpoint.split,
            "num_codes": coder.quantizer.num_codes,
            "grid": coder.code_grid,
        }


def label_pairs(
    labeller: Labeller, pairs: ClipDataset, batch_size: int = 64, which: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Codes of the pairs ``which``, or of all, in order and in batches (B, h, w) int64."""
    which = np.arange(len(pairs)) if which is None else which
    for first in range(0, len(which), batch_size):
        batch = pairs[which[first : first + batch_size]]
        yield labeller(batch.current, batch.next).cpu().numpy()


class LatentActionDataset(Dataset[Transition]):
    """Reads what :func:`extract` wrote: transitions by number, or whole episodes by name.

    Args:
        path: the dataset's file.

    Raises:
        DataError: the file is missing, damaged, or holds no latent actions.
    """

    def __init__(self, path: str | Path) -> None:
        self.store = FrameStore(Path(path))
        self.header: dict[str, Any] = self.store.header
        if self.header.get("kind") != KIND:
            raise DataError(f"{path}: is a packed store without latent actions; make one with `lapa extract`")
        self.codes: np.ndarray = self.store.extra["codes"]  # (P, h, w)
        self.actions: np.ndarray = self.store.extra["actions"]  # (P,), -1 where unknown
        self._starts = self.store.extra["pair_starts"]

    @property
    def episodes(self) -> list[str]:
        """Names of the episodes."""
        return [episode.name for episode in self.store.episodes]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, index: int) -> Transition:
        start = int(self._starts[index])
        return Transition(
            current=self.store.frame(start).copy(),
            code=self.codes[index],
            next=self.store.frame(start + 1).copy(),
            action=int(self.actions[index]),
        )

    def episode(self, name: str) -> EpisodeTransitions:
        """One whole episode.

        Raises:
            KeyError: no episode of that name.
        """
        for episode in self.store.episodes:
            if episode.name == name:
                inside = (self._starts >= episode.start) & (self._starts < episode.stop)
                return EpisodeTransitions(
                    frames=self.store.frames(range(episode.start, episode.stop)),
                    starts=self._starts[inside] - episode.start,
                    codes=self.codes[inside],
                    actions=self.actions[inside],
                )
        raise KeyError(f"no episode '{name}'; there are {', '.join(self.episodes)}")
