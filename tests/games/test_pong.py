"""Ball, paddles, scores and events of Pong are found in real pictures where the RAM says they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from watching import luma, watch

from lapa.games.game import State, known_games
from lapa.games.pong.detectors import find_balls, find_elements, read_screens
from lapa.games.pong.elements import MEASURES, element_metrics
from lapa.games.pong.events import EVENTS, find_events
from lapa.games.pong.game import Pong
from lapa.games.pong.screen import (
    FIELD_ROWS,
    RAM_BALL_DOWN,
    RAM_BALL_LEFT,
    RAM_BALL_X,
    RAM_BALL_Y,
    PongState,
    action_classes,
    is_pong,
    screen_state,
)
from lapa_envs.atari import make_env

at_both_sizes = pytest.mark.parametrize("downsample", [1, 2])
by_both_players = pytest.mark.parametrize("player", ["scripted", "random"])


class Play(NamedTuple):
    """N frames (N, 210, 160, 3), memory (N, 128) and what it says of them, N - 1 actions and rewards."""

    frames: np.ndarray
    ram: np.ndarray
    state: PongState
    actions: np.ndarray
    rewards: np.ndarray


def play(policy: str, steps: int, seed: int, skill: float = 1.0) -> Play:
    """One game, or its beginning."""
    seen = watch(make_env("ALE/Pong-v5"), policy, steps, seed, skill)
    return Play(seen.frames, seen.ram, screen_state(seen.ram), seen.actions, seen.rewards)


@pytest.fixture(scope="module")
def scripted() -> list[Play]:
    return [play("scripted", 450, seed, skill) for seed, skill in ((0, 1.0), (1, 0.7), (2, 0.4))]


@pytest.fixture(scope="module")
def random() -> list[Play]:
    return [play("random", 1000, 0), play("random", 450, 1)]


@pytest.fixture(scope="module")
def rally(scripted: list[Play]) -> Play:
    """A game in which the ball flies to and fro."""
    return scripted[0]


def rows(state: PongState, chosen: slice | np.ndarray) -> PongState:
    return PongState(**{name: getattr(state, name)[chosen] for name in PongState.__dataclass_fields__})


def without_ball(each: Play) -> np.ndarray:
    """The frames with the ball painted over."""
    erased = each.frames.copy()
    field = erased[:, FIELD_ROWS[0] : FIELD_ROWS[1]]
    field[(field == 236).all(-1)] = (144, 72, 17)
    return erased


# Detectors


@by_both_players
class TestDetectorsAgreeWithMemory:
    """On at least 99 % of the frames of each player."""

    @at_both_sizes
    def test_in_pictures_of_both_sizes(self, request: pytest.FixtureRequest, player: str, downsample: int) -> None:
        agreement: dict[str, list[np.ndarray]] = {}
        for frames, _, state, _, _ in request.getfixturevalue(player):
            frames, state = frames[1:], rows(state, slice(1, None))  # the first has colours of its own
            found = find_elements(luma(frames, downsample), downsample)
            right = {
                "ball": np.linalg.norm(found["ball"] - state.ball, axis=1)[state.ball_seen] <= 2,
                "no ball": np.isnan(found["ball"][state.ball_away, 0]),
                "one ball": ~found["ball_extra"],
                "paddle": np.abs(found["paddle"] - state.paddle) <= 1,
                "enemy": np.abs(found["enemy"] - state.enemy)[state.enemy_seen] <= 1,
                "score": found["score"] == state.score,
                "enemy's score": found["enemy_score"] == state.enemy_score,
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
                "ball within a pixel": np.linalg.norm(found.ball - state.ball, axis=1)[state.ball_seen] <= 1,
                "ball_seen": found.ball_seen == state.ball_seen,
                "ball_away": found.ball_away == state.ball_away,
                "paddle": found.paddle == state.paddle,
                "enemy": (found.enemy == state.enemy)[state.enemy_seen],
                "enemy_seen": found.enemy_seen == state.enemy_seen,
                "score": found.score == state.score,
                "enemy_score": found.enemy_score == state.enemy_score,
            }
            for name, values in right.items():
                agreement.setdefault(name, []).append(values)
        shares = {name: np.concatenate(values).mean() for name, values in agreement.items()}
        assert {name: share for name, share in shares.items() if share < 0.99} == {}

    def test_and_there_is_something_to_see(self, request: pytest.FixtureRequest, player: str) -> None:
        state = [each.state for each in request.getfixturevalue(player)]
        assert np.ptp(np.concatenate([each.ball[each.ball_seen] for each in state]), axis=0).min() > 120
        assert np.ptp(np.concatenate([each.paddle for each in state])) > 100
        assert np.ptp(np.concatenate([each.enemy[each.enemy_seen] for each in state])) > 100
        assert max(each.enemy_score.max() for each in state) >= (20 if player == "random" else 3)


def test_the_scripted_player_wins_points_of_which_the_picture_tells(scripted: list[Play]) -> None:
    assert sum((each.rewards > 0).sum() for each in scripted) >= 2
    for each in scripted:
        assert read_screens(each.frames[-1:]).score[0] == (each.rewards > 0).sum()


@by_both_players
def test_memory_agrees_with_rewards(request: pytest.FixtureRequest, player: str) -> None:
    for each in request.getfixturevalue(player):
        for shown, points in ((each.state.score, each.rewards > 0), (each.state.enemy_score, each.rewards < 0)):
            counted = np.r_[0, np.cumsum(points)]
            assert set((counted - shown).tolist()) <= {0, 1}  # a point may be shown a frame later
            assert (shown[1:] >= counted[:-1]).all()


@at_both_sizes
def test_an_erased_ball_is_not_found(rally: Play, downsample: int) -> None:
    ball, extra = find_balls(luma(without_ball(rally)[1:], downsample), downsample)
    assert np.isnan(ball).all()
    assert not extra.any()


@at_both_sizes
def test_a_second_ball_is_told(rally: Play, downsample: int) -> None:
    frames = rally.frames[1:].copy()
    frames[:, 100:104, 60:62] = 236
    far = rally.state.ball_seen[1:] & (np.abs(rally.state.ball[1:] - (61, 102)).max(1) > 12)
    _, extra = find_balls(luma(frames, downsample), downsample)
    assert far.sum() > 100
    assert extra[far].mean() >= 0.99


@at_both_sizes
def test_a_faint_ball_counts_from_half_its_light(rally: Play, downsample: int) -> None:
    seen = rally.state.ball_seen & (np.abs(rally.state.ball[:, 0] - 80) < 50)
    pictures, empty = luma(rally.frames[seen], downsample), luma(without_ball(rally)[seen], downsample)
    for share, drawn in ((0.4, 0.0), (0.6, 1.0)):
        ball, _ = find_balls(share * pictures + (1 - share) * empty, downsample)
        assert np.isfinite(ball).all(1).mean() == pytest.approx(drawn, abs=0.05)


@at_both_sizes
def test_what_is_erased_is_not_found(rally: Play, downsample: int) -> None:
    frames = np.broadcast_to(np.array([144, 72, 17], np.uint8), rally.frames[:3].shape)
    found = find_elements(luma(np.ascontiguousarray(frames), downsample), downsample)
    for name in ("ball", "paddle", "enemy"):
        assert np.isnan(found[name]).all(), name
    for name in ("score", "enemy_score"):
        assert (found[name] == -1).all(), name
    assert not found["ball_extra"].any()


@at_both_sizes
def test_grey_and_colour_show_the_same(rally: Play, downsample: int) -> None:
    grey, rgb = (find_elements(luma(rally.frames[1:200], downsample, color), downsample) for color in ("grey", "rgb"))
    for name in ("score", "enemy_score", "ball_extra"):
        np.testing.assert_array_equal(grey[name], rgb[name])
    for name in ("ball", "paddle", "enemy"):
        np.testing.assert_allclose(grey[name], rgb[name], atol=0.3)


# Figures of a model


def pairs(each: Play, downsample: int) -> dict[str, State | PongState]:
    """Arguments of ``element_metrics`` but for the prediction."""
    return {
        "copied": find_elements(luma(each.frames[1:-1], downsample), downsample),
        "before": rows(each.state, slice(1, -1)),
        "truth": rows(each.state, slice(2, None)),
    }


@at_both_sizes
def test_a_perfect_prediction_has_perfect_figures(random: list[Play], downsample: int) -> None:
    each = random[1]
    metrics = element_metrics(find_elements(luma(each.frames[2:], downsample), downsample), **pairs(each, downsample))
    for name in ("ball/drawn", "ball/within_2px", "ball/within_4px", "paddle/within_1px", "enemy/within_1px"):
        assert metrics[name] >= 0.99, name
    for name in ("score/accuracy", "enemy_score/accuracy", "enemy_score/changed_accuracy"):
        assert metrics[name] >= 0.99, name
    assert metrics["ball/false"] == metrics["ball/extra"] == 0.0
    for name in ("ball/median_px", "ball/p95_px", "paddle/p95_px", "enemy/p95_px"):
        assert metrics[name] <= 1, name
    shown = {measure.metric.format(who) for measure in MEASURES for who in ("", "copy_")}
    assert metrics.keys() - shown == {"ball/free_frames", "ball/away_frames"}


@at_both_sizes
def test_copying_is_judged_like_a_model_that_copies(random: list[Play], downsample: int) -> None:
    given = pairs(random[1], downsample)
    metrics = element_metrics(given["copied"], **given)
    for name in [name for name in metrics if "copy_" in name]:
        assert metrics[name] == metrics[name.replace("copy_", "")], name
    assert metrics["enemy_score/copy_changed_accuracy"] == 0.0
    assert metrics["ball/copy_within_2px"] < 0.1
    assert metrics["paddle/copy_within_1px"] < 0.6


def test_a_model_that_never_draws_the_ball_is_found_out(rally: Play) -> None:
    metrics = element_metrics(find_elements(luma(without_ball(rally)[2:], 1), 1), **pairs(rally, 1))
    assert metrics["ball/drawn"] == metrics["ball/within_4px"] == metrics["ball/false"] == 0.0
    assert "ball/median_px" not in metrics
    assert metrics["paddle/within_1px"] >= 0.99


def test_figures_without_anything_to_judge_are_left_out(rally: Play) -> None:
    nothing = rally._replace(frames=rally.frames[:4], state=screen_state(np.zeros((4, 128), np.uint8)))
    metrics = element_metrics(find_elements(luma(nothing.frames[2:], 1), 1), **pairs(nothing, 1))
    assert metrics["ball/free_frames"] == 0
    assert not {"ball/drawn", "ball/within_4px", "enemy/within_1px", "score/changed_accuracy"} & metrics.keys()


# Events


def true_events(each: Play) -> dict[str, np.ndarray]:
    """What happened by memory; a bounce is where the memory's speed changes its sign."""
    memory, state = each.ram.astype(int), each.state
    paddle = np.diff(state.paddle)
    left, down = (np.sign(each.ram[:, byte].view(np.int8).astype(int)) for byte in (RAM_BALL_LEFT, RAM_BALL_DOWN))
    is_there = (memory[:, RAM_BALL_X] > 0) & (memory[:, RAM_BALL_Y] > 0)
    both = is_there[:-1] & is_there[1:]
    own, enemy = both & (left[:-1] < 0) & (left[1:] > 0), both & (left[:-1] > 0) & (left[1:] < 0)
    return {
        "paddle moves up": paddle < 0,
        "paddle moves down": paddle > 0,
        "paddle stays": paddle == 0,
        "paddle bounce": own,
        "enemy bounce": enemy,
        "wall bounce": both & (down[:-1] * down[1:] < 0) & ~own & ~enemy,
        "point won": np.diff(state.score) > 0,
        "point lost": np.diff(state.enemy_score) > 0,
        "ball served": ~is_there[:-1] & is_there[1:],
    }


def test_events_are_found_when_they_happen(scripted: list[Play], random: list[Play]) -> None:
    plays = scripted + random
    found = np.concatenate([find_events(read_screens(each.frames), np.arange(len(each.frames))) for each in plays])
    truth = {name: np.concatenate([true_events(each)[name] for each in plays]) for name in EVENTS}
    for event, name in enumerate(EVENTS):
        hits = (found[:, event] & truth[name]).sum()
        least = 0.85 if name == "wall bounce" else 0.98
        assert truth[name].sum() >= 2, f"{name} is too rare: the test says nothing"
        assert hits / truth[name].sum() >= least, f"{name}: missed"
        assert hits / found[:, event].sum() >= least, f"{name}: found where there is none"


def test_nothing_happens_across_a_gap(rally: Play) -> None:
    numbers = np.arange(len(rally.frames))
    whole = find_events(read_screens(rally.frames), numbers)
    torn = find_events(read_screens(rally.frames), numbers + (numbers > 100))
    assert not torn[100].any()
    np.testing.assert_array_equal(torn[:95], whole[:95])


def test_actions_move_the_paddle_their_way(random: list[Play]) -> None:
    meanings = ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]
    assert action_classes(np.arange(6), meanings).tolist() == [0, 0, 1, 2, 1, 2]
    steps: dict[str, list[float]] = {name: [] for name in Pong.action_classes}
    for each in random:
        for told, step in zip(action_classes(each.actions, meanings), np.diff(each.state.paddle), strict=True):
            steps[Pong.action_classes[told]].append(step)
    assert np.mean(steps["up"]) < -3
    assert np.mean(steps["down"]) > 3
    assert abs(np.mean(steps["stay"])) < 3


# The game as a whole


@pytest.mark.parametrize(
    ("meta", "size", "answer"),
    [
        ({"env_id": "ALE/Pong-v5"}, (210, 160), True),
        ({"env_id": "PongNoFrameskip-v4"}, (210, 160), True),
        ({"env_id": "ALE/Pong-v5"}, (84, 84), False),
        ({"env_id": "ALE/VideoPinball-v5"}, (210, 160), False),
        ({"env_id": "ALE/Breakout-v5"}, (210, 160), False),
        ({}, (210, 160), False),
    ],
)
def test_only_pong_at_full_size_is_pong(meta: dict[str, str], size: tuple[int, int], answer: bool) -> None:
    assert is_pong(meta, size) is answer
    assert Pong().matches(meta, size) is answer


def test_it_is_registered() -> None:
    assert any(isinstance(game, Pong) for game in known_games())


@by_both_players
def test_aspects_sort_every_screen(request: pytest.FixtureRequest, player: str) -> None:
    for each in request.getfixturevalue(player):
        for state in (vars(each.state), vars(read_screens(each.frames))):
            for aspect in Pong.aspects:
                part = aspect.find(state)
                assert part.min() >= 0, aspect.title
                assert part.max() < len(aspect.parts), aspect.title


def test_aspects_put_scores_where_they_belong() -> None:
    state = {
        "score": np.array([0, 1, 6, 21, -1]),
        "enemy_score": np.array([0, 6, 14, 20, 3]),
        "ball": np.array([[20.0, 50.0], [100.0, 50.0], [np.nan, np.nan], [79.0, 9.0], [80.0, 9.0]]),
        "ball_away": np.array([False, False, True, False, False]),
    }
    found = {aspect.title: aspect.find(state).tolist() for aspect in Pong.aspects}
    assert found == {
        "points played": [0, 1, 2, 3, -1],
        "points won": [0, 1, 2, 3, -1],
        "points lost": [0, 2, 3, 3, 1],
        "ball": [1, 2, 0, 1, 2],
    }


def test_the_probe_gets_numbers(rally: Play) -> None:
    game = Pong()
    state = game.state(rally.ram)
    first, second = ({name: values[part] for name, values in state.items()} for part in (slice(-1), slice(1, None)))
    assert np.isfinite(game.observation(first)).all()
    assert np.isfinite(game.motion(first, second)).all()


def test_remarks_judge_the_ball_by_its_share() -> None:
    (remark,) = Pong().remarks({"ball/within_4px": 0.9, "ball/copy_within_4px": 0.1})
    assert (remark.level, "90 %" in remark.sentence) == ("good", True)
    assert list(Pong().remarks({})) == []
