"""Named starts: an episode begins where the name says; and lives that are given back."""

from __future__ import annotations

import functools
import itertools
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from helpers import ROOT
from lapa.cli import main
from lapa.data.episodes import read_episode
from lapa.errors import DataError
from lapa.games.breakout.detectors import read_screens
from lapa.games.breakout.screen import CEILING, RAM_LIVES, WALLS
from lapa.games.breakout.stages import MIX, STARTS
from lapa.games.game import State
from lapa_envs import GiveBackLives, RecordEpisodes, StartAt, make_env
from lapa_envs.playing import record


@pytest.fixture
def env() -> Iterator[gym.Env[Any, Any]]:
    env = make_env()
    yield env
    env.close()


def bricks(state: State) -> int:
    return int(state["bricks"].sum())


def ball_above_the_wall(frame: np.ndarray) -> bool:
    return bool(frame[CEILING:57, slice(*WALLS)].any())  # nothing else is ever drawn there


# What the first recorded screen shows.
SHOWN: dict[str, Callable[[State, np.ndarray], bool]] = {
    "serve": lambda s, _: bricks(s) == 108 and s["score"] == 0 and s["lives"] == 5,
    "rally": lambda s, _: 90 <= bricks(s) < 108 and 4 <= s["score"] < 99,
    "quarter_cleared": lambda s, _: 54 < bricks(s) <= 84 and s["score"] < 432,
    "half_cleared": lambda s, _: 18 < bricks(s) <= 54 and s["score"] < 432,
    "tunnel": lambda s, frame: bricks(s) > 18 and s["score"] < 432 and ball_above_the_wall(frame),
    "last_bricks": lambda s, _: 0 < bricks(s) <= 10 and s["score"] < 432,
    "wall_cleared": lambda s, _: bricks(s) == 0 and s["score"] == 432,
    "second_wall": lambda s, _: bricks(s) > 90 and s["score"] >= 432,
    "last_wall": lambda s, _: 0 < bricks(s) <= 10 and s["score"] > 632,
    "cleared": lambda s, _: bricks(s) == 0 and s["score"] == 864,
}
LATE = ("last_bricks", "wall_cleared", "second_wall", "last_wall", "cleared")


def test_every_start_has_a_test() -> None:
    assert SHOWN.keys() == STARTS.keys()
    # Episodes that begin before the wall comes back show the second one, too.
    assert set(MIX) == STARTS.keys() - {"second_wall"}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("start", [pytest.param(name, marks=[pytest.mark.slow] * (name in LATE)) for name in STARTS])
def test_every_start_is_reached(env: gym.Env[Any, Any], start: str, seed: int) -> None:
    check_start(StartAt(env, start), start, seed)


def test_a_late_start_is_reached(env: gym.Env[Any, Any]) -> None:
    check_start(StartAt(env, "last_bricks"), "last_bricks", 0)


def check_start(wrapped: StartAt, start: str, seed: int) -> None:
    frame, info = wrapped.reset(seed=seed)
    state = read_screens(frame[None])
    assert SHOWN[start](vars(state), frame)
    assert state.lives[0] == info["lives"] >= 2
    assert wrapped.episode_notes == {
        "start": start,
        "steps_before": wrapped.steps_before,
        "natural": start == "serve",
    }
    assert (wrapped.steps_before == 0) == (start == "serve")
    _, _, terminated, truncated, _ = wrapped.step(0)
    assert not terminated
    assert not truncated


def test_a_start_can_be_named_for_one_episode(env: gym.Env[Any, Any]) -> None:
    wrapped = StartAt(env)
    wrapped.reset(seed=0, options={"start": "rally"})
    assert wrapped.episode_notes["start"] == "rally"
    assert wrapped.steps_before > 0
    wrapped.reset(seed=0)
    assert wrapped.episode_notes == {"start": "serve", "steps_before": 0, "natural": True}


def test_a_seed_says_where_it_begins_and_later_resets_differ(env: gym.Env[Any, Any]) -> None:
    wrapped = StartAt(env, "rally")
    sequences = [[wrapped.reset(seed=5)[0], wrapped.reset()[0], wrapped.reset()[0]] for _ in range(2)]
    np.testing.assert_array_equal(*sequences)
    assert (sequences[0][1] != sequences[0][2]).any()


def test_an_unknown_start_is_refused_in_one_line_that_lists_the_names(env: gym.Env[Any, Any]) -> None:
    said = f"start 'middle': ALE/Breakout-v5 has none of this name; take one of {', '.join(STARTS)}"
    with pytest.raises(DataError) as caught:
        StartAt(env, "middle")
    assert str(caught.value) == said
    wrapped = StartAt(env)
    with pytest.raises(DataError, match=re.escape(said)):
        wrapped.reset(options={"start": "middle"})


@pytest.mark.parametrize("game", ["ALE/Freeway-v5", "ALE/Pong-v5", "CartPole-v1"])
def test_other_games_know_only_serve(game: str) -> None:
    env = gym.make(game)
    wrapped = StartAt(env)
    wrapped.reset(seed=0, options={"start": "serve"})
    assert wrapped.episode_notes["natural"]
    with pytest.raises(DataError, match=f"start 'rally': {game} has none of this name; only serve is known"):
        StartAt(env, "rally")
    env.close()


# Lives


def test_lives_are_given_back_and_the_episode_does_not_end(env: gym.Env[Any, Any]) -> None:
    wrapped = GiveBackLives(env)
    wrapped.reset(seed=0)
    lives, shown = [5], [5]
    for _ in range(400):
        frame, _, terminated, truncated, info = wrapped.step(1)  # FIRE serves; nobody moves the paddle
        assert not terminated
        assert not truncated
        lives.append(info["lives"])
        shown.append(int(read_screens(frame[None]).lives[0]))
        if info["lives"] == 1:
            assert env.unwrapped.ale.getRAM()[RAM_LIVES] == 5
    changes = [(a, b) for a, b in itertools.pairwise(lives) if a != b]
    assert changes[:8] == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 5), (5, 4), (4, 3), (3, 2)]
    rises = [sum(b > a for a, b in itertools.pairwise(values)) for values in (lives, shown)]
    assert rises[0] == rises[1] >= 2
    assert max(shown) == 5
    assert np.mean(np.equal(shown, lives)) > 0.9  # a screen may show the lives of the frame before
    assert wrapped.episode_notes == {"lives_given_back": True, "natural": False}


@pytest.mark.parametrize("game", ["ALE/Pong-v5", "ALE/SpaceInvaders-v5", "CartPole-v1"])
def test_lives_that_are_not_known_cannot_be_given_back(game: str) -> None:
    env = gym.make(game)
    with pytest.raises(DataError, match=f"{game}: its lives are not known, so they cannot be given back"):
        GiveBackLives(env)
    env.close()


# At home in Gymnasium


@pytest.mark.parametrize("wrapper", [StartAt, GiveBackLives])
def test_a_vector_is_refused(wrapper: Any) -> None:
    envs = gym.vector.SyncVectorEnv([make_env])
    with pytest.raises(DataError, match=f"{wrapper.__name__} takes a single environment; wrap each one"):
        wrapper(envs)
    envs.close()


def test_the_spec_makes_them_again(env: gym.Env[Any, Any]) -> None:
    wrapped = StartAt(GiveBackLives(env), "rally")
    again = gym.make(gym.envs.registration.EnvSpec.from_json(wrapped.spec.to_json()))
    frames = [each.reset(seed=1)[0] for each in (wrapped, again)]
    np.testing.assert_array_equal(*frames)
    notes = again.get_wrapper_attr("episode_notes")
    assert (notes["start"], notes["lives_given_back"], notes["natural"]) == ("rally", True, False)
    again.close()


def test_a_copy_by_pickle_begins_where_the_first_does(env: gym.Env[Any, Any]) -> None:
    wrapped = StartAt(GiveBackLives(env), "rally")
    again = pickle.loads(pickle.dumps(wrapped))
    np.testing.assert_array_equal(wrapped.reset(seed=1)[0], again.reset(seed=1)[0])
    again.close()


def test_each_environment_of_a_vector_can_be_wrapped() -> None:
    wrappers = [GiveBackLives, functools.partial(StartAt, start="rally")]
    envs = gym.make_vec("ALE/Breakout-v5", num_envs=2, vectorization_mode="sync", wrappers=wrappers)
    frames, _ = envs.reset(seed=0)
    assert (read_screens(frames).score >= 4).all()
    envs.close()


# Recorded


def test_the_recorder_notes_how_the_episode_began(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    recorder = RecordEpisodes(StartAt(env, "rally"), tmp_path)
    frame, _ = recorder.reset(seed=0)
    recorder.step(0)
    recorder.flush()
    episode = read_episode(tmp_path, "0")
    np.testing.assert_array_equal(episode.tracks.ram[0][RAM_LIVES], read_screens(frame[None]).lives[0])
    meta = episode.tracks.meta
    assert (meta["start"], meta["natural"], meta["seed"]) == ("rally", False, 0)
    assert meta["steps_before"] > 0
    assert "lives_given_back" not in meta


def test_the_command_notes_how_it_was_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--episodes", "3", "--max-steps", "4", "--start", "rally", "serve", "--skill", "0.5", "1"]
    assert main(["record", *options, "--give-back-lives"]) == 0
    metas = [read_episode(tmp_path / "bulk_videos", name).tracks.meta for name in "012"]
    assert [meta["start"] for meta in metas] == ["rally", "serve", "rally"]
    for meta in metas:
        assert (meta["steps_before"] > 0) == (meta["start"] == "rally")
        assert not meta["natural"]
        assert meta["lives_given_back"] is True
        assert 0.5 <= meta["skill"] <= 1
        assert meta["policy"] == "scripted"


def test_a_new_game_with_its_own_lives_is_natural(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    record(env, tmp_path, episodes=1, max_steps=3, starts=("serve",))
    meta = read_episode(tmp_path, "0").tracks.meta
    assert (meta["start"], meta["steps_before"], meta["natural"]) == ("serve", 0, True)


def test_the_scripted_player_covers_the_game_and_others_begin_it(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    record(env, tmp_path / "a", episodes=2, max_steps=2)
    record(env, tmp_path / "b", episodes=2, max_steps=2, policy="random")
    starts = [[read_episode(tmp_path / part, name).tracks.meta["start"] for name in "01"] for part in "ab"]
    assert starts == [list(MIX[:2]), ["serve", "serve"]]


def test_workers_record_the_same_starts(tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes": 4, "max_steps": 5, "starts": ("rally", "serve"), "give_back_lives": True}
    alone, together = (record(make_env, tmp_path / str(n), workers=n, **options) for n in (1, 2))
    for a, b in zip(alone, together, strict=True):
        truths = [read_episode(folder.parent, folder.name).tracks for folder in (a, b)]
        assert truths[0].meta == truths[1].meta
        np.testing.assert_array_equal(truths[0].ram, truths[1].ram)
        assert [path.read_bytes() for path in sorted(a.glob("*.png"))] == [
            path.read_bytes() for path in sorted(b.glob("*.png"))
        ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--start", "middle"], "start 'middle': ALE/Breakout-v5 has none of this name; take one of serve, rally,"),
        (["--env", "ALE/Pong-v5", "--start", "rally"], "ALE/Pong-v5 has none of this name; only serve is known"),
        (["--env", "ALE/Pong-v5", "--give-back-lives"], "its lives are not known, so they cannot be given back"),
    ],
)
def test_what_the_game_does_not_know_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--out", str(tmp_path / "out"), "--workers", "2", *arguments]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lapa: error")]
    assert said in line
    assert not (tmp_path / "out").exists()


def test_the_help_lists_the_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["record", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"for Breakout, {', '.join(name for name in STARTS if name != 'serve')} (" in told


def test_the_example_in_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "environments.md").read_text(), flags=re.DOTALL)
    (example,) = [block for block in blocks if "StartAt" in block]
    exec(compile(example, "environments.md", "exec"), {})
    meta = read_episode(tmp_path / "bulk_videos", "0").tracks.meta
    assert (meta["start"], meta["lives_given_back"], meta["natural"]) == ("half_cleared", True, False)
