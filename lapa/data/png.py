"""Frames as PNG files, read and written. Imports no PyTorch: the process that writes recordings starts at once."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from lapa.errors import DataError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEVEL = 3  # of zlib: 1,184 bytes for a frame of Breakout in 0.13 ms; 6 takes 792 bytes and twice the time


def read_png(path: Path) -> np.ndarray:
    """The picture at ``path`` as (H, W, 3) uint8 RGB, whatever mode it was saved in.

    Raises:
        DataError: the file is missing, cut, or no picture.
    """
    try:
        content = path.read_bytes()
        if (opencv := _opencv()) is not None and _is_intact_rgb_png(content):
            frame = opencv.imdecode(np.frombuffer(content, np.uint8), opencv.IMREAD_COLOR_RGB)
            if frame is not None:  # else Pillow says what is wrong
                return np.asarray(frame)
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{path}: not a picture; record it again or delete the file") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError on broken PNG chunks
        raise DataError(f"{path}: cannot be read ({error}); record it again or delete the file") from None


def png_of(frame: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a lossless RGB PNG.

    Each row of pixels is stored as its difference from the one above, by which a game's flat areas become zeros. Pillow
    tries five such filters for each row, and takes two to three times as long for two thirds of the size.
    """
    height, width, _ = frame.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = 2  # the filter "up" (PNG specification, section 9.2)
    pixels = frame.reshape(height, -1)
    rows[0, 1:] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), LEVEL)), (b"IEND", b""))
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@functools.cache
def _opencv() -> Any:
    """OpenCV, where the extra ``fast`` is installed: it decodes 1.5 times as fast as Pillow."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _is_intact_rgb_png(content: bytes) -> bool:
    """Whether these are all bytes of an 8-bit RGB PNG. OpenCV returns half a picture for half a file."""
    if content[:8] != SIGNATURE or content[24:26] != b"\x08\x02":
        return False
    position, kind = 8, b""
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind = content[position + 4 : position + 8]
        body = content[position + 4 : position + 8 + length]
        if zlib.crc32(body).to_bytes(4, "big") != content[position + 8 + length : position + 12 + length]:
            return False
        position += 12 + length
    return kind == b"IEND" and position == len(content)
