"""Players of Breakout that no recording of ``lapa record`` knows: to judge models on play by somebody else."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Veteran:
    """Plays from the first to the last brick, by the ball's path as two looks at the RAM show it.

    It waits in the middle while the ball rises, hurries to where it comes down, and hits it with the paddle's ends in
    turn.
    """

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        self.ale = env.unwrapped.ale  # type: ignore[attr-defined]
        self.rng = rng
        self.side, self.last = 6.0, (128, 0)

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        ram = self.ale.getRAM()
        paddle, x, y = int(ram[72]), int(ram[99]), int(ram[101])
        (last_x, last_y), self.last = self.last, (x, y)
        if y == 0:
            return 1  # FIRE
        down, right = y - last_y, x - last_x
        if down <= 0 or last_y == 0:
            target = 128.0
            self.side = float(self.rng.choice([-7, -3, 3, 7]))
        else:
            fall = x + right * max(0, 180 - y) / down - 57
            fall %= 2 * 142
            target = 57 + min(fall, 2 * 142 - fall) + self.side
        offset = target - paddle - 8
        if abs(offset) < 8:
            return 0  # NOOP
        return 2 if offset > 0 else 3  # RIGHT, LEFT


class Fidget:
    """Another action at every step, by chance."""

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator) -> None:
        self.rng, self.count = rng, int(env.action_space.n)  # type: ignore[attr-defined]

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        return int(self.rng.integers(self.count))
