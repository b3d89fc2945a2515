"""Errors of drawn frames are what their names say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from lapa.metrics.pixels import (
    CHANGED,
    frame_errors,
    joined,
    mean_ssim,
    pair_errors,
    psnr_db,
    squared_errors,
    ssim_map,
    ssim_of_frames,
)


def frames(count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 24, 20, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mse", "db"), [(1.0, 0.0), (0.1, 10.0), (1e-4, 40.0), (0.0, 120.0)])
def test_psnr_is_ten_times_the_logarithm_of_one_over_the_error(mse: float, db: float) -> None:
    assert psnr_db(mse) == pytest.approx(db)


def test_squared_errors_are_means_over_each_clipped_frame() -> None:
    prediction, target = frames(seed=1) * 3 - 1, frames(seed=2)
    expected = ((prediction.numpy().clip(0, 1) - target.numpy()) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(squared_errors(prediction, target), expected, rtol=1e-5)


def test_errors_over_batches_are_those_over_all_pairs() -> None:
    prediction, current = frames(7, seed=1) * 1.4 - 0.2, frames(7, seed=2)
    next = torch.where(frames(7, seed=3) > 0.8, frames(7, seed=4), current)
    parts = [pair_errors(prediction[rows], current[rows], next[rows]) for rows in (slice(0, 4), slice(4, 7))]
    error = prediction.numpy().clip(0, 1) - next.numpy()
    changed = np.abs(next.numpy() - current.numpy()) > CHANGED
    places = [ssim_map(*pair)[1] for pair in zip(prediction.numpy().clip(0, 1), next.numpy(), strict=True)]
    assert 0 < changed.mean() < 0.5
    assert joined(parts).metrics() == {
        "psnr_db": pytest.approx(-10 * math.log10((error**2).mean()), rel=1e-5),
        "l1": pytest.approx(np.abs(error).mean(), rel=1e-5),
        "l2": pytest.approx(math.sqrt((error**2).mean()), rel=1e-5),
        "ssim": pytest.approx(mean_ssim(prediction.numpy().clip(0, 1), next.numpy())),
        "changed_psnr_db": pytest.approx(-10 * math.log10((error[changed] ** 2).mean()), rel=1e-5),
        "changed_l1": pytest.approx(np.abs(error[changed]).mean(), rel=1e-5),
        "changed_l2": pytest.approx(math.sqrt((error[changed] ** 2).mean()), rel=1e-5),
        "changed_ssim": pytest.approx(np.stack(places)[changed].mean(), rel=1e-5),
    }


def test_errors_of_some_pairs_are_those_of_these_alone() -> None:
    prediction, current, next = frames(6, seed=1), frames(6, seed=2), frames(6, seed=3)
    rows = np.array([1, 4])
    of_these = pair_errors(prediction[rows], current[rows], next[rows]).metrics()
    assert pair_errors(prediction, current, next).metrics(rows) == pytest.approx(of_these)


def test_where_nothing_changed_there_is_no_error_on_changed_pixels() -> None:
    errors = pair_errors(frames(seed=1), frames(seed=2), frames(seed=2))
    assert errors.changed_mse().tolist() == [0.0, 0.0, 0.0]
    assert np.isfinite(list(errors.metrics().values())).all()


def published_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004: an 11 x 11 Gaussian window of sigma 1.5, K1 0.01, K2 0.03; without the border of 5."""

    def blur(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image.astype(np.float64), 1.5, radius=5)

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, both = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(index[5:-5, 5:-5].mean())


def test_ssim_is_the_published_one() -> None:
    from skimage.metrics import structural_similarity

    x = frames(2, seed=1).numpy().astype(np.float64)
    y = (0.3 * x + 0.7 * frames(2, seed=2).numpy()).round()
    expected = np.mean([published_ssim(a[0], b[0]) for a, b in zip(x, y, strict=True)])
    assert mean_ssim(y, x) == pytest.approx(expected, abs=1e-6)
    by_default = np.mean([structural_similarity(a[0], b[0], data_range=1.0) for a, b in zip(x, y, strict=True)])
    assert abs(by_default - expected) > 1e-3, "the settings make no difference: the test says nothing"


def test_equal_frames_are_fully_similar() -> None:
    assert mean_ssim(frames().numpy(), frames().numpy()) == pytest.approx(1.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_fast_structural_similarity_is_the_published_one(channels: int) -> None:
    target = torch.rand(4, channels, 24, 20, generator=torch.Generator().manual_seed(1))
    noise = torch.rand(4, channels, 24, 20, generator=torch.Generator().manual_seed(2))
    strength = torch.tensor([0.0, 0.02, 0.3, 1.0])[:, None, None, None]
    prediction = (1 - strength) * target + strength * noise
    expected = [ssim_map(*pair)[0] for pair in zip(prediction.numpy(), target.numpy(), strict=True)]
    assert ssim_of_frames(prediction, target) == pytest.approx(expected, abs=1e-5)
    assert expected[0] == 1.0


def test_errors_of_frames_are_those_of_pairs_over_all_pixels() -> None:
    prediction, target = frames(5, seed=1) * 1.4 - 0.2, frames(5, seed=2)
    of_pairs = pair_errors(prediction, target, target).metrics()
    of_frames = joined([frame_errors(prediction[:2], target[:2]), frame_errors(prediction[2:], target[2:])]).metrics()
    assert of_frames == pytest.approx({name: of_pairs[name] for name in ("psnr_db", "ssim", "l1", "l2")}, rel=1e-4)
