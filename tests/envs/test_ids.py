"""``lapa/Breakout-v0``: labelled Breakout by name, one game or many."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import lapa_envs
from helpers import PATIENCE
from lapa_envs import LatentActionVectorWrapper, LatentActionWrapper, make_env
from lapa_envs.ids import BREAKOUT_ID, GAME

MOVES = (1, 2, 2, 3)


def codes_of(env: gym.Env) -> np.ndarray:
    env.reset(seed=3)
    return np.stack([env.step(action)[-1]["latent_action"] for action in MOVES])


def test_the_name_gives_what_the_wrapper_around_the_game_gives() -> None:
    named, built = gym.make(BREAKOUT_ID), LatentActionWrapper(make_env("ALE/Breakout-v5"))
    np.testing.assert_array_equal(codes_of(named), codes_of(built))
    assert named.observation_space == built.observation_space == gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    game = {name: value for name, value in built.spec.kwargs.items() if name in GAME}
    assert {"obs_type": "rgb", **game} == GAME, "ALE/Breakout-v5 has changed"
    named.close()
    built.close()


def test_a_new_process_needs_no_import() -> None:
    code = 'import gymnasium as gym; print(gym.make("lapa_envs:lapa/Breakout-v0").reset()[1]["latent_action"].shape)'
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "(7, 10)\n", done.stderr


def test_the_wrappers_and_the_games_arguments_go_through_make(breakout_run: Path) -> None:
    checkpoint = str(breakout_run / "best.pt")
    env = gym.make(BREAKOUT_ID, checkpoint=checkpoint, as_="both", frameskip=2, render_mode="rgb_array")
    assert env.reset(seed=0)[0]["latent_action"].shape == (27, 20)
    assert env.render().shape == (210, 160, 3)
    assert env.spec.kwargs["frameskip"] == 2
    env.close()


def test_its_spec_makes_it_again() -> None:
    env = gym.make(BREAKOUT_ID, frameskip=3)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert [w.name for w in again.spec.additional_wrappers] == ["LatentActionWrapper"], "wrapped twice"
    np.testing.assert_array_equal(codes_of(env), codes_of(again))
    env.close()
    again.close()


def test_registering_twice_is_quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(lapa_envs)
    assert [name for name in gym.registry if name.startswith("lapa/")] == [BREAKOUT_ID]


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_of_them_is_labelled_at_once(mode: str) -> None:
    envs = gym.make_vec(BREAKOUT_ID, num_envs=2, autoreset_mode=mode)
    assert isinstance(envs, LatentActionVectorWrapper)
    assert envs.autoreset_mode is AutoresetMode(mode)
    envs.reset(seed=3)
    rows = np.stack([envs.step(np.array([action, action]))[-1]["latent_action"] for action in MOVES], axis=1)
    single = gym.make(BREAKOUT_ID)
    np.testing.assert_array_equal(rows[0], codes_of(single))
    envs.close()
    single.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_gymnasiums_own_vectors_label_each_by_itself(vectorization: str) -> None:
    envs = gym.make_vec(BREAKOUT_ID, num_envs=2, vectorization_mode=vectorization)
    envs.reset(seed=3)
    infos = envs.step(np.array([1, 1]))[-1]
    assert infos["latent_action"].shape == (2, 7, 10)
    assert (infos["latent_action"] >= 0).all()
    envs.close()
