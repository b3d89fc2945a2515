"""How well frames are drawn, over all pixels and over those that changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

CHANGED = 0.02
"""A pixel has changed when it differs by more than this, on a scale of 0 to 1."""


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each frame: (B, C, H, W) twice -> (B,), the prediction clipped to [0, 1]."""
    return (prediction.float().clamp(0, 1) - target).square().flatten(1).mean(1)


def psnr_db(mse: float | Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on a scale of 0 to 1."""
    return -10 * math.log10(max(float(mse), 1e-12))


def ssim_map(prediction: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Structural similarity of (C, H, W) in [0, 1], with the published settings (Wang et al. 2004).

    Returns:
        The mean without the border of half a window, and the (C, H, W) of every place.
    """
    from skimage.metrics import structural_similarity

    mean, places = structural_similarity(
        target,
        prediction,
        data_range=1.0,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return float(mean), places


def mean_ssim(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Mean of :func:`ssim_map` over (N, C, H, W) frames in [0, 1]."""
    return float(np.mean([ssim_map(*pair)[0] for pair in zip(predictions, targets, strict=True)]))


def ssim_of_frames(predictions: Tensor, targets: Tensor) -> np.ndarray:
    """Structural similarity of each frame: (B, C, H, W) in [0, 1] twice -> (B,).

    That of :func:`ssim_map` up to rounding in single precision, in a twentieth of the time and without the places.
    Frames must be at least 11 pixels high and wide.
    """
    found = []
    for pair in zip(predictions.float(), targets.float(), strict=True):  # one by one: their sums stay in the cache
        mean, true_mean = map(_window_means, pair)
        drawn, true = pair
        variance = _window_means(drawn * drawn) - mean * mean
        true_variance = _window_means(true * true) - true_mean * true_mean
        covariance = _window_means(drawn * true) - mean * true_mean
        light = (2 * mean * true_mean + 0.01**2) / (mean * mean + true_mean * true_mean + 0.01**2)
        found.append(float((light * (2 * covariance + 0.03**2) / (variance + true_variance + 0.03**2)).mean()))
    return np.array(found)


def _window_means(picture: Tensor) -> Tensor:
    """Means of (C, H, W) under a Gaussian window of sigma 1.5 and 11 pixels, where it fits: (C, H - 10, W - 10)."""
    weights = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    for axis in (1, 2):
        length = picture.shape[axis] - len(weights) + 1
        means = torch.zeros_like(picture.narrow(axis, 0, length))
        for offset, weight in enumerate(weights.tolist()):
            means.add_(picture.narrow(axis, offset, length), alpha=weight)
        picture = means
    return picture


@dataclasses.dataclass(frozen=True)
class FrameErrors:
    """Errors of one predictor, frame by frame; pixel values are on a scale of 0 to 1.

    Attributes:
        squared: (P,) mean squared error of each frame.
        absolute: (P,) mean absolute error.
        ssim: (P,) structural similarity.
    """

    squared: np.ndarray
    absolute: np.ndarray
    ssim: np.ndarray

    def __len__(self) -> int:
        return len(self.squared)

    def metrics(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Figures over some of the frames.

        ``psnr_db`` is that of the mean squared error, ``l1`` the mean absolute and ``l2`` the root of the mean
        squared error.
        """
        squared = float(self.squared[rows].mean())
        return {
            "psnr_db": psnr_db(squared),
            "ssim": float(self.ssim[rows].mean()),
            "l1": float(self.absolute[rows].mean()),
            "l2": math.sqrt(squared),
        }


@dataclasses.dataclass(frozen=True)
class PairErrors(FrameErrors):
    """Errors of one predictor of next frames, pair by pair.

    Attributes:
        changed: (P,) how many values of the frame changed.
        changed_squared: (P,) squared error summed over these.
        changed_absolute: (P,) absolute error summed over these.
        changed_ssim: (P,) structural similarity summed over the values that changed.
    """

    changed: np.ndarray
    changed_squared: np.ndarray
    changed_absolute: np.ndarray
    changed_ssim: np.ndarray

    def changed_mse(self) -> np.ndarray:
        """(P,) mean squared error over the pixels that changed, 0 where none did."""
        return self.changed_squared / np.maximum(self.changed, 1)

    def metrics(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Figures over some of the pairs; ``changed_*`` are over the pixels that changed, each counting once."""
        pixels = max(float(self.changed[rows].sum()), 1.0)
        changed_squared = float(self.changed_squared[rows].sum()) / pixels
        return super().metrics(rows) | {
            "changed_psnr_db": psnr_db(changed_squared),
            "changed_ssim": float(self.changed_ssim[rows].sum()) / pixels,
            "changed_l1": float(self.changed_absolute[rows].sum()) / pixels,
            "changed_l2": math.sqrt(changed_squared),
        }


Errors = TypeVar("Errors", bound=FrameErrors)


def pair_errors(prediction: Tensor, current: Tensor, following: Tensor) -> PairErrors:
    """Errors of a batch of predictions; all (B, C, H, W) float, frames in [0, 1], the prediction clipped to that."""
    prediction = prediction.float().clamp(0, 1)
    changed = (following - current).abs() > CHANGED
    error = prediction - following
    similarity = np.zeros((2, len(following)))
    for row, pair in enumerate(zip(prediction.cpu().numpy(), following.cpu().numpy(), strict=True)):
        mean, places = ssim_map(*pair)
        similarity[:, row] = mean, places[changed[row].cpu().numpy()].sum()

    return PairErrors(
        squared=_of_frames(error.square(), torch.mean),
        absolute=_of_frames(error.abs(), torch.mean),
        changed=_of_frames(changed),
        changed_squared=_of_frames(error.square() * changed),
        changed_absolute=_of_frames(error.abs() * changed),
        ssim=similarity[0],
        changed_ssim=similarity[1],
    )


def frame_errors(prediction: Tensor, target: Tensor) -> FrameErrors:
    """Errors of a batch of pictures; both (B, C, H, W) float on the CPU, the prediction clipped to [0, 1]."""
    prediction = prediction.float().clamp(0, 1)
    error = prediction - target
    return FrameErrors(
        squared=_of_frames(error.square(), torch.mean),
        absolute=_of_frames(error.abs(), torch.mean),
        ssim=ssim_of_frames(prediction, target),
    )


def joined(parts: list[Errors]) -> Errors:
    """The errors of several batches as one."""
    kind = type(parts[0])
    names = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _of_frames(values: Tensor, reduce: Callable[..., Tensor] = torch.sum) -> np.ndarray:
    array: np.ndarray = reduce(values.flatten(1).double(), 1).cpu().numpy()
    return array
