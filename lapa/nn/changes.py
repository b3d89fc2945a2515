"""Convolutions of differences, computed only where something differs.

The difference of two frames of a game is zero nearly everywhere, and there a stack of convolutions gives what it gives
for frames that are equal. That is computed once; then only what a change adds to it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lapa.compiled import can_compile, compiled

DENSE_FROM = 0.3
"""Where more than this share of a layer's places see a change, plain convolutions take less time."""


class ChangedPlaces:
    """Computes a stack of convolutions of what changes between frames, on the CPU, only where it does.

    It gives what the stack gives up to rounding, the same bit for bit in whatever batch.

    Args:
        stack: in eval mode, and such that :func:`can_skip_zeros`. Later changes of its weights go unseen.
        levels: (256,), what each value of a uint8 pixel is to the stack.
    """

    def __init__(self, stack: nn.Module, levels: Tensor) -> None:
        self.stack, self.levels = stack, levels
        self._known: Known | None = None

    @torch.no_grad()
    def __call__(self, *frames: Tensor) -> tuple[Tensor, Tensor] | None:
        """Of frames (B, C, H, W) uint8, in order of time: M places of (B, h, w) that see a change, and (M, D) there.

        None where so much changes that the stack itself takes less time, or nothing can be compiled.
        """
        if frames[0].device.type != "cpu" or not can_compile():
            return None
        _, channels, height, width = frames[0].shape
        inputs = ((len(frames) - 1) * channels, height, width)
        if self._known is None or self._known.inputs != inputs:
            self._known = known_of(self.stack, self.levels, inputs)
        pictures = tuple(np.ascontiguousarray(frame.numpy()) for frame in frames)
        _, levels, numbers, layers = self._known
        places, latents, done = computed_where_changed(pictures, levels, numbers, layers, DENSE_FROM)
        return (torch.from_numpy(places), torch.from_numpy(latents)) if done else None


class Known(NamedTuple):
    """A stack, and what each of its L layers gives where all that it sees is zero; for :func:`computed_where_changed`.

    Attributes:
        inputs: shape (C, H, W) of the differences that it is for.
        levels: (256,) what each value of a uint8 pixel is to the stack.
        numbers: of each layer the weight (k, k, C, C'), what comes out (h * w, C') before the ReLU, and after it.
        layers: (L, 10) int64: where these three begin, k, C', h, w, stride, padding, and whether a ReLU follows.
    """

    inputs: tuple[int, int, int]
    levels: np.ndarray
    numbers: np.ndarray
    layers: np.ndarray


def known_of(stack: nn.Module, levels: Tensor, inputs: tuple[int, int, int]) -> Known:
    """What is known of a stack for differences (C, H, W)."""
    parts, rows, count = [], [], 0
    levels = levels.to(next(stack.parameters()).dtype)
    seen = levels.new_zeros(1, *inputs)
    for convolution, relu in convolutions(stack):
        before = convolution(seen)
        seen = before.relu() if relu else before
        weight = convolution.weight.permute(2, 3, 1, 0)
        begins = []
        for part in (weight, before[0].movedim(0, -1), seen[0].movedim(0, -1)):
            begins.append(count)
            parts.append(part.flatten())
            count += part.numel()
        padding = int(convolution.padding[0])
        rows.append((*begins, len(weight), *before.shape[1:], convolution.stride[0], padding, relu))
    return Known(inputs, levels.numpy(), torch.cat(parts).numpy(), np.array(rows, dtype=np.int64))


@compiled
def computed_where_changed(
    frames: tuple[np.ndarray, ...], levels: np.ndarray, numbers: np.ndarray, layers: np.ndarray, dense_from: float
) -> tuple[np.ndarray, np.ndarray, bool]:
    """A stack of convolutions of the differences of frames (B, C, H, W) uint8, most of them zero.

    From layer to layer go the places where the input is not the known one, counted through the batch, and by how much
    it differs there; each layer adds to what is known to come out what these differences bring. It gives up where they
    are more than the share ``dense_from`` of a layer's places.

    Args:
        frames: in order of time.
        levels: as in :class:`Known`.
        numbers: likewise.
        layers: likewise.
        dense_from: a share.

    Returns:
        (M,) places of (B, h, w), (M, D) what comes out there, and whether it came to the end.
    """
    batch, inputs, height, width = frames[0].shape
    at, values = differing(frames, levels)
    inputs *= len(frames) - 1
    for layer in range(len(layers)):
        weight_at, before_at, after_at, kernel, channels, rows, columns, stride, padding, relu = layers[layer]
        weight = numbers[weight_at:before_at].reshape(kernel, kernel, inputs, channels)
        before = numbers[before_at:after_at].reshape(rows, columns, channels)
        at, values = added(at, values, (batch, height, width), weight, before, stride, padding)
        if len(at) > dense_from * batch * rows * columns:
            return at, values, False
        if relu:
            values = np.maximum(values, 0)
        after = numbers[after_at : after_at + before.size].reshape(-1, channels)
        if layer < len(layers) - 1:
            values = less(values, at, after)
        inputs, height, width = channels, rows, columns
    different = np.array([np.any(values[i] != after[at[i] % len(after)]) for i in range(len(at))], dtype=np.bool_)
    return at[different], values[different], True


@compiled
def differing(frames: tuple[np.ndarray, ...], levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The M places where frames (B, C, H, W) uint8 differ from those before, and (M, (T - 1) * C) by how much.

    Args:
        frames: T of them.
        levels: as in :class:`Known`.
    """
    batch, channels, height, width = frames[0].shape
    at, count = np.empty(batch * height * width, np.int64), 0
    for picture in range(batch):
        for row in range(height):
            found = 0
            for t in range(1, len(frames)):
                for channel in range(channels):
                    now, before = frames[t][picture, channel, row], frames[t - 1][picture, channel, row]
                    for column in range(width):  # all of them, which the processor looks at many at once
                        found |= now[column] ^ before[column]
            if not found:
                continue
            for column in range(width):
                found = 0
                for t in range(1, len(frames)):
                    for channel in range(channels):
                        found |= frames[t][picture, channel, row, column] ^ frames[t - 1][picture, channel, row, column]
                if found:
                    at[count] = (picture * height + row) * width + column
                    count += 1
    at = at[:count].copy()
    values = np.empty((count, (len(frames) - 1) * channels), levels.dtype)
    for i in range(count):
        picture, place = divmod(at[i], height * width)
        row, column = divmod(place, width)
        for t in range(1, len(frames)):
            for channel in range(channels):
                now, before = frames[t][picture, channel, row, column], frames[t - 1][picture, channel, row, column]
                values[i, (t - 1) * channels + channel] = levels[now] - levels[before]
    return at, values


@compiled
def added(
    at: np.ndarray,
    changes: np.ndarray,
    size: tuple[int, int, int],
    weight: np.ndarray,
    before: np.ndarray,
    stride: int,
    padding: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Adds to ``before`` (h, w, C') what the changes (M, C) at M places of (B, H, W) bring, where a window holds one.

    Args:
        at: the places, counted through the batch.
        changes: by how much the input there is not the known one.
        size: B, H, W.
        weight: (k, k, C, C').
        before: what comes out for the known input.
        stride: of the convolution.
        padding: likewise.

    Returns:
        (N,) the places of (B, h, w) whose windows hold a change, and (N, C') what comes out there.
    """
    batch, height, width = size
    rows, columns, channels = before.shape
    kernel = weight.shape[0]
    number = np.full(batch * rows * columns, -1, np.int32)  # of each place that a change reaches
    most = min(len(number), len(at) * (1 + (kernel - 1) // stride) ** 2)
    reached, sums, count = np.empty(most, np.int64), np.empty((most, channels), changes.dtype), 0
    for i in range(len(at)):
        picture, place = divmod(at[i], height * width)
        y, x = place // width + padding, place % width + padding
        for row in range(max(0, (y - kernel + stride) // stride), min(rows, y // stride + 1)):
            for column in range(max(0, (x - kernel + stride) // stride), min(columns, x // stride + 1)):
                target = (picture * rows + row) * columns + column
                if number[target] < 0:
                    number[target], reached[count], sums[count] = count, target, before[row, column]
                    count += 1
                total = sums[number[target]]
                for channel in range(changes.shape[1]):
                    change, weights = changes[i, channel], weight[y - row * stride, x - column * stride, channel]
                    if change != 0:
                        for j in range(channels):
                            total[j] += change * weights[j]
    return reached[:count].copy(), sums[:count]


@compiled
def less(values: np.ndarray, at: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """(N, C') at N places of a batch, less what is usual (h * w, C') there."""
    changes = np.empty(values.shape, values.dtype)
    for i in range(len(at)):
        changes[i] = values[i] - usual[at[i] % len(usual)]
    return changes


def can_skip_zeros(stack: nn.Module) -> bool:
    """Whether :class:`ChangedPlaces` can compute it: convolutions, each with a ReLU or without, one after another."""
    return bool(convolutions(stack))


def convolutions(stack: nn.Module) -> list[tuple[nn.Conv2d, bool]]:
    """The convolutions of a stack, each with whether a ReLU follows; none if it has anything else."""
    found: list[tuple[nn.Conv2d, bool]] = []
    for module in stack.modules():
        if isinstance(module, nn.Conv2d) and is_plain(module):
            found.append((module, False))
        elif isinstance(module, nn.ReLU) and found:
            found[-1] = (found[-1][0], True)
        elif not isinstance(module, nn.Sequential | nn.Identity):
            return []
    return found


def is_plain(convolution: nn.Conv2d) -> bool:
    """Whether it is the same in height and width, pads with zeros, and has neither groups nor gaps."""
    shape = (convolution.kernel_size, convolution.stride, convolution.padding)
    square = all(isinstance(sides, tuple) and len(set(sides)) == 1 for sides in shape)
    whole = convolution.groups == 1 and convolution.dilation == (1, 1)
    return square and whole and convolution.padding_mode == "zeros"
