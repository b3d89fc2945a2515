"""Frames as PNG files: any picture is read as RGB, broken ones are named, and ours are read by everybody."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from lapa.data.png import png_of, read_png
from lapa.errors import DataError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA", "1"])
def test_a_png_of_any_mode_is_read_as_rgb(tmp_path, mode):
    pixels = np.where(noise(9, 7, 1) > 127, np.uint8(255), np.uint8(0)).repeat(3, axis=2)  # all modes can hold these
    Image.fromarray(pixels).convert(mode).save(tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as image:
        assert image.mode == mode
    frame = read_png(tmp_path / "0.png")
    assert frame.dtype == np.uint8
    assert np.array_equal(frame, pixels)


@pytest.mark.parametrize("shape", [(210, 160), (1, 1), (3, 2), (1, 40)], ids=str)
@pytest.mark.parametrize("kind", ["noise", "flat", "game"])
def test_a_png_of_ours_is_read_back_by_everybody(shape, kind, tmp_path):
    frame = noise(*shape, 3)
    if kind == "flat":
        frame[:] = frame[0, 0]
    elif kind == "game":
        frame[shape[0] // 3 :] = 0
    content = png_of(np.asfortranarray(frame) if kind == "noise" else frame)
    path = tmp_path / "0.png"
    path.write_bytes(content)
    with Image.open(io.BytesIO(content)) as image:
        image.verify()
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), frame)
    assert np.array_equal(read_png(path), frame)
    cv2 = pytest.importorskip("cv2")
    assert np.array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB), frame)


def test_a_palette_png_keeps_its_colours(tmp_path):
    frame = np.array([(200, 72, 72), (66, 72, 200), (0, 0, 0), (142, 142, 142)], dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(frame).quantize(colors=4).save(tmp_path / "0.png")
    assert np.array_equal(read_png(tmp_path / "0.png"), frame)


def test_a_png_cut_anywhere_is_refused_by_name_or_still_has_all_its_pixels(tmp_path):
    pixels, path = noise(8, 8, 3), tmp_path / "7.png"
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    complaints = []
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            assert np.array_equal(read_png(path), pixels)
        except DataError as error:
            complaints.append(str(error))
    assert len(complaints) > 0.9 * len(whole)
    assert all(text.startswith(f"{path}: ") and text.endswith("delete the file") for text in complaints)


def png_around(pixel_stream: bytes) -> bytes:
    """An 8 x 8 RGB PNG whose every checksum is right, around any stream of pixels."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", pixel_stream), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


ROWS = (b"\0" + b"\xc8" * 24) * 8


def test_a_handmade_png_is_read(tmp_path):
    (tmp_path / "0.png").write_bytes(png_around(zlib.compress(ROWS)))
    assert (read_png(tmp_path / "0.png") == 200).all()


@pytest.mark.parametrize("stream", [b"", b"no zlib", zlib.compress(ROWS)[:6]], ids=range(3))
def test_a_png_with_right_checksums_around_a_broken_pixel_stream_is_refused_by_name(tmp_path, stream):
    (tmp_path / "7.png").write_bytes(png_around(stream))
    with pytest.raises(DataError, match=r"7\.png: .*delete the file"):
        read_png(tmp_path / "7.png")


def test_a_missing_png_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"0\.png: cannot be read.*No such file"):
        read_png(tmp_path / "0.png")


def test_reading_and_writing_png_needs_no_pytorch():
    code = "import sys; sys.modules['torch'] = None; import lapa_envs.writer"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
