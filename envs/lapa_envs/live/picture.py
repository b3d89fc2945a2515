"""A step as a picture: what came of it, what the model drew, and the codes between, as colours."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from lapa.report.pictures import FONT, GAP, TEXT_HEIGHT
from lapa_envs.live.game import Moment

WIDTH = 640
"""At least so wide, for the line below the pictures."""


def picture(moment: Moment) -> np.ndarray:
    """(H', W', 3) uint8: the frame, the predicted one and the grid side by side, and the status below."""
    height, width, _ = moment.frame.shape
    cells = [moment.frame, fitted(moment.drawn, (height, width)), code_colors(moment.codes, (height, width))]
    size = (max(WIDTH, 3 * (width + GAP) + GAP), height + 3 * TEXT_HEIGHT + 2 * GAP)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, (name, cell) in enumerate(zip(("next frame", "as the model draws it", "codes"), cells, strict=True)):
        left = GAP + column * (width + GAP)
        draw.text((left, 2), name, fill="#222222", font=FONT)
        image.paste(Image.fromarray(cell), (left, TEXT_HEIGHT))
    done = f"step {moment.step}: {moment.action_name}"
    read = f"the codes say: {moment.reading}" if moment.reading else ""
    for line, text in enumerate((done, read)):
        draw.text((GAP, height + GAP + (1 + line) * TEXT_HEIGHT), text, fill="#222222", font=FONT)
    return np.asarray(image)


def fitted(drawn: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H', W', C) uint8 -> (H, W, 3), each pixel enlarged; black where nothing was drawn."""
    if not drawn.size:
        return np.zeros((*size, 3), dtype=np.uint8)
    return np.broadcast_to(drawn[stretched(drawn.shape[0], size[0])][:, stretched(drawn.shape[1], size[1])], (*size, 3))


def code_colors(codes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Codes (h, w) -> (H, W, 3) uint8, a block of colour for each; the same code has the same colour, always."""
    # Steps of the golden ratio keep near numbers far apart on the circle of hues.
    table = {
        int(code): [round(255 * c) for c in colorsys.hsv_to_rgb(0.618034 * code % 1, 0.45 + 0.4 * (code % 3) / 2, 0.9)]
        for code in np.unique(codes)
    }
    colors = np.array([[table[int(code)] for code in row] for row in codes], dtype=np.uint8)
    return colors[stretched(codes.shape[0], size[0])][:, stretched(codes.shape[1], size[1])]


def stretched(count: int, pixels: int) -> np.ndarray:
    """(pixels,) which of ``count`` cells each pixel of a side shows."""
    return np.arange(pixels) * count // pixels
