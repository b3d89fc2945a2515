"""Pixel conversion: uint8 RGB at rest and in environments, float channels-first in [0, 1] in the model.

No other file converts pixels. ``prepare`` fixes what the model sees (colour, size) and stays uint8, so that
prepared frames are small, exact, and equal wherever they are made; ``to_float`` runs on the model's device.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lapa.compiled import can_compile, compiled
from lapa.device import full_float32
from lapa.errors import DataError

# ITU-R BT.601 luma in 16-bit fixed point; the same integers that Pillow's convert("L") uses.
LUMA = (19595, 38470, 7471)
PIXELS_AT_ONCE = 4 * 210 * 160
ROWS_AT_ONCE = 8


class Fitting(NamedTuple):
    """How frames are brought to one size.

    Attributes:
        resize: ``(rows, columns)``; None leaves them as they are.
        fit: ``"crop"`` cuts the centre to the shape of the target, ``"pad"`` adds black bars, ``"stretch"`` scales
            both sides by themselves.
    """

    resize: tuple[int, int] | None = None
    fit: str = "crop"


@dataclasses.dataclass(frozen=True)
class FrameFormat:
    """What a model sees of a recorded frame.

    Attributes:
        height: rows of a recorded frame.
        width: columns of a recorded frame.
        color: ``"grey"`` (ITU-R 601 luma, C = 1) or ``"rgb"`` (C = 3).
        downsample: k replaces each k x k block by its mean; what does not fill a block at the edge is cut.
        resize: ``(rows, columns)`` that frames are brought to first, by :func:`fit_channels`; None keeps their size.
        fit: how, as in :class:`Fitting`.
    """

    height: int
    width: int
    color: str = "grey"
    downsample: int = 1
    resize: tuple[int, int] | None = None
    fit: str = "crop"

    def __post_init__(self) -> None:
        if self.resize is not None:  # a file may hold a list
            rows, columns = self.resize
            object.__setattr__(self, "resize", (rows, columns))

    @property
    def channels(self) -> int:
        """C."""
        return 1 if self.color == "grey" else 3

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the prepared frame."""
        height, width = self.resize or (self.height, self.width)
        return height // self.downsample, width // self.downsample

    @property
    def is_resized(self) -> bool:
        """Whether ``resize`` changes anything."""
        return self.resize not in (None, (self.height, self.width))

    def of_size(self, frame_size: tuple[int, int]) -> FrameFormat:
        """The same for recorded frames of another ``(height, width)``."""
        return dataclasses.replace(self, height=frame_size[0], width=frame_size[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and JSON."""
        return dataclasses.asdict(self)


def prepare(frames: Tensor, frame_format: FrameFormat) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, C, H', W') uint8 as the model wants them, on the same device.

    Raises:
        DataError: the frames are not uint8 RGB of the format's size.
    """
    check_frames(frames.shape, str(frames.dtype).removeprefix("torch."), frame_format)
    if follows(frame_format) and frames.device.type == "cpu":
        following = FollowingFrames(frame_format)  # most rows of pixels are those of the frame before
        prepared = [following(frame[None]) for frame in frames.numpy()]
        return torch.cat(prepared) if prepared else prepare_together(frames, frame_format)
    # A few frames at a time stay in the processor's cache.
    count = max(1, PIXELS_AT_ONCE // (frame_format.height * frame_format.width))
    with full_float32():
        return torch.cat([prepare_together(some, frame_format) for some in frames.split(count)])


def follows(frame_format: FrameFormat) -> bool:
    """Whether :class:`FollowingFrames` saves anything: not where pixels are only moved, and not where it cannot fit."""
    changes_pixels = frame_format.color == "grey" or frame_format.downsample > 1
    return can_compile() and changes_pixels and not frame_format.is_resized


class FollowingFrames:
    """:func:`prepare` for the frames of games as they go on: only what has changed since the last call. On the CPU.

    Args:
        frame_format: what the model sees.
    """

    def __init__(self, frame_format: FrameFormat) -> None:
        self.format = frame_format
        self._seen = np.empty(0, dtype=np.uint8)  # a copy of the last frames, for games may reuse their memory
        self._prepared = np.empty(0, dtype=np.uint8)

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(N, H, W, 3) uint8 RGB, each N after the N of the call before -> (N, C, H', W') uint8.

        Raises:
            DataError: the frames are not uint8 RGB of the format's size.
        """
        all_anew = frames.dtype != np.uint8 or frames.shape != self._seen.shape
        if all_anew:
            check_frames(frames.shape, str(frames.dtype), self.format)
        frames = np.ascontiguousarray(frames)  # flipped ones, too, which PyTorch does not take
        if not follows(self.format):
            return prepare(torch.from_numpy(frames), self.format)
        if all_anew:
            self._seen = np.empty_like(frames)
            self._prepared = np.empty((len(frames), self.format.channels, *self.format.size), dtype=np.uint8)
        prepare_changed(frames, self._seen, self._prepared, self.format.downsample, all_anew)
        return torch.from_numpy(self._prepared.copy())


@compiled
def prepare_changed(frames: np.ndarray, seen: np.ndarray, prepared: np.ndarray, size: int, all_anew: bool) -> None:
    """Brings ``prepared`` (N, C, H', W') up to date with ``frames`` (N, H, W, 3), and ``seen``, the frames before.

    What becomes a row of pixels is left as it is where no pixel of it has changed.

    Args:
        frames: uint8 RGB.
        seen: of the same shape; a row of it counts only if not ``all_anew``.
        prepared: uint8; C = 1 means luma.
        size: k, that of the blocks whose mean becomes a pixel.
        all_anew: prepares all rows.
    """
    count, channels, height, width = prepared.shape
    pixels = size * size
    for n in range(count):
        for row in range(height):
            block, before = frames[n, row * size : (row + 1) * size], seen[n, row * size : (row + 1) * size]
            bytes_now, bytes_before, changed = block.reshape(-1), before.reshape(-1), 0
            for i in range(len(bytes_now)):  # to the end: with a way out of the loop they are compared one by one
                changed |= bytes_now[i] ^ bytes_before[i]
            if not changed and not all_anew:
                continue
            before[:] = block
            for column in range(width):
                for channel in range(channels):
                    total = 0
                    for y in range(size):
                        for x in range(column * size, (column + 1) * size):
                            if channels == 1:
                                red, green, blue = block[y, x, 0], block[y, x, 1], block[y, x, 2]
                                total += (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15) >> 16
                            else:
                                total += block[y, x, channel]
                    prepared[n, channel, row, column] = (2 * total + pixels) // (2 * pixels)


def check_frames(shape: Sequence[int], dtype: str, frame_format: FrameFormat) -> None:
    """Checks a batch of recorded frames, (N, H, W, 3) uint8.

    Raises:
        DataError: they are not uint8 RGB of the format's size.
    """
    if dtype != "uint8" or tuple(shape[1:]) != (frame_format.height, frame_format.width, 3):
        raise DataError(
            f"frames are {tuple(shape[1:])} {dtype}, "
            f"but the model wants ({frame_format.height}, {frame_format.width}, 3) uint8; "
            "use raw RGB frames of the size it was trained on"
        )


def prepare_together(frames: Tensor, frame_format: FrameFormat) -> Tensor:
    """:func:`prepare` by nothing but operations on tensors, all frames at once."""
    channels = _luma(frames)[:, None] if frame_format.color == "grey" else frames.movedim(-1, 1)  # (N, C, H, W)
    if frame_format.resize and frame_format.is_resized:
        channels = fit_channels(channels, Fitting(frame_format.resize, frame_format.fit))
    if frame_format.downsample > 1:
        channels = _block_means(channels.float(), frame_format.downsample).add_(0.5).floor_()
    return channels.to(torch.uint8).contiguous()


def fit_frames(frames: Tensor, fitting: Fitting) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, H', W', 3) uint8 of the fitting's size; see :func:`fit_channels`."""
    return fit_channels(frames.movedim(-1, 1), fitting).movedim(1, -1).contiguous()


def fit_channels(channels: Tensor, fitting: Fitting) -> Tensor:
    """(N, C, H, W) whole numbers below 2^8 -> (N, C, H', W') uint8 of the fitting's size.

    Each new pixel is the mean of the area that it covers in the old picture, rounded half up. Exact: areas are counted
    in whole numbers, whose sums double precision holds. So the result depends on nothing but the picture.
    """
    size = channels.shape[2], channels.shape[3]
    if fitting.resize is None or fitting.resize == size:
        return channels.to(torch.uint8)
    (rows, columns), (top, left) = scaled_size(size, fitting)
    if fitting.fit == "crop":
        first_row, first_column, height, width = crop_window(size, fitting.resize)
        channels = channels[:, :, first_row : first_row + height, first_column : first_column + width]
    scaled = _area_means(channels, rows, columns)
    bottom, right = fitting.resize[0] - rows - top, fitting.resize[1] - columns - left
    return F.pad(scaled, (left, right, top, bottom)) if fitting.fit == "pad" else scaled


def crop_window(size: tuple[int, int], resize: tuple[int, int]) -> tuple[int, int, int, int]:
    """First row, first column, height and width of the centre of a picture that has the shape of ``resize``."""
    height, width = size
    height, width = min(height, _share(width, *resize)), min(width, _share(height, *resize[::-1]))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def scaled_size(size: tuple[int, int], fitting: Fitting) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns that a picture gets in the fitted one, and its first row and column there."""
    assert fitting.resize is not None
    rows, columns = fitting.resize
    if fitting.fit == "pad":
        rows, columns = min(rows, _share(columns, *size)), min(columns, _share(rows, *size[::-1]))
    return (rows, columns), ((fitting.resize[0] - rows) // 2, (fitting.resize[1] - columns) // 2)


def _share(length: int, part: int, whole: int) -> int:
    """``length * part / whole``, rounded half up, at least 1."""
    return max(1, (2 * length * part + whole) // (2 * whole))


def _area_means(channels: Tensor, rows: int, columns: int) -> Tensor:
    """(N, C, H, W) whole numbers below 2^8 -> (N, C, rows, columns) uint8, the means of areas, rounded half up."""
    down, height = _overlaps(channels.shape[2], rows, channels.device)
    across, width = _overlaps(channels.shape[3], columns, channels.device)
    parts = []
    for first in range(0, rows, ROWS_AT_ONCE):  # a few rows need only what lies below them
        last = min(first + ROWS_AT_ONCE, rows)
        begin, end = first * channels.shape[2] // rows, -(-last * channels.shape[2] // rows)
        parts.append(down[first:last, begin:end] @ channels[:, :, begin:end].double())
    sums = torch.cat(parts, dim=2) @ across.T
    area = height * width
    return sums.mul_(2).add_(area).div_(2 * area).floor_().to(torch.uint8)


@functools.cache
def _overlaps(old: int, new: int, device: torch.device) -> tuple[Tensor, int]:
    """(new, old) float64 whole numbers: the length that each new pixel of a side shares with each old one; its own.

    Lengths are counted in parts of which each old pixel has ``new`` and each new pixel ``old``, divided by what both
    have in common.
    """
    common = math.gcd(old, new)
    long, short = old // common, new // common
    begin_new, begin_old = np.arange(new)[:, None] * long, np.arange(old)[None] * short
    shared = np.minimum(begin_new + long, begin_old + short) - np.maximum(begin_new, begin_old)
    with torch.inference_mode(False):
        return torch.from_numpy(np.maximum(shared, 0).astype(np.float64)).to(device), long


def _luma(frames: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, H, W) float32 whole numbers.

    Some pixels at a time by one small matrix product, which takes a third of the time of arithmetic on the strided
    channels. Exact: all sums are whole multiples of 2^-16 below 2^8, which single precision holds.
    """
    matrix, half = _luma_matrix(math.gcd(frames.shape[2], 16), frames.device)
    pixels = frames.reshape(-1, matrix.shape[1]).float()
    return F.linear(pixels, matrix, half).floor_().view(frames.shape[:3])


@functools.cache
def _luma_matrix(group: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(group, 3 * group) that turns so many RGB pixels into their luma, and (group,) halves to round by."""
    with torch.inference_mode(False):  # it is kept, for any mode
        weights = torch.tensor(LUMA, device=device, dtype=torch.float32) * 2.0**-16
        return torch.block_diag(*weights.expand(group, 1, 3)), weights.new_full((group,), 0.5)


def _block_means(channels: Tensor, size: int) -> Tensor:
    """(N, C, H, W) float32 whole numbers below 2^8 -> (N, C, H // size, W // size), their exact means' nearest floats.

    By sums over rows and one matrix product, which takes a third of the time of average pooling.
    """
    height, width = (side // size for side in channels.shape[2:])
    blocks = channels[:, :, : height * size, : width * size].unflatten(2, (height, size))
    rows = functools.reduce(torch.add, blocks.unbind(3))  # (N, C, H // size, W)
    return (rows @ _sum_matrix(width, size, rows.device)).div_(size * size)


@functools.cache
def _sum_matrix(width: int, size: int, device: torch.device) -> Tensor:
    """(width * size, width) float32 that sums each run of ``size`` columns."""
    with torch.inference_mode(False):
        return torch.eye(width, device=device, dtype=torch.float32).repeat_interleave(size, dim=0)


def to_float(frames: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1], same shape, on the same device."""
    return frames.float().div_(255.0)


def to_pixels(frames: Tensor) -> Tensor:
    """(N, C, H, W) floats in [0, 1] -> (N, H, W, C) uint8, the nearest, on the CPU."""
    return frames.clamp(0, 1).mul(255).round().byte().movedim(1, -1).cpu()
