"""The vector wrapper gives, for every row of every step, what a single wrapper in that row would have given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from restless import MODES, NUM_ENVS, SIZE, RestlessEnv, ThreadsSeen, assert_same_run, restless, run

from lapa.config import load_config
from lapa.data.frames import FrameFormat
from lapa.engine.checkpoint import load_model, save_checkpoint
from lapa.errors import CheckpointError, DataError
from lapa.inference.labelling import label
from lapa.systems.latent_action.model import LatentActionModel
from lapa_envs import LatentActionVectorWrapper, LatentActionWrapper, make_env


def save_model(path: Path, size: tuple[int, int], *overrides: str) -> str:
    """An untrained model whose codes lie on encodings of noise."""
    config = load_config("debug", overrides=overrides)
    torch.manual_seed(0)
    model = LatentActionModel(config.model, FrameFormat(*size)).train()
    for _ in range(20):
        model(*torch.rand(2, 8, 1, *size))
    save_checkpoint(path, model, config, split={}, step=0, metrics={})
    return str(path)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint for frames of the toy's size."""
    return save_model(tmp_path_factory.mktemp("toy") / "toy.pt", SIZE)


@pytest.fixture(scope="module")
def checkpoint(breakout_run: Path) -> str:
    return str(breakout_run / "best.pt")


@pytest.mark.parametrize("as_", ["info", "obs", "both"])
@pytest.mark.parametrize("mode", MODES)
def test_each_row_is_labelled_as_by_a_single_wrapper(mode: AutoresetMode, as_: str, toy: str) -> None:
    def wrap(env: gym.Env[Any, Any]) -> LatentActionWrapper:
        return LatentActionWrapper(env, toy, as_=as_, confidence=True)

    vector = LatentActionVectorWrapper(SyncVectorEnv(restless(), autoreset_mode=mode), toy, as_=as_, confidence=True)
    singles = SyncVectorEnv(restless(wrap), autoreset_mode=mode)
    assert vector.observation_space == singles.observation_space
    assert vector.single_observation_space == singles.single_observation_space
    seen = assert_same_run(vector, singles, mode, steps=60)
    if as_ != "obs":
        codes = np.concatenate([infos["latent_action"] for infos in seen])
        assert len(np.unique(codes)) > 5
        assert (codes == -1).all((1, 2)).sum() > 10


@pytest.mark.parametrize("mode", MODES)
def test_environments_in_processes_of_their_own_are_labelled_alike(mode: AutoresetMode, toy: str) -> None:
    vector = LatentActionVectorWrapper(AsyncVectorEnv(restless(), autoreset_mode=mode), toy)
    singles = SyncVectorEnv(restless(lambda env: LatentActionWrapper(env, toy)), autoreset_mode=mode)
    assert_same_run(vector, singles, mode, steps=30)


def test_single_wrappers_work_in_processes_of_their_own(toy: str) -> None:
    mode = AutoresetMode.NEXT_STEP
    label(load_model(toy), *np.zeros((2, *SIZE, 3), np.uint8))  # OpenMP has threads now, which no fork takes along
    singles = AsyncVectorEnv(restless(lambda env: LatentActionWrapper(env, toy)), autoreset_mode=mode)
    vector = LatentActionVectorWrapper(SyncVectorEnv(restless(), autoreset_mode=mode), toy)
    assert_same_run(vector, singles, mode, steps=10)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_rendered_frames_are_labelled_alike(mode: AutoresetMode, toy: str) -> None:
    def hide(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return gym.wrappers.GrayscaleObservation(env)

    def make() -> SyncVectorEnv:
        return SyncVectorEnv(restless(hide, render_mode="rgb_array"), autoreset_mode=mode)

    singles = SyncVectorEnv(
        restless(hide, lambda env: LatentActionWrapper(env, toy, frame_source="render"), render_mode="rgb_array"),
        autoreset_mode=mode,
    )
    assert_same_run(LatentActionVectorWrapper(make(), toy, frame_source="render"), singles, mode, steps=30)


def test_of_a_stack_of_frames_the_last_counts(toy: str) -> None:
    def stack(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        return gym.wrappers.FrameStackObservation(env, 3)

    mode = AutoresetMode.SAME_STEP
    vector = LatentActionVectorWrapper(SyncVectorEnv(restless(stack), autoreset_mode=mode), toy)
    singles = SyncVectorEnv(restless(lambda env: stack(LatentActionWrapper(env, toy))), autoreset_mode=mode)
    assert_same_run(vector, singles, mode, steps=30)
    above = SyncVectorEnv(restless(stack, lambda env: LatentActionWrapper(env, toy)), autoreset_mode=mode)
    again = LatentActionVectorWrapper(SyncVectorEnv(restless(stack), autoreset_mode=mode), toy)
    assert_same_run(again, above, mode, steps=30)


def test_what_is_drawn_is_told_too(toy: str) -> None:
    mode = AutoresetMode.NEXT_STEP
    vector = LatentActionVectorWrapper(SyncVectorEnv(restless(), autoreset_mode=mode), toy, reconstruction=True)
    singles = SyncVectorEnv(restless(lambda env: LatentActionWrapper(env, toy, reconstruction=True)))
    drawn = []
    for found, expected in zip(run(vector, mode, 10), run(singles, mode, 10), strict=True):
        a, b = (infos["latent_action_reconstruction"] for infos in (found[1], expected[1]))
        assert a.shape == (NUM_ENVS, *SIZE, 1)
        assert np.abs(a.astype(int) - b).max() <= 1, "more than rounding"
        drawn.append(a)
    assert not drawn[0].any()
    assert len(np.unique(drawn[1])) > 5


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_computed_on_several_threads(mode: AutoresetMode, toy: str) -> None:
    envs = LatentActionVectorWrapper(
        SyncVectorEnv(restless(), autoreset_mode=mode), toy, confidence=True, reconstruction=True
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadsSeen() as seen:
            for _ in run(envs, mode, 20):
                pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    # Threads that wait for their next part of an operation keep games from the cores that they play on.
    assert seen.counts == {1}


def test_the_mask_that_the_caller_gives_is_still_his(toy: str) -> None:
    vector = LatentActionVectorWrapper(SyncVectorEnv(restless(), autoreset_mode=AutoresetMode.DISABLED), toy)
    vector.reset(seed=0)
    mask = np.array([True, False, False, True])
    _, infos = vector.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(mask, [True, False, False, True])
    np.testing.assert_array_equal(infos["_latent_action"], mask)
    vector.close()


def test_one_token_is_a_number_a_row(tmp_path: Path) -> None:
    one = save_model(tmp_path / "one.pt", SIZE, "model.tokens=1")
    vector = LatentActionVectorWrapper(SyncVectorEnv(restless()), one, as_="both")
    observations, infos = vector.reset(seed=0)
    assert vector.observation_space.contains(observations)
    assert infos["latent_action"].shape == (NUM_ENVS,)
    assert (infos["latent_action"] == -1).all()
    vector.close()


# Real games


@pytest.mark.parametrize("mode", MODES)
def test_real_games_are_labelled_alike(mode: AutoresetMode, checkpoint: str) -> None:
    def make(wrap: Callable[[Any], Any]) -> SyncVectorEnv:
        def one(frames: int) -> Any:
            return wrap(make_env(max_num_frames_per_episode=frames))

        return SyncVectorEnv([lambda f=f: one(f) for f in (40, 64, 96)], autoreset_mode=mode)

    vector = LatentActionVectorWrapper(make(lambda env: env), checkpoint)
    assert_same_run(vector, make(lambda env: LatentActionWrapper(env, checkpoint)), mode, steps=40)


def make_atari(mode: AutoresetMode, **options: Any) -> AtariVectorEnv:
    size: dict[str, Any] = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1, "maxpool": False}
    return AtariVectorEnv("breakout", 3, autoreset_mode=mode, **{**size, "max_num_frames_per_episode": 48, **options})


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_ales_own_vector_is_labelled(mode: AutoresetMode, stack: int, checkpoint: str) -> None:
    """It cannot be wrapped one by one, so the frames that it shows are labelled by hand."""
    model = load_model(checkpoint)
    envs = LatentActionVectorWrapper(make_atari(mode, stack_num=stack), checkpoint)
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    assert (infos["latent_action"] == -1).all()
    ended, last, ends = np.zeros(3, dtype=bool), observations[:, -1], 0
    for _ in range(40):
        observations, _, terminated, truncated, infos = envs.step(envs.action_space.sample())
        ends += (terminated | truncated).sum()
        for row in range(3):
            over = terminated[row] or truncated[row]
            if mode is AutoresetMode.NEXT_STEP and ended[row]:
                assert (infos["latent_action"][row] == -1).all()
                continue
            final = over and mode is AutoresetMode.SAME_STEP
            shown = (infos["final_obs"] if final else observations)[row, -1]
            codes = (infos["final_info"] if final else infos)["latent_action"][row]
            np.testing.assert_array_equal(codes, label(model, last[row], shown).numpy())
            if final:
                assert infos["final_info"]["_latent_action"][row]
                assert (infos["latent_action"][row] == -1).all()
        ended, last = terminated | truncated, observations[:, -1]
    assert ends > 3
    envs.close()


def test_two_vectors_of_ale_do_not_mix_up_their_modes(checkpoint: str) -> None:
    """They share their class's ``metadata``, where the last one made wins."""
    first = make_atari(AutoresetMode.SAME_STEP)
    second = make_atari(AutoresetMode.NEXT_STEP)
    assert LatentActionVectorWrapper(first, checkpoint).autoreset_mode is AutoresetMode.SAME_STEP
    first.close()
    second.close()


# What does not fit


def without_mode() -> SyncVectorEnv:
    envs = SyncVectorEnv(restless())
    envs.autoreset_mode = envs.metadata["autoreset_mode"] = "sometimes"  # type: ignore[assignment]
    return envs


@pytest.mark.parametrize(
    ("make", "options", "error", "said"),
    [
        (lambda: RestlessEnv(0), {}, DataError, "takes a vector environment; take LatentActionWrapper"),
        (without_mode, {}, DataError, "autoreset mode is 'sometimes'.*NEXT_STEP, SAME_STEP, DISABLED"),
        (lambda: SyncVectorEnv(restless()), {"as_": "reward"}, DataError, "as_='reward' is unknown.*info, obs, both"),
        (lambda: SyncVectorEnv(restless()), {"as_": "both", "key": "obs"}, DataError, "key='obs' is taken"),
        (lambda: SyncVectorEnv(restless()), {"frame_source": "render"}, DataError, "needs render_mode='rgb_array'"),
        (
            lambda: SyncVectorEnv(restless(render_mode="rgb_array"), autoreset_mode=AutoresetMode.SAME_STEP),
            {"frame_source": "render"},
            DataError,
            "cannot see final frames with autoreset_mode SAME_STEP; take NEXT_STEP",
        ),
        (lambda: gym.make_vec("CartPole-v1", 2), {}, DataError, r"wants observations of \(40, 32, 3\) uint8"),
        (lambda: make_atari(AutoresetMode.NEXT_STEP), {}, DataError, r"wants observations of \(40, 32, 3\) uint8"),
        (lambda: SyncVectorEnv(restless()), {"checkpoint": "nowhere.pt"}, CheckpointError, "nowhere.pt: no such"),
    ],
    ids=["single", "mode", "place", "key", "render mode", "same step", "no frames", "size", "checkpoint"],
)
def test_what_does_not_fit_is_refused_at_once(
    make: Callable[[], Any], options: dict[str, Any], error: type[Exception], said: str, toy: str
) -> None:
    envs = make()
    with pytest.raises(error, match=said) as caught:
        LatentActionVectorWrapper(envs, **{"checkpoint": toy, **options})
    assert "\n" not in str(caught.value)
    envs.close()


def test_a_vector_that_answers_in_parts_is_refused(checkpoint: str) -> None:
    envs = make_atari(AutoresetMode.NEXT_STEP, batch_size=2)
    with pytest.raises(DataError, match="answers for 2 of 3; make it with batch_size=0"):
        LatentActionVectorWrapper(envs, checkpoint)
    envs.close()


def test_a_step_needs_a_reset_before_it(toy: str) -> None:
    envs = LatentActionVectorWrapper(SyncVectorEnv(restless()), toy)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        envs.step(np.zeros(NUM_ENVS, dtype=np.int64))
    envs.close()
