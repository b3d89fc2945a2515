"""How well the next frame is drawn: PSNR and SSIM, over all pixels and over those that changed."""

from __future__ import annotations

import math
import dataclasses

import numpy as np
from torch import Tensor


def squared_errors(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each frame: (B, C, H, W) twice -> (B,), the prediction clipped to [0, 1]."""
    return (prediction.float().clamp(0, 1) - target).square().flatten(1).mean(1)


def psnr_db(mse: float | Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on a scale of 0 to 1."""
    return -10 * math.log10(max(float(mse), 1e-12))
