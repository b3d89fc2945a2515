"""Recordings and checkpoints that many tests share: a toy game with a planted action, and real Breakout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lapa.config import load_config
from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks
from lapa.data.store import FrameStore, open_store
from lapa.engine.checkpoint import Checkpoint, load_checkpoint
from lapa.engine.training import train
from lapa.evaluation.evaluate import Evaluation, evaluate

TOY_MOVES = np.array([(0, 0), (0, 4), (0, -4), (4, 0), (-4, 0)])
"""Of the toy's five actions, in pixels (rows, columns)."""
TOY_SIZE = (40, 32)


def toy_frame(place: np.ndarray) -> np.ndarray:
    """(40, 32, 3) uint8: a bright square of 8 x 8 with its corner at ``place``, on a dark ground."""
    frame = np.full((*TOY_SIZE, 3), (10, 20, 30), dtype=np.uint8)
    row, column = place
    frame[row : row + 8, column : column + 8] = (200, 160, 60)
    return frame


def toy_episode(rng: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(T+1, 40, 32, 3) frames and (T,) actions: a square is pushed about and stops at the edges' inside."""
    limit = np.array(TOY_SIZE) - 8
    place = rng.integers(0, limit // 4 + 1) * 4
    frames, actions = [toy_frame(place)], []
    for _ in range(steps):
        allowed = [a for a, move in enumerate(TOY_MOVES) if np.all((place + move >= 0) & (place + move <= limit))]
        action = int(rng.choice(allowed))
        place = place + TOY_MOVES[action]
        frames.append(toy_frame(place))
        actions.append(action)
    return np.stack(frames), np.array(actions)


def write_episode(folder: Path, frames: np.ndarray, actions: np.ndarray | None = None, first: int = 0) -> Path:
    """Writes frames as ``<folder>/<n>.png`` counting from ``first``, with ``episode.npz`` if actions are given."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, start=first):
        Image.fromarray(frame).save(folder / f"{number}.png")
    if actions is not None:
        write_tracks(folder / TRACKS_FILE, Tracks(actions=actions, meta={"env_id": "Toy-v0"}))
    return folder


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
    """Six episodes of 50 steps of real Breakout, played by the scripted player."""
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


@pytest.fixture(scope="session")
def breakout_run(breakout_store: FrameStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training run: the ``debug`` preset on real Breakout, at half size so that the ball is seen."""
    out = tmp_path_factory.mktemp("run") / "latent_action"
    train(load_config("debug", overrides=[f"training.out={out}", "data.downsample=2"]), breakout_store)
    return out


@pytest.fixture(scope="session")
def breakout_checkpoint(breakout_run: Path) -> Checkpoint:
    """The best checkpoint of ``breakout_run``."""
    return load_checkpoint(breakout_run / "best.pt", "cpu")


@pytest.fixture(scope="session")
def evaluation(breakout_checkpoint: Checkpoint, breakout_store: FrameStore) -> Evaluation:
    """What is found of ``breakout_checkpoint`` on its test episode."""
    return evaluate(breakout_checkpoint, breakout_store)
