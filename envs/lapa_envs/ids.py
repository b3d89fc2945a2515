"""The environment id that ``import lapa_envs`` registers.

``lapa/Breakout-v0`` is ``ALE/Breakout-v5`` (RGB frames of 210 x 160, frameskip 4, sticky actions 0.25), labelled. Its
version goes up when its codes change: with the model that comes with the package, or with the settings of the game.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from lapa_envs.labelling import LatentActionWrapper
    from lapa_envs.vector import LatentActionVectorWrapper

BREAKOUT_ID = "lapa/Breakout-v0"
GAME = {
    "game": "breakout",
    "obs_type": "rgb",
    "frameskip": 4,
    "repeat_action_probability": 0.25,
    "full_action_space": False,
    "max_num_frames_per_episode": 108_000,
}
LABELLING = ("checkpoint", "frame_source", "key", "device", "as_", "confidence", "reconstruction")
"""Arguments that ``gym.make`` and ``gym.make_vec`` take for the wrapper; all others are the game's."""


def register() -> None:
    """Registers the id, once."""
    if BREAKOUT_ID not in gym.registry:
        gym.register(
            BREAKOUT_ID,
            entry_point="lapa_envs.ids:make_labelled",
            vector_entry_point="lapa_envs.ids:make_labelled_vector",
            kwargs=GAME,
        )


def make_labelled(**kwargs: Any) -> LatentActionWrapper:
    """One game in a :class:`~lapa_envs.LatentActionWrapper`."""
    from ale_py.env import AtariEnv

    from lapa_envs.labelling import LatentActionWrapper

    labelling, game = _parted(kwargs)
    return LatentActionWrapper(AtariEnv(**game), **labelling)


def make_labelled_vector(num_envs: int, autoreset_mode: str = "NextStep", **kwargs: Any) -> LatentActionVectorWrapper:
    """So many games, one after the other in this process, in a :class:`~lapa_envs.LatentActionVectorWrapper`."""
    from ale_py.env import AtariEnv

    from lapa_envs.vector import LatentActionVectorWrapper

    labelling, game = _parted(kwargs)
    envs = gym.vector.SyncVectorEnv([lambda: AtariEnv(**game)] * num_envs, autoreset_mode=autoreset_mode)
    return LatentActionVectorWrapper(envs, **labelling)


def _parted(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The wrapper's arguments, and the game's."""
    labelling = {name: kwargs[name] for name in LABELLING if name in kwargs}
    return labelling, {name: value for name, value in kwargs.items() if name not in LABELLING}
