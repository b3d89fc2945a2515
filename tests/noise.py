"""A small environment for tests of wrappers; processes of their own import it too."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

SIZE = (30, 20)


class NoiseEnv(gym.Env[Any, Any]):
    """Noise of a small size; every tenth step ends an episode."""

    observation_space = gym.spaces.Box(0, 255, (*SIZE, 3), np.uint8)
    action_space: gym.Space[Any] = gym.spaces.Discrete(5)

    def __init__(self) -> None:
        self.steps = 0
        self.buffer = np.zeros((*SIZE, 3), dtype=np.uint8)  # shown again and again, as some environments do
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self._draw(), 0.5 * self.steps, self.steps == 10, False, {}

    def close(self) -> None:
        self.closed = True

    def _draw(self) -> np.ndarray:
        self.buffer[:] = self.np_random.integers(0, 256, self.buffer.shape, dtype=np.uint8)
        return self.buffer
