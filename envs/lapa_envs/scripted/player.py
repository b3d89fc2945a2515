"""What scripted players share: play at random, and mistakes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa_envs.recording import action_meanings


class RandomPolicy:
    """Draws an action and holds it for a random while, so that play is not a tremble around one spot.

    Args:
        space: of the environment's actions.
        rng: source of chance.
        mean_hold: how many steps an action is held, on average.
    """

    def __init__(self, space: gym.Space[Any], rng: np.random.Generator, mean_hold: float = 2.5) -> None:
        if not isinstance(space, gym.spaces.Discrete):
            raise DataError(f"random play needs a Discrete action space, not {space}")
        self.num_actions, self.first = int(space.n), int(space.start)
        self.rng = rng
        self.change = 1.0 / mean_hold
        self.action = self.first

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        if self.rng.random() < self.change:
            self.action = self.first + int(self.rng.integers(self.num_actions))
        return self.action


class ScriptedPlayer(ABC):
    """Plays one episode; with probability ``1 - skill``, a step is random play.

    Args:
        env: the ALE environment.
        rng: source of chance.
        skill: probability of a deliberate action, in [0, 1].
    """

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> None:
        self.ale = env.unwrapped.ale  # type: ignore[attr-defined]
        self.meanings = list(action_meanings(env) or ())
        self.rng, self.skill = rng, skill
        self.random = RandomPolicy(env.action_space, rng)

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        meant = self.choose(self.ale.getRAM())  # always: it may remember what it saw
        return self.meanings.index(meant) if self.rng.random() < self.skill else self.random(observation, info)

    @abstractmethod
    def choose(self, ram: np.ndarray) -> str:
        """The deliberate action by name, from (bytes,) uint8 of RAM."""
