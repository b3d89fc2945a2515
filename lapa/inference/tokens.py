"""Frames as grids of tokens, and back: of arrays, and of files that :func:`lapa.extract` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, Drawer, System
from lapa.data.frames import prepare, to_pixels
from lapa.device import full_float32
from lapa.errors import DataError
from lapa.inference.extraction import ExtractedDataset
from lapa.inference.labelling import Labeller, as_tensor

TOGETHER = 64
"""Frames in one forward pass."""


def tokenize(model: System, frames: np.ndarray | Tensor) -> Tensor:
    """The tokens of frames, those that :func:`lapa.extract` finds, whatever the batch.

    Each call prepares the model anew, so give it many frames at once, or take a :class:`lapa.Labeller`.

    Args:
        model: a trained tokenizer, as :func:`lapa.load_model` returns it.
        frames: (H, W, 3) uint8 RGB as recorded, or a batch (B, H, W, 3).

    Returns:
        (h, w * n) int64 on the CPU, the n tokens of a place side by side; or (B, h, w * n) for a batch.

    Raises:
        DataError: the model is no tokenizer, or the frames are not uint8 RGB of the size it was trained on.
    """
    labeller = Labeller(model)
    labeller.check_track("tokens", "take lapa.label, or name a tokenizer")
    recorded = as_tensor(frames)
    single = recorded.ndim == 3
    prepared = prepare(recorded[None] if single else recorded, model.format)
    none = torch.empty(0, *labeller.model.code_grid, dtype=torch.int64)
    parts = [labeller(part).cpu() for part in prepared.split(TOGETHER) if len(part)]
    tokens = torch.cat([none, *parts])
    return tokens[0] if single else tokens


@torch.inference_mode()
def detokenize(model: System, tokens: np.ndarray | Tensor) -> Tensor:
    """The frames that a tokenizer predicts from tokens.

    Args:
        model: a trained tokenizer, as :func:`lapa.load_model` returns it.
        tokens: (h, w * n) whole numbers, or a batch (B, h, w * n).

    Returns:
        (H', W', C) uint8 on the CPU, as the model sees frames: of its colour and size; or (B, H', W', C) for a batch.

    Raises:
        DataError: the model is no tokenizer, or these are no tokens of it.
    """
    labeller = Labeller(model)
    labeller.check_track("tokens", "name a tokenizer")
    if not isinstance(model, Drawer):
        raise DataError(f"a {type(model).__name__} predicts no frame from tokens; name another checkpoint")
    grid = tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    single = grid.ndim == 2
    grid = grid[None] if single else grid
    check_tokens(labeller, grid)
    parts = torch.from_numpy(grid.astype(np.int64)).to(labeller.device).split(TOGETHER)
    seen = model.format
    with full_float32():
        drawn = [to_pixels(model.draw(blank_clips(model, part), part)) for part in parts if len(part)]
    frames = torch.cat([torch.empty(0, *seen.size, seen.channels, dtype=torch.uint8), *drawn])
    return frames[0] if single else frames


def check_tokens(labeller: Labeller, tokens: np.ndarray) -> None:
    """Checks a batch of tokens.

    Raises:
        DataError: they are not (B, h, w * n) whole numbers in [0, K).
    """
    grid = tuple(labeller.model.code_grid)
    shape = tokens.shape[1:] if tokens.ndim == 3 else tokens.shape
    if tokens.ndim != 3 or shape != grid or not np.issubdtype(tokens.dtype, np.integer):
        raise DataError(
            f"tokens are {shape} {tokens.dtype}, but the model wants {grid} whole numbers, as lapa.tokenize gives"
        )
    if tokens.size and not (tokens.min() >= 0 and tokens.max() < labeller.num_codes):
        raise DataError(
            f"tokens go from {tokens.min()} to {tokens.max()}, but the model has those from 0 to "
            f"{labeller.num_codes - 1}"
        )


def blank_clips(model: System, tokens: Tensor) -> Clips:
    """A clip of one black frame for each of (B, h, w * n): what is drawn from tokens alone does not depend on it."""
    seen = model.format
    count = tokens.shape[0]  # its length would be a constant in an exported graph
    return Clips(torch.zeros(count, 1, seen.channels, *seen.size, dtype=torch.uint8, device=tokens.device))


class TokenFrame(NamedTuple):
    """One frame with its tokens; a batch of them collates field by field.

    Attributes:
        frame: (H, W, 3) uint8 RGB.
        tokens: (h, w * n) in the narrowest unsigned type.
        episode: index of its episode in :attr:`TokenDataset.episodes`.
    """

    frame: np.ndarray
    tokens: np.ndarray
    episode: int


class EpisodeTokens(NamedTuple):
    """A whole episode of N frames.

    Attributes:
        frames: (N, H, W, 3) uint8 RGB.
        tokens: (N, h, w * n) in the narrowest unsigned type.
        actions: (N,) int64, what was done in each frame; -1 in the last one, before a gap, and where the recording does
            not tell.
    """

    frames: np.ndarray
    tokens: np.ndarray
    actions: np.ndarray


class TokenDataset(ExtractedDataset[TokenFrame]):
    """Reads what :func:`lapa.extract` wrote of a tokenizer: frames by number, or whole episodes by name.

    Args:
        path: the dataset's file.

    Raises:
        DataError: the file is missing, damaged, or holds no tokens.
    """

    track = "tokens"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.tokens: np.ndarray = self.store.extra["tokens"]  # (N, h, w * n)
        self._stops = np.array([episode.stop for episode in self.store.episodes])

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> TokenFrame:
        index = range(len(self))[index]
        episode = int(np.searchsorted(self._stops, index, side="right"))
        return TokenFrame(self.store.frame(index).copy(), self.tokens[index], episode)

    def episode(self, name: str) -> EpisodeTokens:
        """One whole episode.

        Raises:
            KeyError: no episode of that name.
        """
        episode = self.stored(name)
        actions, starts = np.full(episode.count, -1, dtype=np.int64), episode.clip_starts()
        actions[starts - episode.start] = episode.actions(starts)
        frames = self.store.frames(range(episode.start, episode.stop))
        return EpisodeTokens(frames, self.tokens[episode.start : episode.stop], actions)
