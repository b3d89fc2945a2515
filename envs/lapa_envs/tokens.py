"""Wrappers that make observations of a frame's tokens, for one environment and for vectors of them."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from lapa.errors import DataError
from lapa.shipped import checkpoint_text
from lapa_envs.annotation import FrameTokenizer
from lapa_envs.frames import check_frame_source, last_frames, shown, shown_by_all
from lapa_envs.vector import autoreset_mode, check_vector, final_observations


class TokenObservation(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """Replaces the observation by the tokens of the frame: those that ``lapa extract`` finds, bit for bit.

    An observation is an int64 array of the tokenizer's grid, (h, w * n), in a ``Box`` from 0 to K - 1: what an
    ``nn.Embedding`` takes. With ``flatten=True`` it is one row in a ``MultiDiscrete``, which the ``MlpPolicy`` of
    Stable-Baselines3 and ``gymnasium.wrappers.FlattenObservation`` turn into one-hot vectors: h * w * n * K numbers, so
    only for small grids.

    Put it *above* frame-skip and below frame stacks, so that these stack tokens; of a stack below it the last frame
    counts. If an inner wrapper changes the pixels, pass ``frame_source="render"``. What needs frames, such as
    :class:`~lapa_envs.RecordEpisodes`, goes below it. For a vector environment take
    :class:`~lapa_envs.TokenVectorObservation`, which encodes all frames in one forward pass; wrapping each
    sub-environment with this class gives the same tokens.

    Args:
        env: its frames are RGB of the size that the tokenizer was trained on.
        checkpoint: file of a trained tokenizer, or the name of one that comes with lapa (``lapa models`` lists them).
        frame_source: ``"obs"`` reads observations, the last one of a stack; ``"render"`` calls ``env.render()``,
            which works when the observations are something else.
        device: where the model runs, such as ``"cpu"`` or ``"cuda"``.
        flatten: gives the tokens in one row.

    Raises:
        CheckpointError: there is no such model, or no usable checkpoint at that path.
        DataError: the model is no tokenizer, or the environment has no frames of its size.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import TokenObservation
        >>> gym.register_envs(ale_py)
        >>> env = gym.make("ALE/Breakout-v5")
        >>> env = TokenObservation(env, "checkpoints/tokenizer/best.pt")
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape
        (15, 20)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str | os.PathLike[str],
        frame_source: str = "obs",
        device: str = "cpu",
        flatten: bool = False,
    ) -> None:
        checkpoint = checkpoint_text(checkpoint)
        RecordConstructorArgs.__init__(
            self, checkpoint=checkpoint, frame_source=frame_source, device=device, flatten=flatten
        )
        if isinstance(env, gym.vector.VectorEnv):
            raise DataError("TokenObservation takes a single environment; take TokenVectorObservation for a vector")
        super().__init__(env)
        self.frame_source = frame_source
        self._tokenizer = FrameTokenizer(checkpoint, device, flatten)
        check_frame_source(frame_source, env.observation_space, env.render_mode, self._tokenizer.recorded_size)
        self.observation_space = self._tokenizer.space

    @property
    def digest(self) -> str:
        """Of the checkpoint: which model's tokens these are."""
        return self._tokenizer.digest

    def observation(self, observation: Any) -> np.ndarray:
        """The tokens of what the environment shows now.

        Raises:
            DataError: the environment renders frames of another size than the model was trained on.
        """
        frames = shown(self.env, observation, self.frame_source)
        row: np.ndarray = self._tokenizer.tokens(self._tokenizer.prepare_following(frames))[0]
        return row


# Gymnasium's VectorObservationWrapper refuses SAME_STEP.
class TokenVectorObservation(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Replaces the observations of N environments by the tokens of their frames.

    Observations are (N, h, w * n) int64, or (N, h * w * n) with ``flatten=True``: bit for bit those of a
    :class:`~lapa_envs.TokenObservation` around each sub-environment, for the price of one batch. In every autoreset
    mode a row is of the frame that the environment shows in it; with ``SAME_STEP``, where that is the reset frame,
    ``infos["final_obs"]`` holds the tokens of the true final frames.

    Takes ``SyncVectorEnv``, ``AsyncVectorEnv``, ale_py's ``AtariVectorEnv`` (made with ``img_height=210,
    img_width=160, grayscale=False``) and any other that says its autoreset mode. Put it right on the environment or
    above vector wrappers that keep the frames.

    Args:
        env: its frames are RGB of the size that the tokenizer was trained on.
        checkpoint: file of a trained tokenizer, or the name of one that comes with lapa (``lapa models`` lists them).
        frame_source: ``"obs"`` reads observations, the last one of a stack; ``"render"`` calls ``env.render()``. With
            ``SAME_STEP``, rendering cannot show the final frame, so it is refused.
        device: where the model runs, such as ``"cpu"`` or ``"cuda"``.
        flatten: gives each frame's tokens in one row.

    Raises:
        CheckpointError: there is no such model, or no usable checkpoint at that path.
        DataError: the model is no tokenizer, or the environments have no frames of its size.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import TokenVectorObservation
        >>> gym.register_envs(ale_py)
        >>> envs = gym.make_vec("ALE/Breakout-v5", 2, vectorization_mode="sync")
        >>> envs = TokenVectorObservation(envs, "checkpoints/tokenizer/best.pt")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations.shape
        (2, 15, 20)
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        checkpoint: str | os.PathLike[str],
        frame_source: str = "obs",
        device: str = "cpu",
        flatten: bool = False,
    ) -> None:
        if not isinstance(env, gym.vector.VectorEnv):
            raise DataError("TokenVectorObservation takes a vector environment; take TokenObservation for one")
        super().__init__(env)
        self.frame_source, self.autoreset_mode = frame_source, autoreset_mode(env)
        self._tokenizer = FrameTokenizer(checkpoint_text(checkpoint), device, flatten)
        check_vector(env, frame_source, self._tokenizer.recorded_size, "TokenObservation")
        self.single_observation_space = self._tokenizer.space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    @property
    def digest(self) -> str:
        """Of the checkpoint: which model's tokens these are."""
        return self._tokenizer.digest

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Resets all environments, or those of ``options["reset_mask"]``."""
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type] # lists too
        return self._tokens(observations), infos

    def step(self, actions: Any) -> tuple[np.ndarray, Any, Any, Any, dict[str, Any]]:
        """Steps the environments.

        Raises:
            DataError: frames are of another size than the model was trained on.
        """
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.logical_or(terminated, truncated)
        if self.autoreset_mode is AutoresetMode.SAME_STEP and ended.any():
            finals = np.full(self.num_envs, None, dtype=object)
            frames = self._tokenizer.prepare(last_frames(final_observations(infos, ended)))
            for row, tokens in zip(np.flatnonzero(ended), self._tokenizer.tokens(frames), strict=True):
                finals[row] = tokens
            infos = {**infos, "final_obs": finals}
        return self._tokens(observations), rewards, terminated, truncated, infos

    def _tokens(self, observations: Any) -> np.ndarray:
        frames = shown_by_all(self.env, observations, self.frame_source)
        return self._tokenizer.tokens(self._tokenizer.prepare_following(frames))
