"""What happens between two frames, found in the pictures of a recording.

Only pictures are looked at, also those before and after the two: a bounce shows in the ball's path.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from lapa.games.breakout.screen import BALL_HEIGHT, BALL_LEFTS, BALL_WIDTH, CEILING, PADDLE_ROWS, ScreenState

EVENTS = (
    "paddle moves left",
    "paddle moves right",
    "paddle stays",
    "wall bounce",
    "paddle bounce",
    "brick broken",
    "ball lost",
    "ball served",
)

HIDDEN_STEPS = 3
"""The paddle hides the ball for fewer steps than this."""

NEAR_PADDLE = 40
"""The last clear sight before a bounce off the paddle is at most this number of pixels above it."""

WALL_REACH = 10
"""The ball moves at most this number of pixels sideways in a step."""


def find_events(screens: ScreenState, numbers: np.ndarray) -> np.ndarray:
    """(N - 1, E) bool, what happens between each screen and the one after; nothing where frame numbers have a gap."""
    is_whole = np.diff(numbers) == 1
    step = np.diff(screens.paddle)
    ball = behind_walls(screens.ball)
    broken = (screens.bricks[:-1] & ~screens.bricks[1:]).any((1, 2))
    off_paddle = paddle_bounces(ball, is_whole)
    lost = losses(ball, screens.lives)
    with np.errstate(invalid="ignore"):
        events = np.stack(
            [
                step < 0,
                step > 0,
                step == 0,
                wall_bounces(ball, is_whole, off_paddle),
                off_paddle,
                broken,
                lost,
                serves(ball, lost),
            ],
            axis=1,
        )
    events[~is_whole] = False
    return events


def behind_walls(ball: np.ndarray) -> np.ndarray:
    """The path (N, 2) with the ball put back where a side wall hides it: for one frame, as far in as it goes."""
    ball = ball.copy()
    limits = np.array(BALL_LEFTS) + BALL_WIDTH / 2
    for row in np.flatnonzero(np.isnan(ball[1:-1, 0])) + 1:
        around = ball[[row - 1, row + 1]]
        wall = limits[np.abs(limits - around[0, 0]).argmin()]
        if (np.abs(around[:, 0] - wall) <= WALL_REACH).all():
            ball[row] = wall, around[:, 1].mean()
    return ball


def wall_bounces(ball: np.ndarray, is_whole: np.ndarray, off_paddle: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: the ball's path (N, 2) turns round here, near a side or the ceiling, and not off the paddle."""
    lowest = np.array([BALL_LEFTS[0] + BALL_WIDTH / 2, CEILING + BALL_HEIGHT / 2])
    highest = np.array([BALL_LEFTS[1] + BALL_WIDTH / 2, np.inf])
    near = (ball - lowest <= WALL_REACH) | (highest - ball <= WALL_REACH)
    near = near[:-1] | near[1:]
    steps = np.diff(ball, axis=0)
    steps[~is_whole] = np.nan
    before, step, after = steps[:-2], steps[1:-1], steps[2:]
    # A step like the one before has not turned yet, and one that is longer than the next has not either.
    turned = (before * after < 0) & (np.abs(step - before) > 1) & (np.abs(step) <= np.abs(after))
    bounces = np.zeros(len(steps), dtype=bool)
    bounces[1:-1] = (turned & near[1:-1]).any(1)
    bounces &= ~off_paddle
    bounces[1:] &= ~bounces[:-1]  # the step after a turn is the rest of it
    return bounces


def paddle_bounces(ball: np.ndarray, is_whole: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: between these two of the ball's places (N, 2) it turns upwards at the paddle.

    Behind the paddle the ball is not seen. So the turning point is where the path before, gone on straight, meets
    the path after.
    """
    bounces = np.zeros(len(is_whole), dtype=bool)
    y = ball[:, 1]
    speed = np.append(np.diff(y), np.nan)
    seen = np.flatnonzero(~np.isnan(y))
    for before, after in itertools.pairwise(seen.tolist()):
        steps = after - before
        down, up = speed[before - 1] if before else np.nan, speed[after]
        is_near = PADDLE_ROWS[1] - y[before] <= NEAR_PADDLE
        if steps > HIDDEN_STEPS or not is_near or not is_whole[before:after].all() or not (down > 0 > up):
            continue
        turn = (y[after] - y[before] - up * steps) / (down - up)
        # The step after a turn may be the rest of it.
        if 0 <= turn < steps and not bounces[before - 1]:
            bounces[before + math.floor(turn)] = True
    return bounces


def losses(ball: np.ndarray, lives: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: the falling ball is seen for the last time.

    Either a life is gone when it comes back, or it does not come back.
    """
    lost = np.zeros(len(ball) - 1, dtype=bool)
    y = ball[:, 1]
    seen = np.flatnonzero(~np.isnan(y)).tolist()
    for last, back in zip(seen, [*seen[1:], None], strict=True):
        falls = last > 0 and y[last] > y[last - 1] and PADDLE_ROWS[1] - y[last] <= NEAR_PADDLE
        if back is None:
            lost[last : last + 1] = falls and len(ball) - 1 - last >= HIDDEN_STEPS
        elif falls and back - last > 1:
            lost[last] = lives[min(back + 1, len(lives) - 1)] < lives[last]
    return lost


def serves(ball: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: the ball is first seen, at the beginning or after it was lost."""
    served = np.zeros(len(lost), dtype=bool)
    is_seen = ~np.isnan(ball[:, 0])
    in_play = bool(is_seen[0])
    for row in range(len(lost)):
        if lost[row]:
            in_play = False
        elif not in_play and is_seen[row + 1]:
            served[row] = in_play = True
    return served
