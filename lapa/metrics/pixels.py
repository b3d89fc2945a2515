"""How well the next frame is drawn, over all pixels and over those that changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

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


@dataclasses.dataclass(frozen=True)
class PairErrors:
    """Errors of one predictor, pair by pair; pixel values are on a scale of 0 to 1.

    Attributes:
        squared: (P,) mean squared error of each frame.
        absolute: (P,) mean absolute error.
        changed: (P,) how many values of the frame changed.
        changed_squared: (P,) squared error summed over these.
        changed_absolute: (P,) absolute error summed over these.
        ssim: (P,) structural similarity.
        changed_ssim: (P,) structural similarity summed over the values that changed.
    """

    squared: np.ndarray
    absolute: np.ndarray
    changed: np.ndarray
    changed_squared: np.ndarray
    changed_absolute: np.ndarray
    ssim: np.ndarray
    changed_ssim: np.ndarray

    def __len__(self) -> int:
        return len(self.squared)

    def changed_mse(self) -> np.ndarray:
        """(P,) mean squared error over the pixels that changed, 0 where none did."""
        return self.changed_squared / np.maximum(self.changed, 1)

    def metrics(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """Figures over some of the pairs.

        ``psnr_db`` is that of the mean squared error, ``l1`` the mean absolute and ``l2`` the root of the mean
        squared error, over all pixels; ``changed_*`` are the same over the pixels that changed, each counting once.
        """
        pixels = max(float(self.changed[rows].sum()), 1.0)
        squared, changed_squared = float(self.squared[rows].mean()), float(self.changed_squared[rows].sum()) / pixels
        return {
            "psnr_db": psnr_db(squared),
            "ssim": float(self.ssim[rows].mean()),
            "l1": float(self.absolute[rows].mean()),
            "l2": math.sqrt(squared),
            "changed_psnr_db": psnr_db(changed_squared),
            "changed_ssim": float(self.changed_ssim[rows].sum()) / pixels,
            "changed_l1": float(self.changed_absolute[rows].sum()) / pixels,
            "changed_l2": math.sqrt(changed_squared),
        }


def pair_errors(prediction: Tensor, current: Tensor, following: Tensor) -> PairErrors:
    """Errors of a batch of predictions; all (B, C, H, W) float, frames in [0, 1], the prediction clipped to that."""
    prediction = prediction.float().clamp(0, 1)
    changed = (following - current).abs() > CHANGED
    error = prediction - following
    similarity = np.zeros((2, len(following)))
    for row, pair in enumerate(zip(prediction.cpu().numpy(), following.cpu().numpy(), strict=True)):
        mean, places = ssim_map(*pair)
        similarity[:, row] = mean, places[changed[row].cpu().numpy()].sum()

    def of_frames(values: Tensor, reduce: Callable[..., Tensor] = torch.sum) -> np.ndarray:
        array: np.ndarray = reduce(values.flatten(1).double(), 1).cpu().numpy()
        return array

    return PairErrors(
        squared=of_frames(error.square(), torch.mean),
        absolute=of_frames(error.abs(), torch.mean),
        changed=of_frames(changed),
        changed_squared=of_frames(error.square() * changed),
        changed_absolute=of_frames(error.abs() * changed),
        ssim=similarity[0],
        changed_ssim=similarity[1],
    )


def joined(parts: list[PairErrors]) -> PairErrors:
    """The errors of several batches as one."""
    names = [field.name for field in dataclasses.fields(PairErrors)]
    return PairErrors(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
