"""How well the next frame is drawn, over all pixels and over those that changed."""

from __future__ import annotations

import dataclasses
import math

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


def mean_ssim(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Mean structural similarity of (N, C, H, W) frames in [0, 1], with the published settings (Wang et al. 2004)."""
    from skimage.metrics import structural_similarity

    values = [
        structural_similarity(
            target,
            prediction,
            data_range=1.0,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for prediction, target in zip(predictions, targets, strict=True)
    ]
    return float(np.mean(values))


@dataclasses.dataclass
class ReconstructionError:
    """Sums squared errors of one predictor over batches.

    Attributes:
        total: summed over frames of the mean squared error of each.
        frames: how many.
        changed_total: squared error summed over changed pixels.
        changed_pixels: how many.
    """

    total: float = 0.0
    frames: int = 0
    changed_total: float = 0.0
    changed_pixels: int = 0

    def add(self, prediction: Tensor, current: Tensor, next: Tensor) -> None:
        """Counts a batch of (B, C, H, W) in [0, 1]."""
        prediction = prediction.float().clamp(0, 1)
        changed = (next - current).abs() > CHANGED
        self.total += float(squared_errors(prediction, next).sum())
        self.frames += len(next)
        self.changed_total += float(torch.where(changed, (prediction - next).square(), 0.0).sum())
        self.changed_pixels += int(changed.sum())

    def metrics(self) -> dict[str, float]:
        """``psnr_db`` of the mean squared error over all pixels, ``changed_psnr_db`` over the changed ones."""
        return {
            "psnr_db": psnr_db(self.total / self.frames),
            "changed_psnr_db": psnr_db(self.changed_total / max(self.changed_pixels, 1)),
        }
