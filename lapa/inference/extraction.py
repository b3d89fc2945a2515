"""Recorded frames -> the same with their codes or tokens, one self-contained file.

The file is a packed store (each frame once) whose index also holds what a model says of the frames:

- of a latent action model, for each pair of consecutive frames, the index of its first frame (``pair_starts``), its
  codes (``codes``) and its true action (``actions``);
- of a tokenizer, for each frame, its tokens (``tokens``).

Another system can train on either as a track; :class:`LatentActionDataset` and
:class:`lapa.inference.tokens.TokenDataset` read them.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import zstandard
from torch.utils.data import Dataset

from lapa import distributed
from lapa.config import config_to_dict
from lapa.contracts import ClipSpec
from lapa.data.clips import ClipDataset
from lapa.data.splits import evenly_spaced
from lapa.data.store import ZSTD_LEVEL, FrameStore, StoredEpisode, store_writer
from lapa.engine.checkpoint import Checkpoint, check_format
from lapa.errors import DataError
from lapa.inference.labelling import Labeller
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

SAMPLE = 4096
"""Frames that are looked at to say how many bytes one takes."""

Item = TypeVar("Item")


class Kind(NamedTuple):
    """What is said of an extracted file.

    Attributes:
        mark: that of its header.
        words: what it holds.
        unit: what each of these is of.
        remedy: how a file of this kind is made.
        reader: the class that reads it.
    """

    mark: str
    words: str
    unit: str
    remedy: str
    reader: str


KINDS = {
    "codes": Kind("latent_actions", "latent actions", "pair", "`lapa extract`", "lapa.LatentActionDataset"),
    "tokens": Kind("tokens", "tokens", "frame", "`lapa extract` and a tokenizer", "lapa.TokenDataset"),
}
"""By the track that the file holds."""


@dataclasses.dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction wrote: the file, how many pairs or frames have codes in it, and at what rate."""

    path: Path
    count: int
    per_second: float


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
    """Labels all of a store and writes the frames with their labels to ``out``, atomically.

    A latent action model labels every pair of consecutive frames, a tokenizer every frame. In a group of processes each
    labels its share, and the first one writes: the same bytes as one process alone.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
        DataError: its model gives no codes.
    """
    seen = check_format(checkpoint, store.frame_size)
    labeller = Labeller(checkpoint.model)
    kind = KINDS[labeller.model.track]
    started = time.monotonic()
    clips = ClipDataset(store, store.episodes, seen, ClipSpec(labeller.frames))
    share = np.array_split(np.arange(len(clips)), distributed.world_size())[distributed.rank()]
    with progress_bar(total=len(share), desc="extract", unit=kind.unit) as bar:
        labelled = [np.empty((0, *labeller.model.code_grid), dtype=np.int64)]
        for batch in label_clips(labeller, clips, batch_size, share):
            labelled.append(batch)
            bar.update(len(batch))
    codes = np.concatenate(labelled).astype(np.min_scalar_type(labeller.num_codes - 1))
    parts = distributed.gathered_on_main(codes)
    if distributed.is_main():
        codes = np.concatenate(parts)
        write_dataset(out, checkpoint, labeller, store, clips.starts, codes)
    rate = len(clips) / (time.monotonic() - started)
    what = kind.words if labeller.frames > 1 else f"frames' {kind.words}"
    notify(f"extracted {len(clips)} {what} into {out} ({rate:.0f} {kind.unit}s/s)")
    if distributed.is_main() and labeller.model.track == "tokens":
        notify(sizes_in_words(store, codes, labeller.num_codes))
    return ExtractionSummary(out, len(clips), rate)


def write_dataset(
    out: Path, checkpoint: Checkpoint, labeller: Labeller, store: FrameStore, starts: np.ndarray, codes: np.ndarray
) -> None:
    """Writes the dataset's file: the store's frames as they lie there, and the codes (P, h, w) of what begins there."""
    model = labeller.model
    with store_writer(out, store.frame_size) as writer:
        for episode in store.episodes:
            blocks = (store.block(i) for i in range(episode.start, episode.stop))
            writer.add(episode.name, episode.numbers, episode.tracks, blocks)
        writer.extra = {model.track: codes}
        if model.track == "codes":
            actions = np.concatenate([episode.actions(episode.clip_starts()) for episode in store.episodes])
            writer.extra |= {"pair_starts": starts, "actions": actions}
        writer.header = {
            "kind": KINDS[model.track].mark,
            "checkpoint": checkpoint.digest,
            "config": config_to_dict(checkpoint.config),
            "split": checkpoint.split,
            "num_codes": labeller.num_codes,
            "grid": model.code_grid,
        }


def label_clips(
    labeller: Labeller, clips: ClipDataset, batch_size: int = 64, which: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Codes of the pairs or frames ``which``, or of all, in order and in batches (B, h, w) int64."""
    which = np.arange(len(clips)) if which is None else which
    for first in range(0, len(which), batch_size):
        batch = clips[which[first : first + batch_size]]
        yield labeller(*batch.frames.unbind(1)).cpu().numpy()


def sizes_in_words(store: FrameStore, tokens: np.ndarray, num_codes: int) -> str:
    """How many bytes a frame takes, as tokens and as it lies in the store.

    Args:
        store: of the frames.
        tokens: (N, h, w) of all frames, in the narrowest type.
        num_codes: K.
    """
    bits = math.ceil(math.log2(num_codes))
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    chosen = evenly_spaced(len(tokens), SAMPLE).tolist()
    packed = np.mean([len(compressor.compress(tokens[index].tobytes())) for index in chosen])
    stored = np.mean([len(store.block(index)) for index in chosen])
    return (
        f"bytes per frame: {math.prod(tokens.shape[1:]) * bits / 8:.0f} as tokens of {bits} bits, {packed:.0f} as "
        f"tokens with zstd; {stored:.0f} as pixels with zstd"
    )


class ExtractedDataset(Dataset[Item]):
    """What the readers of extracted files have in common.

    Args:
        path: the dataset's file.

    Attributes:
        track: ``codes`` or ``tokens``.
        store: the frames.
        header: where the codes come from: ``checkpoint``, ``config``, ``split``, ``num_codes``, ``grid``.

    Raises:
        DataError: the file is missing, damaged, or does not hold the track.
    """

    track: ClassVar[str]

    def __init__(self, path: str | Path) -> None:
        self.store = FrameStore(Path(path))
        self.header: dict[str, Any] = self.store.header
        wanted = KINDS[self.track]
        found = next((kind for kind in KINDS.values() if kind.mark == self.header.get("kind")), None)
        if found is None:
            raise DataError(f"{path}: is a packed store without {wanted.words}; make one with {wanted.remedy}")
        if found != wanted:
            raise DataError(f"{path}: holds {found.words}, not {wanted.words}; read it with {found.reader}")

    @property
    def episodes(self) -> list[str]:
        """Names of the episodes."""
        return [episode.name for episode in self.store.episodes]

    def stored(self, name: str) -> StoredEpisode:
        """Where an episode lies in the store.

        Raises:
            KeyError: no episode of that name.
        """
        for episode in self.store.episodes:
            if episode.name == name:
                return episode
        raise KeyError(f"no episode '{name}'; there are {', '.join(self.episodes)}")


class LatentActionDataset(ExtractedDataset[Transition]):
    """Reads what :func:`extract` wrote of a latent action model: transitions by number, or whole episodes by name.

    Args:
        path: the dataset's file.

    Raises:
        DataError: the file is missing, damaged, or holds no latent actions.
    """

    track = "codes"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.codes: np.ndarray = self.store.extra["codes"]  # (P, h, w)
        self.actions: np.ndarray = self.store.extra["actions"]  # (P,), -1 where unknown
        self._starts = self.store.extra["pair_starts"]

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
        episode = self.stored(name)
        inside = (self._starts >= episode.start) & (self._starts < episode.stop)
        return EpisodeTransitions(
            frames=self.store.frames(range(episode.start, episode.stop)),
            starts=self._starts[inside] - episode.start,
            codes=self.codes[inside],
            actions=self.actions[inside],
        )
