"""Recordings and checkpoints that many tests share: a toy game with a planted action, and real Breakout."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from helpers import toy_episode, write_episode
from lapa.config import load_config
from lapa.data.packing import open_store
from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.evaluate import Evaluation, evaluate
from lapa.games.game import games
from square import Square


def pytest_configure() -> None:
    """Lets Ctrl-C reach this process and those that tests start, however this one was started.

    A shell has a program in the background ignore it, and what that program starts would ignore it too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def record_toy() -> Callable[..., Path]:
    """A function that records toy episodes ``0``, ``1``, ... into a folder and returns it."""

    def record(root: Path, episodes: int = 5, steps: int = 12, seed: int = 0, with_actions: bool = True) -> Path:
        rng = np.random.default_rng(seed)
        for name in range(episodes):
            frames, actions = toy_episode(rng, steps)
            write_episode(root / str(name), frames, actions if with_actions else None)
        return root

    return record


@pytest.fixture(scope="session")
def toy_frames() -> np.ndarray:
    """(17, 40, 32, 3) uint8, one toy episode."""
    return toy_episode(np.random.default_rng(0), 16)[0]


@pytest.fixture
def toy_store(record_toy: Callable[..., Path], tmp_path: Path) -> FrameStore:
    """The packed store of five toy episodes."""
    return open_store(record_toy(tmp_path / "toy"))


@pytest.fixture(scope="session")
def breakout_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six episodes of 50 steps of real Breakout, from six starts on, by the scripted player."""
    from lapa_envs.atari import make_env
    from lapa_envs.playing import record

    out = tmp_path_factory.mktemp("breakout") / "bulk_videos"
    env = make_env()
    record(env, out, episodes=6, max_steps=50)
    env.close()
    return out


@pytest.fixture(scope="session")
def breakout_store(breakout_recording: Path) -> FrameStore:
    """The packed store of ``breakout_recording``."""
    return open_store(breakout_recording)


def trained(preset: str, store: FrameStore, out: Path) -> Path:
    """Folder of a training run on real Breakout, at half size so that the ball is seen."""
    overrides = [f"training.out={out}", "data.downsample=2", "training.precision=fp32", "training.device=cpu"]
    train(load_config(preset, overrides=overrides), store)
    return out


@pytest.fixture(scope="session")
def breakout_run(breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training run of the preset ``debug``."""
    return trained("debug", breakout_store, tmp_path_factory.mktemp("run") / "latent_action")


@pytest.fixture(scope="session")
def breakout_checkpoint(breakout_run: Path) -> Checkpoint:
    """The best checkpoint of ``breakout_run``."""
    return load_checkpoint(breakout_run / "best.pt", "cpu")


@pytest.fixture(scope="session")
def tokenizer_run(breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training run of the preset ``tokenizer_debug``."""
    return trained("tokenizer_debug", breakout_store, tmp_path_factory.mktemp("run") / "tokenizer")


@pytest.fixture(scope="session")
def tokenizer_checkpoint(tokenizer_run: Path) -> Checkpoint:
    """The best checkpoint of ``tokenizer_run``."""
    return load_checkpoint(tokenizer_run / "best.pt", "cpu")


@pytest.fixture(scope="session")
def evaluation(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Evaluation:
    """What is found of ``breakout_checkpoint`` on its test episode."""
    return evaluate(breakout_checkpoint, breakout_store)


@pytest.fixture
def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package cannot be imported."""
    monkeypatch.setattr("lapa.compiled.numba", lambda: None)


@pytest.fixture
def square(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy as a game that a third party brings."""
    names = games.names()
    monkeypatch.setattr(games, "_entries", dict(games._entries))
    games.register("square", Square)
    assert games.names() == sorted([*names, "square"])
