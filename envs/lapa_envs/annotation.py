"""What the wrappers, single and vector, have in common: from frames to the entries of ``info``, or to tokens."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from lapa.contracts import Clips, Dreamer
from lapa.data.frames import FollowingFrames, prepare, to_pixels
from lapa.device import cpu_threads
from lapa.engine.checkpoint import load_checkpoint
from lapa.errors import DataError
from lapa.inference.labelling import Labeller

DEFAULT_MODEL = "breakout"
THREADS = 1
"""On how many of the processor's cores wrappers compute.

Several would have to wait for each other at each layer, which takes many times as long where another program wants a
core; and in a process forked from another they wait forever for those that did not come along.
"""
PLACES = ("info", "obs", "both")


class Looker:
    """A model at work in an environment, on one thread.

    Frames come and go as arrays: PyTorch would take rows of tensors on all its threads.

    Args:
        checkpoint: a model that comes with the package, by name, or the file of another.
        device: where the model runs.
        track: what it must give, ``codes`` or ``tokens``.
        remedy: what to do if it does not.

    Raises:
        CheckpointError: there is no such model, or no usable checkpoint at that path.
        DataError: the model has no codes, or the other ones.
    """

    def __init__(self, checkpoint: str, device: str, track: str, remedy: str) -> None:
        with cpu_threads(THREADS):
            loaded = load_checkpoint(checkpoint, device)
        self._labeller = Labeller(loaded.model, THREADS)
        self._labeller.check_track(track, remedy)
        self.model, self.digest = self._labeller.model, loaded.digest
        self.format = self.model.format
        self._following = FollowingFrames(self.format)

    @property
    def recorded_size(self) -> tuple[int, int]:
        """Rows and columns of the frames that it takes."""
        return self.format.height, self.format.width

    def prepare(self, frames: np.ndarray) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB -> (N, C, H', W') uint8, as the model wants them."""
        with cpu_threads(THREADS):
            return prepare(torch.from_numpy(np.ascontiguousarray(frames)), self.format).numpy()

    def prepare_following(self, frames: np.ndarray) -> np.ndarray:
        """The same of the frames that follow those of the last call, as a game goes on: in a third of the time."""
        with cpu_threads(THREADS):
            return self._following(frames).numpy()


class FrameTokenizer(Looker):
    """Turns frames into tokens.

    Args:
        checkpoint: a tokenizer, as of :class:`Looker`.
        device: where the model runs.
        flatten: gives a frame's tokens in one row, each a discrete choice.
    """

    def __init__(self, checkpoint: str, device: str, flatten: bool) -> None:
        super().__init__(checkpoint, device, "tokens", "take LatentActionWrapper, or name a tokenizer")
        self._flatten = flatten

    @property
    def space(self) -> gym.Space[Any]:
        """Of the tokens of one frame."""
        grid, num_codes = self.model.code_grid, self._labeller.num_codes
        if self._flatten:
            return gym.spaces.MultiDiscrete(np.full(math.prod(grid), num_codes))
        return gym.spaces.Box(0, num_codes - 1, grid, np.int64)

    def tokens(self, prepared: np.ndarray) -> np.ndarray:
        """Prepared frames (N, C, H', W') -> tokens (N, h, w * n) int64, or (N, h * w * n)."""
        with cpu_threads(THREADS):
            tokens: np.ndarray = self._labeller(torch.from_numpy(prepared)).cpu().numpy()
        return tokens.reshape(len(tokens), -1) if self._flatten else tokens


class Annotator(Looker):
    """Labels pairs of frames and names what is found.

    Args:
        checkpoint: a latent action model, as of :class:`Looker`.
        key: the name of the codes.
        device: where the model runs.
        confidence: tell also how far each latent is from another code.
        reconstruction: tell also what the decoder draws.

    Raises:
        DataError: the quantizer cannot tell a confidence, or the model draws nothing.
    """

    def __init__(
        self, checkpoint: str, key: str, device: str, confidence: bool = False, reconstruction: bool = False
    ) -> None:
        super().__init__(checkpoint, device, "codes", "take TokenObservation, or name a latent action model")
        self.key = key
        self._confidence, self._reconstruction = confidence, reconstruction
        if confidence and self._margin_is_unknown():
            name = type(self.model.quantizer).__name__
            raise DataError(f"the quantizer {name} cannot tell a confidence; leave confidence=False")
        if reconstruction and not isinstance(self.model, Dreamer):
            raise DataError(f"a {type(self.model).__name__} draws no frame from codes; leave reconstruction=False")

    @property
    def space(self) -> gym.Space[Any]:
        """Of the codes of one step; -1 stands for no code."""
        num_codes = self._labeller.num_codes
        if math.prod(self.model.code_grid) == 1:
            return gym.spaces.Discrete(num_codes + 1, start=-1)
        return gym.spaces.Box(-1, num_codes - 1, self.model.code_grid, np.int64)

    def label(self, before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
        """The entries for N pairs of prepared frames, each with N rows."""
        with cpu_threads(THREADS):
            frames = torch.from_numpy(before), torch.from_numpy(after)
            labels = self._labeller.label(*frames)
            entries = {self.key: self._shaped(labels.codes.cpu().numpy())}
            if self._confidence:
                assert labels.margin is not None
                entries[f"{self.key}_confidence"] = self._shaped(labels.margin.float().cpu().numpy())
            if self._reconstruction:
                entries[f"{self.key}_reconstruction"] = self._draw(frames[0], labels.codes)
        return entries

    def blank(self, count: int) -> dict[str, np.ndarray]:
        """The entries where there is no pair: codes of -1, confidence 0, a black picture."""
        entries = {self.key: self._shaped(np.full((count, *self.model.code_grid), -1, dtype=np.int64))}
        if self._confidence:
            entries[f"{self.key}_confidence"] = self._shaped(np.zeros((count, *self.model.grid), dtype=np.float32))
        if self._reconstruction:
            shape = (count, *self.format.size, self.format.channels)
            entries[f"{self.key}_reconstruction"] = np.zeros(shape, dtype=np.uint8)
        return entries

    @torch.inference_mode()
    def _draw(self, before: Tensor, codes: Tensor) -> np.ndarray:
        assert isinstance(self.model, Dreamer)
        state = self.model.begin(Clips(before.to(codes.device)[:, None]))
        drawn = self.model.step(state, codes)[1].frame  # (N, C, H', W')
        picture: np.ndarray = to_pixels(drawn).numpy()
        return picture

    @torch.inference_mode()
    def _margin_is_unknown(self) -> bool:
        frame = torch.zeros(1, self.format.channels, *self.format.size, dtype=torch.uint8)
        return self._labeller.label(frame, frame).margin is None

    def _shaped(self, rows: np.ndarray) -> np.ndarray:
        """Rows of grids, or of numbers where the grid is a single token."""
        return rows.reshape(-1) if math.prod(rows.shape[1:]) == 1 else rows


def check_place(as_: str) -> None:
    """Checks where a wrapper is told to put the codes.

    Raises:
        DataError: nowhere that is known.
    """
    if as_ not in PLACES:
        raise DataError(f"as_='{as_}' is unknown; take one of {', '.join(PLACES)}")


def observed(space: gym.Space[Any], codes: gym.Space[Any], key: str) -> gym.spaces.Dict:
    """The space of observations that carry codes: the environment's own under ``"obs"``, the codes under the key.

    Raises:
        DataError: the key is taken.
    """
    if key == "obs":
        raise DataError("key='obs' is taken by the environment's own observation; take another")
    return gym.spaces.Dict({"obs": space, key: codes})
