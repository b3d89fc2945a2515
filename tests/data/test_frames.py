from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lapa.data.frames import FollowingFrames, FrameFormat, prepare, to_float
from lapa.errors import DataError


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_grey_is_exactly_what_pillow_makes_of_every_colour():
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    ours = prepare(torch.from_numpy(colours)[None], FrameFormat(*colours.shape[:2]))[0, 0]
    assert np.array_equal(ours, np.asarray(Image.fromarray(colours).convert("L")))


def test_rgb_is_the_same_pixels_with_channels_first():
    frames = torch.from_numpy(noise(2, 6, 5, 3))
    prepared = prepare(frames, FrameFormat(6, 5, "rgb"))
    assert prepared.shape == (2, 3, 6, 5)
    assert prepared.dtype == torch.uint8
    assert torch.equal(prepared.permute(0, 2, 3, 1), frames)


@pytest.mark.parametrize("color", ["grey", "rgb"])
@pytest.mark.parametrize("factor", [2, 3, 5, 6])
def test_downsample_rounds_the_mean_of_each_block(color, factor):
    frames = torch.from_numpy(noise(2, 30, 60, 3))
    whole = prepare(frames, FrameFormat(30, 60, color)).numpy().astype(int)
    blocks = whole.reshape(*whole.shape[:2], 30 // factor, factor, 60 // factor, factor)
    rounded = (2 * blocks.sum((3, 5)) + factor**2) // (2 * factor**2)  # halves upwards, in integers
    assert np.array_equal(prepare(frames, FrameFormat(30, 60, color, factor)), rounded)


def test_downsample_cuts_what_fills_no_block_and_the_format_says_so():
    format = FrameFormat(7, 11, "grey", 3)
    frames = torch.zeros(1, 7, 11, 3, dtype=torch.uint8)
    frames[:, 6:], frames[:, :, 9:] = 255, 255
    prepared = prepare(frames, format)
    assert prepared.shape == (1, format.channels, *format.size) == (1, 1, 2, 3)
    assert not prepared.any()


@pytest.mark.parametrize(
    ("frames", "seen"),
    [
        (torch.zeros(1, 6, 5, 3), r"\(6, 5, 3\) float32"),
        (torch.zeros(1, 6, 5, 3, dtype=torch.int64), "int64"),
        (torch.zeros(1, 5, 6, 3, dtype=torch.uint8), r"\(5, 6, 3\) uint8"),
        (torch.zeros(1, 6, 5, 4, dtype=torch.uint8), r"\(6, 5, 4\)"),
        (torch.zeros(1, 3, 6, 5, dtype=torch.uint8), r"\(3, 6, 5\)"),
        (torch.zeros(6, 5, 3, dtype=torch.uint8), r"\(5, 3\)"),
    ],
)
def test_frames_of_another_type_or_size_are_refused_with_what_was_seen_and_wanted(frames, seen):
    with pytest.raises(DataError, match=rf"{seen}.*wants \(6, 5, 3\) uint8"):
        prepare(frames, FrameFormat(6, 5))


FORMATS = [FrameFormat(21, 32, color, k) for color in ("grey", "rgb") for k in (1, 2, 3)]


def a_game(frames: int, seed: int = 0) -> np.ndarray:
    """(N, 21, 32, 3) uint8: a square moves over noise; sometimes nothing does, and once all is new."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (21, 32, 3), dtype=np.uint8)
    shown = []
    for number in range(frames):
        if number == frames // 2:
            ground = rng.integers(0, 256, ground.shape, dtype=np.uint8)
        frame = ground.copy()
        row = number // 2 * 2 % 20
        frame[row : row + 3, 5:9] = 255
        shown.append(frame)
    return np.stack(shown)


@pytest.mark.parametrize("seen", FORMATS, ids=str)
def test_frames_are_prepared_alike_together_and_one_by_one(seen):
    frames = torch.from_numpy(a_game(12))
    together = prepare(frames, seen)
    assert together.is_contiguous()
    assert torch.equal(together, torch.cat([prepare(frame[None], seen) for frame in frames]))


@pytest.mark.parametrize("seen", FORMATS, ids=str)
def test_frames_of_running_games_are_prepared_as_by_themselves(seen):
    following = FollowingFrames(seen)
    games = np.stack([a_game(12, seed) for seed in range(3)], axis=1)  # (12, 3, H, W, 3)
    kept = []
    memory = np.empty_like(games[0])
    for frames in games:
        memory[:] = frames  # as environments do that reuse their memory
        kept.append(following(memory))
    for frames, prepared in zip(games, kept, strict=True):
        assert torch.equal(prepared, prepare(torch.from_numpy(frames), seen))


@pytest.mark.parametrize("seen", FORMATS, ids=str)
def test_frames_are_prepared_alike_without_numba(seen, request):
    frames = a_game(12)
    expected = prepare(torch.from_numpy(frames), seen)
    request.getfixturevalue("without_numba")
    assert torch.equal(prepare(torch.from_numpy(frames), seen), expected)
    assert torch.equal(FollowingFrames(seen)(frames), expected)


def test_frames_of_running_games_may_become_more_or_fewer_and_are_checked_each_time():
    following, seen = FollowingFrames(FORMATS[1]), FORMATS[1]
    games = a_game(6)
    for frames in (games[:2], games[2:3], games[3:6]):
        assert torch.equal(following(frames), prepare(torch.from_numpy(frames), seen))
    for flipped in (games[:2, :, ::-1], games[2:4, ::-1]):
        assert torch.equal(following(flipped), prepare(torch.from_numpy(flipped.copy()), seen))
    for wrong in (games[3:6, :20], games[3:6].astype(np.int64)):
        with pytest.raises(DataError, match="uint8"):
            following(wrong)


def test_to_float_maps_bytes_to_the_unit_interval():
    values = to_float(torch.arange(256, dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert (values[0], values[51], values[255]) == (0.0, pytest.approx(0.2), 1.0)
    assert torch.equal((values * 255).round().to(torch.uint8), torch.arange(256, dtype=torch.uint8))
