"""The player of Breakout."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from lapa.games.breakout.screen import (
    PADDLE_WIDTH,
    RAM_BALL_DOWN,
    RAM_BALL_LEFT,
    RAM_BALL_X,
    RAM_BALL_Y,
    RAM_PADDLE_X,
)
from lapa_envs.scripted.player import ScriptedPlayer


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
