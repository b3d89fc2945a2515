"""A Gymnasium wrapper that names, at each step, the latent action between the last two frames."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs

from lapa.checkpoint import load_checkpoint
from lapa.data.frames import prepare
from lapa.errors import DataError
from lapa.labelling import Labeller
from lapa_envs.pretrained import default_checkpoint

FRAME_SOURCES = ("obs", "render")


class LatentActionWrapper(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds the latent action of each step to ``info``.

    ``info["latent_action"]`` is an int64 array of the model's code grid, or a numpy int64 where the grid is a
    single token. At reset, when there is no previous frame, it is -1 throughout. A step that ends the episode
    carries a real code.

    Put it *above* frame-skip, so that it sees the frames the agent sees, and above anything that changes the
    pixels with ``frame_source="render"``. For vector environments wrap each sub-environment, for example
    ``gym.make_vec(..., wrappers=[LatentActionWrapper])``; under NEXT_STEP autoreset the reset row has code -1.

    Args:
        env: its frames are RGB of the size that the model was trained on.
        checkpoint: file of a trained model; by default the small Breakout model that comes with the package.
        frame_source: ``"obs"`` reads observations, ``"render"`` calls ``env.render()``, which works when the
            observations are something else.
        key: the name in ``info``.
        device: where the model runs, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        CheckpointError: there is no usable checkpoint at that path.
        DataError: the environment has no frames of the model's size.

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
        (7, 10)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        checkpoint: str | None = None,
        frame_source: str = "obs",
        key: str = "latent_action",
        device: str = "cpu",
    ) -> None:
        checkpoint = None if checkpoint is None else str(checkpoint)
        RecordConstructorArgs.__init__(self, checkpoint=checkpoint, frame_source=frame_source, key=key, device=device)
        if isinstance(env, gym.vector.VectorEnv):
            raise DataError(
                "LatentActionWrapper takes a single environment; wrap each one: "
                "gym.make_vec(..., wrappers=[LatentActionWrapper])"
            )
        super().__init__(env)
        if frame_source not in FRAME_SOURCES:
            raise DataError(f"frame_source '{frame_source}' is unknown; take one of {', '.join(FRAME_SOURCES)}")
        self.frame_source = frame_source
        self.key = key
        model = load_checkpoint(checkpoint or default_checkpoint(), device).model
        self._format = model.format
        self._grid = model.code_grid
        self._labeller = Labeller(model)
        self._last: torch.Tensor | None = None  # the previous frame, prepared
        self._check_frames()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Resets the environment; the latent action is -1."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._last = self._frame(observation)
        return observation, {**info, self.key: self._shaped(np.full(self._grid, -1, dtype=np.int64))}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps the environment and labels the step.

        Raises:
            gymnasium.error.ResetNeeded: there was no reset before.
        """
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._last is None:
            raise gym.error.ResetNeeded("call reset() before step(): the first step needs a frame to start from")
        frame = self._frame(observation)
        codes = self._labeller(self._last, frame)[0].cpu().numpy()
        self._last = frame
        return observation, reward, terminated, truncated, {**info, self.key: self._shaped(codes)}

    def _frame(self, observation: Any) -> torch.Tensor:
        frame = observation if self.frame_source == "obs" else self.env.render()
        return prepare(torch.from_numpy(np.ascontiguousarray(frame))[None], self._format)  # (1, C, H, W) uint8

    def _shaped(self, codes: np.ndarray) -> np.ndarray | np.int64:
        return np.int64(codes.item()) if codes.size == 1 else codes

    def _check_frames(self) -> None:
        wanted = (self._format.height, self._format.width, 3)
        if self.frame_source == "render":
            if self.env.render_mode != "rgb_array":
                raise DataError(
                    f"frame_source='render' needs render_mode='rgb_array', not {self.env.render_mode!r}; "
                    "pass it to gym.make"
                )
            return
        space = self.env.observation_space
        if space.shape != wanted or space.dtype != np.uint8:
            raise DataError(
                f"the model wants observations of {wanted} uint8, this environment gives {space}; put the wrapper "
                "below whatever changes the frames, or pass frame_source='render', or another checkpoint"
            )
