"""Players: random play, a Breakout player of chosen skill that reads the RAM, other people's agents."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa.games.breakout.screen import RAM_BALL_X, RAM_BALL_Y, RAM_PADDLE_X
from lapa_envs.recording import action_meanings

Policy = Callable[[Any, dict[str, Any]], Any]
"""Chooses an action from the observation and the info that the environment gave last."""

POLICY_FORMS = "scripted, random, module:callable or sb3:PATH"


def make_policy(env: gym.Env[Any, Any], name: str, rng: np.random.Generator, skill: float) -> Policy:
    """The named policy for one episode in this environment.

    Args:
        env: what it plays.
        name: ``scripted`` (Breakout), ``random``, ``module:callable`` (a policy; or a class, which is called with the
            environment and ``rng`` to make one), or ``sb3:PATH`` (an agent saved by Stable-Baselines3).
        rng: source of chance.
        skill: share of the steps played on purpose, in [0, 1]; the others are played at random.

    Raises:
        DataError: the name is unknown, or the policy does not fit the environment.
    """
    if name == "random":
        return RandomPolicy(env.action_space, rng)
    if name == "scripted":
        is_breakout = "Breakout" in (env.spec.id if env.spec else "") and hasattr(env.unwrapped, "ale")
        if not is_breakout:
            raise DataError("the scripted player knows only Breakout; take --policy random for other games")
        return BreakoutPlayer(env, rng, skill)
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


class Clumsy:
    """Another policy that, with probability ``1 - skill``, does something at random instead."""

    def __init__(self, policy: Policy, random: Policy, rng: np.random.Generator, skill: float) -> None:
        self.policy, self.random = policy, random
        self.rng, self.skill = rng, skill

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        meant = self.policy(observation, info)  # always: it may remember what it saw
        return meant if self.rng.random() < self.skill else self.random(observation, info)


class BreakoutPlayer:
    """Serves, then follows the ball; with probability ``1 - skill`` it does something at random instead.

    It aims the ball at a spot of the paddle that changes from bounce to bounce, so that the angles vary.

    Args:
        env: ALE Breakout.
        rng: source of chance.
        skill: share of the steps that are played on purpose, in [0, 1].
    """

    PADDLE_WIDTH = 16
    DEAD_ZONE = 4  # pixels; a paddle step at frameskip 4 is about this long

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> None:
        meanings: Sequence[str] = action_meanings(env) or ()
        self.noop, self.fire, self.right, self.left = (meanings.index(m) for m in ("NOOP", "FIRE", "RIGHT", "LEFT"))
        self.ale = env.unwrapped.ale  # type: ignore[attr-defined]
        self.rng = rng
        self.skill = skill
        self.random = RandomPolicy(env.action_space, rng)
        self.aim = 0.0
        self.last_ball_y = 0

    def __call__(self, observation: Any, info: dict[str, Any]) -> int:
        ram = self.ale.getRAM()
        paddle, ball_x, ball_y = int(ram[RAM_PADDLE_X]), int(ram[RAM_BALL_X]), int(ram[RAM_BALL_Y])
        rising = ball_y < self.last_ball_y
        self.last_ball_y = ball_y
        if self.rng.random() >= self.skill:
            return self.random(observation, info)
        if ball_y == 0:
            return self.fire
        if rising and self.rng.random() < 0.1:
            self.aim = self.rng.uniform(-0.4, 0.4) * self.PADDLE_WIDTH
        offset = ball_x - (paddle + self.PADDLE_WIDTH / 2 + self.aim)
        if abs(offset) < self.DEAD_ZONE:
            return self.noop
        return self.right if offset > 0 else self.left
