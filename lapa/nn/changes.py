"""Convolutions computed only where their input is not zero.

The difference of two frames of a game is zero nearly everywhere, and there a stack of convolutions gives what it gives
for frames that are equal. That is computed once; then only the places that see a change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

DENSE_FROM = 0.3
"""Where more than this share of a layer's places see a change, plain convolutions take less time."""


class Changes(NamedTuple):
    """Values (B, H, W, C), most of which are known.

    Attributes:
        mask: (B, H, W) bool, where they are not.
        at: (M,), these places by number, counted through the batch.
        rows: (M, C), the values there.
    """

    mask: np.ndarray
    at: np.ndarray
    rows: Tensor


class Layer:
    """One convolution of a stack, with the ReLU that may follow, computed where its input is not the known one.

    Args:
        convolution: such that :func:`is_plain`.
        relu: whether a ReLU follows.
        known: (1, C, H, W), the input where all that the stack sees is zero.

    Attributes:
        rest: (1, C', h, w), what comes out for the known input.
    """

    def __init__(self, convolution: nn.Conv2d, relu: bool, known: Tensor) -> None:
        out = convolution(known)
        self.rest = out.relu() if relu else out
        self.relu = relu
        self.weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()  # (k * k * C, C')
        self.bias = self.weight.new_zeros(out.shape[1]) if convolution.bias is None else convolution.bias
        self.kernel, self.stride = convolution.kernel_size[0], convolution.stride[0]
        padding = int(convolution.padding[0])
        self.inside = slice(padding, -padding or None)
        padded = F.pad(known, [padding] * 4)[0].movedim(0, -1)  # (H', W', C)
        self.known = padded.flatten(0, 1)
        # Padded places by number: all, those of each window, those of the input.
        self.padded = np.arange(len(self.known)).reshape(padded.shape[:2])
        windows = np.lib.stride_tricks.sliding_window_view(self.padded, (self.kernel, self.kernel))
        self.windows = windows[:: self.stride, :: self.stride].reshape(-1, self.kernel**2)  # (h * w, k * k)
        self.places = self.padded[self.inside, self.inside].ravel()  # (H * W,)

    def __call__(self, changes: Changes) -> Changes:
        """What comes out, where it is not ``rest``."""
        mask, at, seen = changes
        if len(self.windows) != len(self.places) or self.kernel > 1:  # else each place sees itself alone
            mask = self.reached(mask)
            at = np.flatnonzero(mask)
            seen = self.unfolded(changes, at)
        out = torch.addmm(self.bias, seen, self.weight)
        return Changes(mask, at, out.relu_() if self.relu else out)

    def reached(self, mask: np.ndarray) -> np.ndarray:
        """(B, H, W) bool -> (B, h, w) bool, whose window has one that is true."""
        height, width = self.rest.shape[2:]
        padded = np.zeros((len(mask), *self.padded.shape), dtype=bool)
        padded[:, self.inside, self.inside] = mask
        last = self.stride * (height - 1) + 1
        rows = padded[:, : last : self.stride].copy()
        for first in range(1, self.kernel):
            rows |= padded[:, first : first + last : self.stride]
        last = self.stride * (width - 1) + 1
        found = rows[:, :, : last : self.stride].copy()
        for first in range(1, self.kernel):
            found |= rows[:, :, first : first + last : self.stride]
        return found

    def unfolded(self, changes: Changes, at: np.ndarray) -> Tensor:
        """The windows of the places ``at`` (N,), as (N, k * k * C)."""
        # The known values and the others in one table, and for each padded place of the batch its row there.
        table = torch.cat([self.known, changes.rows])
        places = len(self.known)
        row_of = self.padded.reshape(1, -1).repeat(len(changes.mask), axis=0).ravel()
        picture, place = np.divmod(changes.at, len(self.places))
        row_of[picture * places + self.places[place]] = np.arange(places, len(table))
        picture, place = np.divmod(at, len(self.windows))
        rows = row_of[self.windows[place] + (picture * places)[:, None]]  # (N, k * k)
        return table.index_select(0, torch.from_numpy(rows.ravel())).view(len(at), len(self.weight))


class ChangedPlaces(nn.Module):
    """Computes a stack of convolutions, on the CPU, only where its input is not zero.

    It gives what the stack gives up to rounding. Places that see nothing but zeros have the same numbers, bit for bit,
    in whatever batch; unless so much changes that the stack itself takes less time.

    Args:
        stack: in eval mode, and such that :func:`can_skip_zeros`. Later changes of its weights go unseen.
    """

    def __init__(self, stack: nn.Module) -> None:
        super().__init__()
        self.stack = stack
        self._layers: list[Layer] = []
        self._measured: tuple[object, ...] = ()  # the inputs that the layers are for

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w)."""
        if x.device.type != "cpu":
            return self.stack(x)  # type: ignore[no-any-return]
        layers = self._layers_for(x)
        changes = changes_of(x)
        for layer in layers:
            changes = layer(changes)
            if len(changes.at) > DENSE_FROM * changes.mask.size:
                return self.stack(x)  # type: ignore[no-any-return]
        out = layers[-1].rest.movedim(1, -1).repeat(len(x), 1, 1, 1)
        out.view(-1, out.shape[-1])[torch.from_numpy(changes.at)] = changes.rows
        return out.movedim(-1, 1)

    def _layers_for(self, x: Tensor) -> list[Layer]:
        if self._measured != (x.dtype, x.shape[1:]):
            known, layers = x.new_zeros(1, *x.shape[1:]), []
            for convolution, relu in convolutions(self.stack):
                layers.append(Layer(convolution, relu, known))
                known = layers[-1].rest
            self._layers, self._measured = layers, (x.dtype, x.shape[1:])
        return self._layers


def changes_of(x: Tensor) -> Changes:
    """What of (B, C, H, W) is not zero."""
    first, *others = x.numpy().swapaxes(0, 1)  # a channel at a time, which NumPy does faster than all at once
    mask = first != 0
    for channel in others:
        mask |= channel != 0
    at = np.flatnonzero(mask)
    rows = np.stack([channel.ravel()[at] for channel in (first, *others)], axis=1)
    return Changes(mask, at, torch.from_numpy(rows))


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
