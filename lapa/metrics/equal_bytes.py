"""What as many bytes as a frame's codes take would show without a model: block means, and runs of palette colours."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIMPLE_CODES = {"blocks": "block means", "runs": "palette runs"}
"""Those of :func:`coded`, in words."""

MAX_COLOURS = 256
"""A frame with more colours than this has no palette, and is not coded in runs."""


@dataclasses.dataclass(frozen=True)
class Coded:
    """Frames as a simple code of limited size shows them.

    Attributes:
        pictures: (B, C, H, W) in [0, 1].
        sizes: (B,) the k of each: k x k pixels of the frame are one of the picture.
    """

    pictures: Tensor
    sizes: np.ndarray


def coded(frames: Tensor, num_bytes: float) -> dict[str, Coded]:
    """Frames by each simple code that can keep within ``num_bytes`` a frame.

    Args:
        frames: (B, C, H, W) uint8.
        num_bytes: that a frame may take.

    Returns:
        ``blocks``, see :func:`block_means`, where a single block is small enough; ``runs``, see :func:`palette_runs`,
        where no frame has more than :data:`MAX_COLOURS` colours.
    """
    found: dict[str, Coded] = {}
    if size := block_size(tuple(frames.shape[1:]), num_bytes):
        found["blocks"] = Coded(block_means(frames, size), np.full(len(frames), size))
    runs = []
    for frame in frames.numpy():
        if (one := palette_runs(frame, num_bytes)) is None:
            return found
        runs.append(one)
    pictures = torch.from_numpy(np.stack([picture for picture, _ in runs])).float() / 255
    found["runs"] = Coded(pictures, np.array([size for _, size in runs]))
    return found


def block_size(shape: tuple[int, ...], num_bytes: float) -> int | None:
    """The smallest k for which the k x k blocks of a frame (C, H, W), at a byte a channel, fit; None if none does."""
    channels, height, width = shape
    for size in range(1, max(height, width) + 1):
        if channels * -(-height // size) * -(-width // size) <= num_bytes:
            return size
    return None


def block_means(frames: Tensor, size: int) -> Tensor:
    """(B, C, H, W) uint8 -> float in [0, 1]: the mean of each block, at 8 bits a channel, in all of its pixels.

    Blocks at the right and lower edges may be smaller.
    """
    height, width = frames.shape[2:]
    means = F.avg_pool2d(frames.float(), size, ceil_mode=True, count_include_pad=False).round() / 255
    return means.repeat_interleave(size, 2)[:, :, :height].repeat_interleave(size, 3)[..., :width]


def palette_runs(frame: np.ndarray, num_bytes: float) -> tuple[np.ndarray, int] | None:
    """A frame coded as runs of palette colours, made smaller until it fits.

    Of k x k pixels, the middle one is kept, with the smallest k that fits. A run is a colour and a length, row after
    row, in ceil(log2 colours) + ceil(log2 longest run) bits. The palette itself is not counted.

    Args:
        frame: (C, H, W) uint8.
        num_bytes: that it may take.

    Returns:
        The picture (C, H, W) uint8, and k; None if the frame has more than :data:`MAX_COLOURS` colours.
    """
    _, height, width = frame.shape
    packed = np.zeros((height, width), np.int32)
    for channel in frame:
        packed = (packed << 8) | channel
    for size in range(1, max(height, width) + 1):
        rows, columns = kept(height, size), kept(width, size)
        colours, bits = run_bits(packed[np.ix_(rows, columns)].ravel())
        if size == 1 and colours > MAX_COLOURS:
            return None
        if bits <= 8 * num_bytes:  # a single pixel takes none, so the last size fits
            break
    rows, columns = rows.repeat(size)[:height], columns.repeat(size)[:width]
    picture: np.ndarray = frame[:, rows][:, :, columns]
    return picture, size


def kept(length: int, size: int) -> np.ndarray:
    """The middle row or column of each block of ``size``; near the edge, the last one there is."""
    middle: np.ndarray = np.minimum(np.arange(0, length, size) + size // 2, length - 1)
    return middle


def run_bits(values: np.ndarray) -> tuple[int, int]:
    """Of (N,) colours: how many there are, and the bits that their runs take."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values)) + 1])
    longest = int(np.diff(np.append(starts, len(values))).max())
    colours = len(np.unique(values[starts]))
    return colours, len(starts) * ((colours - 1).bit_length() + (longest - 1).bit_length())
