"""Ball, paddle, bricks, digits and events are found in real pictures where the RAM says they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.games.breakout.detectors import (
    find_ball,
    find_bricks,
    find_digits,
    find_paddle,
    read_screens,
)
from lapa.games.breakout.elements import element_metrics, find_elements
from lapa.games.breakout.events import EVENTS, find_events
from lapa.games.breakout.game import Breakout
from lapa.games.breakout.screen import (
    BRICK_POINTS,
    FREE_ROWS,
    PADDLE_WIDTH,
    RAM_BALL_DOWN,
    RAM_BALL_LEFT,
    RAM_BALL_Y,
    RAM_PADDLE_X,
    WALLS,
    ScreenState,
    action_classes,
    is_breakout,
    screen_state,
)
from lapa.games.finding import to_luma
from lapa.games.game import State
from lapa_envs.atari import make_env
from lapa_envs.policies import make_policy

at_both_sizes = pytest.mark.parametrize("downsample", [1, 2])


class Play(NamedTuple):
    """N frames (N, 210, 160, 3), memory (N, 128) and what it says of them, points won so far, and lives."""

    frames: np.ndarray
    ram: np.ndarray
    state: ScreenState
    points: np.ndarray
    lives: np.ndarray


def play(policy: str, steps: int, seed: int, skill: float = 1.0) -> Play:
    """One game, or its beginning."""
    env = make_env()
    player = make_policy(env, policy, np.random.default_rng(seed), skill=skill)
    frames, rewards = [env.reset(seed=seed)[0]], [0.0]
    ram, lives = [env.unwrapped.ale.getRAM()], [env.unwrapped.ale.lives()]
    is_over = False
    while len(frames) <= steps and not is_over:
        frame, reward, is_over, _, _ = env.step(player(None, {}))
        frames.append(frame)
        rewards.append(reward)
        ram.append(env.unwrapped.ale.getRAM())
        lives.append(env.unwrapped.ale.lives())
    env.close()
    memory = np.stack(ram)
    return Play(np.stack(frames), memory, screen_state(memory), np.cumsum(rewards), np.array(lives))


@pytest.fixture(scope="module")
def scripted() -> list[Play]:
    return [play("scripted", 500, seed, skill) for seed, skill in ((0, 1.0), (1, 0.7), (2, 0.4))]


@pytest.fixture(scope="module")
def random() -> list[Play]:
    return [play("random", 500, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def long_play(scripted: list[Play]) -> Play:
    """A game in which many bricks are broken."""
    return scripted[0]


def luma(frames: np.ndarray, downsample: int, color: str = "grey") -> np.ndarray:
    format = FrameFormat(210, 160, color, downsample)
    return to_luma(to_float(prepare(torch.from_numpy(frames), format)).numpy())


def without_ball(frames: np.ndarray) -> np.ndarray:
    """The frames with everything between bricks and paddle painted black."""
    erased = frames.copy()
    erased[:, FREE_ROWS[0] : FREE_ROWS[1], WALLS[0] : WALLS[1]] = 0
    return erased


# Detectors


@pytest.mark.parametrize("player", ["scripted", "random"])
class TestDetectorsAgreeWithMemory:
    """On at least 99 % of the frames of each player."""

    @at_both_sizes
    def test_in_pictures_of_both_sizes(self, request: pytest.FixtureRequest, player: str, downsample: int) -> None:
        agreement: dict[str, list[np.ndarray]] = {}
        for frames, _, state, _, _ in request.getfixturevalue(player):
            pictures = luma(frames, downsample)
            free = state.ball_free
            centre, width = find_paddle(pictures, downsample)
            hidden = np.minimum(state.paddle - WALLS[0], WALLS[1] - state.paddle)
            seen = np.minimum(2 * hidden, PADDLE_WIDTH)  # a wall may hide a part
            score, lives = find_digits(pictures, downsample)
            right = {
                "ball": np.linalg.norm(find_ball(pictures, downsample) - state.ball, axis=1)[free] <= 2,
                "paddle": np.abs(centre - state.paddle) <= 1,
                "width of the paddle": np.abs(width - seen) <= 2,
                "bricks": (find_bricks(pictures, downsample) == state.bricks).all((1, 2)),
                "score": score == state.score,
                "lives": lives == state.lives,
            }
            for name, values in right.items():
                agreement.setdefault(name, []).append(values)
        shares = {name: np.concatenate(values).mean() for name, values in agreement.items()}
        assert {name: share for name, share in shares.items() if share < 0.99} == {}

    def test_in_recorded_frames_to_the_pixel(self, request: pytest.FixtureRequest, player: str) -> None:
        agreement: dict[str, list[np.ndarray]] = {}
        for frames, _, state, _, _ in request.getfixturevalue(player):
            found = read_screens(frames)
            right = {
                "ball": np.linalg.norm(found.ball - state.ball, axis=1)[state.ball_free] == 0,
                "ball_free": found.ball_free == state.ball_free,
                "ball_away": found.ball_away == state.ball_away,
                "paddle": found.paddle == state.paddle,
                "bricks": (found.bricks == state.bricks).all((1, 2)),
                "score": found.score == state.score,
                "lives": found.lives == state.lives,
            }
            for name, values in right.items():
                agreement.setdefault(name, []).append(values)
        shares = {name: np.concatenate(values).mean() for name, values in agreement.items()}
        assert {name: share for name, share in shares.items() if share < 0.98} == {}

    def test_and_there_is_something_to_see(self, request: pytest.FixtureRequest, player: str) -> None:
        state = [each.state for each in request.getfixturevalue(player)]
        assert sum(each.ball_free.sum() for each in state) > 200
        assert np.ptp(np.concatenate([each.ball[each.ball_free] for each in state]), axis=0).min() > 60
        assert np.ptp(np.concatenate([each.paddle for each in state])) > 100
        assert max(each.score.max() for each in state) >= 2
        assert min(each.lives.min() for each in state) <= 2


@pytest.mark.parametrize("player", ["scripted", "random"])
def test_memory_agrees_with_rewards_and_lives(request: pytest.FixtureRequest, player: str) -> None:
    for _, _, state, points, lives in request.getfixturevalue(player):
        np.testing.assert_array_equal(state.score, points)
        np.testing.assert_array_equal(state.lives, lives)
        broken = (~state.bricks).sum(2) @ np.array(BRICK_POINTS)
        np.testing.assert_array_equal(broken, points)


@at_both_sizes
def test_all_bricks_stand_at_the_start(long_play: Play, downsample: int) -> None:
    assert find_bricks(luma(long_play.frames[:1], downsample), downsample).sum() == 108


@at_both_sizes
def test_an_erased_ball_is_not_found(long_play: Play, downsample: int) -> None:
    assert np.isnan(find_ball(luma(without_ball(long_play.frames), downsample), downsample)).all()


@at_both_sizes
def test_a_faint_ball_counts_from_half_its_light(long_play: Play, downsample: int) -> None:
    pictures = luma(long_play.frames[long_play.state.ball_free], downsample)
    top, bottom = (row // downsample for row in FREE_ROWS)
    for share, drawn in ((0.4, 0.0), (0.6, 1.0)):
        faint = pictures.copy()
        faint[:, top:bottom] *= share
        assert np.isfinite(find_ball(faint, downsample)).all(1).mean() == pytest.approx(drawn, abs=0.05)


@at_both_sizes
def test_what_is_erased_is_not_found(long_play: Play, downsample: int) -> None:
    frames = long_play.frames.copy()
    frames[:, 185:196, WALLS[0] : WALLS[1]] = 0
    frames[:, :16] = 0
    pictures = luma(frames, downsample)
    assert np.isnan(find_paddle(pictures, downsample)).all()
    assert (np.array(find_digits(pictures, downsample)) == -1).all()


def test_a_wrong_digit_is_read_as_it_is_drawn(long_play: Play) -> None:
    swapped = long_play.frames[:1].copy()
    swapped[:, 5:15, 68:80] = long_play.frames[:1, 5:15, 100:112]  # the lives, 5, at the place of the points
    assert [values.tolist() for values in find_digits(luma(swapped, 1), 1)] == [[5], [5]]


@at_both_sizes
def test_grey_and_colour_show_the_same(long_play: Play, downsample: int) -> None:
    free = long_play.state.ball_free
    grey, rgb = (luma(long_play.frames[free][:100], downsample, color) for color in ("grey", "rgb"))
    np.testing.assert_allclose(grey, rgb, atol=2 / 255)
    np.testing.assert_array_equal(find_bricks(grey, downsample), find_bricks(rgb, downsample))
    np.testing.assert_array_equal(find_digits(grey, downsample), find_digits(rgb, downsample))
    np.testing.assert_allclose(find_ball(grey, downsample), find_ball(rgb, downsample), atol=0.1)
    np.testing.assert_allclose(find_paddle(grey, downsample), find_paddle(rgb, downsample), atol=0.2)


# Figures of a model


def rows(state: ScreenState, chosen: slice) -> ScreenState:
    return ScreenState(**{name: getattr(state, name)[chosen] for name in ScreenState.__dataclass_fields__})


def found(frames: np.ndarray, downsample: int) -> State:
    """What is found in frames as a model would draw them."""
    return find_elements(luma(frames, downsample), downsample)


def pairs(each: Play, downsample: int) -> dict[str, Any]:
    """Arguments of ``element_metrics`` but for the prediction."""
    return {
        "copied": found(each.frames[:-1], downsample),
        "before": rows(each.state, slice(None, -1)),
        "truth": rows(each.state, slice(1, None)),
    }


@at_both_sizes
def test_a_perfect_prediction_has_perfect_figures(long_play: Play, downsample: int) -> None:
    metrics = element_metrics(found(long_play.frames[1:], downsample), **pairs(long_play, downsample))
    for name in ("ball/drawn", "ball/within_4px", "bricks/accuracy", "bricks/changed_accuracy"):
        assert metrics[name] >= 0.999, name
    for name in ("paddle/within_1px", "paddle/within_2px", "score/accuracy", "lives/accuracy"):
        assert metrics[name] >= 0.99, name
    assert metrics["ball/false"] <= 0.01
    for name in ("ball/median_px", "paddle/median_px", "ball/p95_px", "paddle/p95_px"):
        assert metrics[name] <= 1, name
    assert metrics["ball/free_frames"] == long_play.state.ball_free[1:].sum()


@at_both_sizes
def test_copying_is_judged_like_a_model_that_copies(long_play: Play, downsample: int) -> None:
    given = pairs(long_play, downsample)
    metrics = element_metrics(given["copied"], **given)
    for name in [name for name in metrics if "copy_" in name]:
        assert metrics[name] == metrics[name.replace("copy_", "")], name
    assert metrics["bricks/copy_changed_accuracy"] == 0.0
    assert metrics["ball/copy_within_4px"] < 0.2
    assert metrics["paddle/copy_within_1px"] < metrics["paddle/copy_within_2px"] < 0.5


def test_a_model_that_never_draws_the_ball_is_found_out(long_play: Play) -> None:
    metrics = element_metrics(found(without_ball(long_play.frames)[1:], 1), **pairs(long_play, 1))
    assert metrics["ball/drawn"] == metrics["ball/within_4px"] == metrics["ball/false"] == 0.0
    assert "ball/median_px" not in metrics
    assert metrics["bricks/accuracy"] == 1.0


def test_a_model_that_always_draws_a_ball_is_found_out(long_play: Play) -> None:
    drawn = luma(long_play.frames[1:], 1)
    drawn[:, 140:144, 80:82] = 1.0
    metrics = element_metrics(find_elements(drawn, 1), **pairs(long_play, 1))
    assert metrics["ball/drawn"] == metrics["ball/false"] == 1.0
    assert metrics["ball/within_4px"] < 0.1


def test_figures_without_anything_to_judge_are_left_out(long_play: Play) -> None:
    nothing = long_play._replace(frames=long_play.frames[:3], state=screen_state(np.zeros((3, 128), np.uint8)))
    metrics = element_metrics(found(nothing.frames[1:], 1), **pairs(nothing, 1))
    assert metrics["ball/free_frames"] == 0
    assert not {"ball/drawn", "ball/within_4px", "bricks/changed_accuracy", "score/changed_accuracy"} & metrics.keys()


# Events


def true_events(each: Play) -> dict[str, np.ndarray]:
    """What happened by memory, rewards and lives; a bounce is where the memory's speed changes its sign."""
    memory, state = each.ram.astype(int), each.state
    paddle = np.diff(memory[:, RAM_PADDLE_X])
    down, left = (np.sign(each.ram[:, byte].view(np.int8).astype(int)) for byte in (RAM_BALL_DOWN, RAM_BALL_LEFT))
    is_there = memory[:, RAM_BALL_Y] > 0
    x, y = state.ball.T
    both = is_there[:-1] & is_there[1:]
    off_paddle = both & (down[:-1] > 0) & (down[1:] < 0) & (y[:-1] >= 160)
    near_side = (np.minimum(x[:-1], x[1:]) <= 17) | (np.maximum(x[:-1], x[1:]) >= 143)
    off_side = (left[:-1] * left[1:] < 0) & near_side & (y[1:] < 195)
    off_ceiling = (down[:-1] < 0) & (down[1:] > 0) & (np.minimum(y[:-1], y[1:]) <= 42)
    below = y >= 195
    return {
        "paddle moves left": paddle < 0,
        "paddle moves right": paddle > 0,
        "paddle stays": paddle == 0,
        "wall bounce": both & (off_side | off_ceiling) & ~off_paddle,
        "paddle bounce": off_paddle,
        "brick broken": np.diff(each.points) > 0,
        "ball lost": both & ~below[:-1] & below[1:],
        "ball served": ~(is_there & ~below)[:-1] & (is_there & ~below)[1:],
    }


@pytest.mark.parametrize("player", ["scripted", "random"])
def test_events_are_found_when_they_happen(request: pytest.FixtureRequest, player: str) -> None:
    plays = request.getfixturevalue(player)
    found = np.concatenate([find_events(read_screens(each.frames), np.arange(len(each.frames))) for each in plays])
    truth = {name: np.concatenate([true_events(each)[name] for each in plays]) for name in EVENTS}
    for event, name in enumerate(EVENTS):
        hits = (found[:, event] & truth[name]).sum()
        least = 0.85 if name in ("wall bounce", "paddle bounce") else 0.98
        assert truth[name].sum() >= 3, f"{name} is too rare: the test says nothing"
        assert hits / truth[name].sum() >= least, f"{name}: missed"
        assert hits / found[:, event].sum() >= least, f"{name}: found where there is none"


def test_a_lost_ball_costs_a_life(random: list[Play]) -> None:
    for each in random:
        events = find_events(read_screens(each.frames), np.arange(len(each.frames)))
        lost = events[:, EVENTS.index("ball lost")].sum()
        assert lost == each.lives[0] - each.lives[-1]
        assert events[:, EVENTS.index("ball served")].sum() == lost + (each.lives[-1] > 0)


def test_nothing_happens_across_a_gap(long_play: Play) -> None:
    numbers = np.arange(len(long_play.frames))
    whole = find_events(read_screens(long_play.frames), numbers)
    torn = find_events(read_screens(long_play.frames), numbers + (numbers > 100))
    assert not torn[100].any()
    np.testing.assert_array_equal(torn[:95], whole[:95])


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
    assert is_breakout(meta, size) is answer
    assert Breakout().matches(meta, size) is answer
