"""Ball, paddle and bricks are found in real pictures where the console's memory says they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from lapa.data.episodes import Truth
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.store import FrameStore
from lapa.evaluation.breakout import (
    FREE_ROWS,
    WALLS,
    ScreenState,
    action_classes,
    element_metrics,
    find_ball,
    find_bricks,
    find_paddle,
    is_breakout,
    screen_state,
    to_luma,
)
from lapa_envs.atari import make_env
from lapa_envs.recording import make_policy

POINTS = np.array([7, 7, 4, 4, 1, 1])
"""Of a brick in each row, from the top."""
at_both_sizes = pytest.mark.parametrize("downsample", [1, 2])


class Play(NamedTuple):
    """N frames (N, 210, 160, 3), what memory says of them, and the points won up to each."""

    frames: np.ndarray
    state: ScreenState
    points: np.ndarray


@pytest.fixture(scope="module")
def recorded(breakout_store: FrameStore) -> Play:
    truths = [episode.truth for episode in breakout_store.episodes]
    points = [np.cumsum([0, *truth.rewards]) for truth in truths]
    return Play(
        breakout_store.frames(range(len(breakout_store))),
        screen_state(np.concatenate([truth.ram for truth in truths])),
        np.concatenate(points),
    )


@pytest.fixture(scope="module")
def long_play() -> Play:
    """One game of 200 steps in which many bricks are broken."""
    env = make_env()
    player = make_policy(env, "scripted", np.random.default_rng(0), skill=1.0)
    frames, rewards, ram = [env.reset(seed=0)[0]], [0.0], [env.unwrapped.ale.getRAM()]
    for _ in range(200):
        frame, reward, *_ = env.step(player(ram[-1]))
        frames.append(frame)
        rewards.append(reward)
        ram.append(env.unwrapped.ale.getRAM())
    env.close()
    return Play(np.stack(frames), screen_state(np.stack(ram)), np.cumsum(rewards))


def luma(frames: np.ndarray, downsample: int, color: str = "grey") -> np.ndarray:
    format = FrameFormat(210, 160, color, downsample)
    return to_luma(to_float(prepare(torch.from_numpy(frames), format)).numpy())


def without_ball(frames: np.ndarray, state: ScreenState) -> np.ndarray:
    """The frames with everything between bricks and paddle painted black."""
    erased = frames.copy()
    erased[:, FREE_ROWS[0] : FREE_ROWS[1], WALLS[0] : WALLS[1]] = 0
    return erased


@at_both_sizes
@pytest.mark.parametrize("source", ["recorded", "long_play"])
def test_ball_and_paddle_are_found_where_memory_has_them(
    request: pytest.FixtureRequest, source: str, downsample: int
) -> None:
    frames, state, _ = request.getfixturevalue(source)
    pictures = luma(frames, downsample)
    free = state.ball_free
    assert free.sum() > 50
    ball = np.linalg.norm(find_ball(pictures, downsample) - state.ball, axis=1)[free]
    assert np.mean(ball <= 2) >= 0.99
    assert np.mean(np.abs(find_paddle(pictures, downsample) - state.paddle) <= 2) >= 0.99
    assert np.ptp(state.ball[free], axis=0).min() > 30, "the ball hardly moved: the test says nothing"
    assert np.ptp(state.paddle) > 30, "the paddle hardly moved: the test says nothing"


@at_both_sizes
def test_all_bricks_stand_at_the_start(recorded: Play, downsample: int) -> None:
    assert find_bricks(luma(recorded.frames[:1], downsample), downsample).sum() == 108


@at_both_sizes
def test_bricks_fall_as_points_are_won(long_play: Play, downsample: int) -> None:
    standing = find_bricks(luma(long_play.frames, downsample), downsample)
    won = ((18 - standing.sum(2)) * POINTS).sum(1)
    assert long_play.points[-1] >= 4
    np.testing.assert_array_equal(won, long_play.points)
    assert np.mean(np.diff(standing.astype(int), axis=0) > 0) == 0, "a broken brick came back"


@at_both_sizes
def test_an_erased_ball_is_not_found(recorded: Play, downsample: int) -> None:
    assert np.isnan(find_ball(luma(without_ball(recorded.frames, recorded.state), downsample), downsample)).all()


@at_both_sizes
def test_a_faint_ball_counts_from_half_its_light(recorded: Play, downsample: int) -> None:
    pictures = luma(recorded.frames[recorded.state.ball_free], downsample)
    top, bottom = (row // downsample for row in FREE_ROWS)
    for share, drawn in ((0.4, 0.0), (0.6, 1.0)):
        faint = pictures.copy()
        faint[:, top:bottom] *= share
        assert np.isfinite(find_ball(faint, downsample)).all(1).mean() == pytest.approx(drawn, abs=0.05)


@at_both_sizes
def test_an_erased_paddle_is_not_found(recorded: Play, downsample: int) -> None:
    frames = recorded.frames.copy()
    frames[:, 185:196, WALLS[0] : WALLS[1]] = 0
    assert np.isnan(find_paddle(luma(frames, downsample), downsample)).all()


@at_both_sizes
def test_grey_and_colour_show_the_same(long_play: Play, downsample: int) -> None:
    free = long_play.state.ball_free
    grey, rgb = (luma(long_play.frames[free][:100], downsample, color) for color in ("grey", "rgb"))
    np.testing.assert_allclose(grey, rgb, atol=2 / 255)
    np.testing.assert_array_equal(find_bricks(grey, downsample), find_bricks(rgb, downsample))
    np.testing.assert_allclose(find_ball(grey, downsample), find_ball(rgb, downsample), atol=0.1)
    np.testing.assert_allclose(find_paddle(grey, downsample), find_paddle(rgb, downsample), atol=0.1)


def pairs(play: Play, downsample: int) -> dict[str, object]:
    """Arguments of ``element_metrics`` but for the prediction."""
    pictures = luma(play.frames, downsample)
    state = ScreenState(play.state.ball[1:], play.state.ball_free[1:], play.state.paddle[1:])
    return {"current": pictures[:-1], "next": pictures[1:], "truth": state, "downsample": downsample}


@at_both_sizes
def test_a_perfect_prediction_has_perfect_figures(long_play: Play, downsample: int) -> None:
    given = pairs(long_play, downsample)
    metrics = element_metrics(given["next"], **given)
    for name in ("ball/drawn", "ball/within_4px", "bricks/accuracy", "bricks/changed_accuracy"):
        assert metrics[name] == 1.0, name
    assert metrics["paddle/within_2px"] >= 0.99
    assert metrics["ball/median_px"] <= 1
    assert metrics["paddle/median_px"] <= 1
    assert metrics["ball/free_frames"] == long_play.state.ball_free[1:].sum()


@at_both_sizes
def test_copying_is_judged_like_a_model_that_copies(long_play: Play, downsample: int) -> None:
    given = pairs(long_play, downsample)
    metrics = element_metrics(given["current"], **given)
    for name in [name for name in metrics if "copy_" in name]:
        assert metrics[name] == metrics[name.replace("copy_", "")], name
    assert metrics["bricks/copy_changed_accuracy"] == 0.0
    assert metrics["ball/copy_within_4px"] < 0.2


def test_a_model_that_never_draws_the_ball_is_found_out(long_play: Play) -> None:
    given = pairs(long_play, 1)
    metrics = element_metrics(luma(without_ball(long_play.frames, long_play.state), 1)[1:], **given)
    assert metrics["ball/drawn"] == metrics["ball/within_4px"] == 0.0
    assert metrics["bricks/accuracy"] == 1.0


def test_figures_without_anything_to_judge_are_left_out(recorded: Play) -> None:
    given = pairs(Play(recorded.frames[:3], screen_state(np.zeros((3, 128), np.uint8)), np.zeros(3)), 1)
    metrics = element_metrics(given["next"], **given)
    assert metrics["ball/free_frames"] == 0
    assert not {"ball/drawn", "ball/within_4px", "bricks/changed_accuracy"} & metrics.keys()


def test_actions_are_classed_by_what_the_paddle_was_told() -> None:
    meanings = ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert action_classes(np.array([0, 1, 2, 3]), meanings).tolist() == [0, 0, 1, 2]
    assert action_classes(np.array([0, 1]), ["LEFT", "RIGHT"]).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("meta", "size", "answer"),
    [
        ({"env_id": "ALE/Breakout-v5"}, (210, 160), True),
        ({"env_id": "ALE/Breakout-v5"}, (84, 84), False),
        ({"env_id": "ALE/Pong-v5"}, (210, 160), False),
        ({}, (210, 160), False),
    ],
)
def test_only_breakout_at_full_size_is_breakout(meta: dict[str, str], size: tuple[int, int], answer: bool) -> None:
    assert is_breakout(Truth(meta=meta), size) is answer
