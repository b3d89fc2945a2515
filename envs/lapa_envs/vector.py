"""The labelling wrapper for vector environments: one forward pass for all of them."""

from __future__ import annotations

import os
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from lapa.errors import DataError
from lapa.shipped import checkpoint_text
from lapa_envs.annotation import DEFAULT_MODEL, Annotator, check_place, observed
from lapa_envs.frames import check_frame_source, last_frames, shown_by_all


class LatentActionVectorWrapper(gym.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Adds the latent actions of N environments to ``infos``, to the observations, or to both.

    ``infos["latent_action"]`` is (N, h, w) int64, or (N,) where the model's grid is a single token: bit for bit the
    codes of a :class:`~lapa_envs.LatentActionWrapper` around each sub-environment, for the price of one batch. The
    three ways of automatic reset:

    - ``NEXT_STEP``: the step after an episode's end only resets; its row is no transition and carries -1: drop it.
    - ``SAME_STEP``: the row of an episode's last step has the reset frame and -1, and the code of the last real
      transition, up to the true final frame, is in ``infos["final_info"]["latent_action"]``.
    - ``DISABLED``: ``reset(options={"reset_mask": mask})`` starts the masked rows anew; ``infos["_latent_action"]``
      says which these are.

    Takes ``SyncVectorEnv``, ``AsyncVectorEnv``, ale_py's ``AtariVectorEnv`` (made with ``img_height=210,
    img_width=160, grayscale=False``) and any other that says its autoreset mode. Put it right on the environment or
    above vector wrappers that keep the frames.

    Args:
        env: its frames are RGB of the size that the model was trained on.
        checkpoint: name of a model that comes with lapa (``lapa models`` lists them), or file of a trained model. A
            file called ``breakout`` in the working directory is ``"./breakout"``. None takes the default.
        frame_source: ``"obs"`` reads observations, the last one of a stack; ``"render"`` calls ``env.render()``. With
            ``SAME_STEP``, rendering cannot show the final frame, so it is refused.
        key: the name of the codes.
        device: where the model runs, such as ``"cpu"`` or ``"cuda"``.
        as_: ``"info"``; ``"obs"``, where observations become ``{"obs": ..., "latent_action": ...}``; or ``"both"``.
        confidence: adds ``infos["latent_action_confidence"]``, as the single wrapper does.
        reconstruction: adds ``infos["latent_action_reconstruction"]``, as the single wrapper does.

    Raises:
        CheckpointError: there is no such model, or no usable checkpoint at that path.
        DataError: the environments have no frames of the model's size, or an argument is not one of those above.

    Example:
        >>> import gymnasium as gym, ale_py
        >>> from lapa_envs import LatentActionVectorWrapper
        >>> gym.register_envs(ale_py)
        >>> envs = LatentActionVectorWrapper(gym.make_vec("ALE/Breakout-v5", 2, vectorization_mode="sync"))
        >>> _ = envs.reset(seed=0)
        >>> infos = envs.step(envs.action_space.sample())[-1]
        >>> infos["latent_action"].shape
        (2, 14, 20)
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv[Any, Any, Any],
        checkpoint: str | os.PathLike[str] | None = DEFAULT_MODEL,
        frame_source: str = "obs",
        key: str = "latent_action",
        device: str = "cpu",
        as_: str = "info",
        confidence: bool = False,
        reconstruction: bool = False,
    ) -> None:
        if not isinstance(env, gym.vector.VectorEnv):
            raise DataError("LatentActionVectorWrapper takes a vector environment; take LatentActionWrapper for one")
        super().__init__(env)
        check_place(as_)
        self.frame_source, self.key, self.as_ = frame_source, key, as_
        self.autoreset_mode = autoreset_mode(env)
        checkpoint = checkpoint_text(DEFAULT_MODEL if checkpoint is None else checkpoint)
        self._annotator = Annotator(checkpoint, key, device, confidence, reconstruction)
        check_vector(env, frame_source, self._annotator.recorded_size, "LatentActionWrapper")
        if as_ != "info":
            space = self._annotator.space
            self.single_observation_space = observed(env.single_observation_space, space, key)
            self.observation_space = observed(env.observation_space, batch_space(space, self.num_envs), key)
        self._last: np.ndarray | None = None  # (N, C, H, W), the previous frames, prepared
        self._codes = self._annotator.blank(self.num_envs)[key]  # of the last observations
        self._ended = np.zeros(self.num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Resets all environments, or those of ``options["reset_mask"]``; their latent actions are -1."""
        mask = np.ones(self.num_envs, dtype=bool)
        if options is not None and "reset_mask" in options:
            # Gymnasium takes the mask out of the options, and what is wrong with it is its to say.
            mask = np.array(options["reset_mask"])
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type] # lists too
        frames = self._frames(observations)
        if self._last is None:
            self._last = frames
        else:
            self._last[mask] = frames[mask]
        self._ended &= ~mask
        entries = self._annotator.blank(self.num_envs)
        self._codes = np.where(_along(mask, self._codes), entries[self.key], self._codes)
        return self._observed(observations), {**infos, **self._listed(entries, mask)}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps the environments and labels the real transitions.

        Raises:
            gymnasium.error.ResetNeeded: there was no reset before.
            DataError: frames are of another size than the model was trained on.
        """
        if self._last is None:
            raise gym.error.ResetNeeded("call reset() before step(): the first step needs frames to start from")
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.logical_or(terminated, truncated)
        frames = self._frames(observations)
        after, real = frames, np.ones(self.num_envs, dtype=bool)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        if same_step and ended.any():
            after = frames.copy()
            finals = final_observations(infos, ended)
            after[ended] = self._annotator.prepare(last_frames(finals))
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            real = ~self._ended
        found = self._label(self._last, after, real)
        self._last, self._ended = frames, ended
        shown = found
        infos = dict(infos)
        if same_step and ended.any():
            blank = self._annotator.blank(self.num_envs)
            shown = {name: np.where(_along(ended, rows), blank[name], rows) for name, rows in found.items()}
            self._put_final(infos, found, ended)
        self._codes = shown[self.key]
        infos |= self._listed(shown, np.ones(self.num_envs, dtype=bool))
        return self._observed(observations), rewards, terminated, truncated, infos

    def _label(self, before: np.ndarray, after: np.ndarray, real: np.ndarray) -> dict[str, np.ndarray]:
        """The entries of all rows; those that are no transition are blank."""
        if real.all():
            return self._annotator.label(before, after)
        entries = self._annotator.blank(self.num_envs)
        if real.any():
            for name, values in self._annotator.label(before[real], after[real]).items():
                entries[name][real] = values
        return entries

    def _put_final(self, infos: dict[str, Any], found: dict[str, np.ndarray], ended: np.ndarray) -> None:
        """Puts what was found of last transitions where Gymnasium puts what belongs to them."""
        blank = self._annotator.blank(self.num_envs)
        rows = {name: np.where(_along(ended, values), values, blank[name]) for name, values in found.items()}
        infos["final_info"] = {**infos.get("final_info", {}), **self._listed(rows, ended)}
        infos["_final_info"] = ended.copy()
        if self.as_ != "info":
            finals = np.full(self.num_envs, None, dtype=object)
            for row in np.flatnonzero(ended):
                finals[row] = {"obs": infos["final_obs"][row], self.key: found[self.key][row]}
            infos["final_obs"] = finals

    def _listed(self, entries: dict[str, np.ndarray], mask: np.ndarray) -> dict[str, np.ndarray]:
        """The entries for ``infos``, each with the mask of the rows that have one, as Gymnasium does it."""
        entries = {name: rows for name, rows in entries.items() if name != self.key or self.as_ != "obs"}
        return entries | {f"_{name}": mask.copy() for name in entries}

    def _observed(self, observations: Any) -> Any:
        return observations if self.as_ == "info" else {"obs": observations, self.key: self._codes.copy()}

    def _frames(self, observations: Any) -> np.ndarray:
        frames = shown_by_all(self.env, observations, self.frame_source)
        return self._annotator.prepare_following(frames)  # (N, C, H, W) uint8


def autoreset_mode(env: gym.vector.VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """How a vector environment resets its sub-environments.

    Raises:
        DataError: it does not say, or not in a way that is known.
    """
    # The environment's own word first: some keep ``metadata`` in their class, where the last one made wins.
    said = getattr(env.unwrapped, "autoreset_mode", None) or env.metadata.get("autoreset_mode")
    try:
        return said if isinstance(said, AutoresetMode) else AutoresetMode(said)
    except ValueError:
        names = ", ".join(mode.name for mode in AutoresetMode)
        raise DataError(
            f"the vector environment's autoreset mode is {said!r}, which is unknown; set "
            f"env.metadata['autoreset_mode'] to a gymnasium.vector.AutoresetMode: {names}"
        ) from None


def check_vector(
    env: gym.vector.VectorEnv[Any, Any, Any], frame_source: str, size: tuple[int, int], single: str
) -> None:
    """Checks that a vector environment shows frames of all its sub-environments, final ones included.

    Args:
        env: the vector environment.
        frame_source: ``"obs"`` or ``"render"``.
        size: rows and columns that the frames must have.
        single: name of the wrapper for one environment.

    Raises:
        DataError: it does not.
    """
    if (rows := getattr(env.unwrapped, "batch_size", env.num_envs)) != env.num_envs:
        raise DataError(f"the vector environment answers for {rows} of {env.num_envs}; make it with batch_size=0")
    check_frame_source(frame_source, env.single_observation_space, env.render_mode, size)
    if frame_source == "render" and autoreset_mode(env) is AutoresetMode.SAME_STEP:
        raise DataError(
            "frame_source='render' cannot see final frames with autoreset_mode SAME_STEP; take NEXT_STEP, or "
            f"wrap each sub-environment in {single}"
        )


def final_observations(infos: dict[str, Any], ended: np.ndarray) -> np.ndarray:
    """(E, ...), the last observations of the E episodes that ended in this step, in ``SAME_STEP``."""
    return np.stack([infos["final_obs"][row] for row in np.flatnonzero(ended)])


def _along(mask: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(N,) made to broadcast against rows (N, ...)."""
    return mask.reshape(-1, *[1] * (rows.ndim - 1))
