"""The environment ids that ``import lapa_envs`` registers.

``lapa/Breakout-v1`` is ``ALE/Breakout-v5`` (RGB frames of 210 x 160, frameskip 4, sticky actions 0.25), labelled by the
model ``breakout``. Its version goes up when its codes change: with the model, or with the settings of the game. Earlier
versions keep their models. Of those, Gymnasium says once that there is a newer one; made from their spec,
``gym.make(gym.spec("lapa/Breakout-v0"))``, they are quiet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

if TYPE_CHECKING:
    from lapa_envs.labelling import LatentActionWrapper
    from lapa_envs.vector import LatentActionVectorWrapper

BREAKOUT_ID = "lapa/Breakout-v1"
MODELS = {"lapa/Breakout-v0": "breakout_v0", BREAKOUT_ID: "breakout"}
"""The model that labels each environment."""
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
    """Registers the ids, once."""
    for env_id, model in MODELS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="lapa_envs.ids:make_labelled",
                vector_entry_point="lapa_envs.ids:make_labelled_vector",
                kwargs={**GAME, "checkpoint": model},
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
