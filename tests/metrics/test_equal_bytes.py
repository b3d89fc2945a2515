"""Simple codes keep within the bytes that they are given, and show what these can."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from lapa.metrics.equal_bytes import block_means, block_size, coded, kept, palette_runs


def picture(height: int = 9, width: int = 7, colours: int = 4, seed: int = 0) -> np.ndarray:
    """(3, H, W) uint8 of few colours."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    return np.moveaxis(palette[rng.integers(0, colours, (height, width))], -1, 0)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 20])
def test_a_block_shows_the_mean_of_its_pixels_also_at_the_edges(size: int) -> None:
    frame = picture(colours=50)
    expected = np.empty(frame.shape)
    for top, left in itertools.product(range(0, 9, size), range(0, 7, size)):
        block = np.s_[:, top : top + size, left : left + size]
        expected[block] = frame[block].astype(float).mean((1, 2), keepdims=True)
    found = block_means(torch.from_numpy(frame[None]), size)[0].numpy() * 255
    np.testing.assert_allclose(found, expected.round(), atol=0.51)  # halves may be rounded either way
    np.testing.assert_allclose(found, found.round(), atol=1e-4)


def test_blocks_are_the_smallest_that_fit() -> None:
    assert block_size((3, 210, 160), 337.5) == 18, "12 x 9 blocks of 3 bytes; of 17 x 17 pixels it would be 390"
    assert block_size((1, 4, 4), 16) == 1
    assert block_size((1, 4, 4), 15.9) == 2
    assert block_size((3, 4, 4), 2.9) is None, "a single block takes three"


def bits_by_hand(small: np.ndarray) -> int:
    """Of (3, H, W): runs of equal colours row after row, each a colour and a length."""
    pixels = [tuple(pixel) for pixel in small.reshape(3, -1).T.tolist()]
    lengths = [len(list(run)) for _, run in itertools.groupby(pixels)]
    return len(lengths) * (math.ceil(math.log2(len(set(pixels)))) + math.ceil(math.log2(max(lengths))))


@pytest.mark.parametrize("num_bytes", [0.5, 2, 5, 10, 40, 1000])
def test_runs_are_of_the_largest_picture_that_fits(num_bytes: float) -> None:
    frame = picture()
    found = palette_runs(frame, num_bytes)
    assert found is not None
    shown, size = found
    for smaller in range(1, size + 1):
        bits = bits_by_hand(frame[:, kept(9, smaller)][:, :, kept(7, smaller)])
        assert (bits <= 8 * num_bytes) == (smaller == size)
    for row, column in np.ndindex(9, 7):
        middle = [min(place // size * size + size // 2, last) for place, last in ((row, 8), (column, 6))]
        assert (shown[:, row, column] == frame[:, middle[0], middle[1]]).all()


def test_frames_that_fit_whole_are_shown_without_loss_and_those_of_too_many_colours_not_at_all() -> None:
    few = torch.from_numpy(np.stack([picture(seed=1), picture(seed=2)]))
    found = coded(few, 1000)
    assert set(found) == {"blocks", "runs"}
    for name in found:
        assert found[name].sizes.tolist() == [1, 1]
        np.testing.assert_allclose(found[name].pictures.numpy() * 255, few.numpy(), atol=1e-4)
    many = torch.arange(300).mul(217).remainder(251).to(torch.uint8).reshape(1, 3, 10, 10)
    assert set(coded(many, 1000)) == {"blocks", "runs"}, "a hundred colours are a palette"
    noise = torch.randint(0, 256, (1, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert set(coded(noise, 1000)) == {"blocks"}
