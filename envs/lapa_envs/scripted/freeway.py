"""The player of Freeway."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lapa_envs.scripted.player import ScriptedPlayer


class FreewayPlayer(ScriptedPlayer):
    """Walks up; now and then it waits or steps back for some steps, without looking at the cars."""

    PAUSE = 0.06  # probability that a pause begins
    LONGEST = 8

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> None:
        super().__init__(env, rng, skill)
        self.pause, self.meanwhile = 0, "UP"

    def choose(self, ram: np.ndarray) -> str:
        """UP, NOOP or DOWN."""
        if self.pause == 0 and self.rng.random() < self.PAUSE:
            self.pause = int(self.rng.integers(1, self.LONGEST + 1))
            self.meanwhile = "NOOP" if self.rng.random() < 0.6 else "DOWN"
        if self.pause == 0:
            return "UP"
        self.pause -= 1
        return self.meanwhile
