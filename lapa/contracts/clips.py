"""What a system is given: clips of frames, what is measured on the recordings, how far its training is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lapa.data.frames import FrameFormat

MASK = "mask"
"""The track that tells which frames of padded clips are real."""


class ClipSpec(NamedTuple):
    """What a system wants of the recordings.

    Attributes:
        frames: T, consecutive frames in a clip, at least 1.
        tracks: names of the arrays it cannot do without, such as ``actions``; see
            :data:`lapa.data.episodes.TRACKS`.
        padded: whether an episode of fewer than T frames gives a clip too: its last frame is repeated, and
            :attr:`Clips.mask` tells which frames are real.
    """

    frames: int
    tracks: tuple[str, ...] = ()
    padded: bool = False


@dataclasses.dataclass(frozen=True)
class Clips:
    """A batch of clips.

    Attributes:
        frames: (B, T, C, H, W) uint8, prepared for the model.
        tracks: by name; (B, T-1, ...) of what happens between two frames, (B, T, ...) of what is so in each frame.
            Those of padded clips have ``mask`` among them.
    """

    frames: Tensor
    tracks: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, which frames are real: all but those that a clip was padded with."""
        if MASK in self.tracks:
            return self.tracks[MASK]
        return torch.ones(self.frames.shape[:2], dtype=torch.bool, device=self.frames.device)

    @property
    def current(self) -> Tensor:
        """(B, C, H, W) uint8, the last frame but one."""
        return self.frames[:, -2]

    @property
    def next(self) -> Tensor:
        """(B, C, H, W) uint8, the last frame."""
        return self.frames[:, -1]

    def ended(self, *, by_life: bool = True) -> Tensor | None:
        """(B, T-1) bool, whether each step ended the game; None where the tracks do not tell.

        Args:
            by_life: a lost life is an end too, where ``lives`` is among the tracks.
        """
        over = self.tracks.get("terminated")
        if over is not None and by_life and "lives" in self.tracks:
            return over | (self.tracks["lives"].diff(dim=1) < 0)
        return over

    def __len__(self) -> int:
        return len(self.frames)

    def to(self, device: torch.device) -> Clips:
        """The same clips on another device."""
        moved = {name: track.to(device, non_blocking=True) for name, track in self.tracks.items()}
        return Clips(self.frames.to(device, non_blocking=True), moved)

    def pin_memory(self) -> Clips:
        """The same in page-locked memory, which a GPU can read by itself."""
        return Clips(self.frames.pin_memory(), {name: track.pin_memory() for name, track in self.tracks.items()})

    def mirrored(self, share: float) -> Clips:
        """The same clips, a share of them as in a mirror, at even distances; their tracks stay as they are."""
        if not share:
            return self
        count = torch.arange(len(self) + 1, device=self.frames.device).mul(share).floor()
        frames = torch.where(count.diff().bool()[:, None, None, None, None], self.frames.flip(-1), self.frames)
        return Clips(frames, self.tracks)

    def chunk(self, count: int) -> list[Clips]:
        """Cut into ``count`` batches of equal size."""
        tracks = {name: track.chunk(count) for name, track in self.tracks.items()}
        return [
            Clips(frames, {name: parts[index] for name, parts in tracks.items()})
            for index, frames in enumerate(self.frames.chunk(count))
        ]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is measured on the recordings and never configured.

    Attributes:
        format: what the model sees of a frame.
        num_actions: how many actions the controller has; None where the recordings do not tell.
        num_codes: K of the track ``codes`` or ``tokens``, if the recordings have one.
        code_grid: shape of a transition's or a frame's codes in that track.
    """

    format: FrameFormat
    num_actions: int | None = None
    num_codes: int | None = None
    code_grid: tuple[int, int] | None = None


class Progress(float):
    """Share of the training that is done, in [0, 1]: a float, so a family that needs no more may treat it as one.

    Args:
        share: where there is a time limit, of the time or of the steps, whichever is more.

    Attributes:
        step: optimizer steps taken so far.
        epochs: passes over the training clips so far.
    """

    step: int
    epochs: float

    def __new__(cls, share: float = 0.0, step: int = 0, epochs: float = 0.0) -> Progress:
        made = super().__new__(cls, share)
        made.step, made.epochs = step, epochs
        return made

    @classmethod
    def of(cls, progress: float) -> Progress:
        """The same progress; a plain float becomes one at step 0."""
        return progress if isinstance(progress, Progress) else cls(progress)
