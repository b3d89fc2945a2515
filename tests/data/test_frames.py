from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lapa.data.frames import Fitting, FollowingFrames, FrameFormat, fit_frames, prepare, prepare_together, to_float
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


def stretched(frame: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """(H, W, ...) -> (rows, columns, ...): each pixel is repeated until the new ones cover whole numbers of them."""
    height, width = frame.shape[:2]
    fine = frame.astype(int).repeat(rows, axis=0).repeat(columns, axis=1)
    sums = fine.reshape(rows, height, columns, width, *frame.shape[2:]).sum((1, 3))
    return (2 * sums + height * width) // (2 * height * width)  # halves upwards, in integers


SIZES = [((21, 32), (8, 8)), ((7, 11), (5, 3)), ((8, 8), (16, 24)), ((13, 5), (13, 10)), ((40, 3), (9, 27))]


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_a_stretched_pixel_is_the_rounded_mean_of_the_area_it_covers(old, new):
    frames = noise(3, *old, 3)
    fitted = fit_frames(torch.from_numpy(frames), Fitting(new, "stretch"))
    assert fitted.dtype == torch.uint8
    assert np.array_equal(fitted, [stretched(frame, *new) for frame in frames])


@pytest.mark.parametrize(
    ("old", "new", "rows", "columns"),
    [
        ((20, 40), (8, 8), slice(0, 20), slice(10, 30)),
        ((40, 20), (8, 8), slice(10, 30), slice(0, 20)),
        ((21, 30), (10, 20), slice(3, 18), slice(0, 30)),
        ((9, 16), (5, 7), slice(0, 9), slice(1, 14)),  # 12.6 columns are 13
        ((1, 50), (8, 8), slice(0, 1), slice(24, 25)),
    ],
)
def test_crop_scales_the_centre_that_has_the_shape_of_the_target(old, new, rows, columns):
    frame = noise(*old, 3)
    (fitted,) = fit_frames(torch.from_numpy(frame)[None], Fitting(new))
    assert np.array_equal(fitted, stretched(frame[rows, columns], *new))


@pytest.mark.parametrize(
    ("old", "new", "rows", "columns"),
    [
        ((20, 40), (8, 8), slice(2, 6), slice(0, 8)),
        ((40, 20), (8, 9), slice(0, 8), slice(2, 6)),
        ((1, 50), (8, 8), slice(3, 4), slice(0, 8)),
    ],
)
def test_pad_scales_the_whole_picture_between_black_bars(old, new, rows, columns):
    frame = 1 + noise(*old, 3) // 2
    (fitted,) = fit_frames(torch.from_numpy(frame)[None], Fitting(new, "pad")).numpy()
    inner = fitted[rows, columns]
    assert np.array_equal(inner, stretched(frame, *inner.shape[:2]))
    assert fitted.sum() == inner.sum()
    assert inner.all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("color", ["grey", "rgb"])
def test_frames_are_fitted_after_luma_and_before_blocks_and_alike_together_and_one_by_one(color, fit):
    seen = FrameFormat(21, 32, color, 2, (12, 10), fit)
    assert seen.size == (6, 5)
    frames = torch.from_numpy(a_game(12))
    together = prepare(frames, seen)
    whole = prepare(frames, FrameFormat(21, 32, color)).movedim(1, -1)
    fitted = fit_frames(whole, Fitting((12, 10), fit)).numpy()
    assert np.array_equal(together.movedim(1, -1), [stretched(frame, 6, 5) for frame in fitted])
    assert together.is_contiguous()
    assert torch.equal(together, prepare_together(frames, seen))
    assert torch.equal(together, torch.cat([prepare(frame[None], seen) for frame in frames]))
    assert torch.equal(together, torch.cat([FollowingFrames(seen)(frame[None].numpy()) for frame in frames]))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_resize_to_the_recorded_size_changes_nothing(fit):
    frames = torch.from_numpy(a_game(4))
    assert torch.equal(prepare(frames, FrameFormat(21, 32, "grey", 2, (21, 32), fit)), prepare(frames, FORMATS[1]))
    assert torch.equal(fit_frames(frames, Fitting((21, 32), fit)), frames)
    assert torch.equal(fit_frames(frames, Fitting(None, fit)), frames)


def test_a_format_comes_back_from_plain_values_and_from_those_of_older_checkpoints():
    seen = FrameFormat(21, 32, "rgb", 1, (8, 9), "pad")
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in seen.to_dict().items()}
    assert FrameFormat(**plain) == seen
    old = {"height": 21, "width": 32, "color": "grey", "downsample": 2}
    assert FrameFormat(**old) == FORMATS[1]
    assert seen.of_size((40, 50)) == FrameFormat(40, 50, "rgb", 1, (8, 9), "pad")


def test_to_float_maps_bytes_to_the_unit_interval():
    values = to_float(torch.arange(256, dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert (values[0], values[51], values[255]) == (0.0, pytest.approx(0.2), 1.0)
    assert torch.equal((values * 255).round().to(torch.uint8), torch.arange(256, dtype=torch.uint8))
