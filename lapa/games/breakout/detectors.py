"""Finds ball, paddle, bricks and digits in pictures: in recorded frames exactly, in drawn ones as far as they go."""

from __future__ import annotations

import functools

import numpy as np

from lapa.data.frames import LUMA
from lapa.games.breakout.screen import (
    BALL_HEIGHT,
    BALL_LEFTS,
    BALL_LUMA,
    BALL_WIDTH,
    BRICK_COLORS,
    BRICK_COLUMNS,
    BRICK_HEIGHT,
    BRICK_ROWS,
    BRICK_WIDTH,
    BRICKS_LEFT,
    BRICKS_TOP,
    CEILING,
    DIGIT_LUMA,
    DIGIT_ROWS,
    DIGIT_WIDTH,
    FRAME_SIZE,
    FREE_ROWS,
    LIVES_LEFT,
    PADDLE_ROWS,
    PADDLE_WIDTH,
    SCORE_LEFTS,
    WALL_BLUE,
    WALLS,
    ScreenState,
)
from lapa.games.finding import brightest_window, glyph_pictures, nearest_digit

LIT = 30
"""All that the game draws has more red than this, of 255; the ground has none."""

BALL_MARGIN = 2
"""Recorded pixels around the found ball's window in which light belongs to it: a drawn ball may be soft."""


def find_ball(luma: np.ndarray, downsample: int) -> np.ndarray:
    """Centre (x, y) of the ball in each frame (N, H', W'), NaN where none is drawn.

    The ball is the brightest window of ball size between bricks and paddle. It counts as drawn when the window holds
    at least half of a whole ball's light.
    """
    return _brightest(_free_zone(luma, downsample), downsample)[0]


def find_balls(luma: np.ndarray, downsample: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, and (N,) bool: apart from that ball something else is drawn that would count as one."""
    k = downsample
    zone = _free_zone(luma, k)
    centre, corner = _brightest(zone, k)
    height, width = _window(k)
    margin = -(-BALL_MARGIN // k)
    down, across = (np.arange(side) for side in zone.shape[1:])
    rows, columns = corner[:, :1], corner[:, 1:]
    is_near = (down >= rows - margin) & (down < rows + height + margin)
    is_beside = (across >= columns - margin) & (across < columns + width + margin)
    rest = np.where(is_near[:, :, None] & is_beside[:, None], 0, zone)
    is_extra: np.ndarray = ~np.isnan(centre[:, 0]) & ~np.isnan(_brightest(rest, k)[0][:, 0])
    return centre, is_extra


def _free_zone(luma: np.ndarray, k: int) -> np.ndarray:
    """The pixels between bricks and paddle, (N, H'', W'')."""
    return luma[:, -(-FREE_ROWS[0] // k) : FREE_ROWS[1] // k, WALLS[0] // k : WALLS[1] // k]


def _window(k: int) -> tuple[int, int]:
    """Height and width of a ball in pixels of the picture."""
    # One pixel more than the ball covers: it rarely sits on the borders of downsampled pixels.
    return BALL_HEIGHT // k + (k > 1), BALL_WIDTH // k + (k > 1)


def _brightest(zone: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ball's centre, as :func:`find_ball` has it, and row and column of its window's corner in the zone."""
    light, mass, corner = brightest_window(zone, _window(k), (-(-FREE_ROWS[0] // k), WALLS[0] // k))
    centre = k * light
    centre[mass < 0.5 * BALL_LUMA * BALL_WIDTH * BALL_HEIGHT / k**2] = np.nan
    return centre, corner


def find_paddle(luma: np.ndarray, downsample: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre x and width of the paddle in each frame (N, H', W'), NaN where less than a third of one is drawn.

    A third, since the walls can hide half of it.
    """
    k = downsample
    left = WALLS[0] // k
    band = luma[:, -(-PADDLE_ROWS[0] // k) : PADDLE_ROWS[1] // k, left : WALLS[1] // k]
    profile = band.mean(1)  # (N, columns)
    window = PADDLE_WIDTH // k
    light = np.lib.stride_tricks.sliding_window_view(profile, window, axis=1).sum(-1)
    best = light.argmax(1)
    # Refine between whole pixels: the window's neighbours on both sides say where its edges really are.
    padded = np.pad(profile, ((0, 0), (1, 1)))
    around = np.lib.stride_tricks.sliding_window_view(padded, window + 2, axis=1)[np.arange(len(best)), best]
    around = np.clip(around, 0, BALL_LUMA)
    x = (around * (np.arange(window + 2) - 0.5)).sum(1) / np.maximum(around.sum(1), 1e-6)
    is_drawn = light.max(1) >= BALL_LUMA * window / 3
    centre, width = k * (left + best + x), k * around.sum(1) / BALL_LUMA
    return np.where(is_drawn, centre, np.nan), np.where(is_drawn, width, np.nan)


def find_bricks(luma: np.ndarray, downsample: int) -> np.ndarray:
    """Which bricks stand in each frame (N, H', W'): (N, 6, 18) bool, a brick being at least half lit."""
    k = downsample
    standing = np.empty((len(luma), BRICK_ROWS, BRICK_COLUMNS), dtype=bool)
    for row, color in enumerate(BRICK_COLORS):
        top = BRICKS_TOP + row * BRICK_HEIGHT
        band = luma[:, -(-top // k) : (top + BRICK_HEIGHT) // k, BRICKS_LEFT // k : WALLS[1] // k].mean(1)
        cells = band.reshape(len(luma), BRICK_COLUMNS, BRICK_WIDTH // k).mean(2)
        full = np.dot(color, LUMA) / 65536 / 255
        standing[:, row] = cells > full / 2
    return standing


def find_digits(luma: np.ndarray, downsample: int) -> tuple[np.ndarray, np.ndarray]:
    """Score and lives in each frame (N, H', W'): (N,) int64 each, -1 where a digit is missing.

    Each digit is the nearest of the ten glyphs and of nothing, by squared error.
    """
    k = downsample
    rows = slice(DIGIT_ROWS[0] // k, -(-DIGIT_ROWS[1] // k))
    glyphs = _glyphs(k)  # (11, h, w)
    digits = []
    for left in (*SCORE_LEFTS, LIVES_LEFT):
        cell = luma[:, rows, left // k : (left + DIGIT_WIDTH) // k]
        digits.append(nearest_digit(cell, glyphs))
    *score, lives = digits
    hundreds, tens, units = score
    return np.where(np.min(score, axis=0) < 0, -1, 100 * hundreds + 10 * tens + units), lives


@functools.cache
def _glyphs(k: int) -> np.ndarray:
    """(11, h, w), first nothing, then the digits, as they look when k x k pixels are one."""
    return DIGIT_LUMA * glyph_pictures(DIGIT_ROWS, (2, 4), k)


def read_screens(frames: np.ndarray) -> ScreenState:
    """All elements of recorded frames (N, 210, 160, 3) uint8 RGB.

    The ball is found wherever it is seen, also among the bricks, and is NaN elsewhere.
    """
    assert frames.shape[1:3] == FRAME_SIZE
    red, blue = frames[..., 0], frames[..., 2]
    left, right = _ends_of_paddle(red[:, PADDLE_ROWS[0] : PADDLE_ROWS[1], WALLS[0] : WALLS[1]] > LIT)
    rows, columns = slice(BRICKS_TOP, BRICKS_TOP + BRICK_ROWS * BRICK_HEIGHT), slice(*WALLS)
    field: np.ndarray = (red > LIT) & (blue != WALL_BLUE)
    cells = field[:, rows, columns].reshape(len(frames), BRICK_ROWS, BRICK_HEIGHT, BRICK_COLUMNS, BRICK_WIDTH)
    bricks = cells.mean((2, 4)) > 0.5
    # What is neither brick nor paddle nor wall is the ball.
    field[:, rows, columns] &= ~bricks.repeat(BRICK_HEIGHT, 1).repeat(BRICK_WIDTH, 2)
    places = np.arange(FRAME_SIZE[1])
    is_paddle = (places >= left[:, None]) & (places < right[:, None])
    field[:, PADDLE_ROWS[0] : PADDLE_ROWS[1]] &= ~(is_paddle | (places < WALLS[0]) | (places >= WALLS[1]))[:, None]
    ball = _centre_of_ball(field)
    luma = red[:, :CEILING].astype(np.float32) / 255
    score, lives = find_digits(luma, 1)
    with np.errstate(invalid="ignore"):
        top = ball[:, 1] - BALL_HEIGHT / 2
        free = (top >= FREE_ROWS[0]) & (top + BALL_HEIGHT <= FREE_ROWS[1])
    return ScreenState(
        ball=ball,
        ball_free=free,
        ball_away=np.isnan(ball[:, 0]) | (top + BALL_HEIGHT <= FREE_ROWS[0]) | (top >= FREE_ROWS[1]),
        ball_speed=np.full(len(frames), np.nan),
        paddle=(left + right) / 2,
        paddle_width=right - left,
        bricks=bricks,
        score=score,
        lives=lives,
    )


def _centre_of_ball(field: np.ndarray) -> np.ndarray:
    """(N, 210, 160) bool -> (N, 2), the middle of what is lit between ceiling and paddle, NaN where nothing is.

    What the paddle's upper or lower edge cuts off is added.
    """
    field = field[:, CEILING : PADDLE_ROWS[1], BALL_LEFTS[0] : BALL_LEFTS[1] + BALL_WIDTH]
    across, down = np.any(field, axis=1), np.any(field, axis=2)
    left, right = across.argmax(1), across.shape[1] - across[:, ::-1].argmax(1)
    top, bottom = CEILING + down.argmax(1), CEILING + down.shape[1] - down[:, ::-1].argmax(1)
    bottom = np.where(np.isin(bottom, PADDLE_ROWS), top + BALL_HEIGHT, bottom)
    centre = np.stack([BALL_LEFTS[0] + (left + right) / 2, (top + bottom) / 2], axis=1)
    centre[~down.any(1)] = np.nan
    return centre


def _ends_of_paddle(band: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, rows, columns) bool between the walls -> the columns of the paddle's edges, (N,) float, NaN without one.

    The paddle is where most columns are lit over all rows; the ball beside it may be lit too.
    """
    lit = np.all(band, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(lit, PADDLE_WIDTH, axis=1)
    best = windows.sum(2).argmax(1)
    chosen = windows[np.arange(len(lit)), best]
    left = WALLS[0] + best + chosen.argmax(1)
    right = WALLS[0] + best + PADDLE_WIDTH - chosen[:, ::-1].argmax(1)
    is_there = chosen.any(1)
    return np.where(is_there, left, np.nan), np.where(is_there, right, np.nan)
