"""Players that read the RAM, of any skill between random play and the best that a script can do."""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lapa.errors import DataError

if TYPE_CHECKING:
    import gymnasium as gym
    import numpy as np

    from lapa_envs.scripted.player import ScriptedPlayer

SCRIPTED = MappingProxyType({"Breakout": "BreakoutPlayer", "Freeway": "FreewayPlayer", "Pong": "PongPlayer"})
"""The player of each game, by the game's name in the environment's id, such as ``ALE/Pong-v5``.

It stands in the module of the game's name in small letters, which is imported when it is needed: ``--help`` is not to
wait for it.
"""


def known_to_scripts() -> str:
    """The games that have a scripted player, as words."""
    *others, last = sorted(SCRIPTED)
    return f"{', '.join(others)} and {last}" if others else last


def player_class(game: str) -> type[ScriptedPlayer]:
    """The player of a game in :data:`SCRIPTED`."""
    found: type[ScriptedPlayer] = getattr(importlib.import_module(f"{__name__}.{game.lower()}"), SCRIPTED[game])
    return found


def has_scripted_player(env: gym.Env[Any, Any]) -> bool:
    """Whether :func:`scripted_player` knows the game."""
    return _game_of(env) is not None


def scripted_player(env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> ScriptedPlayer:
    """The scripted player of the environment's game.

    Raises:
        DataError: there is none.
    """
    game = _game_of(env)
    if game is None:
        raise DataError(f"the scripted player knows only {known_to_scripts()}; take --policy random for other games")
    return player_class(game)(env, rng, skill)


def _game_of(env: gym.Env[Any, Any]) -> str | None:
    # Pong is in the names of ALE/Pong-v5 and PongNoFrameskip-v4, but ALE/VideoPinball-v5 is no Pinball.
    name = env.spec.name if env.spec and hasattr(env.unwrapped, "ale") else ""
    return next((game for game in SCRIPTED if name.startswith(game)), None)
