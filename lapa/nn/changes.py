"""Convolutions computed only where their input is not zero.

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


class ChangedPlaces(nn.Module):
    """Computes a stack of convolutions, on the CPU, only where its input is not zero.

    It gives what the stack gives up to rounding, the same bit for bit in whatever batch; unless so much changes that
    the stack itself takes less time.

    Args:
        stack: in eval mode, and such that :func:`can_skip_zeros`. Later changes of its weights go unseen.
    """

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack
        self._known: Known | None = None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w)."""
        if x.device.type != "cpu" or not can_compile():
            return self.stack(x)  # type: ignore[no-any-return]
        if self._known is None or self._known.inputs != (x.dtype, x.shape[1:]):
            self._known = known_of(self.stack, x)
        numbers, layers = self._known.numbers, self._known.layers
        out, done = computed_where_changed(np.ascontiguousarray(x.numpy()), numbers, layers, DENSE_FROM)
        return torch.from_numpy(out).movedim(-1, 1) if done else self.stack(x)


class Known(NamedTuple):
    """A stack, and what each of its L layers gives where all that it sees is zero; for :func:`computed_where_changed`.

    Attributes:
        inputs: dtype and shape (C, H, W) of what it is for.
        numbers: of each layer the weight (k, k, C, C'), what comes out (h * w, C') before the ReLU, and after it.
        layers: (L, 10) int64: where these three begin, k, C', h, w, stride, padding, and whether a ReLU follows.
    """

    inputs: tuple[torch.dtype, torch.Size]
    numbers: np.ndarray
    layers: np.ndarray


def known_of(stack: nn.Module, x: Tensor) -> Known:
    """What is known of a stack for inputs like ``x`` (B, C, H, W)."""
    seen, parts, rows, count = x.new_zeros(1, *x.shape[1:]), [], [], 0
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
    return Known((x.dtype, x.shape[1:]), torch.cat(parts).numpy(), np.array(rows, dtype=np.int64))


@compiled
def computed_where_changed(
    x: np.ndarray, numbers: np.ndarray, layers: np.ndarray, dense_from: float
) -> tuple[np.ndarray, bool]:
    """A stack of convolutions of (B, C, H, W), most of it zero: (B, h, w, D), and whether it came to the end.

    From layer to layer go the places where the input is not the known one, counted through the batch, and by how much
    it differs there; each layer adds to what is known to come out what these differences bring. It gives up where they
    are more than the share ``dense_from`` of a layer's places.

    Args:
        x: the pictures.
        numbers: as in :class:`Known`.
        layers: likewise.
        dense_from: a share.
    """
    batch, inputs, height, width = x.shape
    at, changes = not_zero(x)
    for layer in range(len(layers)):
        weight_at, before_at, after_at, kernel, channels, rows, columns, stride, padding, relu = layers[layer]
        weight = numbers[weight_at:before_at].reshape(kernel, kernel, inputs, channels)
        before = numbers[before_at:after_at].reshape(rows, columns, channels)
        after = numbers[after_at : after_at + before.size].reshape(rows, columns, channels)
        at, sums = added(at, changes, (batch, height, width), weight, before, stride, padding)
        if len(at) > dense_from * batch * rows * columns:
            return np.empty((0, 0, 0, 0), x.dtype), False
        changes = less(sums, at, after, relu)
        inputs, height, width = channels, rows, columns
    out = np.empty((batch, height, width, inputs), x.dtype)
    out[:] = after
    flat = out.reshape(-1, inputs)
    for i in range(len(at)):
        flat[at[i]] += changes[i]
    return out, True


@compiled
def not_zero(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (B, C, H, W) the M places that are not zero in all channels, counted through the batch, and (M, C) of them."""
    batch, channels, height, width = x.shape
    at, count = np.empty(batch * height * width, np.int64), 0
    for picture in range(batch):
        for row in range(height):
            found = 0
            for channel in range(channels):
                for value in x[picture, channel, row]:  # all of them, which the processor looks at many at once
                    found |= value != 0
            if not found:
                continue
            for column in range(width):
                for channel in range(channels):
                    if x[picture, channel, row, column] != 0:
                        at[count] = (picture * height + row) * width + column
                        count += 1
                        break
    at = at[:count].copy()
    values = np.empty((count, channels), x.dtype)
    for i in range(count):
        picture, place = divmod(at[i], height * width)
        for channel in range(channels):
            values[i, channel] = x[picture, channel, place // width, place % width]
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
def less(sums: np.ndarray, at: np.ndarray, after: np.ndarray, relu: bool) -> np.ndarray:
    """(N, C') at N places of a batch, after the ReLU if there is one, less the known ``after`` (h, w, C')."""
    usual = after.reshape(-1, after.shape[2])
    changes = np.empty(sums.shape, sums.dtype)
    for i in range(len(at)):
        known = usual[at[i] % len(usual)]
        for j in range(len(known)):
            value = sums[i, j]
            changes[i, j] = (0 if relu and value < 0 else value) - known[j]
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
