"""What the evaluators share: the system, the clips of each split, their codes, and frames drawn on demand."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, ClipSpec, Coder, Drawer, Dreamer, System
from lapa.data.clips import ClipDataset
from lapa.data.frames import to_float
from lapa.data.splits import ALL, SPLITS
from lapa.data.store import FrameStore, StoredEpisode
from lapa.engine.checkpoint import Checkpoint, check_format
from lapa.errors import DataError
from lapa.games.game import Game, find_game
from lapa.inference.labelling import Labeller
from lapa.progress import notify as print_line
from lapa.progress import progress_bar
from lapa.report.pictures import Example

FIT_CLIPS = 20_000
"""Probes are fitted on whole training episodes, as many as it takes to have this number of clips."""

KEPT_BYTES = 2**31
"""The frames of a split stay in memory if together they are smaller than this; else they are read when needed."""

Shared = TypeVar("Shared")


@dataclasses.dataclass(frozen=True)
class DrawnBatch:
    """B judged clips, on the CPU, as the system labels and draws them.

    Attributes:
        rows: (B,) their numbers among the clips.
        clips: the clips.
        codes: (B, h, w * n) int64, None where the system gives none.
        prediction: (B, C, H, W) in [0, 1], the last frame of each; None where the system draws none.
        seconds: that labelling and drawing took.
    """

    rows: np.ndarray
    clips: Clips
    codes: Tensor | None
    prediction: Tensor | None
    seconds: float

    @cached_property
    def current(self) -> Tensor:
        """(B, C, H, W) in [0, 1], the frame before the last."""
        return to_float(self.clips.current)

    @cached_property
    def next(self) -> Tensor:
        """(B, C, H, W) in [0, 1], the last frame as recorded."""
        return to_float(self.clips.next)

    @property
    def drawn(self) -> Tensor:
        """The prediction of a system that draws."""
        assert self.prediction is not None
        return self.prediction


class Study:
    """A checkpoint and one split of the recorded episodes, on which it is judged.

    Episodes are known by their names. Where the checkpoint knows none of the recording's, all are judged; where it has
    others of the same names, ``all`` says that these are not they.

    A clip has at least two frames, so that its last one can be compared with the one before.

    Args:
        checkpoint: the trained system.
        store: the recording.
        split: ``train``, ``val``, ``test``, or ``all``.
        lag: the probe reads the action taken this number of steps earlier.
        batch_size: clips in a forward pass.
        notify: told in one line each what takes long.

    Attributes:
        parts: the episodes of each split, without empty ones.
        episodes: the judged ones.
        learnt: the training episodes.
        clips: P judged clips.
        codes: (P, h, w * n) int64, once :meth:`judged_batches` has run; None where the system gives none.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
        DataError: the split holds no episodes of this store, or these lack what the system needs.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        store: FrameStore,
        split: str = "test",
        *,
        lag: int = 0,
        batch_size: int = 64,
        notify: Callable[[str], None] = print_line,
    ) -> None:
        self.checkpoint, self.store, self.split = checkpoint, store, split
        self.lag, self.batch_size, self.notify = lag, batch_size, notify
        self.system = checkpoint.model
        self.format = check_format(checkpoint, store.frame_size)
        self.parts = split_of(checkpoint, store, split)
        self.episodes, self.learnt = self.parts.get(split, []), self.parts.get("train", [])
        if not self.episodes:
            raise DataError(
                f"{store.path}: holds no episode of the split '{split}' of {checkpoint.path}; a recording that the run "
                f"has never seen is judged with --split {ALL}"
            )
        needed = self.system.clip(checkpoint.config.model, checkpoint.config.loss)
        self.frames_seen = needed.frames
        context = self.system.context if isinstance(self.system, Dreamer) else 0
        self.spec = ClipSpec(max(2, needed.frames, context + 1), needed.tracks)
        self.clips = self.dataset(self.episodes)
        self.codes: np.ndarray | None = None
        self._shared: dict[Callable[[Study], Any], Any] = {}

    # What the system can do, and what the recording knows

    @property
    def kind(self) -> str:
        """What the system is called in a sentence."""
        return f"a {type(self.system).__name__}"

    @property
    def coder(self) -> Coder | None:
        """The system, if it gives codes."""
        if isinstance(self.system, Coder) and self.system.quantizer.num_codes is not None:
            return self.system
        return None

    @property
    def drawer(self) -> Drawer | None:
        """The system, if it draws."""
        return self.system if isinstance(self.system, Drawer) else None

    @property
    def rebuilds(self) -> bool:
        """Whether it draws the very frame that it sees, as a tokenizer does."""
        return self.drawer is not None and self.drawer.sees_target

    @property
    def unit(self) -> str:
        """What a judged clip is to the system, in a word: a frame or a pair."""
        return unit_of(self.system)

    @property
    def dreamer(self) -> Dreamer | None:
        """The system, if it continues a game under codes."""
        if self.coder and isinstance(self.system, Dreamer) and self.system.actions.kind == "codes":
            return self.system
        return None

    @property
    def player(self) -> Dreamer | None:
        """The system, if it continues a game under the controller's actions."""
        if isinstance(self.system, Dreamer) and not isinstance(self.system, Coder):
            return self.system if self.system.actions.kind == "actions" else None
        return None

    def without_codes(self) -> str | None:
        """Why there are no codes, or None."""
        if not isinstance(self.system, Coder):
            return f"{self.kind} gives no codes"
        return None if self.coder else "the model's latent is continuous"

    def without_transition_codes(self) -> str | None:
        """Why there are no codes of what happens between two frames, or None."""
        if self.coder and self.coder.track != "codes":
            return f"the codes of {self.kind} are of single frames, not of transitions"
        return self.without_codes()

    @cached_property
    def game(self) -> Game | None:
        """The game that knows the judged episodes."""
        return find_game(self.episodes, self.store.frame_size)

    def shared(self, find: Callable[[Study], Shared]) -> Shared:
        """What a function finds of this study, looked for once, whichever evaluators ask for it."""
        if find not in self._shared:
            self._shared[find] = find(self)
        return cast("Shared", self._shared[find])

    # Clips

    def dataset(self, episodes: Sequence[StoredEpisode]) -> ClipDataset:
        """The clips of some episodes."""
        return ClipDataset(self.store, episodes, self.format, self.spec)

    def pair_starts(self, episode: StoredEpisode) -> np.ndarray:
        """(P,) store indices of the last frame but one of each of an episode's clips."""
        return episode.clip_starts(self.spec.frames) + self.spec.frames - 2

    @cached_property
    def fitting(self) -> ClipDataset | None:
        """Clips of training episodes to fit probes on; None if the store has no such episodes."""
        chosen: list[StoredEpisode] = []
        count = 0
        for episode in self.learnt:
            if count < FIT_CLIPS:
                chosen.append(episode)
                count += len(self.pair_starts(episode))
        return keep_if_small(self.dataset(chosen)) if chosen else None

    @cached_property
    def fitting_codes(self) -> np.ndarray | None:
        """(Q, h, w * n) int64, the codes of :attr:`fitting`."""
        if self.fitting is None or self.coder is None:
            return None
        parts = []
        with progress_bar(total=len(self.fitting), desc="label training episodes", unit=self.unit) as bar:
            for batch, _ in batches(self.fitting, self.batch_size):
                parts.append(self.label(batch))
                bar.update(len(batch))
        return torch.cat(parts).numpy()

    @cached_property
    def mean_frame(self) -> Tensor:
        """(C, H, W) in [0, 1], the mean frame of the training episodes; of the judged ones, if there are none."""
        return (self.dataset(self.learnt) if self.learnt else self.clips).mean_frame()

    # Labelling and drawing

    @cached_property
    def _labeller(self) -> Labeller:
        return Labeller(self.system)

    def seen(self, clips: Clips) -> Clips:
        """The part of the clips that the system sees: their last frames."""
        first = clips.frames.shape[1] - self.frames_seen
        tracks = {name: track[:, first:] for name, track in clips.tracks.items()}
        return Clips(clips.frames[:, first:], tracks)

    def label(self, clips: Clips) -> Tensor:
        """(B, h, w * n) int64, their codes, on the CPU."""
        return self._labeller(*self.seen(clips).frames.unbind(1)).cpu()

    @torch.inference_mode()
    def draw(
        self, clips: ClipDataset, rows: np.ndarray | None = None, codes: Tensor | None = None
    ) -> Iterator[DrawnBatch]:
        """Labels and draws some of the clips, or all, batch by batch.

        Args:
            clips: of any split.
            rows: which of them; None means all.
            codes: (R, h, w * n), those of the rows, where they are known.
        """
        device = next(self.system.parameters()).device
        for batch, chosen, at in _numbered(clips, self.batch_size, rows):
            started = time.perf_counter()
            own = codes[at] if codes is not None else self.label(batch) if self.coder else None
            prediction = None
            if self.drawer:
                given = own.to(device) if own is not None else None
                prediction = self.drawer.draw(self.seen(batch).to(device), given).float().clamp(0, 1).cpu()
            yield DrawnBatch(chosen, batch, own, prediction, time.perf_counter() - started)

    def judged_batches(self) -> Iterator[DrawnBatch]:
        """All judged clips, batch by batch; afterwards :attr:`codes` is known."""
        keep_if_small(self.clips)
        codes = []
        with progress_bar(total=len(self.clips), desc="evaluate", unit=self.unit) as bar:
            for batch in self.draw(self.clips):
                if batch.codes is not None:
                    codes.append(batch.codes)
                yield batch
                bar.update(len(batch.rows))
        self.codes = torch.cat(codes).numpy() if codes else None

    def examples(self, rows: np.ndarray, clips: ClipDataset | None = None) -> Iterator[Example]:
        """Some of the judged clips, or of others, for pictures; they are drawn again."""
        codes = torch.from_numpy(self.codes[rows]) if self.codes is not None and clips is None else None
        clips = clips or self.clips
        for batch in self.draw(clips, rows, codes):
            frames = (part.numpy() for part in (batch.current, batch.next, batch.drawn))
            for row, current, following, prediction in zip(batch.rows, *frames, strict=True):
                yield Example(current, following, prediction, self.where(clips, int(row)))

    def where(self, clips: ClipDataset, row: int) -> str:
        """Where a clip was recorded: ``<episode>/<n>.png``, its first frame, or the only one that the system sees."""
        if self.frames_seen > 1:
            return clips.where(row)
        seen = int(clips.starts[row]) + self.spec.frames - 1
        episode = next(episode for episode in clips.episodes if episode.start <= seen < episode.stop)
        return f"{episode.name}/{episode.numbers[seen - episode.start]}.png"


def unit_of(system: System) -> str:
    """What a clip is to a system, in a word: a frame where it draws the frame that it sees, else a pair."""
    return "frame" if isinstance(system, Drawer) and system.sees_target else "pair"


def subject_of(systems: Sequence[System]) -> str:
    """What a report on these systems is about, for its title."""
    kinds = {unit_of(system) if isinstance(system, Coder) else "model" for system in systems}
    subjects = {"pair": "Latent actions", "frame": "Tokenizers" if len(systems) > 1 else "Tokenizer"}
    return subjects.get(kinds.pop(), "Model") if len(kinds) == 1 else "Models"


def split_of(checkpoint: Checkpoint, store: FrameStore, split: str) -> dict[str, list[StoredEpisode]]:
    """The store's episodes by the checkpoint's splits, without empty ones.

    All are in ``split`` if that is ``all``, or if the checkpoint knows none of them.
    """
    if split == ALL:
        return {split: store.episodes}
    dealt = {
        name: [episode for episode in store.episodes if episode.name in set(checkpoint.split.get(name, []))]
        for name in SPLITS
    }
    return {name: episodes for name, episodes in dealt.items() if episodes} or {split: store.episodes}


def keep_if_small(clips: ClipDataset) -> ClipDataset:
    """The same clips, their frames kept in memory if they are below :data:`KEPT_BYTES`."""
    if clips.kept_on is None and clips.frame_bytes < KEPT_BYTES:
        clips.keep_on(torch.device("cpu"))
    return clips


def batches(clips: ClipDataset, batch_size: int, rows: np.ndarray | None = None) -> Iterator[tuple[Clips, np.ndarray]]:
    """The clips of the rows (None means all) in order, and these rows, batch by batch."""
    for batch, chosen, _ in _numbered(clips, batch_size, rows):
        yield batch, chosen


def _numbered(
    clips: ClipDataset, batch_size: int, rows: np.ndarray | None
) -> Iterator[tuple[Clips, np.ndarray, slice]]:
    rows = np.arange(len(clips)) if rows is None else rows
    for first in range(0, len(rows), batch_size):
        at = slice(first, first + batch_size)
        yield clips[rows[at]], rows[at], at
