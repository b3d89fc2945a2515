"""Scripted players: any skill between random play and the best that a script can do, for the games of one table."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from lapa.cli import main
from lapa.errors import DataError
from lapa.games.breakout.screen import screen_state
from lapa_envs import GiveBackLives, make_env
from lapa_envs.scripted import SCRIPTED, has_scripted_player, known_to_scripts, player_class, scripted_player
from lapa_envs.scripted.player import RandomPolicy, ScriptedPlayer

of_every_game = pytest.mark.parametrize("game", SCRIPTED)


def made(game: str) -> gym.Env[Any, Any]:
    return make_env(f"ALE/{game}-v5")


def play(game: str, skill: float, steps: int, seed: int = 0) -> tuple[list[int], np.ndarray]:
    """Actions and rewards of one game, or its beginning."""
    env = made(game)
    player = scripted_player(env, np.random.default_rng(seed), skill)
    observation, info = env.reset(seed=seed)
    actions, rewards = [], []
    for _ in range(steps):
        actions.append(player(observation, info))
        observation, reward, terminated, _, info = env.step(actions[-1])
        rewards.append(float(reward))
        if terminated:
            break
    env.close()
    return actions, np.array(rewards)


@of_every_game
def test_every_name_in_the_table_is_a_player(game: str) -> None:
    assert issubclass(player_class(game), ScriptedPlayer)
    env = made(game)
    assert has_scripted_player(env)
    assert type(scripted_player(env, np.random.default_rng(0), 1.0)) is player_class(game)
    env.close()


@of_every_game
def test_without_skill_it_is_random_play(game: str) -> None:
    env = made(game)
    rng = np.random.default_rng(0)
    player = scripted_player(env, rng, 0.0)
    assert isinstance(player.random, RandomPolicy)
    actions, _ = play(game, 0.0, 400)
    counts = np.bincount(actions, minlength=env.action_space.n)
    assert counts.min() >= 0.3 * len(actions) / env.action_space.n
    env.close()


@of_every_game
def test_a_seed_says_what_is_played(game: str) -> None:
    (first, _), (again, _), (other, _) = (play(game, 0.8, 100, seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@of_every_game
def test_a_skilled_player_gets_more_than_a_random_one(game: str) -> None:
    skilled, random = (play(game, skill, 450)[1] for skill in (1.0, 0.0))
    assert skilled.sum() > random.sum() + 1


def test_the_player_of_pong_wins_points_and_loses_few() -> None:
    rewards = np.concatenate([play("Pong", 1.0, 600, seed)[1] for seed in range(2)])
    assert (rewards > 0).sum() >= 2
    assert (rewards < 0).sum() <= 8  # of 34 that random play loses


def test_the_player_of_freeway_mostly_walks_up_but_not_always() -> None:
    actions, rewards = play("Freeway", 1.0, 600)
    up, down, wait = (actions.count(action) / len(actions) for action in (1, 2, 0))
    assert up > 0.6
    assert min(down, wait) > 0.03
    assert rewards.sum() >= 2


@pytest.mark.slow
def test_the_player_of_breakout_clears_the_first_wall() -> None:
    env = GiveBackLives(make_env())
    player = scripted_player(env, np.random.default_rng(0), 1.0)
    observation, info = env.reset(seed=0)
    for step in range(8000):
        observation, _, terminated, truncated, info = env.step(player(observation, info))
        assert not terminated
        assert not truncated
        if step % 100 == 0 and screen_state(env.unwrapped.ale.getRAM()[None]).score[0] >= 432:
            break
    else:
        pytest.fail("the wall still stands")
    env.close()


@pytest.mark.parametrize("game", ["ALE/SpaceInvaders-v5", "ALE/VideoPinball-v5", "CartPole-v1"])
def test_other_games_are_refused_in_one_line_that_lists_the_known_ones(game: str) -> None:
    env = gym.make(game)
    assert not has_scripted_player(env)
    with pytest.raises(DataError, match="the scripted player knows only Breakout, Freeway and Pong; take --policy"):
        scripted_player(env, np.random.default_rng(0), 1.0)
    env.close()


def test_the_help_lists_the_known_games(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["record", "--help"])
    assert f"scripted ({known_to_scripts()})" in " ".join(capsys.readouterr().out.split())
