"""Players that need no training: random play, and a Breakout player of chosen skill that reads the console's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lapa.evaluation.breakout.screen import RAM_BALL_X, RAM_BALL_Y, RAM_PADDLE_X


class Policy(Protocol):
    """Chooses an action from the console's memory."""

    def __call__(self, ram: np.ndarray) -> int:
        """(bytes,) uint8 -> action."""
        ...


class RandomPolicy:
    """Draws an action and holds it for a random while, so that play is not a tremble around one spot.

    Args:
        num_actions: how many actions the environment has.
        rng: source of chance.
        mean_hold: how many steps an action is held, on average.
    """

    def __init__(self, num_actions: int, rng: np.random.Generator, mean_hold: float = 2.5) -> None:
        self.num_actions = num_actions
        self.rng = rng
        self.change = 1.0 / mean_hold
        self.action = 0

    def __call__(self, ram: np.ndarray) -> int:
        if self.rng.random() < self.change:
            self.action = int(self.rng.integers(self.num_actions))
        return self.action


class BreakoutPlayer:
    """Serves, then follows the ball; with probability ``1 - skill`` it does something at random instead.

    It aims the ball at a spot of the paddle that changes from bounce to bounce, so that the angles vary.

    Args:
        meanings: what the environment's actions mean, such as ``["NOOP", "FIRE", "RIGHT", "LEFT"]``.
        rng: source of chance.
        skill: share of the steps that are played on purpose, in [0, 1].
    """

    PADDLE_WIDTH = 16
    DEAD_ZONE = 4  # pixels; a paddle step at frameskip 4 is about this long

    def __init__(self, meanings: Sequence[str], rng: np.random.Generator, skill: float) -> None:
        self.noop, self.fire, self.right, self.left = (meanings.index(m) for m in ("NOOP", "FIRE", "RIGHT", "LEFT"))
        self.rng = rng
        self.skill = skill
        self.random = RandomPolicy(len(meanings), rng)
        self.aim = 0.0
        self.last_ball_y = 0

    def __call__(self, ram: np.ndarray) -> int:
        paddle, ball_x, ball_y = int(ram[RAM_PADDLE_X]), int(ram[RAM_BALL_X]), int(ram[RAM_BALL_Y])
        rising = ball_y < self.last_ball_y
        self.last_ball_y = ball_y
        if self.rng.random() >= self.skill:
            return self.random(ram)
        if ball_y == 0:
            return self.fire
        if rising and self.rng.random() < 0.1:
            self.aim = self.rng.uniform(-0.4, 0.4) * self.PADDLE_WIDTH
        offset = ball_x - (paddle + self.PADDLE_WIDTH / 2 + self.aim)
        if abs(offset) < self.DEAD_ZONE:
            return self.noop
        return self.right if offset > 0 else self.left
