"""The recorder: whole episodes of T+1 lossless frames and T steps of truth, numbered after those that are there."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from lapa.cli import main
from lapa.data.episodes import Episode, list_episodes, read_episode
from lapa.errors import DataError
from lapa.games.breakout.detectors import find_paddle
from lapa.games.breakout.screen import screen_state
from lapa.games.finding import to_luma
from lapa_envs.atari import make_env
from lapa_envs.playing import record
from lapa_envs.policies import make_policy

STEPS = 20


@pytest.fixture
def env() -> Iterator[gym.Env[Any, Any]]:
    env = make_env()
    yield env
    env.close()


@pytest.fixture
def episode(breakout_recording: Path) -> Episode:
    return read_episode(breakout_recording, "0")  # a new game, of which the seed tells all


def pictures(episode: Episode) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in episode.paths])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_an_episode_has_one_frame_more_than_steps(episode: Episode) -> None:
    assert sorted(path.name for path in episode.folder.iterdir()) == sorted(
        ["episode.npz", *(f"{n}.png" for n in range(51))]
    )
    truth = episode.tracks
    assert len(truth.actions) == len(truth.rewards) == len(truth.terminated) == len(truth.truncated) == 50
    assert len(truth.lives) == len(truth.ram) == 51


def test_frames_are_rgb_files_equal_to_what_the_environment_showed(episode: Episode) -> None:
    assert all(Image.open(path).mode == "RGB" for path in episode.paths)
    assert episode.tracks.meta["frameskip"] == 4
    env = make_env(frameskip=4)
    observation, info = env.reset(seed=episode.tracks.meta["seed"])
    shown, rewards, lives = [observation], [], [info["lives"]]
    for action in episode.tracks.actions:
        observation, reward, _, _, info = env.step(action)
        shown.append(observation)
        rewards.append(reward)
        lives.append(info["lives"])
    env.close()
    np.testing.assert_array_equal(pictures(episode), np.stack(shown))
    np.testing.assert_array_equal(episode.tracks.rewards, rewards)
    np.testing.assert_array_equal(episode.tracks.lives, lives)


def test_memory_belongs_to_the_frame_of_the_same_row(episode: Episode) -> None:
    luma = to_luma(pictures(episode).transpose(0, 3, 1, 2) / 255)
    seen, _ = find_paddle(luma, 1)
    said = screen_state(episode.tracks.ram).paddle
    assert len(np.unique(said)) > 5, "the paddle hardly moved: the test says nothing"
    assert np.mean(np.abs(seen - said) <= 2) >= 0.95
    assert np.mean(np.abs(seen[:-1] - said[1:]) <= 2) < 0.9


def test_actions_move_the_paddle_their_way(breakout_recording: Path) -> None:
    moved: dict[str, list[float]] = {"RIGHT": [], "LEFT": []}
    for name in list_episodes(breakout_recording):
        truth = read_episode(breakout_recording, name).tracks
        steps = np.diff(screen_state(truth.ram).paddle)
        for action, step in zip(truth.actions, steps, strict=True):
            moved.get(truth.meta["action_meanings"][action], []).append(step)
    assert np.mean(moved["RIGHT"]) > 2
    assert np.mean(moved["LEFT"]) < -2


def test_what_an_error_breaks_off_is_kept_as_a_cut_episode(
    env: gym.Env[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = env.unwrapped.step, []

    def fail_late(action: int) -> Any:
        calls.append(action)
        if len(calls) > STEPS + 5:
            raise RuntimeError("planted")
        return step(action)

    monkeypatch.setattr(env.unwrapped, "step", fail_late)
    with pytest.raises(RuntimeError, match="planted"):
        record(env, tmp_path, episodes=3, max_steps=STEPS, starts=["serve"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    whole, cut = (read_episode(tmp_path, name) for name in "01")
    assert len(whole.paths) == STEPS + 1
    assert len(cut.paths) == 6
    assert cut.tracks.truncated.tolist() == [False] * 4 + [True]


def test_new_episodes_are_numbered_after_those_that_are_there(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "9").mkdir()
    (tmp_path / "notes").mkdir()
    folders = record(env, tmp_path, episodes=2, max_steps=3)
    assert [folder.name for folder in folders] == ["10", "11"]
    assert [folder.name for folder in record(env, tmp_path, episodes=1, max_steps=3)] == ["12"]
    assert list((tmp_path / "9").iterdir()) == []


@pytest.mark.parametrize("policy", ["scripted", "random"])
def test_a_seed_says_what_is_played(env: gym.Env[Any, Any], tmp_path: Path, policy: str) -> None:
    (first,) = record(env, tmp_path / "a", episodes=1, max_steps=STEPS, seed=5, policy=policy)
    (again,) = record(env, tmp_path / "b", episodes=1, max_steps=STEPS, seed=5, policy=policy)
    (other,) = record(env, tmp_path / "c", episodes=1, max_steps=STEPS, seed=6, policy=policy)
    assert files(first) == files(again)
    assert files(first) != files(other)


def test_an_episode_that_is_cut_says_so_in_its_last_step(episode: Episode) -> None:
    np.testing.assert_array_equal(episode.tracks.truncated, [False] * 49 + [True])
    assert not episode.tracks.terminated.any()


def test_an_episode_that_ends_by_itself_is_not_cut(tmp_path: Path) -> None:
    env = make_env(frameskip=60)
    (folder,) = record(env, tmp_path, episodes=1, max_steps=400, policy="random")
    env.close()
    truth = read_episode(tmp_path, folder.name).tracks
    assert len(truth.actions) < 400
    np.testing.assert_array_equal(np.flatnonzero(truth.terminated), [len(truth.actions) - 1])
    assert not truth.truncated.any()
    assert truth.lives[-1] == 0


def test_players_of_different_skill_are_mixed(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    record(env, tmp_path, episodes=8, max_steps=1, skill=(0.5, 0.9))
    skills = np.array([read_episode(tmp_path, str(i)).tracks.meta["skill"] for i in range(8)])
    assert skills.min() >= 0.5
    assert skills.max() <= 0.9
    for half in (skills[:4], skills[4:]):
        assert half.min() < 0.6
        assert half.max() > 0.75


def test_a_skilled_player_keeps_the_lives_that_a_random_one_loses(env: gym.Env[Any, Any]) -> None:
    def lives_after_300_steps(skill: float) -> int:
        player = make_policy(env, "scripted", np.random.default_rng(1), skill)
        _, info = env.reset(seed=1)
        for _ in range(300):
            *_, terminated, _, info = env.step(player(None, {}))
            if terminated:
                break
        return info["lives"]

    assert lives_after_300_steps(1.0) >= 3
    assert lives_after_300_steps(0.0) <= 1


def test_the_truth_says_how_it_was_played(episode: Episode) -> None:
    meta = episode.tracks.meta
    assert meta["env_id"] == "ALE/Breakout-v5"
    assert meta["policy"] == "scripted"
    assert meta["action_meanings"] == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert json.loads(json.dumps(meta)) == meta


def test_random_play_records_other_games(tmp_path: Path) -> None:
    env = make_env("ALE/Pong-v5")
    (folder,) = record(env, tmp_path, policy="random", episodes=1, max_steps=30)
    env.close()
    episode = read_episode(tmp_path, folder.name)
    assert len(episode.paths) == 31
    assert episode.tracks.meta["env_id"] == "ALE/Pong-v5"
    assert len(np.unique(episode.tracks.actions)) > 2


def test_the_scripted_player_does_not_know_every_game(tmp_path: Path) -> None:
    env = make_env("ALE/SpaceInvaders-v5")
    with pytest.raises(DataError, match="knows only Breakout, Freeway and Pong; take --policy random"):
        record(env, tmp_path, episodes=1, max_steps=3)
    env.close()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_policy_is_refused(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown policy 'clever'; take scripted, random, module:callable or sb3:PATH"):
        record(env, tmp_path, policy="clever", episodes=1)


@pytest.mark.parametrize(
    "make", [lambda: gym.make("CartPole-v1"), lambda: make_env(obs_type="grayscale"), lambda: make_env(obs_type="ram")]
)
def test_an_environment_without_rgb_frames_is_refused(make: Any, tmp_path: Path) -> None:
    env = make()
    with pytest.raises(DataError, match=r"wants observations of \(rows, columns, 3\) uint8.*frame_source='render'"):
        record(env, tmp_path / "out", policy="random", episodes=1)
    env.close()
    assert not (tmp_path / "out").exists()


def test_several_workers_record_the_same_episodes(tmp_path: Path) -> None:
    make = functools.partial(make_env, frameskip=8)
    alone = record(make, tmp_path / "a", episodes=4, max_steps=10, seed=3)
    together = record(make, tmp_path / "b", episodes=4, max_steps=10, seed=3, workers=2)
    assert [folder.name for folder in alone] == [folder.name for folder in together] == ["0", "1", "2", "3"]
    for a, b in zip(alone, together, strict=True):
        assert files(a) == files(b)
        assert len(files(a)) == 11
        truths = [read_episode(folder.parent, folder.name).tracks for folder in (a, b)]
        assert truths[0].meta == truths[1].meta
        for name, array in truths[0].recorded().items():
            np.testing.assert_array_equal(array, truths[1].recorded()[name])
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize("workers", [1, 2])
def test_recording_stops_with_enough_steps(workers: int, tmp_path: Path) -> None:
    folders = record(make_env, tmp_path, episodes=None, steps=25, max_steps=10, workers=workers)
    # What other workers have begun by then is kept too.
    assert 3 <= len(folders) <= 2 + workers
    assert sum(len(read_episode(tmp_path, folder.name).tracks.actions) for folder in folders) >= 25
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(folder.name for folder in folders)


def test_a_workers_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown policy 'clever'"):
        record(make_env, tmp_path, policy="clever", episodes=2, workers=2)


PLAYERS = """
def right(observation, info):
    assert observation.shape == (210, 160, 3)
    assert "lives" in info
    return 2

class Alternating:
    def __init__(self, env, rng):
        self.turn = 0
        self.actions = env.action_space.n
    def __call__(self, observation, info):
        self.turn += 1
        return self.turn % self.actions

number = 3
"""


@pytest.fixture
def players(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local module of players, in the current folder."""
    name = f"players_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(PLAYERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_other_peoples_players_play(env: gym.Env[Any, Any], tmp_path: Path, players: str) -> None:
    (first,) = record(env, tmp_path / "a", policy=f"{players}:right", episodes=1, max_steps=5)
    assert read_episode(first.parent, first.name).tracks.actions.tolist() == [2] * 5
    folders = record(env, tmp_path / "b", policy=f"{players}:Alternating", episodes=2, max_steps=5)
    for folder in folders:  # made anew for each episode
        assert read_episode(folder.parent, folder.name).tracks.actions.tolist() == [1, 2, 3, 0, 1]


def test_skill_mixes_chance_into_any_player(env: gym.Env[Any, Any], tmp_path: Path, players: str) -> None:
    options: dict[str, Any] = {"policy": f"{players}:right", "episodes": 2, "max_steps": 100}
    folders = record(env, tmp_path / "a", skill=(0.3, 0.7), **options)
    shares = [(read_episode(tmp_path / "a", folder.name).tracks.actions == 2).mean() for folder in folders]
    assert 0.3 < shares[0] < shares[1] < 0.95
    assert read_episode(tmp_path / "a", "0").tracks.meta["skill"] == 0.3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere:right", "policy nowhere:right: cannot be had: ModuleNotFoundError"),
        ("{players}:left", "{players}:left: cannot be had: AttributeError"),
        ("{players}:number", "{players}:number: is a int; it must be callable as policy.observation, info."),
        ("sb3:nowhere.zip", "sb3:nowhere.zip: no such file"),
    ],
)
def test_players_that_cannot_play_are_refused(
    env: gym.Env[Any, Any], tmp_path: Path, players: str, name: str, said: str
) -> None:
    with pytest.raises(DataError, match=said.format(players=players)) as caught:
        record(env, tmp_path / "out", policy=name.format(players=players), episodes=1, max_steps=3)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--env", "ALE/Nothing-v5", "--workers", "2"], "--env ALE/Nothing-v5: cannot be made"),
        (["--env", "nowhere:Game-v0"], "--env nowhere:Game-v0: cannot be made: .*nowhere"),
        (["--seed", "-1"], "--seed -1: must not be negative"),
        (["--steps", "0"], "--steps 0: must be more than 0"),
        (["--skill", "0.9", "0.2"], "--skill 0.9 0.2: must be two probabilities, the lower one first"),
        (["--env", "CartPole-v1", "--policy", "random"], "a recording wants observations of .*frame_source='render'"),
        (["--env", "Pendulum-v1", "--policy", "random"], "needs a Discrete action space|wants observations"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--out", str(tmp_path / "out"), *arguments]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("lapa: error")]
    assert re.search(said, line)
    assert not (tmp_path / "out").exists()


def test_an_environment_cannot_be_sent_to_workers(env: gym.Env[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several workers need a function that makes an environment"):
        record(env, tmp_path, workers=2)
