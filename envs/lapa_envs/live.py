"""Plays an environment and labels each step as it happens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.progress import progress_bar
from lapa_envs.labelling import LatentActionWrapper
from lapa_envs.policies import make_policy


def label_live(
    env: gym.Env[Any, Any], checkpoint: Path | None, policy: str, steps: int, seed: int
) -> tuple[list[dict[str, Any]], float]:
    """Plays so many steps, resetting where episodes end.

    Args:
        env: an ALE environment; it is closed at the end.
        checkpoint: a trained model; None takes the one that comes with the package.
        policy: ``"scripted"`` or ``"random"``.
        steps: how many.
        seed: of the environment and the player.

    Returns:
        One record per step (``step``, ``action``, ``latent_action``), and the steps per second.
    """
    labelled = LatentActionWrapper(env, str(checkpoint) if checkpoint else None)
    player = make_policy(env, policy, np.random.default_rng(seed), skill=0.9)
    observation, info = labelled.reset(seed=seed)
    records = []
    started = time.monotonic()
    with progress_bar(total=steps, desc="label", unit="step") as bar:
        for step in range(steps):
            action = player(observation, info)
            observation, _, terminated, truncated, info = labelled.step(action)
            codes = info["latent_action"]
            records.append({"step": step, "action": action, "latent_action": np.asarray(codes).tolist()})
            bar.update()
            if terminated or truncated:
                observation, info = labelled.reset()
    rate = steps / (time.monotonic() - started)
    labelled.close()
    return records, rate
