"""Pictures of what a model draws: sheets of frames with names, and moving ones."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH = 160
"""Frames narrower than this are enlarged by a whole number."""

DIFFERENCE = 0.5
"""The difference that is shown in full colour, on a scale of 0 to 1."""

OUTLINE = (255, 220, 0)
GAP = 4
TEXT_HEIGHT = 18
NAMES_WIDTH = 96
"""At least so wide is the column of the rows' names: the frames of a moving picture must be of one size."""
BAR_WIDTH = 110
FONT = ImageFont.load_default(12)


@dataclasses.dataclass(frozen=True)
class Example:
    """One held-out pair for pictures: (C, H, W) in [0, 1] each, and where it was recorded."""

    current: np.ndarray
    next: np.ndarray
    prediction: np.ndarray
    where: str


def example_sheet(examples: Sequence[Example]) -> np.ndarray:
    """Examples side by side, each a column of current, next, prediction and difference: (H', W', 3) uint8."""
    rows = {
        "current": [example.current for example in examples],
        "true next": [example.next for example in examples],
        "predicted next": [example.prediction for example in examples],
    }
    return compared(rows, [example.where for example in examples])


def compared(rows: Mapping[str, Sequence[np.ndarray] | np.ndarray], where: Sequence[str]) -> np.ndarray:
    """Rows of pictures (C, H, W) by name, and the last row less the one before, if any: (H', W', 3) uint8.

    Args:
        rows: at least one, of equally many pictures.
        where: the name of each column.
    """
    cells = [[to_rgb(picture) for picture in row] for row in rows.values()]
    if len(rows) < 2:
        return sheet(cells, [*rows], where)
    *_, wanted, drawn = rows.values()
    cells.append([difference_image(*pair) for pair in zip(drawn, wanted, strict=True)])
    return sheet(cells, [*rows, "difference"], where, scale_bar=True)


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    scale_bar: bool = False,
    cell_width: int = WIDTH,
    names_width: int = 0,
) -> np.ndarray:
    """Cells (H, W, 3) uint8, all of one size, in rows with names: (H', W', 3) uint8.

    Args:
        rows: of cells.
        row_names: left of each.
        column_names: above each.
        scale_bar: whether to add what the colours of a difference mean.
        cell_width: cells narrower than this are enlarged by a whole number.
        names_width: at least so many pixels are left to the names of rows.
    """
    height, width, _ = rows[0][0].shape
    zoom = max(1, -(-cell_width // width))
    step_y, step_x = height * zoom + GAP, width * zoom + GAP
    left = max(names_width, width_of(row_names))
    size = (left + step_x * len(rows[0]) + BAR_WIDTH * scale_bar, TEXT_HEIGHT + step_y * len(rows))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, name in enumerate(column_names):
        _write(draw, (left + column * step_x, 2), name)
    for line, (cells, name) in enumerate(zip(rows, row_names, strict=True)):
        top = TEXT_HEIGHT + line * step_y
        _write(draw, (2, top + height * zoom // 2 - TEXT_HEIGHT // 2), name)
        for column, cell in enumerate(cells):
            enlarged = Image.fromarray(cell.repeat(zoom, 0).repeat(zoom, 1))
            image.paste(enlarged, (left + column * step_x, top))
    if scale_bar:
        _draw_scale_bar(image, draw, (size[0] - BAR_WIDTH + 8, TEXT_HEIGHT + step_y * (len(rows) - 1)), height * zoom)
    return np.asarray(image)


def width_of(names: Iterable[str]) -> int:
    """How many pixels names of rows take."""
    return max(NAMES_WIDTH, *(int(FONT.getlength(name)) + 8 for name in names))


def _draw_scale_bar(image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], height: int) -> None:
    values = np.linspace(DIFFERENCE, -DIFFERENCE, height)[None, :, None].repeat(14, 2)  # (1, height, 14)
    image.paste(Image.fromarray(difference_image(values, np.zeros_like(values))), corner)
    left, top = corner
    draw.rectangle((left, top, left + 14, top + height - 1), outline="#888888")
    lines = ((0, f"+{DIFFERENCE} too bright"), (0.5, "0"), (1, f"-{DIFFERENCE} too dark"))
    for share, text in lines:
        _write(draw, (left + 20, int(top + share * (height - TEXT_HEIGHT))), text)


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str) -> None:
    draw.text(corner, text, fill="#222222", font=FONT)


def movie(frames: Sequence[np.ndarray], milliseconds: int = 80) -> bytes:
    """Frames (H, W, 3) uint8, all of one size, as a lossless WebP file that moves."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    # Of a lossless file the quality is the effort: a sixth more bytes for half the time.
    first.save(
        buffer,
        format="webp",
        save_all=True,
        append_images=rest,
        duration=milliseconds,
        loop=0,
        lossless=True,
        quality=20,
        method=1,
    )
    return buffer.getvalue()


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """(C, H, W) in [0, 1] -> (H, W, 3) uint8."""
    pixels = (frame.clip(0, 1) * 255).round().astype(np.uint8)
    return np.broadcast_to(np.moveaxis(pixels, 0, -1), (*frame.shape[1:], 3))


def difference_image(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(C, H, W) twice -> (H, W, 3) uint8: white is equal, red is too bright, blue is too dark."""
    difference = (prediction - target).mean(0).clip(-DIFFERENCE, DIFFERENCE) / DIFFERENCE
    image = np.ones((*difference.shape, 3))
    image[..., 1] -= np.abs(difference)
    image[..., 2] -= difference.clip(0, None)
    image[..., 0] -= (-difference).clip(0, None)
    return (image * 255).round().astype(np.uint8)


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def outlined(image: np.ndarray, centres: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """(H, W, 3) uint8 with a yellow frame, of the size of a grid's place, about each centre (x, y) of (N, 2)."""
    image = image.copy()
    half = np.array([image.shape[1] / grid[1], image.shape[0] / grid[0]]) / 2
    last = np.array([image.shape[1], image.shape[0]]) - 1
    for centre in centres:
        left, top = np.clip(centre - half, 0, last).round().astype(int)
        right, bottom = np.clip(centre + half - 1, 0, last).round().astype(int)
        image[[top, bottom], left : right + 1] = OUTLINE
        image[top : bottom + 1, [left, right]] = OUTLINE
    return image
