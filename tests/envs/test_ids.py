"""``lapa/Breakout-v1`` and its earlier versions: labelled Breakout by name, one game or many."""

from __future__ import annotations

import hashlib
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
from lapa import load_model
from lapa.shipped import model_named
from lapa_envs import LatentActionVectorWrapper, LatentActionWrapper, make_env
from lapa_envs.ids import BREAKOUT_ID, GAME, MODELS

MOVES = (1, 2, 2, 3)
OLD_ID = "lapa/Breakout-v0"

every_version = pytest.mark.parametrize("env_id", MODELS)


def codes_of(env: gym.Env) -> np.ndarray:
    env.reset(seed=3)
    return np.stack([env.step(action)[-1]["latent_action"] for action in MOVES])


def grid_of(env_id: str) -> tuple[int, ...]:
    """Shape of the codes of an environment."""
    return load_model(MODELS[env_id], "cpu").code_grid


@every_version
def test_the_name_gives_what_the_wrapper_around_the_game_gives(env_id: str) -> None:
    named, built = gym.make(gym.spec(env_id)), LatentActionWrapper(make_env("ALE/Breakout-v5"), MODELS[env_id])
    assert named.get_wrapper_attr("digest") == model_named(MODELS[env_id]).digest
    np.testing.assert_array_equal(codes_of(named), codes_of(built))
    assert named.observation_space == built.observation_space == gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    game = {name: value for name, value in built.spec.kwargs.items() if name in GAME}
    assert {"obs_type": "rgb", **game} == GAME, "ALE/Breakout-v5 has changed"
    named.close()
    built.close()


def run_python(code: str, *arguments: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@every_version
def test_a_new_process_needs_no_import(env_id: str) -> None:
    code = f'import gymnasium as gym; print(gym.make("lapa_envs:{env_id}").reset()[1]["latent_action"].shape)'
    assert run_python(code) == f"{grid_of(env_id)}\n"


@every_version
def test_its_spec_makes_it_again_in_a_new_process(env_id: str) -> None:
    env = gym.make(gym.spec(env_id))
    code = (
        "import sys, gymnasium as gym; spec = gym.envs.registration.EnvSpec.from_json(sys.argv[1]); "
        "print(gym.make(spec).get_wrapper_attr('digest'))"
    )
    assert run_python(code, env.spec.to_json()) == f"{env.get_wrapper_attr('digest')}\n"
    env.close()


def test_the_old_version_keeps_its_model_and_its_codes() -> None:
    assert model_named(MODELS[OLD_ID]).digest == "e0f1eb83574627c0"
    env = gym.make(gym.spec(OLD_ID))
    env.reset(seed=3)
    codes = np.stack([env.step(1 + step % 3)[-1]["latent_action"] for step in range(40)])
    env.close()
    assert hashlib.sha256(codes.tobytes()).hexdigest()[:16] == "00949ddcd686c14f"


def test_gymnasium_alone_calls_the_old_version_old() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gym.make(OLD_ID).close()
    (warning,) = told
    assert issubclass(warning.category, DeprecationWarning)
    assert "lapa/Breakout-v0 is out of date. You should consider upgrading to version `v1`" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gym.make(gym.spec(OLD_ID)).close()
        gym.make_vec(gym.spec(OLD_ID), num_envs=1).close()


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
    assert [name for name in gym.registry if name.startswith("lapa/")] == list(MODELS) == [OLD_ID, BREAKOUT_ID]


@every_version
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_of_them_is_labelled_at_once(env_id: str, mode: str) -> None:
    envs = gym.make_vec(gym.spec(env_id), num_envs=2, autoreset_mode=mode)
    assert isinstance(envs, LatentActionVectorWrapper)
    assert envs.autoreset_mode is AutoresetMode(mode)
    envs.reset(seed=3)
    rows = np.stack([envs.step(np.array([action, action]))[-1]["latent_action"] for action in MOVES], axis=1)
    single = gym.make(gym.spec(env_id))
    np.testing.assert_array_equal(rows[0], codes_of(single))
    envs.close()
    single.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_gymnasiums_own_vectors_label_each_by_itself(vectorization: str) -> None:
    envs = gym.make_vec(BREAKOUT_ID, num_envs=2, vectorization_mode=vectorization)
    envs.reset(seed=3)
    infos = envs.step(np.array([1, 1]))[-1]
    assert infos["latent_action"].shape == (2, *grid_of(BREAKOUT_ID))
    assert (infos["latent_action"] >= 0).all()
    envs.close()
