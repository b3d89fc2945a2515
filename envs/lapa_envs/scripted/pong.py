"""The player of Pong."""

from __future__ import annotations

import itertools
from typing import Any

import gymnasium as gym
import numpy as np

from lapa.games.pong.screen import RAM_BALL_DOWN, RAM_BALL_LEFT, RAM_BALL_X, RAM_BALL_Y, RAM_PADDLE_Y
from lapa_envs.scripted.player import ScriptedPlayer


class PongPlayer(ScriptedPlayer):
    """Meets the ball with a spot of the paddle that changes from hit to hit; now and then with the button: a fast ball.

    While the ball flies away, it goes back to the middle. The paddle is slow to start and to stop, so the player
    thinks some steps ahead, at frameskip 4.
    """

    SIDES = (46, 205)  # of the ball's y in RAM
    FACE = 188  # of the paddle, in the ball's x in RAM
    MIDDLE = 114
    BALL_OFFSET = 7  # the ball's y in RAM less the paddle's, where their centres meet
    AIM = 10
    SMASH = 0.3  # probability of the button
    FRAMES = 4
    AHEAD = 4  # steps that it thinks ahead
    TOP_SPEED, LAG = 5.75, 0.75  # pixels a frame; share of what it lacks in speed that is left after a frame

    def __init__(self, env: gym.Env[Any, Any], rng: np.random.Generator, skill: float) -> None:
        super().__init__(env, rng, skill)
        self.aim, self.smash, self.was_coming = 0.0, False, False
        self.last_paddle: int | None = None
        self.push = 0
        self.lag = self.LAG**self.FRAMES
        self.lag_path = self.LAG * (1 - self.lag) / (1 - self.LAG)

    def choose(self, ram: np.ndarray) -> str:
        """RIGHT, which is up; LEFT, which is down; either with FIRE; or NOOP."""
        paddle, ball_x, ball_y = int(ram[RAM_PADDLE_Y]), int(ram[RAM_BALL_X]), int(ram[RAM_BALL_Y])
        down, right = int(ram[RAM_BALL_DOWN].astype(np.int8)), -int(ram[RAM_BALL_LEFT].astype(np.int8))
        step = paddle - (paddle if self.last_paddle is None else self.last_paddle)
        self.last_paddle = paddle
        wanted = self.push * self.TOP_SPEED
        speed = wanted + self.lag * (step - self.FRAMES * wanted) / self.lag_path
        is_coming = right > 0 and ball_y > 0 and ball_x < self.FACE
        if is_coming and not self.was_coming:
            self.aim, self.smash = self.rng.uniform(-self.AIM, self.AIM), self.rng.random() < self.SMASH
        self.was_coming = is_coming
        frames = (self.FACE - ball_x) / right if is_coming else np.inf
        goal = self.landing(ball_y + down * frames) - self.BALL_OFFSET + self.aim if is_coming else self.MIDDLE
        self.push = self.plan(paddle, speed, goal, frames / self.FRAMES)
        button = "FIRE" if self.smash and frames <= 2 * self.FRAMES else ""
        return ("RIGHT", "", "LEFT")[self.push + 1] + button or "NOOP"

    def plan(self, paddle: float, speed: float, goal: float, steps: float) -> int:
        """The first of the pushes that bring the paddle nearest to ``goal`` when the ball comes: -1, 0 or 1."""
        count = int(min(self.AHEAD, max(1, np.ceil(steps))))
        pushes = np.array(list(itertools.product((0, -1, 1), repeat=count))).T  # (count, P); 0 first: it wins ties
        place, speeds = np.full(pushes.shape[1], float(paddle)), np.full(pushes.shape[1], speed)
        for number, wanted in enumerate(pushes * self.TOP_SPEED):
            share = min(1.0, steps - number)
            place = place + share * (self.FRAMES * wanted + (speeds - wanted) * self.lag_path)
            speeds = wanted + (speeds - wanted) * self.lag
        if steps > count:  # there is time to come to rest
            place = place + speeds * self.lag_path
        return int(pushes[0, np.abs(place - goal).argmin()])

    def landing(self, y: float) -> float:
        """Where the ball is that would be at ``y`` if there were no walls."""
        top, height = self.SIDES[0], self.SIDES[1] - self.SIDES[0]
        y = (y - top) % (2 * height)
        return top + min(y, 2 * height - y)
