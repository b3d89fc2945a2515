"""Recurrent cells that are written out, against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lapa.nn.recurrent import GruCell, NormGruCell


def test_over_one_place_the_cell_is_the_usual_one() -> None:
    torch.manual_seed(0)
    ours, theirs = GruCell(5, 7).double(), nn.GRUCell(5, 7).double()
    with torch.no_grad():
        ours.of_input.weight.copy_(theirs.weight_ih[:, :, None, None])
        ours.of_input.bias.copy_(theirs.bias_ih)  # type: ignore[union-attr]
        ours.of_state.weight.copy_(theirs.weight_hh[:, :, None, None])
        ours.of_state.bias.copy_(theirs.bias_hh)  # type: ignore[union-attr]
    x, state = torch.randn(4, 5, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    found = ours(x[:, :, None, None], state[:, :, None, None])[:, :, 0, 0]
    assert torch.allclose(found, theirs(x, state), atol=1e-12)


@pytest.mark.parametrize("cell", [GruCell, NormGruCell])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_step_reaches_as_far_as_its_kernel(cell: type[nn.Module], kernel: int) -> None:
    torch.manual_seed(0)
    made = cell(2, 4, kernel)
    x, state = torch.randn(1, 2, 9, 9), torch.randn(1, 4, 9, 9)
    other = state.clone()
    other[..., 4, 4] += 1
    changed = (made(x, state) != made(x, other)).any(1)[0]
    reach = kernel // 2
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[4 - reach : 5 + reach, 4 - reach : 5 + reach] = True
    assert torch.equal(changed, expected)


def test_the_cell_with_layer_norm_begins_by_keeping_its_state() -> None:
    """With gates at 0 its update is sigmoid(-1) = 0.27, and the candidate is 0."""
    cell = NormGruCell(2, 4)
    nn.init.zeros_(cell.gates.weight)
    state = torch.randn(3, 4, 1, 1)
    kept = 1 - torch.sigmoid(torch.tensor(-1.0))
    assert torch.allclose(cell(torch.randn(3, 2, 1, 1), state), kept * state, atol=1e-6)
