"""Atari environments without the console's chatter."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

BREAKOUT = "ALE/Breakout-v5"


def make_env(env_id: str = BREAKOUT, **kwargs: Any) -> gym.Env[Any, Any]:
    """``gym.make`` with the Atari ids registered and the emulator's banner off.

    Raises:
        gymnasium.error.Error: the id is unknown.
    """
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gym.register_envs(ale_py)
    return gym.make(env_id, **kwargs)
