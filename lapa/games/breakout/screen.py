"""Where the screen and the RAM have ball, paddle, bricks and digits.

Positions are in pixels of the recorded 210 x 160 frame, as edges: the ball spans ``left`` to ``left + 2``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa.data.frames import LUMA

FRAME_SIZE = (210, 160)
MAX_DOWNSAMPLE = 2
"""Beyond this the elements are too small to be told apart."""

WALLS = (8, 152)
CEILING = 32
FREE_ROWS = (93, 189)  # between bricks and paddle nothing but the ball is ever drawn
WALL_BLUE = 142  # of their grey; nothing else has as much
BALL_WIDTH, BALL_HEIGHT = 2, 4
BALL_LEFTS = (6, 152)  # it turns when it is this far inside a wall
PADDLE_WIDTH, SMALL_PADDLE_WIDTH = 16, 12
PADDLE_ROWS = (189, 193)
BALL_LUMA = (LUMA[0] * 200 + LUMA[1] * 72 + LUMA[2] * 72) / 65536 / 255  # the paddle has the same colour
BRICKS_TOP, BRICKS_LEFT, BRICK_HEIGHT, BRICK_WIDTH, BRICK_ROWS, BRICK_COLUMNS = 57, 8, 6, 8, 6, 18
BRICK_COLORS = ((200, 72, 72), (198, 108, 58), (180, 122, 48), (162, 162, 42), (72, 160, 72), (66, 72, 200))
BRICK_POINTS = (7, 7, 4, 4, 1, 1)
DIGIT_ROWS = (5, 15)
DIGIT_WIDTH = 12
SCORE_LEFTS, LIVES_LEFT = (36, 52, 68), 100
DIGIT_LUMA = 142 / 255

RAM_LIVES, RAM_PADDLE_X, RAM_SCORE_HUNDREDS, RAM_SCORE, RAM_BALL_X, RAM_BALL_Y = 57, 72, 76, 77, 99, 101
RAM_BALL_DOWN, RAM_BALL_LEFT = 103, 105
"""Signed speeds of the ball, positive downwards and to the left."""
RAM_PADDLE_SIZE = 108
"""Half of the paddle's width in pixels: 8, or 6 once the ball has touched the ceiling, until it is lost."""
# From memory to the left and top edges on screen, each exact in over 99 % of recorded frames.
PADDLE_LEFT, BALL_LEFT, BALL_TOP = -47, -49, 9
# The byte of a brick in the lowest row and the upper of its two bits, by column; the row above is one byte on.
_BRICK_BITS = (
    *((30, 6), (24, 6), (24, 4), (24, 2), (24, 0), (18, 0), (18, 2), (18, 4), (18, 6)),
    *((12, 4), (12, 6), (6, 6), (6, 4), (6, 2), (6, 0), (0, 0), (0, 2), (0, 4)),
)


def is_breakout(meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
    """Whether an episode says that it was recorded from Breakout, at full size."""
    return "Breakout" in str(meta.get("env_id")) and frame_size == FRAME_SIZE


def action_classes(actions: np.ndarray, meanings: list[str]) -> np.ndarray:
    """What the paddle was told, which is all that can be seen: an index of :data:`ACTION_CLASSES`."""
    table = np.array([1 if m == "RIGHT" else 2 if m == "LEFT" else 0 for m in meanings])
    return table[actions]


ACTION_CLASSES = ("stay", "right", "left")
"""NOOP and FIRE leave the paddle where it is."""


@dataclasses.dataclass(frozen=True)
class ScreenState:
    """What there is on N screens, by the RAM or as found in pictures.

    Attributes:
        ball: (N, 2) centre of the ball as (x, y).
        ball_free: (N,) bool, the ball is in play and lies wholly between bricks and paddle.
        ball_away: (N,) bool, no part of it lies there.
        ball_speed: (N,) how far the ball falls or rises in a frame, in pixels, rounded up to 1, 2, or more; 0 without a
            ball, NaN where it is not known, as in a picture.
        paddle: (N,) centre of the paddle, of what the walls leave of it.
        paddle_width: (N,) of the paddle, of what the walls leave of it.
        bricks: (N, 6, 18) bool, which stand, from the top row.
        score: (N,) points.
        lives: (N,) left.
    """

    ball: np.ndarray
    ball_free: np.ndarray
    ball_away: np.ndarray
    ball_speed: np.ndarray
    paddle: np.ndarray
    paddle_width: np.ndarray
    bricks: np.ndarray
    score: np.ndarray
    lives: np.ndarray


def screen_state(ram: np.ndarray) -> ScreenState:
    """Reads (N, bytes) uint8 of RAM."""
    memory = ram.astype(np.int64)
    paddle = memory[:, RAM_PADDLE_X] + PADDLE_LEFT
    edges = np.stack([paddle, paddle + 2 * memory[:, RAM_PADDLE_SIZE]]).clip(*WALLS)
    left, top = memory[:, RAM_BALL_X] + BALL_LEFT, memory[:, RAM_BALL_Y] + BALL_TOP
    free = (memory[:, RAM_BALL_Y] > 0) & (top >= FREE_ROWS[0]) & (top + BALL_HEIGHT <= FREE_ROWS[1])
    free &= (left >= WALLS[0]) & (left + BALL_WIDTH <= WALLS[1])
    rows = [
        np.stack([memory[:, byte + row] >> bit & 1 for byte, bit in _BRICK_BITS], axis=1)
        for row in reversed(range(BRICK_ROWS))
    ]
    digits = (memory[:, RAM_SCORE_HUNDREDS] & 15, memory[:, RAM_SCORE] >> 4, memory[:, RAM_SCORE] & 15)
    return ScreenState(
        ball=np.stack([left + BALL_WIDTH / 2, top + BALL_HEIGHT / 2], axis=1),
        ball_free=free,
        ball_away=(memory[:, RAM_BALL_Y] == 0) | (top + BALL_HEIGHT <= FREE_ROWS[0]) | (top >= FREE_ROWS[1]),
        ball_speed=np.where(memory[:, RAM_BALL_Y] > 0, np.abs(ram[:, RAM_BALL_DOWN].astype(np.int8)), 0.0),
        paddle=edges.mean(0),
        paddle_width=edges[1] - edges[0],
        bricks=np.stack(rows, axis=1).astype(bool),
        score=100 * digits[0] + 10 * digits[1] + digits[2],
        lives=memory[:, RAM_LIVES],
    )
