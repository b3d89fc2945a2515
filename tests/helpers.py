"""Places of the repository, and a toy game with a planted action: a bright square that is pushed about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
EXAMPLE_PLUGIN = ROOT / "tests" / "example_plugin"

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
