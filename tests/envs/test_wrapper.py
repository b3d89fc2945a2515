"""The wrapper: every step of an ALE environment names its latent action, and it is the one that extraction finds."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from PIL import Image

from helpers import PATIENCE
from lapa.config import load_config
from lapa.contracts import Quantizer
from lapa.data.frames import FrameFormat, prepare, to_float
from lapa.data.packing import open_store
from lapa.engine.checkpoint import Checkpoint, file_digest, load_model, save_checkpoint
from lapa.errors import CheckpointError, DataError
from lapa.inference.extraction import LatentActionDataset, extract
from lapa.inference.labelling import label
from lapa.shipped import model_named
from lapa.systems.latent_action.model import LatentActionModel
from lapa_envs import LatentActionWrapper, make_env
from lapa_envs.pretrained import default_checkpoint
from lapa_plugins.quantizers.vq import VectorQuantizer

GRID = (27, 20)
STEPS = 40


@pytest.fixture
def checkpoint(breakout_run: Path) -> str:
    return str(breakout_run / "best.pt")


@pytest.fixture
def env(checkpoint: str) -> Iterator[LatentActionWrapper]:
    env = LatentActionWrapper(make_env(render_mode="rgb_array"), checkpoint)
    yield env
    env.close()


class StubEnv(gym.Env[Any, Any]):
    """Noise of Breakout's size; ends after three steps in the way it is told, and keeps its one info dict."""

    observation_space = gym.spaces.Box(0, 255, (210, 160, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, ending: str = "terminated", size: tuple[int, int] = (210, 160)) -> None:
        self.observation_space = gym.spaces.Box(0, 255, (*size, 3), np.uint8)
        self.ending = ending
        self.steps = 0
        self.info: dict[str, Any] = {"lives": 5}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._frame(), self.info

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        over = self.steps == 3
        return self._frame(), 0.0, over and self.ending == "terminated", over and self.ending == "truncated", self.info

    def _frame(self) -> np.ndarray:
        return self.np_random.integers(0, 256, self.observation_space.shape, dtype=np.uint8)


def play(env: gym.Env[Any, Any], steps: int, seed: int = 0) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """Frames (steps + 1) and infos (steps + 1) of moves drawn with the seed, after a serve."""
    rng = np.random.default_rng(seed)
    observation, info = env.reset(seed=seed)
    frames, infos = [observation], [info]
    for step in range(steps):
        observation, _, terminated, truncated, info = env.step(1 if step == 0 else int(rng.integers(2, 4)))
        assert not terminated
        assert not truncated
        frames.append(observation)
        infos.append(info)
    return frames, infos


def test_each_step_carries_a_code_grid_and_reset_carries_minus_ones(env: LatentActionWrapper) -> None:
    _, infos = play(env, 5)
    for info in infos:
        assert info["latent_action"].dtype == np.int64
        assert info["latent_action"].shape == GRID
        assert "lives" in info, "the environment's own facts are gone"
    assert (infos[0]["latent_action"] == -1).all()
    assert all((info["latent_action"] >= 0).all() for info in infos[1:])


def test_codes_are_those_of_extract_on_the_same_frames(
    env: LatentActionWrapper, breakout_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    frames, infos = play(env, STEPS)
    folder = tmp_path / "bulk_videos" / "0"
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    extract(breakout_checkpoint, open_store(folder.parent), tmp_path / "out.lapa")
    live = np.stack([info["latent_action"] for info in infos[1:]])
    np.testing.assert_array_equal(live, LatentActionDataset(tmp_path / "out.lapa").codes)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_the_step_that_ends_an_episode_carries_a_real_code(ending: str, checkpoint: str) -> None:
    env = LatentActionWrapper(StubEnv(ending), checkpoint)
    env.reset(seed=0)
    *_, terminated, truncated, info = [env.step(0) for _ in range(3)][-1]
    assert (terminated, truncated) == (ending == "terminated", ending == "truncated")
    assert (info["latent_action"] >= 0).all()
    assert (env.reset()[1]["latent_action"] == -1).all()


def test_an_episode_starts_without_memory_of_the_last(checkpoint: str, breakout_checkpoint: Checkpoint) -> None:
    env = LatentActionWrapper(StubEnv(), checkpoint)
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    first, _ = env.reset(seed=7)
    second, *_, info = env.step(0)
    np.testing.assert_array_equal(info["latent_action"], label(breakout_checkpoint.model, first, second).numpy())


def test_info_is_a_new_dict_each_time(checkpoint: str) -> None:
    inner = StubEnv()
    env = LatentActionWrapper(inner, checkpoint)
    infos = [env.reset(seed=0)[1], env.step(0)[-1], env.step(0)[-1]]
    assert inner.info == {"lives": 5}, "the inner environment's dict was written to"
    assert len({id(info) for info in infos}) == 3
    assert len({id(info["latent_action"]) for info in infos}) == 3


def test_one_token_is_a_scalar(tmp_path: Path) -> None:
    config = load_config("debug", overrides=["model.tokens=1"])
    model = LatentActionModel(config.model, FrameFormat(210, 160, downsample=5))
    save_checkpoint(tmp_path / "one.pt", model, config, split={}, step=0, metrics={})
    env = LatentActionWrapper(StubEnv(), str(tmp_path / "one.pt"))
    at_reset, at_step = env.reset(seed=0)[1]["latent_action"], env.step(0)[-1]["latent_action"]
    assert type(at_reset) is type(at_step) is np.int64
    assert at_reset == -1
    assert 0 <= at_step < 16


def test_several_codes_a_place_stand_side_by_side(tmp_path: Path) -> None:
    config = load_config("debug", overrides=["model.quantizer.name=residual", "model.quantizer.depth=3"])
    model = LatentActionModel(config.model, FrameFormat(210, 160, downsample=5))
    save_checkpoint(tmp_path / "levels.pt", model, config, split={}, step=0, metrics={})
    env = LatentActionWrapper(make_env(), tmp_path / "levels.pt")
    rows, columns = model.grid
    for code in (env.reset(seed=0)[1]["latent_action"], env.step(0)[4]["latent_action"]):
        assert code.shape == (rows, 3 * columns)
    env.close()


def test_the_key_can_be_chosen(checkpoint: str) -> None:
    info = LatentActionWrapper(StubEnv(), checkpoint, key="z").reset(seed=0)[1]
    assert "z" in info
    assert "latent_action" not in info


REMAKE = """
import json, sys
import gymnasium as gym
from lapa_envs.atari import make_env
make_env().close()  # registers the Atari ids
env = gym.make(gym.envs.registration.EnvSpec.from_json(sys.stdin.read()))
env.reset(seed=3)
wrappers = [wrapper.name for wrapper in env.spec.additional_wrappers]
codes = [env.step(action)[-1]["latent_action"].tolist() for action in (1, 2, 2, 3)]
print(json.dumps([wrappers, codes]))
"""


def test_the_spec_makes_the_same_environment_in_a_new_process(env: LatentActionWrapper) -> None:
    env.reset(seed=3)
    codes = [env.step(action)[-1]["latent_action"].tolist() for action in (1, 2, 2, 3)]
    text = env.spec.to_json()
    done = subprocess.run([sys.executable, "-c", REMAKE], input=text, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["LatentActionWrapper"], codes]


def test_a_path_object_is_recorded_as_text(breakout_run: Path) -> None:
    env = LatentActionWrapper(make_env(), breakout_run / "best.pt")  # type: ignore[arg-type]
    assert str(breakout_run / "best.pt") in env.spec.to_json()
    env.close()


@pytest.mark.filterwarnings("error", "ignore:.*is different from the unwrapped version")
@pytest.mark.parametrize("as_", ["info", "obs", "both"])
def test_gymnasium_finds_nothing_wrong_with_it(as_: str, checkpoint: str) -> None:
    env = LatentActionWrapper(make_env(), checkpoint, as_=as_, confidence=True, reconstruction=True)
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize("as_", ["info", "obs", "both"])
def test_codes_go_where_they_are_wanted(as_: str, checkpoint: str) -> None:
    env, plain = LatentActionWrapper(StubEnv(), checkpoint, as_=as_), LatentActionWrapper(StubEnv(), checkpoint)
    for found, expected in ((env.reset(seed=0), plain.reset(seed=0)), (env.step(0), plain.step(0))):
        codes = expected[-1]["latent_action"]
        assert ("latent_action" in found[-1]) == (as_ != "obs")
        assert env.observation_space.contains(found[0])
        if as_ == "info":
            np.testing.assert_array_equal(found[0], expected[0])
        else:
            np.testing.assert_array_equal(found[0]["obs"], expected[0])
            np.testing.assert_array_equal(found[0]["latent_action"], codes)


def test_one_token_observed_has_a_space_of_numbers(tmp_path: Path) -> None:
    config = load_config("debug", overrides=["model.tokens=1"])
    model = LatentActionModel(config.model, FrameFormat(210, 160, downsample=5))
    save_checkpoint(tmp_path / "one.pt", model, config, split={}, step=0, metrics={})
    env = LatentActionWrapper(StubEnv(), str(tmp_path / "one.pt"), as_="obs")
    assert env.observation_space["latent_action"] == gym.spaces.Discrete(17, start=-1)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    assert env.observation_space.contains(env.step(0)[0])


def test_confidence_is_the_distance_to_the_nearest_other_code(checkpoint: str, breakout_checkpoint: Checkpoint) -> None:
    model = breakout_checkpoint.model
    env = LatentActionWrapper(StubEnv(), checkpoint, confidence=True)
    first, info = env.reset(seed=0)
    assert info["latent_action_confidence"].shape == model.grid
    assert not info["latent_action_confidence"].any()
    second, *_, info = env.step(0)
    pair = [to_float(prepare(torch.from_numpy(frame)[None], model.format)) for frame in (first, second)]
    margin = model.quantizer.margin(model.encode(*pair))[0]
    np.testing.assert_allclose(info["latent_action_confidence"], margin, rtol=1e-3, atol=1e-6)


def test_reconstruction_is_what_the_decoder_draws() -> None:
    model = load_model(default_checkpoint())
    env = LatentActionWrapper(make_env(), reconstruction=True)
    frames, infos = play(env, 3)
    env.close()
    assert not infos[0]["latent_action_reconstruction"].any()
    drawn = infos[-1]["latent_action_reconstruction"]
    assert (drawn.shape, drawn.dtype) == ((105, 80, 1), np.uint8)
    pair = [prepare(torch.from_numpy(frame)[None], model.format) for frame in frames[-2:]]
    codes = torch.from_numpy(infos[-1]["latent_action"])[None]
    expected = model.decode(to_float(pair[0]), codes).clamp(0, 1) * 255
    np.testing.assert_allclose(drawn[..., 0], expected[0, 0], atol=0.51)
    assert np.abs(drawn[..., 0] - pair[1][0, 0].numpy().astype(float)).mean() < 2, "it is not the next frame"


def test_a_quantizer_without_margins_tells_no_confidence(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VectorQuantizer, "margin", lambda self, latent: None)
    monkeypatch.setattr(VectorQuantizer, "assign", Quantizer.assign)
    with pytest.raises(DataError, match="quantizer VectorQuantizer cannot tell a confidence; leave confidence=False"):
        LatentActionWrapper(StubEnv(), checkpoint, confidence=True)


def test_it_goes_through_pickle_in_the_middle_of_an_episode(checkpoint: str) -> None:
    env = LatentActionWrapper(StubEnv(), checkpoint)
    env.reset(seed=0)
    env.step(0)
    again = pickle.loads(pickle.dumps(env))
    for found, expected in zip(again.step(0), env.step(0), strict=True):
        if isinstance(expected, dict):
            np.testing.assert_array_equal(found["latent_action"], expected["latent_action"])
        else:
            np.testing.assert_array_equal(found, expected)


def test_the_step_in_which_a_wrapper_below_resets_is_no_transition(checkpoint: str) -> None:
    env = LatentActionWrapper(gym.wrappers.Autoreset(StubEnv()), checkpoint)
    env.reset(seed=0)
    labelled = [(env.step(0)[-1]["latent_action"] >= 0).all() for _ in range(8)]
    assert labelled == [True, True, True, False] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_do_not_depend_on_what_the_agent_has_set(dtype: torch.dtype, env: LatentActionWrapper) -> None:
    _, expected = play(env, 10)
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            _, seen = play(env, 10)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(a["latent_action"], b["latent_action"])


def test_a_real_game_goes_through_pickle(env: LatentActionWrapper) -> None:
    again = pickle.loads(pickle.dumps(env))
    (_, infos), (_, expected) = play(again, 5), play(env, 5)
    np.testing.assert_array_equal(infos[-1]["latent_action"], expected[-1]["latent_action"])
    again.close()


def test_no_step_keeps_a_gradient_or_changes_the_model(env: LatentActionWrapper) -> None:
    play(env, 2)
    model = env._annotator.model
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(env._last, np.ndarray)  # which keeps none


def test_closing_it_closes_the_game(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(StubEnv, "close", lambda self: closed.append(self))
    inner = StubEnv()
    LatentActionWrapper(inner, checkpoint).close()
    assert closed == [inner]


def test_the_usual_preprocessing_leaves_raw_frames_to_label(checkpoint: str) -> None:
    """Under AtariPreprocessing, its frame-skip and a stack of grey frames, codes are those of the raw frames."""
    inner = make_env(frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    agent = gym.wrappers.AtariPreprocessing(inner, noop_max=0, frame_skip=4)
    env = LatentActionWrapper(gym.wrappers.FrameStackObservation(agent, 4), checkpoint, frame_source="render")
    plain = LatentActionWrapper(make_env(frameskip=4, repeat_action_probability=0.0), checkpoint)
    (observations, seen), (_, expected) = play(env, STEPS), play(plain, STEPS)
    assert observations[-1].shape == (4, 84, 84)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(a["latent_action"], b["latent_action"])
    env.close()
    plain.close()


def test_rendered_frames_give_the_same_codes_under_changed_observations(checkpoint: str) -> None:
    small = gym.spaces.Box(0, 255, (21, 16), np.uint8)
    changed = gym.wrappers.TransformObservation(
        make_env(render_mode="rgb_array"), lambda frame: frame[::10, ::10, 0], small
    )
    hidden = LatentActionWrapper(changed, checkpoint, frame_source="render")
    plain = LatentActionWrapper(make_env(), checkpoint)
    (observations, seen), (_, expected) = play(hidden, STEPS), play(plain, STEPS)
    assert observations[-1].shape == (21, 16)
    for a, b in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(a["latent_action"], b["latent_action"])
    hidden.close()
    plain.close()


def test_sub_environments_of_a_vector_are_labelled(checkpoint: str) -> None:
    envs = gym.vector.SyncVectorEnv([lambda: LatentActionWrapper(StubEnv(), checkpoint)] * 2)
    _, info = envs.reset(seed=0)
    assert (info["latent_action"] == -1).all()
    for _ in range(3):
        *_, info = envs.step(np.array([0, 0]))
        assert info["latent_action"].shape == (2, *GRID)
        assert (info["latent_action"] >= 0).all()
    *_, info = envs.step(np.array([0, 0]))  # NEXT_STEP autoreset: the reset row
    assert (info["latent_action"] == -1).all()
    envs.close()


@pytest.mark.parametrize(
    ("make", "options", "error", "said"),
    [
        (lambda: gym.vector.SyncVectorEnv([StubEnv]), {}, DataError, "take LatentActionVectorWrapper for a vector"),
        (
            lambda: StubEnv(size=(84, 84)),
            {},
            DataError,
            r"wants observations of \(210, 160, 3\).*frame_source='render'",
        ),
        (lambda: gym.make("CartPole-v1"), {}, DataError, r"wants observations of \(210, 160, 3\)"),
        (StubEnv, {"frame_source": "render"}, DataError, "needs render_mode='rgb_array', not None.*gym.make"),
        (StubEnv, {"frame_source": "pixels"}, DataError, "'pixels' is unknown; take one of obs, render"),
        (StubEnv, {"as_": "action"}, DataError, "as_='action' is unknown; take one of info, obs, both"),
        (StubEnv, {"as_": "obs", "key": "obs"}, DataError, "key='obs' is taken"),
        (StubEnv, {"checkpoint": "nowhere.pt"}, CheckpointError, "nowhere.pt: no such checkpoint"),
    ],
    ids=["vector", "size", "no frames", "render mode", "frame source", "place", "key", "checkpoint"],
)
def test_what_does_not_fit_is_refused_at_once(
    make: Any, options: dict[str, Any], error: type[Exception], said: str, checkpoint: str
) -> None:
    inner = make()
    with pytest.raises(error, match=said):
        LatentActionWrapper(inner, **{"checkpoint": checkpoint, **options})
    inner.close()


@pytest.mark.parametrize("make", [make_env, StubEnv])
def test_a_step_needs_a_reset_before_it(make: Any, checkpoint: str) -> None:
    env = LatentActionWrapper(make(), checkpoint)
    with pytest.raises(gym.error.ResetNeeded, match="reset"):
        env.step(0)
    env.close()


@pytest.mark.parametrize(
    "given", [{}, {"checkpoint": None}, {"checkpoint": "breakout"}], ids=["nothing", "None", "name"]
)
def test_without_a_checkpoint_it_takes_the_model_breakout(given: dict[str, Any]) -> None:
    env, same = LatentActionWrapper(make_env(), **given), LatentActionWrapper(make_env(), str(default_checkpoint()))
    assert env.spec.additional_wrappers[-1].kwargs["checkpoint"] == "breakout"
    (_, infos), (_, expected) = play(env, 10), play(same, 10)
    for info, other in zip(infos, expected, strict=True):
        np.testing.assert_array_equal(info["latent_action"], other["latent_action"])
    assert infos[1]["latent_action"].shape == load_model("breakout", "cpu").code_grid
    env.close()
    same.close()


def test_a_path_stays_a_path_in_the_spec(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("breakout").write_bytes(Path(checkpoint).read_bytes())
    env = LatentActionWrapper(make_env(), Path("breakout"))
    assert env.digest == file_digest(Path("breakout")) != model_named("breakout").digest
    assert env.spec.additional_wrappers[-1].kwargs["checkpoint"] == "./breakout"
    env.close()


def test_an_unknown_model_is_one_line_with_the_known_ones() -> None:
    env = make_env()
    with pytest.raises(
        CheckpointError, match=r"^breakuot: no such model \(did you mean 'breakout'\?\) and no such file;"
    ):
        LatentActionWrapper(env, "breakuot")
    env.close()
