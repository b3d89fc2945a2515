"""Players that read the RAM, of any skill between random play and the best that a script can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.errors import DataError
from lapa.games.breakout.screen import (
    PADDLE_WIDTH,
    RAM_BALL_DOWN,
    RAM_BALL_LEFT,
    RAM_BALL_X,
    RAM_BALL_Y,
    RAM_PADDLE_X,
)
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


class BreakoutPlayer(ScriptedPlayer):
    """Serves, and moves to where the ball will come down; it clears both walls if it is given lives enough.

    It aims the ball at a spot of the paddle that changes from bounce to bounce, so that the angles vary.
    """

    SIDES = (57, 199)
    FLOOR = 180
    DEAD_ZONE = 6  # a paddle step at frameskip 4 is longer than this
    COASTING = 0.45  # of its last step, the paddle still goes on without a command

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> None:
        super().__init__(env, rng, skill)
        self.aim = 0.0
        self.last_paddle: int | None = None

    def choose(self, ram: np.ndarray) -> str:
        """FIRE, RIGHT, LEFT or NOOP."""
        paddle, ball_x, ball_y = int(ram[RAM_PADDLE_X]), int(ram[RAM_BALL_X]), int(ram[RAM_BALL_Y])
        down, right = int(ram[RAM_BALL_DOWN].astype(np.int8)), -int(ram[RAM_BALL_LEFT].astype(np.int8))
        step = paddle - (paddle if self.last_paddle is None else self.last_paddle)
        self.last_paddle = paddle
        if ball_y == 0:
            return "FIRE"
        if down <= 0 and self.rng.random() < 0.1:
            self.aim = self.rng.uniform(-0.36, 0.36) * PADDLE_WIDTH
        target = self.landing(ball_x + right * max(0, self.FLOOR - ball_y) / down) if down > 0 else ball_x
        offset = target - (paddle + PADDLE_WIDTH / 2 + self.aim + self.COASTING * step)
        if abs(offset) < self.DEAD_ZONE:
            return "NOOP"
        return "RIGHT" if offset > 0 else "LEFT"

    def landing(self, x: float) -> float:
        """Where the ball is that would be at ``x`` if there were no side walls."""
        left, width = self.SIDES[0], self.SIDES[1] - self.SIDES[0]
        x = (x - left) % (2 * width)
        return left + min(x, 2 * width - x)


SCRIPTED: dict[str, type[ScriptedPlayer]] = {"Breakout": BreakoutPlayer}
"""By what the environment's id contains."""


def has_scripted_player(env: gym.Env[Any, Any]) -> bool:
    """Whether :func:`scripted_player` knows the game."""
    return _player_of(env) is not None


def scripted_player(env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> ScriptedPlayer:
    """The scripted player of the environment's game.

    Raises:
        DataError: there is none.
    """
    player = _player_of(env)
    if player is None:
        known = " and ".join(sorted(SCRIPTED))
        raise DataError(f"the scripted player knows only {known}; take --policy random for other games")
    return player(env, rng, skill)


def _player_of(env: gym.Env[Any, Any]) -> type[ScriptedPlayer] | None:
    name = env.spec.id if env.spec else ""
    found = [player for game, player in SCRIPTED.items() if game in name]
    return found[0] if found and hasattr(env.unwrapped, "ale") else None
