"""What happens between two frames, found in the pictures of a recording.

Only pictures are looked at, also those before and after the two: a bounce shows in the ball's path.
"""

from __future__ import annotations

import numpy as np

from lapa.games.pong.screen import BALL_HEIGHT, ENEMY_COLUMNS, FIELD_ROWS, PADDLE_COLUMNS, PongState

EVENTS = (
    "paddle moves up",
    "paddle moves down",
    "paddle stays",
    "paddle bounce",
    "enemy bounce",
    "wall bounce",
    "point won",
    "point lost",
    "ball served",
)

WALL_REACH, PADDLE_REACH = 14, 24
"""The ball moves at most this number of pixels up or down, and to a side, in a step near a bounce."""

LEAST_STEP = 1
"""Of the two steps before and after a turn, each is longer than this: the ball's place is a pixel off now and then."""

SHARES = (-0.2, 0.8)
"""Where in a step the path turns, by rounded places."""

AWAY_STEPS = 3
"""The walls hide the ball for fewer steps than this."""


def find_events(screens: PongState, numbers: np.ndarray) -> np.ndarray:
    """(N - 1, E) bool, what happens between each screen and the one after; nothing where frame numbers have a gap."""
    is_whole = np.diff(numbers) == 1
    step = np.diff(screens.paddle)
    ball = behind_walls(screens.ball)
    across, down = turns(ball[:, 0], is_whole), turns(ball[:, 1], is_whole)
    own = across & near(ball[:, 0], PADDLE_COLUMNS, PADDLE_REACH)
    enemy = across & near(ball[:, 0], ENEMY_COLUMNS, PADDLE_REACH)
    middle = BALL_HEIGHT / 2
    wall = down & near(ball[:, 1], (FIELD_ROWS[0] + middle, FIELD_ROWS[1] - middle), WALL_REACH, inside=True)
    with np.errstate(invalid="ignore"):
        events = np.stack(
            [
                step < 0,
                step > 0,
                step == 0,
                own,
                enemy,
                wall & ~around(own | enemy),
                has_grown(screens.score),
                has_grown(screens.enemy_score),
                serves(screens.ball_away),
            ],
            axis=1,
        )
    events[~is_whole] = False
    return events


def behind_walls(ball: np.ndarray) -> np.ndarray:
    """The path (N, 2) with the ball put back where a wall hides it for one frame: as far behind it as it goes."""
    ball = ball.copy()
    limits = np.array([FIELD_ROWS[0] - BALL_HEIGHT / 2, FIELD_ROWS[1] + BALL_HEIGHT / 2])
    for row in np.flatnonzero(np.isnan(ball[1:-1, 0])) + 1:
        around = ball[[row - 1, row + 1]]
        if np.isnan(around).any():
            continue
        wall = limits[np.abs(limits - around[0, 1]).argmin()]
        if (np.abs(around[:, 1] - wall) <= WALL_REACH).all():
            ball[row] = around[:, 0].mean(), wall
    return ball


def turns(path: np.ndarray, is_whole: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: in this step the path (N,) turns round.

    The turning point is where the step before, gone on straight, meets the step after.
    """
    steps = np.diff(path)
    steps[~is_whole] = np.nan
    turned = np.zeros(len(steps), dtype=bool)
    before, step, after = steps[:-2], steps[1:-1], steps[2:]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (step - after) / (before - after)
        is_turn = (before * after < 0) & (np.abs(before) > LEAST_STEP) & (np.abs(after) > LEAST_STEP)
        turned[1:-1] = is_turn & (share >= SHARES[0]) & (share < SHARES[1])
    turned[1:] &= ~turned[:-1]  # the step after a turn may be the rest of it
    return turned


def near(path: np.ndarray, limits: tuple[float, float], reach: float, inside: bool = False) -> np.ndarray:
    """(N - 1,) bool: at the beginning or the end of this step the path (N,) is near what two limits enclose.

    With ``inside``, near one of the limits themselves.
    """
    with np.errstate(invalid="ignore"):
        if inside:
            is_near = np.minimum(np.abs(path - limits[0]), np.abs(path - limits[1])) <= reach
        else:
            is_near = (path >= limits[0] - reach) & (path <= limits[1] + reach)
    return is_near[:-1] | is_near[1:]


def around(happens: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: it happens in this step or in the one before or after."""
    wide = happens.copy()
    wide[1:] |= happens[:-1]
    wide[:-1] |= happens[1:]
    return wide


def has_grown(score: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: this score (N,) has a point more in the second frame."""
    return (np.diff(score) == 1) & (score[:-1] >= 0)


def serves(is_away: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: the ball comes back after it was away (N,) for longer than a wall hides it."""
    served = np.zeros(len(is_away) - 1, dtype=bool)
    away = 0
    for row, gone in enumerate(is_away[:-1]):
        away = away + 1 if gone else 0
        # The first frame of an episode is before its serve, if it has no ball.
        served[row] = gone and not is_away[row + 1] and (away >= AWAY_STEPS or away == row + 1)
    return served
