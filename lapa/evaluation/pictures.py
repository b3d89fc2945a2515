"""Pictures of what a model draws."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

ZOOM = 2


@dataclasses.dataclass(frozen=True)
class Example:
    """One held-out pair for pictures: (C, H, W) in [0, 1] each, and where it was recorded."""

    current: np.ndarray
    next: np.ndarray
    prediction: np.ndarray
    where: str


def pair_strips(examples: Sequence[Example]) -> np.ndarray:
    """Examples side by side, each a column of current, next, prediction and difference: (H', W', 3) uint8."""
    columns = []
    for example in examples:
        cells = [to_rgb(example.current), to_rgb(example.next), to_rgb(example.prediction)]
        cells.append(difference_image(example.prediction, example.next))
        columns.append(np.concatenate([np.pad(cell, ((0, 2), (0, 2), (0, 0)), constant_values=255) for cell in cells]))
    return np.concatenate(columns, axis=1).repeat(ZOOM, 0).repeat(ZOOM, 1)


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3) uint8."""
    pixels = (frame.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(np.moveaxis(pixels, 0, -1), (*frame.shape[1:], 3))


def difference_image(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(C, H, W) twice -> (H, W, 3) uint8: white is equal, red is too bright, blue is too dark."""
    difference = (prediction - target).mean(0).clip(-0.5, 0.5) * 2
    image = np.ones((*difference.shape, 3))
    image[..., 1] -= np.abs(difference)
    image[..., 2] -= difference.clip(0, None)
    image[..., 0] -= (-difference).clip(0, None)
    return (image * 255).round().astype(np.uint8)


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return buffer.getvalue()
