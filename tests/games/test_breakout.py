"""Ball, paddle, bricks, digits and events are found in real pictures where the RAM says they are."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from watching import luma, watch

from lapa.games.breakout.detectors import (
    find_ball,
    find_balls,
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
    RAM_BALL_DOWN,
    RAM_BALL_LEFT,
    RAM_BALL_Y,
    RAM_PADDLE_X,
    SMALL_PADDLE_WIDTH,
    WALLS,
    ScreenState,
    action_classes,
    is_breakout,
    screen_state,
)
from lapa.games.breakout.stages import ASPECTS, MIX, STARTS
from lapa.games.game import State
from lapa_envs.atari import make_env
from lapa_envs.policies import make_policy
from lapa_envs.starts import StartAt

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
    seen = watch(make_env(), policy, steps, seed, skill)
    points = np.cumsum([0.0, *seen.rewards])
    return Play(seen.frames, seen.ram, screen_state(seen.ram), points, seen.lives)


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
            score, lives = find_digits(pictures, downsample)
            right = {
                "ball": np.linalg.norm(find_ball(pictures, downsample) - state.ball, axis=1)[free] <= 2,
                "paddle": np.abs(centre - state.paddle) <= 1,
                "width of the paddle": np.abs(width - state.paddle_width) <= 2,
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
                "paddle_width": found.paddle_width == state.paddle_width,
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
def test_there_is_no_second_ball_in_recorded_frames(scripted: list[Play], downsample: int) -> None:
    for each in scripted:
        pictures = luma(each.frames[::2], downsample)
        centre, is_extra = find_balls(pictures, downsample)
        np.testing.assert_array_equal(centre, find_ball(pictures, downsample))
        assert not is_extra.any()


@at_both_sizes
@pytest.mark.parametrize(("share", "counts"), [(1.0, True), (0.7, True), (0.4, False)])
def test_a_second_ball_counts_from_half_its_light(long_play: Play, downsample: int, share: float, counts: bool) -> None:
    free = long_play.state.ball_free
    frames, ball = long_play.frames[free][:150], long_play.state.ball[free][:150]
    planted = frames.copy()
    planted[:, 120:124, 40:42] = np.array([200, 72, 72]) * share
    far = np.abs(ball - (41, 122)).max(1) > 12
    assert far.sum() > 80
    assert (find_balls(luma(planted, downsample), downsample)[1][far] == counts).all()
    without = without_ball(frames)
    without[:, 120:124, 40:42] = planted[:, 120:124, 40:42]
    assert not find_balls(luma(without, downsample), downsample)[1].any(), "a single ball has no second"


@at_both_sizes
def test_the_soft_edge_of_a_ball_is_no_second_ball(long_play: Play, downsample: int) -> None:
    pictures = luma(long_play.frames[long_play.state.ball_free][:150], downsample)
    around = [np.roll(pictures, step, axis) for axis in (1, 2) for step in (-1, 1)]
    soft = pictures / 2 + np.mean(around, axis=0) / 2
    soft[:, : -(-FREE_ROWS[0] // downsample) + 1] = soft[:, FREE_ROWS[1] // downsample - 1 :] = 0
    assert find_balls(soft, downsample)[1].mean() == 0


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


# The whole game


class Stretch(NamedTuple):
    """Play from a start: N frames (N, 210, 160, 3), what the RAM says of them, and the unseen steps before."""

    frames: np.ndarray
    state: ScreenState
    steps_before: int


def played_from(start: str, steps: int, seed: int = 0) -> Stretch:
    """Good play."""
    env = StartAt(make_env())
    frames = [env.reset(seed=seed, options={"start": start})[0]]
    player = make_policy(env, "scripted", np.random.default_rng(seed), skill=0.95)
    ram = [env.unwrapped.ale.getRAM()]
    while len(frames) <= steps:
        frame, _, terminated, truncated, _ = env.step(player(frames[-1], {}))
        frames.append(frame)
        ram.append(env.unwrapped.ale.getRAM())
        if terminated or truncated:
            break
    steps_before = env.steps_before
    env.close()
    return Stretch(np.stack(frames), screen_state(np.stack(ram)), steps_before)


@pytest.fixture(scope="module")
def whole_game() -> dict[str, Stretch]:
    """A game in stretches, with both paddles."""
    return {start: played_from(start, 120) for start in ("serve", "half_cleared", "tunnel")}


def test_the_small_paddle_is_read_as_the_memory_has_it(whole_game: dict[str, Stretch]) -> None:
    small = 0
    for stretch in whole_game.values():
        found = read_screens(stretch.frames)
        assert (found.paddle_width == stretch.state.paddle_width).mean() >= 0.98
        assert (found.paddle == stretch.state.paddle).mean() >= 0.98
        is_small = stretch.state.paddle_width == SMALL_PADDLE_WIDTH
        if is_small.any():
            centre, _ = find_paddle(luma(stretch.frames[is_small], 1), 1)
            assert (np.abs(centre - stretch.state.paddle[is_small]) <= 1).mean() >= 0.95
        small += is_small.sum()
    assert small >= 60, "the ball has been at the ceiling"


def test_pictures_are_in_the_same_parts_of_the_game_as_the_memory(whole_game: dict[str, Stretch]) -> None:
    for stretch in whole_game.values():
        by_picture, by_ram = vars(read_screens(stretch.frames)), vars(stretch.state)
        for aspect in ASPECTS:
            if aspect.title == "ball":
                assert (aspect.find(by_picture) == -1).all(), "a picture does not tell how fast it flies"
            else:
                assert (aspect.find(by_picture) == aspect.find(by_ram)).mean() >= 0.97, aspect.title


def test_stages_follow_each_other(whole_game: dict[str, Stretch]) -> None:
    bricks = ASPECTS[0]
    stages = [set(bricks.find(vars(stretch.state)).tolist()) for stretch in whole_game.values()]
    assert stages[0] == {0}
    assert stages[1] <= {2, 3}
    assert stages[2] <= {1, 2, 3}


def screens(**changed: Any) -> State:
    """Screens with the ball in play before a whole wall, but for what is changed: (N,) or (N, ...) each."""
    count = max((len(np.atleast_1d(values)) for values in changed.values()), default=1)
    plain = {
        "ball": np.array([80.0, 120.0]),
        "ball_free": True,
        "ball_away": False,
        "ball_speed": 1.0,
        "paddle": 80.0,
        "paddle_width": 16,
        "bricks": np.ones((6, 18), bool),
        "score": 0,
        "lives": 5,
    }
    return {
        name: np.asarray(changed[name]) if name in changed else np.stack([np.asarray(value)] * count)
        for name, value in plain.items()
    }


def walls(*standing: int) -> np.ndarray:
    """(N, 6, 18), the first of the bricks stand."""
    return (np.arange(108) < np.array(standing)[:, None]).reshape(-1, 6, 18)


@pytest.mark.parametrize(
    ("title", "state", "parts"),
    [
        (
            "bricks standing",
            {"bricks": walls(108, 91, 90, 55, 54, 19, 18, 1, 0)},
            ["91 to 108"] * 2 + ["55 to 90"] * 2 + ["19 to 54"] * 2 + ["1 to 18"] * 2 + ["0"],
        ),
        (
            "points",
            {"score": np.array([0, 1, 99, 100, 299, 300, 431, 432, 863, 864, -1])},
            ["0", *["1 to 99"] * 2, *["100 to 299"] * 2, *["300 to 431"] * 2, *["432 to 863"] * 2, "864", None],
        ),
        (
            "paddle",
            {"paddle_width": np.array([16, 12, 14, 12, 8, np.nan]), "paddle": np.array([80, 80, 15, 14, 12, np.nan])},
            ["full", "small", "full", None, None, None],
        ),
        ("ball", {"ball_speed": np.array([0, 1, 2, 3, 4, np.nan])}, ["no", "slow", "medium", "fast", "fast", None]),
        ("lives", {"lives": np.array([5, 4, 3, 2, 1, 0, -1])}, ["5", "4", "3", "2", "1", "0", None]),
    ],
)
def test_every_part_of_every_aspect_can_be_reached(title: str, state: State, parts: list[str | None]) -> None:
    (aspect,) = (each for each in ASPECTS if each.title == title)
    places = aspect.find(screens(**state))
    assert places.dtype == np.int64
    assert [aspect.parts[place] if place >= 0 else None for place in places] == parts
    assert set(parts) - {None} == set(aspect.parts)


def test_all_screens_of_a_game_are_in_a_part(scripted: list[Play], random: list[Play]) -> None:
    for each in (*scripted, *random):
        for aspect in ASPECTS:
            places = aspect.find(vars(each.state))
            assert places.min() >= (-1 if aspect.title == "paddle" else 0), aspect.title
            assert places.max() < len(aspect.parts)


def test_starts_are_reached_in_their_order(whole_game: dict[str, Stretch]) -> None:
    assert list(whole_game) == [name for name in STARTS if name in whole_game]
    before = [stretch.steps_before for stretch in whole_game.values()]
    assert before == sorted(before)
    assert before[0] == 0
    for name, stretch in whole_game.items():
        # Only the first screen: play goes on, and the ball may be lost.
        first = {key: values[:1] for key, values in vars(stretch.state).items()}
        reached = [other for other in whole_game if STARTS[other].is_reached(first)[0]]
        assert name in reached, "one step shows the lives, and does not leave the start"


def test_the_first_moments_of_starts_follow_each_other() -> None:
    """In a game of which only what the starts ask for is told."""
    moments = screens(
        bricks=walls(108, 100, 84, 54, 40, 9, 0, 108, 9, 0),
        score=np.array([0, 8, 90, 200, 260, 400, 432, 440, 800, 864]),
        ball=np.array([[80.0, 120.0]] * 4 + [[80.0, 40.0]] + [[80.0, 120.0]] * 5),
    )
    first = {name: int(np.argmax(start.is_reached(moments))) for name, start in STARTS.items()}
    assert list(first.values()) == list(range(len(STARTS)))
    assert all(start.is_reached(moments).any() for start in STARTS.values())
    assert set(MIX) == set(STARTS) - {"second_wall"}


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
    assert metrics["ball/extra"] == metrics["ball/copy_extra"] == 0
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
    assert metrics["ball/extra"] > 0.9
    assert metrics["ball/copy_extra"] == 0.0


def test_figures_without_anything_to_judge_are_left_out(long_play: Play) -> None:
    nothing = long_play._replace(frames=long_play.frames[:3], state=screen_state(np.zeros((3, 128), np.uint8)))
    metrics = element_metrics(found(nothing.frames[1:], 1), **pairs(nothing, 1))
    assert metrics["ball/free_frames"] == 0
    assert (
        not {"ball/drawn", "ball/extra", "ball/within_4px", "bricks/changed_accuracy", "score/changed_accuracy"}
        & metrics.keys()
    )


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
