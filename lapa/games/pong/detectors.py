"""Finds ball, paddles and scores in pictures: in recorded frames exactly, in drawn ones as far as they go."""

from __future__ import annotations

import functools

import numpy as np

from lapa.games.finding import brightest_window, glyph_pictures, lit_span, nearest_digit
from lapa.games.game import State
from lapa.games.pong.screen import (
    BALL_COLOR,
    BALL_HEIGHT,
    BALL_LUMA,
    BALL_WIDTH,
    DIGIT_POINT,
    DIGIT_ROWS,
    DIGIT_WIDTH,
    ENEMY_COLORS,
    ENEMY_COLUMNS,
    ENEMY_LUMA,
    ENEMY_SCORE_LEFTS,
    FIELD_ROWS,
    FRAME_SIZE,
    GROUND_LUMA,
    PADDLE_COLORS,
    PADDLE_COLUMNS,
    PADDLE_HEIGHT,
    PADDLE_LUMA,
    PART_SEEN,
    SCORE_LEFTS,
    PongState,
)

LEAST_ROWS = 3
"""A paddle counts as drawn from this number of rows' light: the ball in its columns has that of two."""


def find_elements(luma: np.ndarray, downsample: int) -> State:
    """Ball, paddles and scores in predicted frames.

    Args:
        luma: (N, H', W') in [0, 1].
        downsample: k x k recorded pixels are one of these.

    Returns:
        ``ball`` (N, 2), ``paddle`` and ``enemy`` (N,), NaN where none is drawn; ``ball_extra`` (N,) bool, a second ball
        is drawn; ``score`` and ``enemy_score`` (N,) int64, -1 where there is no digit.
    """
    ball, extra = find_balls(luma, downsample)
    return {
        "ball": ball,
        "ball_extra": extra,
        "paddle": find_paddle(luma, downsample, PADDLE_COLUMNS, PADDLE_LUMA),
        "enemy": find_paddle(luma, downsample, ENEMY_COLUMNS, ENEMY_LUMA),
        "score": find_score(luma, downsample, SCORE_LEFTS, PADDLE_LUMA),
        "enemy_score": find_score(luma, downsample, ENEMY_SCORE_LEFTS, ENEMY_LUMA),
    }


def find_balls(luma: np.ndarray, downsample: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) of the ball in each frame (N, H', W'), NaN where none is drawn, and (N,) bool, is there another.

    The ball is the brightest window of ball size between the walls; on a paddle only what is brighter than the paddle
    is light. It counts as drawn when the window holds at least half of a whole ball's light.
    """
    k = downsample
    top = FIELD_ROWS[0] // k
    field = luma[:, top : FIELD_ROWS[1] // k]
    light = (field - GROUND_LUMA) / (BALL_LUMA - GROUND_LUMA)
    rows = FIELD_ROWS[0] + k * (np.arange(field.shape[1]) + 0.5)
    # What little a wall leaves of a paddle is not found as one.
    at_wall = np.minimum(rows - FIELD_ROWS[0], FIELD_ROWS[1] - rows) < PART_SEEN
    for (left, right), dark in ((PADDLE_COLUMNS, PADDLE_LUMA), (ENEMY_COLUMNS, ENEMY_LUMA)):
        columns = slice(left // k, right // k)
        paddle = find_paddle(luma, k, (left, right), dark)
        is_on = np.abs(rows - paddle[:, None]) < (PADDLE_HEIGHT + k) / 2  # (N, rows)
        is_on |= at_wall
        on_paddle = (field[:, :, columns] - dark) / (BALL_LUMA - dark)
        light[:, :, columns] = np.where(is_on[:, :, None], on_paddle, light[:, :, columns])
    light = light.clip(0, 1)
    # One pixel more than the ball covers: it rarely sits on the borders of downsampled pixels.
    window = (BALL_HEIGHT // k + (k > 1), BALL_WIDTH // k + (k > 1))
    least = 0.5 * BALL_WIDTH * BALL_HEIGHT / k**2
    place, mass, _ = brightest_window(light, window)
    near, beside = (
        np.abs(np.arange(light.shape[axis]) + 0.5 - place[:, 2 - axis, None]) <= window[axis - 1] for axis in (1, 2)
    )
    light[near[:, :, None] & beside[:, None, :]] = 0
    _, second, _ = brightest_window(light, window)
    centre = k * (place + np.array([0, top]))
    centre[mass < least] = np.nan
    return centre, second >= least


def find_paddle(luma: np.ndarray, downsample: int, columns: tuple[int, int], bright: float) -> np.ndarray:
    """Centre y of what is seen of a paddle in each frame (N, H', W'), NaN where none is drawn."""
    k = downsample
    top = FIELD_ROWS[0] // k
    band = luma[:, top : FIELD_ROWS[1] // k, columns[0] // k : columns[1] // k]
    profile = ((band - GROUND_LUMA) / (bright - GROUND_LUMA)).clip(0, 1).mean(2)  # (N, rows)
    window = PADDLE_HEIGHT // k
    best = np.lib.stride_tricks.sliding_window_view(profile, window, axis=1).sum(-1).argmax(1)
    # A row more on both sides says where the edges really are.
    padded = np.pad(profile, ((0, 0), (1, 1)))
    around = np.lib.stride_tricks.sliding_window_view(padded, window + 2, axis=1)[np.arange(len(best)), best]
    light = around.sum(1)
    y = (around * (np.arange(window + 2) - 0.5)).sum(1) / np.maximum(light, 1e-6)
    return np.where(light * k >= LEAST_ROWS, k * (top + best + y), np.nan)


def find_score(luma: np.ndarray, downsample: int, lefts: tuple[int, int], bright: float) -> np.ndarray:
    """(N,) int64, a score in each frame (N, H', W'), -1 where its last digit is missing."""
    return _score((luma - GROUND_LUMA) / (bright - GROUND_LUMA), downsample, lefts)


def _score(light: np.ndarray, k: int, lefts: tuple[int, int]) -> np.ndarray:
    rows = slice(DIGIT_ROWS[0] // k, -(-DIGIT_ROWS[1] // k))
    tens, units = (nearest_digit(light[:, rows, left // k : (left + DIGIT_WIDTH) // k], _glyphs(k)) for left in lefts)
    return np.where(units < 0, -1, 10 * tens.clip(0) + units)


@functools.cache
def _glyphs(k: int) -> np.ndarray:
    """(11, h, w) in [0, 1], first nothing, then the digits, as they look when k x k pixels are one."""
    return glyph_pictures(DIGIT_ROWS, DIGIT_POINT, k)


def read_screens(frames: np.ndarray) -> PongState:
    """All elements of recorded frames (N, 210, 160, 3) uint8 RGB.

    The ball is NaN where it is not seen; what a wall hides of it is added.
    """
    assert frames.shape[1:3] == FRAME_SIZE
    field = frames[:, slice(*FIELD_ROWS)]
    ball = _centre_of_ball(_has_color(field, BALL_COLOR))
    paddle, _ = _paddle(field, PADDLE_COLUMNS, PADDLE_COLORS)
    enemy, rows = _paddle(field, ENEMY_COLUMNS, ENEMY_COLORS)
    half = BALL_HEIGHT / 2
    with np.errstate(invalid="ignore"):
        seen = (ball[:, 1] >= FIELD_ROWS[0] + half) & (ball[:, 1] <= FIELD_ROWS[1] - half)
        enemy_seen = rows >= PART_SEEN
    digits = frames[:, : DIGIT_ROWS[1]]
    return PongState(
        ball=ball,
        ball_seen=seen,
        ball_away=np.isnan(ball[:, 0]),
        paddle=paddle,
        enemy=enemy,
        enemy_seen=enemy_seen,
        score=_score(_has_color(digits, *PADDLE_COLORS).astype(np.float32), 1, SCORE_LEFTS),
        enemy_score=_score(_has_color(digits, *ENEMY_COLORS).astype(np.float32), 1, ENEMY_SCORE_LEFTS),
    )


def _has_color(frames: np.ndarray, *colors: tuple[int, int, int]) -> np.ndarray:
    """(N, H, W) bool, which pixels have one of the colours."""
    has: np.ndarray = np.zeros(frames.shape[:3], dtype=bool)
    for color in colors:
        has |= (frames == np.array(color, dtype=np.uint8)).all(-1)
    return has


def _centre_of_ball(lit: np.ndarray) -> np.ndarray:
    """(N, rows of the field, 160) bool -> (N, 2), NaN where nothing is lit."""
    left, right = lit_span(np.any(lit, axis=1))
    top, bottom = (FIELD_ROWS[0] + edge for edge in lit_span(np.any(lit, axis=2)))
    is_cut = bottom - top < BALL_HEIGHT
    top = np.where(is_cut & (top == FIELD_ROWS[0]), bottom - BALL_HEIGHT, top)
    bottom = np.where(is_cut & (bottom == FIELD_ROWS[1]), top + BALL_HEIGHT, bottom)
    return np.stack([(left + right) / 2, (top + bottom) / 2], axis=1)


def _paddle(
    field: np.ndarray, columns: tuple[int, int], colors: tuple[tuple[int, int, int], ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Centre y and height of what is seen of a paddle, NaN where nothing is."""
    top, bottom = lit_span(np.any(_has_color(field[:, :, slice(*columns)], *colors), axis=2))
    return FIELD_ROWS[0] + (top + bottom) / 2, bottom - top
