"""What games share to find elements in pictures."""

from __future__ import annotations

import numpy as np

from lapa.data.frames import LUMA

DIGIT_GLYPHS = (
    ("###", "#.#", "#.#", "#.#", "###"),
    (".#.", ".#.", ".#.", ".#.", ".#."),
    ("###", "..#", "###", "#..", "###"),
    ("###", "..#", ".##", "..#", "###"),
    ("#.#", "#.#", "###", "..#", "..#"),
    ("###", "#..", "###", "..#", "###"),
    ("#..", "#..", "###", "#.#", "###"),
    ("###", "..#", "..#", "..#", "..#"),
    ("###", "#.#", "###", "#.#", "###"),
    ("###", "#.#", "###", "..#", "..#"),
)
"""The digits 0 to 9 as Breakout and Pong draw them, 3 points wide and 5 high."""


def to_luma(frames: np.ndarray) -> np.ndarray:
    """(N, C, H, W) in [0, 1], grey or RGB -> (N, H, W) luma in [0, 1]."""
    if frames.shape[1] == 1:
        return frames[:, 0]
    return np.tensordot(frames, np.array(LUMA) / 65536, axes=(1, 0))


def brightest_window(
    zone: np.ndarray, window: tuple[int, int], corner: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where most light is.

    Args:
        zone: (N, h, w) light.
        window: rows and columns that are summed.
        corner: row and column of the zone's first pixel in the picture.

    Returns:
        (N, 2), the centre of light of each brightest window, as (x, y) in pixels of the picture; (N,), its light; and
        (N, 2) int64, row and column of its first pixel in the zone.
    """
    patches = np.lib.stride_tricks.sliding_window_view(zone, window, axis=(1, 2))
    light = patches.sum((-2, -1))
    best = light.reshape(len(light), -1).argmax(1)
    rows, columns = np.unravel_index(best, light.shape[1:])
    chosen = patches[np.arange(len(light)), rows, columns]  # (N, window)
    chosen = np.clip(chosen, 1e-6, None)
    mass = chosen.sum((1, 2))
    y = (chosen.sum(2) * (np.arange(window[0]) + 0.5)).sum(1) / mass
    x = (chosen.sum(1) * (np.arange(window[1]) + 0.5)).sum(1) / mass
    centre = np.stack([corner[1] + columns + x, corner[0] + rows + y], axis=1)
    return centre, mass, np.stack([rows, columns], axis=1)


def glyph_pictures(rows: tuple[int, int], point: tuple[int, int], downsample: int) -> np.ndarray:
    """How nothing and the ten digits look when k x k pixels are one.

    Args:
        rows: first row of the digits in the picture, and the row after the last one.
        point: rows and columns of pixels of one point of a glyph. A digit begins on the border of a pixel.
        downsample: k.

    Returns:
        (11, h, w) in [0, 1], of the rows from ``rows[0] // k`` on.
    """
    k = downsample
    points = np.array([[[0] * 3] * 5, *([[c == "#" for c in row] for row in glyph] for glyph in DIGIT_GLYPHS)])
    width = 3 * point[1]
    whole = np.zeros((len(points), rows[1] + k, width))
    whole[:, rows[0] : rows[1]] = points.repeat(point[0], 1).repeat(point[1], 2)
    height = whole.shape[1] // k
    small = whole[:, : height * k].reshape(len(points), height, k, width // k, k).mean((2, 4))
    glyphs: np.ndarray = small[:, rows[0] // k : -(-rows[1] // k)]
    return glyphs


def nearest_digit(cell: np.ndarray, glyphs: np.ndarray) -> np.ndarray:
    """(N, h, w), (11, h, w) of nothing and the ten digits -> (N,) int64, the nearest, -1 for nothing."""
    return np.square(cell[:, None] - glyphs).sum((2, 3)).argmin(1) - 1


def lit_span(lit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, L) bool -> (N,) float each, the edges of what is lit, NaN where nothing is."""
    first, last = lit.argmax(1), lit.shape[1] - lit[:, ::-1].argmax(1)
    is_there = lit.any(1)
    return np.where(is_there, first, np.nan), np.where(is_there, last, np.nan)
