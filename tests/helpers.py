"""Places of the repository, a toy game with a planted action, and distributions installed into a fresh environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
from PIL import Image

from lapa.data.episodes import TRACKS_FILE, Tracks, write_tracks

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
EXAMPLE_PLUGIN = ROOT / "tests" / "example_plugin"
EXAMPLE_FAMILY = ROOT / "tests" / "example_family"
PATIENCE = 600
"""Seconds after which something hangs: on a busy machine all that works may take long."""

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


def pixels(file: Path, frame: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 of a picture, or of one frame of a moving one."""
    with Image.open(file) as image:
        image.seek(frame)
        return np.asarray(image.convert("RGB"))


def pairwise_cover(*roles: Sequence[str]) -> list[tuple[str, ...]]:
    """Combinations of one name per role in which every two names of different roles meet at least once.

    Greedy: of all combinations, always the first of those that bring most pairs together for the first time.
    """
    pairs = {names: set(combinations(enumerate(names), 2)) for names in product(*roles)}
    missing, cover = set().union(*pairs.values()), []
    while missing:
        cover.append(max(pairs, key=lambda names: len(pairs[names] & missing)))
        missing -= pairs[cover[-1]]
    return cover


def install(distribution: Path, folder: Path) -> Path:
    """Python of a fresh environment that sees the packages of this one, with a distribution installed by pip.

    Args:
        distribution: folder with its ``pyproject.toml`` and modules.
        folder: empty, for the environment.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    ours = sysconfig.get_paths()["purelib"]
    theirs = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    (Path(theirs) / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    source = folder / "source"
    source.mkdir()
    for file in distribution.iterdir():
        if file.is_file():
            (source / file.name).write_bytes(file.read_bytes())
    run(Path(sys.executable), "-m", "pip", "--python", str(python), "install", *options, str(source))
    return python


def run(python: Path, *arguments: str, code: int = 0) -> str:
    """Runs Python; returns what it printed."""
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def run_lapa(python: Path, *commands: Sequence[str], codes: Sequence[int] = ()) -> str:
    """Runs command lines of ``lapa`` in turn, in one process, for a start takes seconds; returns what they printed.

    Args:
        python: of the environment.
        commands: the words after ``lapa``.
        codes: the exit code that each must have; 0 if not given.
    """
    text = "import json, sys; from lapa.cli import main; found = [main(words) for words in json.loads(sys.argv[1])]"
    expected = list(codes) or [0] * len(commands)
    return run(python, "-c", f"{text}; assert found == {expected}, found", json.dumps(commands))
