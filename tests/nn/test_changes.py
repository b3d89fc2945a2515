"""Convolutions that skip zeros give what plain ones give."""

from __future__ import annotations

import itertools

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


LEVELS = torch.linspace(0, 1, 256)


def moving(batch: int, share: float, size: tuple[int, int] = (21, 16), frames: int = 2) -> list[Tensor]:
    """Frames (B, 2, H, W) uint8, most of each as in the one before; in the last row of the batch nothing changes."""
    generator = torch.Generator().manual_seed(batch)
    clips = [torch.randint(256, (batch, 2, *size), dtype=torch.uint8, generator=generator)]
    for _ in range(frames - 1):
        other = torch.randint(256, (batch, 2, *size), dtype=torch.uint8, generator=generator)
        changed = torch.rand(batch, 1, *size, generator=generator) < share
        changed[-1] = False
        clips.append(torch.where(changed, other, clips[-1]))
    return clips


def dense(stack: nn.Module, frames: list[Tensor]) -> Tensor:
    """(B, D, h, w), what the stack gives for the differences."""
    levels = LEVELS.to(next(stack.parameters()).dtype)
    values = [levels[frame.long()] for frame in frames]
    return stack(torch.cat([after - before for before, after in itertools.pairwise(values)], dim=1))  # type: ignore[no-any-return]


def filled(found: tuple[Tensor, Tensor], stack: nn.Module, frames: list[Tensor]) -> Tensor:
    """The same (B, D, h, w), of what was found and of what the stack gives where nothing changes."""
    still = dense(stack, [frames[0]] * len(frames)).movedim(1, -1).contiguous()
    still.flatten(0, 2)[found[0]] = found[1]
    return still.movedim(-1, 1)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("name", STACKS)
def test_it_gives_what_the_stack_gives(name: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lapa.nn.changes.DENSE_FROM", 1.0)
    stack = stack_of(name).double()
    assert can_skip_zeros(stack)
    skipping = ChangedPlaces(stack, LEVELS)
    for size in ((42, 32), (26, 18)):  # the other size is measured anew
        frames = moving(4, share, size)
        found = skipping(*frames)
        assert found is not None
        torch.testing.assert_close(filled(found, stack, frames), dense(stack, frames))


def test_several_frames_are_several_differences() -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(), nn.Conv2d(5, 3, 1)).double().requires_grad_(False)
    frames = moving(3, 0.01, frames=3)
    found = ChangedPlaces(stack, LEVELS)(*frames)
    assert found is not None
    torch.testing.assert_close(filled(found, stack, frames), dense(stack, frames))


def test_changes_at_the_edges_and_in_one_channel_alone_count() -> None:
    stack = stack_of("halving, as encoders do").double()
    before = torch.zeros(6, 2, 21, 16, dtype=torch.uint8)
    after = before.clone()
    for row, (channel, y, column) in enumerate([(0, 0, 0), (1, 0, 15), (0, 20, 0), (1, 20, 15), (1, 10, 7)]):
        after[row, channel, y, column] = 255
    found = ChangedPlaces(stack, LEVELS)(before, after)
    assert found is not None
    torch.testing.assert_close(filled(found, stack, [before, after]), dense(stack, [before, after]))


def test_only_places_that_differ_are_named() -> None:
    stack = stack_of("halving, as encoders do")
    frames = moving(4, 0.01)
    found = ChangedPlaces(stack, LEVELS)(*frames)
    assert found is not None
    places, latents = found
    still = dense(stack, [frames[0]] * 2).movedim(1, -1).flatten(0, 2)
    assert 0 < len(places) < len(still) / 2
    assert len(places.unique()) == len(places)
    assert (latents != still[places]).any(1).all()


def test_where_much_changes_it_leaves_the_work_to_the_stack() -> None:
    skipping = ChangedPlaces(stack_of("halving, as encoders do"), LEVELS)
    assert skipping(*moving(4, 0.003)) is not None
    assert skipping(*moving(4, 1.0)) is None


@pytest.mark.usefixtures("without_numba")
def test_without_numba_it_leaves_the_work_to_the_stack() -> None:
    assert ChangedPlaces(stack_of("halving, as encoders do"), LEVELS)(*moving(4, 0.003)) is None


def test_a_picture_is_computed_alike_in_any_batch() -> None:
    skipping, frames = ChangedPlaces(stack_of("halving, as encoders do"), LEVELS), moving(8, 0.003)
    together = skipping(*frames)
    assert together is not None
    each = 6 * 4  # places of a picture
    for first, last in ((0, 1), (2, 5), (3, 8)):
        alone = skipping(*(frame[first:last] for frame in frames))
        assert alone is not None
        ours = (together[0] >= first * each) & (together[0] < last * each)
        assert torch.equal(alone[0], together[0][ours] - first * each)
        assert torch.equal(alone[1], together[1][ours])


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
