"""Environments that end at random, in vectors: what a vector wrapper gives, beside single wrappers in each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from torch.utils._python_dispatch import TorchDispatchMode

MODES = list(AutoresetMode)
SIZE = (40, 32)
NUM_ENVS = 4


class RestlessEnv(gym.Env[Any, Any]):
    """Shows noise; each step ends the episode with one chance in four, half of these by truncation."""

    observation_space = gym.spaces.Box(0, 255, (*SIZE, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, seed: int, render_mode: str | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.frame = self._draw()
        return self.frame, {"at": "reset"}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.frame = self._draw()
        chance = self.rng.random()
        return self.frame, 1.0, chance < 0.125, 0.125 <= chance < 0.25, {"at": "step"}

    def render(self) -> np.ndarray:
        return self.frame

    def _draw(self) -> np.ndarray:
        return self.rng.integers(0, 256, self.observation_space.shape, dtype=np.uint8)


def restless(*wrap: Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]], **options: Any) -> list[Callable[[], Any]]:
    def make(seed: int) -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = RestlessEnv(seed, **options)
        for wrapper in wrap:
            env = wrapper(env)
        return env

    return [lambda seed=seed: make(seed) for seed in range(NUM_ENVS)]


def run(envs: gym.vector.VectorEnv[Any, Any, Any], mode: AutoresetMode, steps: int) -> Iterator[tuple[Any, ...]]:
    """What reset, steps and resets by the caller give; with ``DISABLED`` the caller starts what has ended anew."""
    observations, infos = envs.reset(seed=0)
    yield observations, infos
    rng = np.random.default_rng(0)
    for _ in range(steps):
        observations, _, terminated, truncated, infos = envs.step(envs.action_space.sample())
        yield observations, infos, terminated, truncated
        mask = terminated | truncated
        if mode is AutoresetMode.DISABLED:
            mask |= rng.random(envs.num_envs) < 0.1  # and some in the middle of an episode
            if mask.any():
                yield envs.reset(options={"reset_mask": mask})
        elif rng.random() < 0.05:
            yield envs.reset()
    envs.close()


def assert_equal(found: Any, expected: Any) -> None:
    """Equal values, where they are arrays of objects too; floats and pictures within rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, np.ndarray) and expected.dtype == object:
        for a, b in zip(found, expected, strict=True):
            assert_equal(a, b)
    elif isinstance(expected, np.ndarray) and expected.dtype == np.float32:
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    else:
        np.testing.assert_array_equal(found, expected)


def masked(infos: dict[str, Any]) -> dict[str, Any]:
    """The entries of the rows that have them, by name and row."""
    entries = {}
    for name, values in infos.items():
        if name.startswith("_"):
            continue
        if isinstance(values, dict):
            entries[name] = masked(values)
        else:
            entries[name] = {row: values[row] for row in np.flatnonzero(infos[f"_{name}"])}
    return entries


def assert_same_run(vector: Any, singles: Any, mode: AutoresetMode, steps: int) -> list[dict[str, Any]]:
    seen = []
    vector.action_space.seed(0)
    singles.action_space.seed(0)
    for found, expected in zip(run(vector, mode, steps), run(singles, mode, steps), strict=True):
        assert_equal(found[0], expected[0])
        assert_equal(masked(found[1]), masked(expected[1]))
        for a, b in zip(found[2:], expected[2:], strict=True):
            np.testing.assert_array_equal(a, b)
        seen.append(found[1])
    return seen


class ThreadsSeen(TorchDispatchMode):
    """Notes, for each operation on tensors, on how many threads it may compute."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts.add(torch.get_num_threads())
        return func(*args, **(kwargs or {}))
