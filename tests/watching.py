"""Games as they are played: their pictures beside what the console's memory holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.games.finding import to_luma
from lapa_envs.policies import make_policy


class Watched(NamedTuple):
    """N frames (N, 210, 160, 3), memory (N, 128) and lives left (N,), and N - 1 actions and rewards."""

    frames: np.ndarray
    ram: np.ndarray
    lives: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


def watch(env: gym.Env[Any, Any], policy: str, steps: int, seed: int, skill: float = 1.0) -> Watched:
    """One game, or its beginning. Closes the environment."""
    player = make_policy(env, policy, np.random.default_rng(seed), skill=skill)
    ale = env.unwrapped.ale  # type: ignore[attr-defined]
    frames, actions, rewards = [env.reset(seed=seed)[0]], [], []
    ram, lives = [ale.getRAM()], [ale.lives()]
    is_over = False
    while len(actions) < steps and not is_over:
        actions.append(player(None, {}))
        frame, reward, is_over, _, _ = env.step(actions[-1])
        frames.append(frame)
        rewards.append(reward)
        ram.append(ale.getRAM())
        lives.append(ale.lives())
    env.close()
    return Watched(np.stack(frames), np.stack(ram), np.array(lives), np.array(actions), np.array(rewards))


def luma(frames: np.ndarray, downsample: int, color: str = "grey") -> np.ndarray:
    """(N, 210, 160, 3) uint8 -> (N, H', W') in [0, 1], as a model of such frames would draw them."""
    format = FrameFormat(210, 160, color, downsample)
    return to_luma(to_float(prepare(torch.from_numpy(frames), format)).numpy())
