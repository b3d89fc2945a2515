"""What a packed store is made from: a source of episodes, each with its frames in order."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.episodes import Tracks


@dataclasses.dataclass(frozen=True)
class SourceEpisode:
    """One episode as a store takes it.

    Attributes:
        numbers: (N,) int64, ascending, the number of each frame; None counts them from 0.
        tracks: what is known beside the frames.
        frames: (H, W, 3) uint8 each, read when asked for; None for a frame that cannot be used.
        problems: one line for what could not be used; complete when all frames have been read.
    """

    numbers: np.ndarray | None
    tracks: Tracks
    frames: Iterable[np.ndarray | None]
    problems: list[str] = dataclasses.field(default_factory=list)


class Source(ABC):
    """Episodes that can be packed.

    Attributes:
        root: where they lie.
        names: of the episodes, in order.
        ignored: one line for each thing under ``root`` that is not read.
        header: what the store's header says of the source.
    """

    root: Path
    names: list[str]
    ignored: list[str]
    header: dict[str, Any]

    @property
    @abstractmethod
    def store_path(self) -> Path:
        """Where its packed store lies if no other file is named."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever the packed store would."""

    @abstractmethod
    def frame_size(self) -> tuple[int, int]:
        """``(H, W)`` of the frames in the store; (0, 0) if none can be read."""

    @abstractmethod
    def read(self, name: str, frame_size: tuple[int, int], strict: bool) -> SourceEpisode:
        """One episode; its frames are read as they are taken.

        Args:
            name: of the episode.
            frame_size: ``(H, W)`` that all frames must have.
            strict: raise at the first frame that cannot be used, instead of passing it over.

        Raises:
            DataError: it cannot be used.
        """
