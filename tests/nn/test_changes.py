"""Convolutions that skip zeros give what plain ones give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lapa.nn.changes import ChangedPlaces, can_skip_zeros

STACKS = {
    "halving, as encoders do": lambda: [nn.Conv2d(2, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 7, 3, 2, 1), nn.ReLU()],
    "1x1 last": lambda: [nn.Conv2d(2, 5, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(5, 4, 1)],
    "1x1 that halves": lambda: [nn.Conv2d(2, 5, 1, 2), nn.Conv2d(5, 4, 3, 1, 1)],
    "kernel 4, no padding": lambda: [nn.Conv2d(2, 5, 4, 2), nn.ReLU(), nn.Conv2d(5, 4, 5, 3, 2)],
    "nested": lambda: [nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.Identity(), nn.ReLU()), nn.Conv2d(3, 3, 1)],
}


def stack_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*STACKS[name]()).eval().requires_grad_(False)


def changes(batch: int, share: float, size: tuple[int, int] = (21, 16)) -> Tensor:
    """(B, 2, H, W) of noise, most of it zero; the last row of the batch is zero everywhere."""
    generator = torch.Generator().manual_seed(batch)
    noise = torch.randn(batch, 2, *size, generator=generator)
    noise *= torch.rand(batch, 1, *size, generator=generator) < share
    noise[-1] = 0
    return noise


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 1.0])
@pytest.mark.parametrize("name", STACKS)
def test_it_gives_what_the_stack_gives(name: str, share: float) -> None:
    stack = stack_of(name)
    x = changes(4, share).double()
    assert can_skip_zeros(stack)
    skipping = ChangedPlaces(stack.double())
    torch.testing.assert_close(skipping(x), stack(x))
    torch.testing.assert_close(skipping(x[:, :, :13, :9]), stack(x[:, :, :13, :9]))  # another size, measured anew


def test_changes_at_the_edges_and_in_one_channel_alone_count() -> None:
    stack = stack_of("halving, as encoders do").double()
    x = torch.zeros(6, 2, 21, 16, dtype=torch.float64)
    for row, (channel, y, column) in enumerate([(0, 0, 0), (1, 0, 15), (0, 20, 0), (1, 20, 15), (1, 10, 7)]):
        x[row, channel, y, column] = 1.0
    torch.testing.assert_close(ChangedPlaces(stack)(x), stack(x))


def test_few_changes_are_computed_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = stack_of("halving, as encoders do")
    skipping = ChangedPlaces(stack)
    few, many = changes(4, 0.003), changes(4, 1.0)
    skipping(few)
    calls = []
    stack.register_forward_hook(lambda *_: calls.append(1))
    skipping(few)
    assert not calls
    skipping(many)
    assert calls


@pytest.mark.usefixtures("without_numba")
def test_without_numba_it_is_the_stack() -> None:
    stack, few = stack_of("halving, as encoders do"), changes(4, 0.003)
    assert torch.equal(ChangedPlaces(stack)(few), stack(few))


def test_a_picture_is_computed_alike_in_any_batch() -> None:
    skipping, few = ChangedPlaces(stack_of("halving, as encoders do")), changes(8, 0.003)
    together = skipping(few)
    for first, last in ((0, 1), (2, 5), (3, 8)):
        assert torch.equal(skipping(few[first:last]), together[first:last])


def test_places_that_see_no_change_are_equal_in_any_batch() -> None:
    skipping = ChangedPlaces(stack_of("halving, as encoders do"))
    still = skipping(changes(1, 0.0))[0]
    for batch in (2, 3, 8):
        assert torch.equal(skipping(changes(batch, 0.003))[-1], still)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding_mode="circular", padding=1)),
        nn.Sequential(nn.Conv2d(2, 4, 3, padding="same")),
        nn.Sequential(nn.Conv2d(2, 4, (3, 5))),
        nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2)),
        nn.Sequential(nn.Conv2d(2, 4, 3, groups=2)),
        nn.Sequential(nn.ReLU(), nn.Conv2d(2, 4, 3)),
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2)),
        nn.Sequential(),
    ],
    ids=lambda module: str([type(part).__name__ for part in module]),
)
def test_other_stacks_are_left_alone(module: nn.Module) -> None:
    assert not can_skip_zeros(module)
