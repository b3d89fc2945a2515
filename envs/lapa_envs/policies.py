"""Who plays: by name, a scripted or a random player, or other people's agents."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa_envs.scripted import scripted_player
from lapa_envs.scripted.player import RandomPolicy

Policy = Callable[[Any, dict[str, Any]], Any]
"""Chooses an action from the observation and the info that the environment gave last."""

POLICY_FORMS = "scripted, random, module:callable or sb3:PATH"


def make_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator, skill: float) -> Policy:
    """The named policy for one episode in this environment.

    Args:
        env: what it plays.
        name: ``scripted`` (a player that reads the RAM, for the games of :data:`lapa_envs.scripted.SCRIPTED`),
            ``random``, ``module:callable`` (a policy; or a class, which is called with the environment and ``rng`` to
            make one), or ``sb3:PATH`` (an agent saved by Stable-Baselines3).
        rng: source of chance.
        skill: share of the steps played on purpose, in [0, 1]; the others are played at random.

    Raises:
        DataError: the name is unknown, or the policy does not fit the environment.
    """
    if name == "random":
        return RandomPolicy(env.action_space, rng)
    if name == "scripted":
        return scripted_player(env, rng, skill)
    kind, separator, target = name.partition(":")
    if not separator:
        raise DataError(f"unknown policy '{name}'; take {POLICY_FORMS}")
    if kind == "sb3":
        from lapa_envs.sb3 import Sb3Policy

        policy: Policy = Sb3Policy(env, Path(target))
    else:
        policy = foreign_policy(env, kind, target, rng)
    return policy if skill >= 1 else Clumsy(policy, RandomPolicy(env.action_space, rng), rng, skill)


def foreign_policy(env: gym.Env[Any, Any], module: str, name: str, rng: np.random.Generator) -> Policy:
    """``module:name``; the current folder is searched first.

    Raises:
        DataError: there is no such thing, or it cannot be called.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
        policy = found(env, rng) if isinstance(found, type) else found
    except Exception as error:  # a stranger's module can raise anything
        raise DataError(
            f"policy {module}:{name}: cannot be had: {type(error).__name__}: {error}; it must be in the current "
            "folder, or installed"
        ) from error
    if not callable(policy):
        raise DataError(
            f"policy {module}:{name}: is a {type(policy).__name__}; it must be callable as policy(observation, info)"
        )
    return policy


class Clumsy:
    """Another policy that, with probability ``1 - skill``, does something at random instead."""

    def __init__(self, policy: Policy, random: Policy, rng: np.random.Generator, skill: float) -> None:
        self.policy, self.random = policy, random
        self.rng, self.skill = rng, skill

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        meant = self.policy(observation, info)  # always: it may remember what it saw
        return meant if self.rng.random() < self.skill else self.random(observation, info)
