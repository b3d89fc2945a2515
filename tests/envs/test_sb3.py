"""Agents saved by Stable-Baselines3 play recordings, and a file from a stranger runs no code."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image
from stable_baselines3 import A2C, DQN, PPO

from lapa.data.episodes import read_episode
from lapa.errors import DataError
from lapa_envs import make_env
from lapa_envs.playing import record
from lapa_envs.sb3 import Sb3Policy


class Blank(gym.Env[Any, Any]):
    """An environment that is never played; agents are made for its spaces."""

    action_space = gym.spaces.Discrete(4)

    def __init__(self, *shape: int) -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)


AGENTS = {
    "ppo": lambda env: PPO("CnnPolicy", env, n_steps=2, batch_size=2, device="cpu"),
    "a2c": lambda env: A2C("CnnPolicy", env, policy_kwargs={"activation_fn": torch.nn.ReLU}, device="cpu"),
    "dqn": lambda env: DQN("CnnPolicy", env, buffer_size=1, device="cpu"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that saves an untrained agent of a kind for observations of a shape, and returns agent and file."""

    def save(kind: str, *shape: int) -> tuple[Any, Path]:
        agent = AGENTS[kind](Blank(*shape))
        path = tmp_path_factory.mktemp(kind) / "agent.zip"
        agent.save(path)
        return agent, path

    return save


@pytest.fixture
def env() -> Iterator[gym.Env[Any, Any]]:
    env = make_env()
    yield env
    env.close()


@pytest.mark.parametrize("kind", AGENTS)
def test_a_saved_agent_chooses_as_it_did(kind: str, saved: Any, env: gym.Env[Any, Any]) -> None:
    agent, path = saved(kind, 4, 84, 84)
    policy = Sb3Policy(env, path)._policy
    pictures = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), dtype=np.uint8)
    found, expected = (p.predict(pictures, deterministic=True)[0] for p in (policy, agent))
    np.testing.assert_array_equal(found, expected)
    assert not policy.training


@pytest.mark.parametrize("shape", [(4, 84, 84), (84, 84, 4)])  # which Stable-Baselines3 turns into the first
def test_it_is_shown_what_atari_preprocessing_shows(
    shape: tuple[int, ...], saved: Any, env: gym.Env[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Sb3Policy(env, saved("ppo", *shape)[1])
    seen: list[np.ndarray] = []
    monkeypatch.setattr(policy._policy, "predict", lambda shown, deterministic: (seen.append(shown) or 0, None))
    frame, info = env.reset(seed=0)
    assert policy(frame, info) == 1, "it must serve"
    frames = [frame]
    for _ in range(6):
        frame, _, _, _, info = env.step(policy(frame, info) or 3)
        frames.append(frame)
    policy(frame, info)
    assert seen[-1].shape == (4, 84, 84)
    for picture, raw in zip(seen[-1], frames[-4:], strict=True):
        small = Image.fromarray(raw).convert("L").resize((84, 84), Image.Resampling.BOX)
        np.testing.assert_array_equal(picture, small)


def test_it_serves_after_each_lost_life(saved: Any, env: gym.Env[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Sb3Policy(env, saved("ppo", 4, 84, 84)[1])
    monkeypatch.setattr(policy._policy, "predict", lambda shown, deterministic: (2, None))
    frame = np.zeros((210, 160, 3), dtype=np.uint8)
    assert [policy(frame, {"lives": lives}) for lives in (5, 5, 4, 4, 3)] == [1, 2, 1, 2, 1]


def test_it_records(saved: Any, env: gym.Env[Any, Any], tmp_path: Path) -> None:
    _, path = saved("ppo", 4, 84, 84)
    (folder,) = record(env, tmp_path, policy=f"sb3:{path}", episodes=1, max_steps=30)
    truth = read_episode(tmp_path, folder.name).tracks
    assert len(np.unique(truth.actions)) > 2
    assert truth.meta["policy"] == f"sb3:{path}"


def test_raw_frames_are_shown_as_they_are(saved: Any, env: gym.Env[Any, Any]) -> None:
    policy = Sb3Policy(env, saved("ppo", 3, 210, 160)[1])
    frame, info = env.reset(seed=0)
    policy(frame, info)
    assert 0 <= policy(frame, info) < 4


@pytest.mark.parametrize("shape", [(4, 84, 60), (4, 40, 50)])
def test_other_observations_are_refused(shape: tuple[int, ...], saved: Any, env: gym.Env[Any, Any]) -> None:
    _, path = saved("ppo", *shape)
    with pytest.raises(DataError, match=r"wants observations of .* play it in its own environment"):
        Sb3Policy(env, path)


class Command:
    """Unpickled, it would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("key", ["policy_class", "policy_kwargs"])
def test_a_file_from_a_stranger_runs_no_code(key: str, saved: Any, env: gym.Env[Any, Any], tmp_path: Path) -> None:
    _, path = saved("ppo", 4, 84, 84)
    planted = base64.b64encode(pickle.dumps(Command(f"touch {tmp_path / 'ran'}"))).decode()
    with zipfile.ZipFile(path) as good, zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
        for name in good.namelist():
            content = good.read(name)
            if name == "data":
                content = json.dumps({**json.loads(content), key: {":serialized:": planted}}).encode()
            bad.writestr(name, content)
    with pytest.raises(DataError, match=r"it wants posix.system, which is no network\); name a file that agent.save"):
        Sb3Policy(env, tmp_path / "bad.zip")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_a_damaged_file_is_refused(content: bytes, env: gym.Env[Any, Any], tmp_path: Path) -> None:
    (tmp_path / "agent.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"agent\.zip: cannot be used") as caught:
        Sb3Policy(env, tmp_path / "agent.zip")
    assert "\n" not in str(caught.value)


def test_an_agent_for_other_actions_is_refused(saved: Any) -> None:
    env = make_env("ALE/Pong-v5")
    with pytest.raises(DataError, match="cannot be used"):
        Sb3Policy(env, saved("ppo", 4, 84, 84)[1])
    env.close()
