"""Where the screen and the RAM have ball, paddles and scores.

Positions are in pixels of the recorded 210 x 160 frame, as edges: the ball spans ``left`` to ``left + 2``. The player
is on the right, in green; the enemy, whom the console plays, is on the left.
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

FIELD_ROWS = (34, 194)  # between the walls
BALL_WIDTH, BALL_HEIGHT = 2, 4
PADDLE_HEIGHT = 16
ENEMY_COLUMNS, PADDLE_COLUMNS = (16, 20), (140, 144)
PART_SEEN = 4
"""A paddle of which the walls leave this number of rows is seen. Of the player's they leave no fewer."""

DIGIT_ROWS, DIGIT_WIDTH, DIGIT_POINT = (1, 21), 12, (4, 4)
ENEMY_SCORE_LEFTS, SCORE_LEFTS = (20, 36), (100, 116)  # of tens and units; there are no tens below 10

# The first frame after a reset has colours of its own.
GROUND_COLORS = ((144, 72, 17), (109, 118, 43))
BALL_COLOR = (236, 236, 236)
PADDLE_COLORS = ((92, 186, 92), (101, 111, 228))
ENEMY_COLORS = ((213, 130, 74), (210, 182, 86))


def luma_of(color: tuple[int, int, int]) -> float:
    """The luma of an RGB colour, in [0, 1]."""
    return float(np.dot(color, LUMA) / 65536 / 255)


GROUND_LUMA, BALL_LUMA = luma_of(GROUND_COLORS[0]), luma_of(BALL_COLOR)
PADDLE_LUMA, ENEMY_LUMA = luma_of(PADDLE_COLORS[0]), luma_of(ENEMY_COLORS[0])

RAM_ENEMY_SCORE, RAM_SCORE, RAM_BALL_X, RAM_ENEMY_Y, RAM_PADDLE_Y, RAM_BALL_Y = 13, 14, 49, 50, 51, 54
RAM_SOUND, POINT_SOUND = 11, 63
"""A point counts, and sounds, when the ball has left the field. If the RAM still has the ball then, the picture shows
the point one frame later."""
RAM_BALL_DOWN, RAM_BALL_LEFT = 56, 58
"""Signed speeds of the ball in pixels a frame, positive downwards and to the left."""
# From memory to edges on screen. All are exact, but for the ball's top, which in one frame of twenty is a pixel higher.
BALL_LEFT, BALL_TOP, ENEMY_TOP, PADDLE_TOP = -49, -14, -15, -13

ACTION_CLASSES = ("stay", "up", "down")


def is_pong(meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
    """Whether an episode says that it was recorded from Pong, at full size."""
    name = str(meta.get("env_id")).rpartition("/")[2]
    return name.startswith("Pong") and frame_size == FRAME_SIZE


def action_classes(actions: np.ndarray, meanings: list[str]) -> np.ndarray:
    """What the paddle was told: an index of :data:`ACTION_CLASSES`. RIGHT turns the knob up, LEFT down."""
    table = np.array([1 if m.startswith("RIGHT") else 2 if m.startswith("LEFT") else 0 for m in meanings])
    return table[actions]


@dataclasses.dataclass(frozen=True)
class PongState:
    """What there is on N screens, by the RAM or as found in pictures.

    Attributes:
        ball: (N, 2) centre of the ball as (x, y).
        ball_seen: (N,) bool, the ball lies wholly between the walls.
        ball_away: (N,) bool, no part of it is seen.
        paddle: (N,) centre y of the player's paddle, of what the walls leave of it.
        enemy: (N,) the same of the enemy's paddle.
        enemy_seen: (N,) bool, the walls leave at least :data:`PART_SEEN` rows of it.
        score: (N,) points of the player, as the picture shows them.
        enemy_score: (N,) points of the enemy, likewise.
    """

    ball: np.ndarray
    ball_seen: np.ndarray
    ball_away: np.ndarray
    paddle: np.ndarray
    enemy: np.ndarray
    enemy_seen: np.ndarray
    score: np.ndarray
    enemy_score: np.ndarray


def screen_state(ram: np.ndarray) -> PongState:
    """Reads (N, bytes) uint8 of RAM."""
    memory = ram.astype(np.int64)
    left, top = memory[:, RAM_BALL_X] + BALL_LEFT, memory[:, RAM_BALL_Y] + BALL_TOP
    # Before the first serve the ball waits at x = 0.
    is_there = (memory[:, RAM_BALL_X] > 0) & (memory[:, RAM_BALL_Y] > 0)
    own_top = (memory[:, RAM_PADDLE_Y] + PADDLE_TOP) // 2 * 2  # drawn two rows at a time
    paddle = np.stack([own_top, own_top + PADDLE_HEIGHT]).clip(*FIELD_ROWS)
    enemy_top = memory[:, RAM_ENEMY_Y] + ENEMY_TOP
    enemy = np.stack([enemy_top, enemy_top + PADDLE_HEIGHT]).clip(*FIELD_ROWS)
    not_yet = is_there & (memory[:, RAM_SOUND] == POINT_SOUND)
    is_left = left < FRAME_SIZE[1] / 2
    return PongState(
        ball=np.stack([left + BALL_WIDTH / 2, top + BALL_HEIGHT / 2], axis=1),
        ball_seen=is_there & (top >= FIELD_ROWS[0]) & (top + BALL_HEIGHT <= FIELD_ROWS[1]),
        ball_away=~is_there | (top + BALL_HEIGHT <= FIELD_ROWS[0]) | (top >= FIELD_ROWS[1]),
        paddle=paddle.mean(0),
        enemy=enemy.mean(0),
        enemy_seen=enemy[1] - enemy[0] >= PART_SEEN,
        score=memory[:, RAM_SCORE] - (not_yet & is_left),
        enemy_score=memory[:, RAM_ENEMY_SCORE] - (not_yet & ~is_left),
    )
