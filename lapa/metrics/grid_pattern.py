"""A grid in drawn frames: errors that repeat with the strides of the decoder, where the true frame is flat."""

from __future__ import annotations

import numpy as np

Stride = tuple[int, int]
"""Rows and columns after which a pattern repeats."""

SAME = 0.95
"""A pattern repeats at multiples of its stride too: the first stride above this share of the largest is named."""


class GridPattern:
    """Mean errors by phase, added batch by batch.

    The phase of a pixel is (row mod stride, column mod stride). A pixel counts where the true frame is constant in a
    window of two strides about it, so that no outline is near. The figure is the root of the variance of the phases'
    mean errors, in units of 1/255: 0 for a perfect picture, and for one that is too bright everywhere alike.

    Args:
        strides: those looked for; see :func:`strides_up_to`.
    """

    def __init__(self, strides: list[Stride]) -> None:
        self._sums: dict[Stride, np.ndarray] = {}
        self._counts = {stride: np.zeros(stride) for stride in strides}

    def add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Takes frames (B, C, H, W) in [0, 1] as drawn and as they are."""
        error = prediction.astype(np.float64) - target
        edges = _edges(target)
        for stride, counts in self._counts.items():
            flat = _flat(edges, stride)  # (B, H', W')
            if flat is None or not flat.any():
                continue
            height, width = flat.shape[1:]
            (rows, columns), channels = stride, error.shape[1]
            there = error[:, :, rows : rows + height, columns : columns + width]
            sums = np.einsum("bchw,bhw->chw", there, flat.astype(np.float64))
            phase = np.add.outer((np.arange(height) % rows) * columns, np.arange(width) % columns).ravel()
            # The first pixel is that of row `rows` and column `columns`, whose phase is (0, 0).
            counts += np.bincount(phase, flat.sum(0).ravel(), rows * columns).reshape(stride)
            totals = self._sums.setdefault(stride, np.zeros((channels, *stride)))
            for total, each in zip(totals, sums, strict=True):
                total += np.bincount(phase, each.ravel(), rows * columns).reshape(stride)

    def metrics(self) -> dict[str, float]:
        """``<rows>x<columns>`` for each stride of which every phase was seen: the figure, over all channels."""
        found = {}
        for stride, sums in self._sums.items():
            counts = self._counts[stride]
            if (counts > 0).all():
                variance = (sums / counts).reshape(len(sums), -1).var(1).mean()
                found["{}x{}".format(*stride)] = float(255 * np.sqrt(variance))
        return found


def strides_up_to(cell: Stride) -> list[Stride]:
    """2, 4, 8 and so on, in each direction at most the cell, and the cell itself."""
    strides: list[Stride] = []
    stride = 2
    while stride < max(cell):
        strides.append((min(stride, cell[0]), min(stride, cell[1])))
        stride *= 2
    return [*strides, cell] if max(cell) > 1 else []


def cell_of(size: tuple[int, int], grid: tuple[int, int]) -> Stride:
    """Rows and columns of a frame (H, W) for each place of a grid (h, w), rounded up."""
    return -(-size[0] // grid[0]), -(-size[1] // grid[1])


def strongest(found: dict[str, float]) -> tuple[str, float] | None:
    """Of the figures by stride: the first stride that has (nearly) the largest one, and the largest."""
    if not found:
        return None
    largest = max(found.values())
    return next(stride for stride, figure in found.items() if figure >= SAME * largest), largest


def _edges(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over rectangles from the corner of where a pixel differs from the one below, and from the one to its right.

    (B, H, W + 1) and (B, H + 1, W).
    """
    sums = []
    for axis in (2, 3):
        differs = (np.diff(target, axis=axis) != 0).any(1)
        total = differs.cumsum(1, dtype=np.int32).cumsum(2, dtype=np.int32)
        sums.append(np.pad(total, ((0, 0), (1, 0), (1, 0))))
    return sums[0], sums[1]


def _flat(edges: tuple[np.ndarray, np.ndarray], stride: Stride) -> np.ndarray | None:
    """(B, H', W'), whether the window of two strides about a pixel is constant; the first pixel is that at ``stride``.

    None if no window fits into the frame.
    """
    rows, columns = 2 * stride[0], 2 * stride[1]
    height, width = edges[0].shape[1], edges[1].shape[2]  # rows of differences and one, columns likewise
    if rows > height or columns > width:
        return None
    down = _windows(edges[0], rows - 1, columns)
    right = _windows(edges[1], rows, columns - 1)
    flat: np.ndarray = (down == 0) & (right == 0)
    return flat


def _windows(total: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Sum over each window of so many rows and columns, from sums over rectangles."""
    height, width = total.shape[1] - rows, total.shape[2] - columns
    window: np.ndarray = (
        total[:, rows:, columns:] - total[:, :height, columns:] - total[:, rows:, :width] + total[:, :height, :width]
    )
    return window
