"""A Gymnasium wrapper that names, at each step, the latent action between the last two frames."""

from __future__ import annotations

import os
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from lapa.errors import DataError
from lapa.shipped import checkpoint_text
from lapa_envs.annotation import DEFAULT_MODEL, Annotator, check_place, observed
from lapa_envs.frames import check_frame_source, shown


class LatentActionWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds the latent action of each step to ``info``, to the observation, or to both.

    ``info["latent_action"]`` is an int64 array of the model's code grid, or a numpy int64 where the grid is a
    single token. At reset, when there is no previous frame, it is -1 throughout. A step that ends the episode
    carries a real code.

    Put it *above* frame-skip, so that it sees the frames the agent sees, and above anything that changes the
    pixels with ``frame_source="render"``. For a vector environment take
    :class:`~lapa_envs.LatentActionVectorWrapper`, which labels all sub-environments at once; wrapping each of them
    with this class gives the same codes.

    Args:
        env: its frames are RGB of the size that the model was trained on.
        checkpoint: name of a model that comes with lapa (``lapa models`` lists them), or file of a trained model. A
            file called ``breakout`` in the working directory is ``"./breakout"``. None takes the default.
        frame_source: ``"obs"`` reads observations, the last one of a stack; ``"render"`` calls ``env.render()``,
            which works when the observations are something else.
        key: the name of the codes.
        device: where the model runs, such as ``"cpu"`` or ``"cuda"``.
        as_: ``"info"``; ``"obs"``, where the observation becomes ``{"obs": ..., "latent_action": ...}``; or ``"both"``.
        confidence: adds ``info["latent_action_confidence"]``, float32 over the model's latent grid: how far each latent
            can move before one of its codes changes, in the units of the latents. 0 at reset.
        reconstruction: adds ``info["latent_action_reconstruction"]``, (H', W', C) uint8: the next frame as the decoder
            draws it from the current one and the codes, at the model's size and colour. Black at reset.

    Raises:
        CheckpointError: there is no such model, or no usable checkpoint at that path.
        DataError: the environment has no frames of the model's size, or an argument is not one of those above.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import LatentActionWrapper
        >>> gym.register_envs(ale_py)
        >>> env = LatentActionWrapper(gym.make("ALE/Breakout-v5"))
        >>> _, info = env.reset(seed=0)
        >>> int(info["latent_action"].max())
        -1
        >>> info = env.step(env.action_space.sample())[-1]
        >>> info["latent_action"].shape
        (14, 20)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str | os.PathLike[str] | None = DEFAULT_MODEL,
        frame_source: str = "obs",
        key: str = "latent_action",
        device: str = "cpu",
        as_: str = "info",
        confidence: bool = False,
        reconstruction: bool = False,
    ) -> None:
        checkpoint = checkpoint_text(DEFAULT_MODEL if checkpoint is None else checkpoint)
        RecordConstructorArgs.__init__(
            self,
            checkpoint=checkpoint,
            frame_source=frame_source,
            key=key,
            device=device,
            as_=as_,
            confidence=confidence,
            reconstruction=reconstruction,
        )
        if isinstance(env, gym.vector.VectorEnv):
            raise DataError(
                "LatentActionWrapper takes a single environment; take LatentActionVectorWrapper for a vector"
            )
        super().__init__(env)
        check_place(as_)
        self.frame_source, self.key, self.as_ = frame_source, key, as_
        self._annotator = Annotator(checkpoint, key, device, confidence, reconstruction)
        check_frame_source(frame_source, env.observation_space, env.render_mode, self._annotator.recorded_size)
        if as_ != "info":
            self.observation_space = observed(env.observation_space, self._annotator.space, key)
        self._last: np.ndarray | None = None  # the previous frame, prepared
        self._ended = False

    @property
    def digest(self) -> str:
        """Of the checkpoint: which model's codes these are."""
        return self._annotator.digest

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; the latent action is -1."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._last, self._ended = self._frame(observation), False
        return self._with(self._annotator.blank(1), observation, info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and labels the step.

        Where a wrapper below resets by itself, the step that does is no transition, and its latent action is -1.

        Raises:
            gymnasium.error.ResetNeeded: there was no reset before.
            DataError: the environment renders frames of another size than the model was trained on.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._last is None:
            raise gym.error.ResetNeeded("call reset() before step(): the first step needs a frame to start from")
        frame = self._frame(observation)
        entries = self._annotator.blank(1) if self._ended else self._annotator.label(self._last, frame)
        self._last, self._ended = frame, terminated or truncated
        observation, info = self._with(entries, observation, info)
        return observation, reward, terminated, truncated, info

    def _with(self, entries: dict[str, Any], observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        entries = {name: rows[0] for name, rows in entries.items()}
        if self.as_ != "info":
            observation = {"obs": observation, self.key: entries[self.key]}
        if self.as_ == "obs":
            del entries[self.key]
        return observation, {**info, **entries}

    def _frame(self, observation: Any) -> np.ndarray:
        frames = shown(self.env, observation, self.frame_source)
        return self._annotator.prepare_following(frames)  # (1, C, H, W) uint8
