"""How far a game of Breakout has come: what a recording should cover, and named moments to begin at."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from lapa.games.breakout.screen import BALL_HEIGHT, BRICKS_TOP, SMALL_PADDLE_WIDTH, WALLS
from lapa.games.game import Aspect, Start, State

WALL_POINTS = 432
"""Of all bricks. The wall comes back once, when the paddle next meets the ball."""

BRICK_BOUNDS = (0, 18, 54, 90)
SCORE_BOUNDS = (0, 99, 299, 431, 863)


def _bricks(state: State) -> np.ndarray:
    count: np.ndarray = state["bricks"].sum((1, 2))
    return count


def _is_in_play(state: State) -> np.ndarray:
    in_play: np.ndarray = state["ball_speed"] > 0
    return in_play


def _bricks_standing(state: State) -> np.ndarray:
    return 4 - np.searchsorted(BRICK_BOUNDS, _bricks(state))


def _points(state: State) -> np.ndarray:
    return np.where(state["score"] < 0, -1, np.searchsorted(SCORE_BOUNDS, state["score"]))


def _paddle(state: State) -> np.ndarray:
    centre, width = state["paddle"], state["paddle_width"]
    # A wall that hides some of a full paddle makes it look small.
    at_wall = (centre - width / 2 <= WALLS[0]) | (centre + width / 2 >= WALLS[1])
    is_small = (width == SMALL_PADDLE_WIDTH) & ~at_wall
    return np.where(width > SMALL_PADDLE_WIDTH, 0, np.where(is_small, 1, -1))


def _ball(state: State) -> np.ndarray:
    speed = np.nan_to_num(state["ball_speed"], nan=-1)
    return np.where(speed < 0, -1, np.minimum(speed, 3)).astype(np.int64)


def _lives(state: State) -> np.ndarray:
    lives = state["lives"]
    return np.where((lives < 0) | (lives > 5), -1, 5 - lives)


ASPECTS = (
    Aspect(
        "bricks standing",
        ("91 to 108", "55 to 90", "19 to 54", "1 to 18", "0"),
        _bricks_standing,
        starts=("serve", "quarter_cleared", "half_cleared", "last_bricks", "cleared"),
    ),
    Aspect(
        "points",
        ("0", "1 to 99", "100 to 299", "300 to 431", "432 to 863", "864"),
        _points,
        starts=("serve", "rally", "half_cleared", "last_bricks", "second_wall", "cleared"),
    ),
    Aspect("paddle", ("full", "small"), _paddle, starts=("serve", "tunnel")),
    Aspect("ball", ("no", "slow", "medium", "fast"), _ball, starts=("serve", "serve", "rally", "tunnel")),
    Aspect("lives", ("5", "4", "3", "2", "1", "0"), _lives, starts=("serve",) * 6),
)

STARTS = MappingProxyType(
    {
        "serve": Start("a new game", lambda state: np.ones(len(state["score"]), dtype=bool)),
        "rally": Start("the ball is in play, a few bricks are broken", lambda s: _is_in_play(s) & (s["score"] >= 4)),
        "quarter_cleared": Start(
            "at most 84 bricks of the first wall stand",
            lambda s: _is_in_play(s) & (_bricks(s) <= 84) & (s["score"] < WALL_POINTS),
        ),
        "half_cleared": Start(
            "half of the first wall is gone",
            lambda s: _is_in_play(s) & (_bricks(s) <= 54) & (s["score"] < WALL_POINTS),
        ),
        "tunnel": Start(
            "the ball is above the first wall",
            lambda s: (
                _is_in_play(s)
                & (s["ball"][:, 1] < BRICKS_TOP - BALL_HEIGHT)
                & (_bricks(s) > 18)
                & (s["score"] < WALL_POINTS)
            ),
        ),
        "last_bricks": Start(
            "at most ten bricks of the first wall stand",
            lambda s: _is_in_play(s) & (_bricks(s) <= 10) & (s["score"] < WALL_POINTS),
        ),
        "wall_cleared": Start(
            "the first wall is gone, and comes back when the paddle next meets the ball",
            lambda s: (_bricks(s) == 0) & (s["score"] >= WALL_POINTS) & (s["score"] < 2 * WALL_POINTS),
            look_every=2,
        ),
        "second_wall": Start("the wall has come back", lambda s: (s["score"] >= WALL_POINTS) & (_bricks(s) > 90)),
        "last_wall": Start(
            "at most ten bricks of the second wall stand",
            lambda s: _is_in_play(s) & (s["score"] >= WALL_POINTS + 200) & (_bricks(s) <= 10),
        ),
        "cleared": Start(
            "no brick is left, and none will come", lambda s: _is_in_play(s) & (s["score"] >= 2 * WALL_POINTS)
        ),
    }
)

# The late ones take seconds of play to come to, so they are fewer.
MIX = (
    *("serve", "half_cleared", "last_bricks", "quarter_cleared", "tunnel", "wall_cleared"),
    *("serve", "half_cleared", "last_wall", "wall_cleared", "rally", "cleared"),
)
