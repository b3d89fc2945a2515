"""Observations of tokens are, in single environments and in vectors, those that are extracted of the same frames."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from PIL import Image
from restless import MODES, SIZE, RestlessEnv, ThreadsSeen, assert_same_run, restless, run
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from helpers import PATIENCE
from lapa.config import load_config
from lapa.data.frames import FrameFormat
from lapa.data.packing import open_store
from lapa.engine.checkpoint import Checkpoint, load_model, save_checkpoint
from lapa.errors import CheckpointError, DataError
from lapa.inference.extraction import extract
from lapa.inference.tokens import TokenDataset, tokenize
from lapa.systems.tokenizer.model import Tokenizer
from lapa_envs import LatentActionWrapper, RecordEpisodes, TokenObservation, TokenVectorObservation, make_env

STEPS = 30
Wrap = Callable[[gym.Env[Any, Any]], gym.Env[Any, Any]]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer for frames of the toy's size whose codes lie on encodings of noise."""
    config = load_config("tokenizer_debug")
    torch.manual_seed(0)
    model = Tokenizer(config.model, FrameFormat(*SIZE)).train()
    for _ in range(20):
        model(torch.rand(8, 1, *SIZE))
    path = tmp_path_factory.mktemp("toy") / "toy.pt"
    save_checkpoint(path, model, config, split={}, step=0, metrics={})
    return str(path)


@pytest.fixture(scope="module")
def checkpoint(tokenizer_run: Path) -> str:
    return str(tokenizer_run / "best.pt")


def play(env: gym.Env[Any, Any], steps: int = STEPS) -> list[Any]:
    """Observations (steps + 1) of moves drawn with a seed, after a serve."""
    rng = np.random.default_rng(0)
    observations = [env.reset(seed=0)[0]]
    for step in range(steps):
        observations.append(env.step(1 if step == 0 else int(rng.integers(2, 4)))[0])
    return observations


# One environment


def test_observations_are_the_tokens_that_are_extracted(
    checkpoint: str, tokenizer_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    frames = play(make_env())
    folder = tmp_path / "bulk_videos" / "0"
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    extract(tokenizer_checkpoint, open_store(folder.parent), tmp_path / "tokens.lapa")
    env = TokenObservation(make_env(), checkpoint)
    observations = play(env)
    assert env.observation_space == gym.spaces.Box(0, 15, (27, 20), np.int64)
    assert all(env.observation_space.contains(observation) for observation in observations)
    np.testing.assert_array_equal(observations, TokenDataset(tmp_path / "tokens.lapa").tokens)
    assert len({observation.tobytes() for observation in observations}) > STEPS / 2, "the tokens hardly change"
    assert env.digest == tokenizer_checkpoint.digest
    env.close()


@pytest.mark.filterwarnings("error", "ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("flatten", [False, True])
def test_gymnasium_and_stable_baselines_find_nothing_wrong_with_it(flatten: bool, checkpoint: str) -> None:
    env = TokenObservation(make_env(), checkpoint, flatten=flatten)
    check_env(env, skip_render_check=True)
    if flatten:  # of a grid it says that it needs a policy of its own, and the example has one
        check_for_sb3(env)
    env.close()


def test_flattened_tokens_are_choices_in_a_row(toy: str) -> None:
    grid, row = (TokenObservation(RestlessEnv(0), toy, flatten=flatten) for flatten in (False, True))
    assert row.observation_space == gym.spaces.MultiDiscrete(np.full(10 * 8, 16))
    np.testing.assert_array_equal(row.reset()[0], grid.reset()[0].ravel())
    one_hot = gym.wrappers.FlattenObservation(row)
    assert one_hot.step(0)[0].shape == (10 * 8 * 16,)


def test_of_a_stack_below_the_last_frame_counts_and_a_stack_above_stacks_tokens(toy: str) -> None:
    def stack(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return gym.wrappers.FrameStackObservation(env, 3)

    above, below = stack(TokenObservation(RestlessEnv(0), toy)), TokenObservation(stack(RestlessEnv(0)), toy)
    for found, expected in [(below.reset()[0], above.reset()[0]), *((below.step(0)[0], above.step(0)[0]),) * 2]:
        assert expected.shape == (3, 10, 8)
        np.testing.assert_array_equal(found, expected[-1])


def test_rendered_frames_give_the_same_tokens_under_changed_observations(checkpoint: str) -> None:
    hidden = gym.wrappers.ResizeObservation(make_env(render_mode="rgb_array"), (16, 21))
    rendered, plain = (
        TokenObservation(hidden, checkpoint, frame_source="render"),
        TokenObservation(make_env(), checkpoint),
    )
    np.testing.assert_array_equal(play(rendered), play(plain))


def test_it_can_be_recorded_below(checkpoint: str, tmp_path: Path) -> None:
    env = TokenObservation(RecordEpisodes(make_env(), tmp_path / "played"), checkpoint)
    observations = play(env)
    env.close()
    frames = open_store(tmp_path / "played").frames(range(STEPS + 1))
    np.testing.assert_array_equal(observations, tokenize(load_model(checkpoint, "cpu"), frames))


REMAKE = """
import sys
import gymnasium as gym
from lapa_envs.atari import make_env
make_env().close()  # registers the Atari ids
env = gym.make(gym.envs.registration.EnvSpec.from_json(sys.stdin.read()))
print([env.reset(seed=3)[0].tolist(), env.step(1)[0].tolist()])
"""


def test_the_spec_makes_the_same_environment_in_a_new_process(tokenizer_run: Path) -> None:
    env = TokenObservation(make_env(), tokenizer_run / "best.pt", flatten=True)
    expected = [env.reset(seed=3)[0].tolist(), env.step(1)[0].tolist()]
    text = env.spec.to_json()
    assert EnvSpec.from_json(text).additional_wrappers[-1].kwargs["flatten"] is True
    done = subprocess.run([sys.executable, "-c", REMAKE], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(expected)
    env.close()


def test_it_goes_through_pickle_in_the_middle_of_an_episode(toy: str) -> None:
    env = TokenObservation(RestlessEnv(0), toy)
    env.reset()
    again = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(again.step(0)[0], env.step(0)[0])


# Vectors


def wrapped(toy: str, **options: Any) -> Wrap:
    return lambda env: TokenObservation(env, toy, **options)


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_each_row_is_as_of_a_single_wrapper(mode: AutoresetMode, flatten: bool, toy: str) -> None:
    vector = TokenVectorObservation(SyncVectorEnv(restless(), autoreset_mode=mode), toy, flatten=flatten)
    singles = SyncVectorEnv(restless(wrapped(toy, flatten=flatten)), autoreset_mode=mode)
    assert vector.observation_space == singles.observation_space
    assert vector.single_observation_space == singles.single_observation_space
    seen = assert_same_run(vector, singles, mode, steps=60)
    ends = [infos["final_obs"] for infos in seen if "final_obs" in infos]
    assert (len(ends) > 10) == (mode is AutoresetMode.SAME_STEP)


@pytest.mark.parametrize("mode", MODES)
def test_environments_in_processes_of_their_own_are_tokenized_alike(mode: AutoresetMode, toy: str) -> None:
    vector = TokenVectorObservation(AsyncVectorEnv(restless(), autoreset_mode=mode), toy)
    assert_same_run(vector, SyncVectorEnv(restless(wrapped(toy)), autoreset_mode=mode), mode, steps=20)


def test_single_wrappers_work_in_processes_of_their_own(toy: str) -> None:
    tokenize(
        load_model(toy, "cpu"), np.zeros((*SIZE, 3), np.uint8)
    )  # OpenMP has threads now, which no fork takes along
    mode = AutoresetMode.NEXT_STEP
    singles = AsyncVectorEnv(restless(wrapped(toy)), autoreset_mode=mode)
    assert_same_run(TokenVectorObservation(SyncVectorEnv(restless()), toy), singles, mode, steps=10)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_rendered_frames_of_stacks_are_tokenized_alike(mode: AutoresetMode, toy: str) -> None:
    def grey(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return gym.wrappers.FrameStackObservation(gym.wrappers.GrayscaleObservation(env), 2)

    envs = SyncVectorEnv(restless(grey, render_mode="rgb_array"), autoreset_mode=mode)
    singles = SyncVectorEnv(
        restless(grey, wrapped(toy, frame_source="render"), render_mode="rgb_array"), autoreset_mode=mode
    )
    assert_same_run(TokenVectorObservation(envs, toy, frame_source="render"), singles, mode, steps=20)


def test_of_stacks_the_last_frames_count_in_final_observations_too(toy: str) -> None:
    def stack(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return gym.wrappers.FrameStackObservation(env, 3)

    mode = AutoresetMode.SAME_STEP
    vector = TokenVectorObservation(SyncVectorEnv(restless(stack), autoreset_mode=mode), toy)
    assert_same_run(vector, SyncVectorEnv(restless(stack, wrapped(toy)), autoreset_mode=mode), mode, steps=30)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_computed_on_several_threads(mode: AutoresetMode, toy: str) -> None:
    envs = TokenVectorObservation(SyncVectorEnv(restless(), autoreset_mode=mode), toy)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadsSeen() as seen:
            for _ in run(envs, mode, 20):
                pass
    finally:
        torch.set_num_threads(before)
    assert seen.counts == {1}


# What does not fit


@pytest.mark.parametrize(
    ("wrap", "make", "options", "error", "said"),
    [
        (
            TokenObservation,
            lambda: SyncVectorEnv(restless()),
            {},
            DataError,
            "take TokenVectorObservation for a vector",
        ),
        (TokenVectorObservation, lambda: RestlessEnv(0), {}, DataError, "takes a vector environment; take TokenObser"),
        (TokenObservation, make_env, {}, DataError, r"wants observations of \(40, 32, 3\) uint8"),
        (TokenObservation, lambda: RestlessEnv(0), {"frame_source": "render"}, DataError, "needs render_mode='rgb_arr"),
        (
            TokenVectorObservation,
            lambda: SyncVectorEnv(restless(render_mode="rgb_array"), autoreset_mode=AutoresetMode.SAME_STEP),
            {"frame_source": "render"},
            DataError,
            "cannot see final frames .* take NEXT_STEP, or wrap each sub-environment in TokenObservation",
        ),
        (
            TokenObservation,
            lambda: RestlessEnv(0),
            {"checkpoint": "nowhere.pt"},
            CheckpointError,
            "nowhere.pt: no such",
        ),
        (
            TokenObservation,
            make_env,
            {"checkpoint": "breakout"},
            DataError,
            "gives codes of transitions, not tokens, .*; take LatentActionWrapper, or name a tokenizer",
        ),
        (
            LatentActionWrapper,
            lambda: RestlessEnv(0),
            {},
            DataError,
            "a Tokenizer gives tokens, .*, not codes of transitions; take TokenObservation, or name a latent action",
        ),
    ],
    ids=["vector", "single", "size", "render mode", "same step", "no file", "codes", "tokens"],
)
def test_what_does_not_fit_is_refused_at_once(
    wrap: Any, make: Callable[[], Any], options: dict[str, Any], error: type[Exception], said: str, toy: str
) -> None:
    env = make()
    with pytest.raises(error, match=said) as caught:
        wrap(env, **{"checkpoint": toy, **options})
    assert "\n" not in str(caught.value)
    env.close()
