"""Recurrent cells over a grid, written out so that they can be exported; over one place they are the usual ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GridNorm(nn.Module):
    """Layer norm over the channels of each place (Ba et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class GruCell(nn.Module):
    """A gated recurrent unit (Cho et al. 2014), as :class:`torch.nn.GRUCell`, by convolutions (Ballas et al. 2016).

    Args:
        inputs: channels of the input.
        hidden: H, channels of the state.
        kernel: size of the convolutions; odd.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 1) -> None:
        super().__init__()
        self.of_input = nn.Conv2d(inputs, 3 * hidden, kernel, padding=kernel // 2)
        self.of_state = nn.Conv2d(hidden, 3 * hidden, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, H, h, w) -> the next state (B, H, h, w)."""
        reset_x, update_x, candidate_x = self.of_input(x).chunk(3, dim=1)
        reset_h, update_h, candidate_h = self.of_state(state).chunk(3, dim=1)
        candidate = torch.tanh(candidate_x + torch.sigmoid(reset_x + reset_h) * candidate_h)
        update = torch.sigmoid(update_x + update_h)
        return candidate + update * (state - candidate)


class NormGruCell(nn.Module):
    """The cell of DreamerV2 (Hafner et al. 2021): layer norm over all gates, and a state that begins by staying.

    Args:
        inputs: channels of the input.
        hidden: H, channels of the state.
        kernel: size of the convolution; odd.
    """

    def __init__(self, inputs: int, hidden: int, kernel: int = 1) -> None:
        super().__init__()
        self.gates = nn.Conv2d(inputs + hidden, 3 * hidden, kernel, padding=kernel // 2, bias=False)
        self.norm = GridNorm(3 * hidden)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, H, h, w) -> the next state (B, H, h, w)."""
        reset, candidate, update = self.norm(self.gates(torch.cat([x, state], dim=1))).chunk(3, dim=1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return state + torch.sigmoid(update - 1) * (candidate - state)
