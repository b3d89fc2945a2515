"""Plays episodes and writes them as ``<out>/<episode>/<n>.png`` with the truth beside the frames."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image

from lapa.data.episodes import TRUTH_FILE, Truth, write_truth
from lapa.errors import DataError
from lapa.progress import progress_bar
from lapa_envs.policies import BreakoutPlayer, Policy, RandomPolicy

# Fast and still small: Breakout frames are flat areas of nine colours.
PNG_LEVEL = 2


def record(
    env: gym.Env[Any, Any],
    out: Path,
    *,
    policy: str = "scripted",
    episodes: int = 16,
    max_steps: int = 600,
    seed: int = 0,
    skill: tuple[float, float] = (0.6, 1.0),
) -> list[Path]:
    """Plays so many episodes and writes each as a new folder under ``out``.

    An episode appears under its name only when it is whole. Existing episodes are kept; new ones are
    numbered after them.

    Args:
        env: an ALE environment whose observations are RGB frames.
        out: folder to write to.
        policy: ``"scripted"`` (Breakout only) or ``"random"``.
        episodes: how many to play.
        max_steps: an episode is cut after so many steps.
        seed: episode i of this call plays with seed ``seed + i``.
        skill: lowest and highest skill of the scripted player, spread evenly over the episodes.

    Returns:
        The folders written.

    Raises:
        DataError: the environment's observations are no RGB frames, or the policy does not fit the game.
    """
    space = env.observation_space
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or space.shape[2:] != (3,):
        raise DataError(f"cannot record observations {space}; make the environment with RGB image observations")
    out.mkdir(parents=True, exist_ok=True)
    first = 1 + max((int(p.name) for p in out.iterdir() if p.name.isdecimal()), default=-1)
    folders = []
    with progress_bar(total=episodes, desc="record", unit="episode") as bar:
        for i in range(episodes):
            rng = np.random.default_rng(seed + i)
            # Steps of the golden ratio mix weak and strong players over the sequence, so that any split sees both.
            level = skill[0] + (skill[1] - skill[0]) * (i * 0.618034 % 1.0)
            player = make_policy(env, policy, rng, level)
            folder = out / str(first + i)
            frames = _record_episode(env, folder, player, max_steps, seed + i, {"policy": policy, "skill": level})
            folders.append(folder)
            bar.update()
            bar.set_postfix(frames=frames)
    return folders


def make_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator, skill: float) -> Policy:
    """The named policy for this environment.

    Raises:
        DataError: the name is unknown, or the scripted player does not know this game.
    """
    meanings = action_meanings(env)
    if name == "random":
        return RandomPolicy(len(meanings), rng)
    if name != "scripted":
        raise DataError(f"unknown policy '{name}'; take 'scripted' or 'random'")
    if "Breakout" not in (env.spec.id if env.spec else ""):
        raise DataError("the scripted player knows only Breakout; take --policy random for other games")
    return BreakoutPlayer(meanings, rng, skill)


def action_meanings(env: gym.Env[Any, Any]) -> list[str]:
    """What the environment's actions mean, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``."""
    meanings: Callable[[], list[str]] = env.unwrapped.get_action_meanings  # type: ignore[attr-defined]
    return meanings()


def _record_episode(
    env: gym.Env[Any, Any], folder: Path, policy: Policy, max_steps: int, seed: int, notes: dict[str, Any]
) -> int:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        truth = _play(env, part, policy, max_steps, seed, notes)
        write_truth(part / TRUTH_FILE, truth)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return truth.num_frames or 0


def _play(
    env: gym.Env[Any, Any], folder: Path, policy: Policy, max_steps: int, seed: int, notes: dict[str, Any]
) -> Truth:
    ale = env.unwrapped.ale  # type: ignore[attr-defined]
    observation, info = env.reset(seed=seed)
    save_frame(folder / "0.png", observation)
    ram, lives = [ale.getRAM()], [info.get("lives", 0)]
    actions, rewards, terminated, truncated = [], [], [], []
    for step in range(1, max_steps + 1):
        action = policy(ram[-1])
        observation, reward, ended, cut, info = env.step(action)
        save_frame(folder / f"{step}.png", observation)
        actions.append(action)
        rewards.append(reward)
        terminated.append(ended)
        truncated.append(cut or (step == max_steps and not ended))
        ram.append(ale.getRAM())
        lives.append(info.get("lives", 0))
        if ended or cut:
            break
    spec = env.spec
    meta = {
        "env_id": spec.id if spec else None,
        "frameskip": spec.kwargs.get("frameskip") if spec else None,
        "action_meanings": action_meanings(env),
        "seed": seed,
        **notes,
    }
    return Truth(
        actions=np.array(actions, dtype=np.int64),
        rewards=np.array(rewards, dtype=np.float32),
        terminated=np.array(terminated, dtype=bool),
        truncated=np.array(truncated, dtype=bool),
        lives=np.array(lives, dtype=np.int64),
        ram=np.stack(ram).astype(np.uint8),
        meta=meta,
    )


def save_frame(path: Path, frame: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a lossless RGB PNG."""
    Image.fromarray(frame).save(path, format="png", compress_level=PNG_LEVEL)
