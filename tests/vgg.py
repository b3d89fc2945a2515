"""Files of weights of a small VGG16, and of the heads of LPIPS for it."""

from __future__ import annotations

from pathlib import Path

import torch

WIDTHS = {0: (3, 4), 2: (4, 4), 5: (4, 6), 7: (6, 6), 10: (6, 8), 12: (8, 8), 14: (8, 8)}
WIDTHS |= {17: (8, 5), 19: (5, 5), 21: (5, 5), 24: (5, 7), 26: (7, 7), 28: (7, 7)}
"""Channels before and after each convolution of a small VGG16, by its number in torchvision's ``features``."""


def vgg16_state() -> dict[str, torch.Tensor]:
    """The state dict of a small VGG16 with random weights, and what else such a file holds."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for number, (before, after) in WIDTHS.items():
        weights[f"features.{number}.weight"] = torch.randn(after, before, 3, 3, generator=generator) / 3
        weights[f"features.{number}.bias"] = torch.randn(after, generator=generator) / 3
    return {**weights, "classifier.0.weight": torch.zeros(2, 2)}


def write_vgg16(path: Path) -> Path:
    """Writes that state dict."""
    torch.save(vgg16_state(), path)
    return path


def write_heads(path: Path) -> Path:
    """Writes LPIPS' weights of the channels of the five layers, as the package's file names them."""
    generator = torch.Generator().manual_seed(1)
    names = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate((4, 6, 8, 5, 7))}
    torch.save({name: torch.rand(shape, generator=generator) for name, shape in names.items()}, path)
    return path
