"""A planted pattern is measured exactly, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from lapa.metrics.grid_pattern import GridPattern, cell_of, strides_up_to, strongest


def measured(prediction: np.ndarray, target: np.ndarray, cell: tuple[int, int] = (8, 8)) -> dict[str, float]:
    pattern = GridPattern(strides_up_to(cell))
    for rows in (slice(0, 1), slice(1, None)):  # in two batches
        pattern.add(prediction[rows], target[rows])
    return pattern.metrics()


@pytest.fixture
def target() -> np.ndarray:
    """Three frames with a bright rectangle, somewhere else in each."""
    frames = np.full((3, 3, 64, 48), 0.4, np.float32)
    for number, frame in enumerate(frames):
        frame[:, 5 + 7 * number : 12 + 7 * number, 3:9] = 0.9
    return frames


def test_a_perfect_picture_and_one_too_bright_everywhere_have_no_pattern(target: np.ndarray) -> None:
    assert measured(target, target) == {"2x2": 0.0, "4x4": 0.0, "8x8": 0.0}
    assert list(measured(target + 0.1, target).values()) == pytest.approx([0, 0, 0], abs=1e-3)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_a_planted_checkerboard_is_measured_exactly_at_its_stride(target: np.ndarray, stride: int) -> None:
    """Fields of half the stride, by turns 3 units too bright and 3 too dark: the root of the variance is 3."""
    rows, columns = np.indices(target.shape[2:]) // (stride // 2)
    planted = 3 / 255 * (1 - 2 * ((rows + columns) % 2))
    found = measured(target + planted.astype(np.float32), target)
    for other in (2, 4, 8):
        assert found[f"{other}x{other}"] == pytest.approx(3 if other >= stride else 0, abs=0.02)
    best = strongest(found)
    assert best is not None
    assert best[0] == f"{stride}x{stride}", "it repeats at the larger ones too; the first is named"


def test_errors_at_outlines_do_not_count(target: np.ndarray) -> None:
    blurred = target.copy()
    for number, frame in enumerate(blurred):
        top = 5 + 7 * number
        frame[:, [top - 1, top, top + 6, top + 7], 2:10] += 0.2
        frame[:, top - 1 : top + 8, [2, 3, 8, 9]] -= 0.1
    found = measured(blurred, target, (2, 2))
    assert found["2x2"] == pytest.approx(0, abs=1e-9)


def test_rows_and_columns_may_have_strides_of_their_own(target: np.ndarray) -> None:
    assert cell_of((210, 160), (15, 20)) == (14, 8)
    assert strides_up_to((14, 8)) == [(2, 2), (4, 4), (8, 8), (14, 8)]
    assert strides_up_to((5, 5)) == [(2, 2), (4, 4), (5, 5)]
    assert strides_up_to((2, 1)) == [(2, 1)]
    assert strides_up_to((1, 1)) == []
    lines = target.copy()
    lines[:, :, ::14] += 10 / 255
    found = measured(lines, target, (14, 8))
    assert found["14x8"] == pytest.approx(10 * np.sqrt(1 / 14 * 13 / 14), rel=1e-3)
    assert strongest(found) == ("14x8", found["14x8"])


def test_where_nothing_is_flat_there_is_no_figure() -> None:
    noise = np.random.default_rng(0).random((3, 1, 32, 32), np.float32)
    assert measured(noise, noise) == {}
    assert strongest({}) is None
    small = np.zeros((2, 1, 6, 6), np.float32)
    assert set(measured(small, small)) == {"2x2"}, "no window of two larger strides fits"
