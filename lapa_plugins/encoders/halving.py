"""What the convolutional encoders share: each stage halves the frames."""

from __future__ import annotations

import dataclasses
import itertools
from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from lapa.contracts import Changes, Encoder
from lapa.data.frames import to_float
from lapa.nn.changes import ChangedPlaces, can_skip_zeros
from lapa.nn.layers import FrameInput, check_widths, fold_batch_norm, halved


@dataclasses.dataclass(frozen=True)
class HalvingConfig:
    """Options that all of them have.

    Attributes:
        channels: number of channels after each halving of the frame.
        sees: what the encoder gets: the ``frames``, or the ``difference`` of each frame from the one before.
    """

    channels: tuple[int, ...]
    sees: Literal["frames", "difference"] = "frames"

    def __post_init__(self) -> None:
        check_widths(self.channels)


class HalvingEncoder(Encoder):
    """Frames stacked on channels, or their differences; stages that halve them; 1x1 to the latent width."""

    def __init__(self, config: HalvingConfig, *, channels: int, latent_dim: int, frames: int = 2) -> None:
        super().__init__()
        self.options = config
        self.input = FrameInput(config.sees, channels, frames)
        widths = (self.input.channels, *config.channels)
        stages = (self.stage(before, after) for before, after in itertools.pairwise(widths))
        self.layers: nn.Module = nn.Sequential(
            *itertools.chain(*stages), *self.last(), nn.Conv2d(widths[-1], latent_dim, 1)
        )
        self._changed_places: ChangedPlaces | None = None

    @abstractmethod
    def stage(self, before: int, after: int) -> Iterable[nn.Module]:
        """Layers that halve height and width, rounding up, and change the channels."""

    def last(self) -> Iterable[nn.Module]:
        """Layers after the stages."""
        return ()

    def grid(self, frame_size: tuple[int, int]) -> tuple[int, int]:
        return halved(frame_size, len(self.options.channels))

    def optimize_for_inference(self) -> None:
        fold_batch_norm(self)
        if self.options.sees == "difference" and can_skip_zeros(self.layers):
            self._changed_places = ChangedPlaces(self.layers, to_float(torch.arange(256, dtype=torch.uint8)))

    def changes(self, *frames: Tensor) -> Changes | None:
        found = self._changed_places(*frames) if self._changed_places else None
        return found and Changes(*found)

    def forward(self, *frames: Tensor) -> Tensor:
        latent: Tensor = self.layers(self.input(*frames))
        return latent  # (B, input.channels, H, W) -> (B, D, h, w)
