"""What only Breakout has: where the console keeps ball, paddle and bricks, and how to find them in pictures.

Positions are in pixels of the recorded 210 x 160 frame, as edges: the ball spans ``left`` to ``left + 2``.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from lapa.data.episodes import Truth
from lapa.data.frames import LUMA

FRAME_SIZE = (210, 160)
RAM_PADDLE_X, RAM_BALL_X, RAM_BALL_Y = 72, 99, 101
# From memory to the left and top edges on screen, each exact in over 99 % of recorded frames.
PADDLE_LEFT, BALL_LEFT, BALL_TOP = -47, -49, 9

BALL_WIDTH, BALL_HEIGHT = 2, 4
PADDLE_WIDTH = 16
PADDLE_ROWS = (189, 193)
WALLS = (8, 152)
FREE_ROWS = (93, 189)  # between bricks and paddle nothing but the ball is ever drawn
BALL_LUMA = (LUMA[0] * 200 + LUMA[1] * 72 + LUMA[2] * 72) / 65536 / 255  # the paddle has the same colour
BRICKS_TOP, BRICKS_LEFT, BRICK_HEIGHT, BRICK_WIDTH, BRICK_ROWS, BRICK_COLUMNS = 57, 8, 6, 8, 6, 18
BRICK_COLORS = ((200, 72, 72), (198, 108, 58), (180, 122, 48), (162, 162, 42), (72, 160, 72), (66, 72, 200))

MAX_DOWNSAMPLE = 2
"""Beyond this the elements are too small to be told apart."""


def is_breakout(truth: Truth, frame_size: tuple[int, int]) -> bool:
    """Whether an episode says that it was recorded from Breakout, at full size."""
    return "Breakout" in str(truth.meta.get("env_id")) and frame_size == FRAME_SIZE


def action_classes(actions: np.ndarray, meanings: list[str]) -> np.ndarray:
    """What the paddle was told, which is all that can be seen: 0 stay (NOOP, FIRE), 1 right, 2 left."""
    table = np.array([1 if m == "RIGHT" else 2 if m == "LEFT" else 0 for m in meanings])
    return table[actions]


@dataclasses.dataclass(frozen=True)
class ScreenState:
    """What the console's memory says of N frames.

    Attributes:
        ball: (N, 2) centre of the ball as (x, y).
        ball_free: (N,) bool, the ball is in play and lies wholly between bricks and paddle.
        paddle: (N,) centre of the paddle, of what the walls leave of it.
    """

    ball: np.ndarray
    ball_free: np.ndarray
    paddle: np.ndarray


def screen_state(ram: np.ndarray) -> ScreenState:
    """Reads (N, bytes) uint8 of console memory."""
    memory = ram.astype(np.int64)
    paddle = memory[:, RAM_PADDLE_X] + PADDLE_LEFT
    left, top = memory[:, RAM_BALL_X] + BALL_LEFT, memory[:, RAM_BALL_Y] + BALL_TOP
    free = (memory[:, RAM_BALL_Y] > 0) & (top >= FREE_ROWS[0]) & (top + BALL_HEIGHT <= FREE_ROWS[1])
    free &= (left >= WALLS[0]) & (left + BALL_WIDTH <= WALLS[1])
    return ScreenState(
        ball=np.stack([left + BALL_WIDTH / 2, top + BALL_HEIGHT / 2], axis=1),
        ball_free=free,
        paddle=np.stack([paddle, paddle + PADDLE_WIDTH]).clip(*WALLS).mean(0),
    )


def to_luma(frames: np.ndarray) -> np.ndarray:
    """(N, C, H, W) in [0, 1], grey or RGB -> (N, H, W) luma in [0, 1]."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    return np.tensordot(frames, np.array(LUMA) / 65536, axes=(1, 0))


def find_ball(luma: np.ndarray, downsample: int) -> np.ndarray:
    """Centre (x, y) of the ball in each frame (N, H', W'), NaN where none is drawn.

    The ball is the brightest window of ball size in the free zone. It counts as drawn when the window holds at
    least half of a whole ball's light.
    """
    k = downsample
    top, left = -(-FREE_ROWS[0] // k), WALLS[0] // k
    zone = luma[:, top : FREE_ROWS[1] // k, left : WALLS[1] // k]
    # One pixel more than the ball covers: it rarely sits on the borders of downsampled pixels.
    window = (BALL_HEIGHT // k + (k > 1), BALL_WIDTH // k + (k > 1))
    patches = np.lib.stride_tricks.sliding_window_view(zone, window, axis=(1, 2))
    light = patches.sum((-2, -1))
    best = light.reshape(len(light), -1).argmax(1)
    rows, columns = np.unravel_index(best, light.shape[1:])
    chosen = patches[np.arange(len(light)), rows, columns]  # (N, window)
    chosen = np.clip(chosen, 1e-6, None)
    mass = chosen.sum((1, 2))
    y = (chosen.sum(2) * (np.arange(window[0]) + 0.5)).sum(1) / mass
    x = (chosen.sum(1) * (np.arange(window[1]) + 0.5)).sum(1) / mass
    centre = k * np.stack([left + columns + x, top + rows + y], axis=1)
    centre[mass < 0.5 * BALL_LUMA * BALL_WIDTH * BALL_HEIGHT / k**2] = np.nan
    return centre


def find_paddle(luma: np.ndarray, downsample: int) -> np.ndarray:
    """Centre x of the paddle in each frame (N, H', W'), NaN where less than a third of one is drawn.

    A third, since the walls can hide half of it.
    """
    k = downsample
    left = WALLS[0] // k
    band = luma[:, -(-PADDLE_ROWS[0] // k) : PADDLE_ROWS[1] // k, left : WALLS[1] // k]
    profile = band.mean(1)  # (N, columns)
    width = PADDLE_WIDTH // k
    light = np.lib.stride_tricks.sliding_window_view(profile, width, axis=1).sum(-1)
    best = light.argmax(1)
    # Refine between whole pixels: the window's neighbours on both sides say where its edges really are.
    padded = np.pad(profile, ((0, 0), (1, 1)))
    around = np.lib.stride_tricks.sliding_window_view(padded, width + 2, axis=1)[np.arange(len(best)), best]
    around = np.clip(around, 0, BALL_LUMA)
    x = (around * (np.arange(width + 2) - 0.5)).sum(1) / np.maximum(around.sum(1), 1e-6)
    centre = k * (left + best + x)
    centre[light.max(1) < BALL_LUMA * width / 3] = np.nan
    return centre


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


def element_metrics(
    prediction: np.ndarray, current: np.ndarray, next: np.ndarray, truth: ScreenState, downsample: int
) -> dict[str, float]:
    """Ball, paddle and bricks in predicted next frames, beside those of copying the current frame.

    Args:
        prediction: (N, H', W') luma in [0, 1].
        current: the true current frames.
        next: the true next frames.
        truth: what the memory says of the next frames.
        downsample: k x k recorded pixels are one of these frames.

    Returns:
        Shares in [0, 1] and distances in recorded pixels. ``ball/*`` is over frames where the ball flies free. A
        median distance is left out where more than half of the frames show nothing.
    """
    metrics: dict[str, float] = {"ball/free_frames": float(truth.ball_free.sum())}
    standing_before, standing = find_bricks(current, downsample), find_bricks(next, downsample)
    changed = standing_before != standing
    for name, frames in (("", prediction), ("copy_", current)):
        if truth.ball_free.any():
            ball = find_ball(frames[truth.ball_free], downsample)
            distance = np.linalg.norm(ball - truth.ball[truth.ball_free], axis=1)
            distance = np.where(np.isnan(distance), np.inf, distance)
            metrics[f"ball/{name}drawn"] = float(np.isfinite(distance).mean())
            metrics[f"ball/{name}within_4px"] = float((distance <= 4).mean())
            put_if_finite(metrics, f"ball/{name}median_px", float(np.median(distance)))
        offset = np.abs(find_paddle(frames, downsample) - truth.paddle)
        offset = np.where(np.isnan(offset), np.inf, offset)
        metrics[f"paddle/{name}within_2px"] = float((offset <= 2).mean())
        put_if_finite(metrics, f"paddle/{name}median_px", float(np.median(offset)))
        right = find_bricks(frames, downsample) == standing
        metrics[f"bricks/{name}accuracy"] = float(right.mean())
        if changed.any():
            metrics[f"bricks/{name}changed_accuracy"] = float(right[changed].mean())
    return metrics


def put_if_finite(metrics: dict[str, float], name: str, value: float) -> None:
    """Adds a figure unless it is infinite or NaN, which JSON cannot hold."""
    if np.isfinite(value):
        metrics[name] = value
