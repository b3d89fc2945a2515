"""Recorded episodes: ``<root>/<episode>/<n>.png`` and, where it is known, ``<root>/<episode>/episode.npz``.

``<n>`` counts frames; order is numeric, and a missing number is a gap that no pair crosses. ``episode.npz``
holds what the controller and the console knew, all of it optional; of T+1 frames from the first number to
the last it has

    actions     (T,) int64      the action taken between frame t and t+1
    rewards     (T,) float32
    terminated  (T,) bool
    truncated   (T,) bool
    lives       (T+1,) int64
    ram         (T+1, bytes) uint8
    meta        () str          JSON: environment id, frameskip, action meanings, policy, seed
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.files import DAMAGED_NPZ
from lapa.errors import DataError

PER_STEP = ("actions", "rewards", "terminated", "truncated")
PER_FRAME = ("lives", "ram")
TRUTH_FILE = "episode.npz"


@dataclasses.dataclass(frozen=True)
class Truth:
    """What is known of an episode beside its frames; T steps, T+1 frames.

    Raises:
        ValueError: the arrays do not agree on T.
    """

    actions: np.ndarray | None = None
    rewards: np.ndarray | None = None
    terminated: np.ndarray | None = None
    truncated: np.ndarray | None = None
    lives: np.ndarray | None = None
    ram: np.ndarray | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(array) + 1 for name in PER_STEP if (array := getattr(self, name)) is not None}
        lengths |= {name: len(array) for name in PER_FRAME if (array := getattr(self, name)) is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays disagree on the number of frames: {lengths}")
        object.__setattr__(self, "num_frames", next(iter(lengths.values()), None))

    num_frames: int | None = dataclasses.field(init=False, default=None)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that are known, by name."""
        return {name: array for name in (*PER_STEP, *PER_FRAME) if (array := getattr(self, name)) is not None}


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode: its frame files in numeric order, and the truth beside them."""

    name: str
    folder: Path
    numbers: np.ndarray  # (N,) int64, increasing
    paths: tuple[Path, ...]
    truth: Truth


def list_episodes(root: Path) -> list[str]:
    """Names of the episode folders under ``root``, sorted, digits by value.

    Raises:
        DataError: the folder is missing or holds no folder of frames.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; record episodes with `lapa record --out {root}`")
    names = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if not names:
        raise DataError(f"{root}: holds no episode folders; record some with `lapa record --out {root}`")
    return sorted(names, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def read_episode(root: Path, name: str) -> Episode:
    """Lists one episode's frames and reads its truth; pictures stay unread.

    Raises:
        DataError: fewer than two frames, two files of one number, or a truth file that is damaged or does not fit.
    """
    folder = root / name
    files: dict[int, Path] = {}
    for path in folder.glob("*.png"):
        if path.stem.isdecimal() and files.setdefault(int(path.stem), path) != path:
            raise DataError(f"{path}: has the same number as {files[int(path.stem)].name}; delete one of them")
    numbers = np.array(sorted(files), dtype=np.int64)
    if len(numbers) < 2:
        raise DataError(
            f"{folder}: has {len(numbers)} frame(s) named <number>.png, but a pair needs two; "
            "delete it or record it again"
        )
    truth = read_truth(folder / TRUTH_FILE)
    span = int(numbers[-1] - numbers[0]) + 1
    if truth.num_frames is not None and truth.num_frames != span:
        raise DataError(
            f"{folder / TRUTH_FILE}: speaks of {truth.num_frames} frames, but {numbers[0]}.png to {numbers[-1]}.png "
            f"are {span}; record the episode again or delete this file"
        )
    return Episode(name, folder, numbers, tuple(files[number] for number in numbers.tolist()), truth)


def read_truth(path: Path) -> Truth:
    """The truth stored at ``path``; empty where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return Truth()
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in (*PER_STEP, *PER_FRAME) if name in stored}
            meta = json.loads(str(stored["meta"])) if "meta" in stored else {}
        if not isinstance(meta, dict):
            raise ValueError("meta is no JSON object")
        return Truth(**arrays, meta=meta)
    except DAMAGED_NPZ as error:
        raise DataError(f"{path}: cannot be used ({error}); delete it or record the episode again") from None


def write_truth(path: Path, truth: Truth) -> None:
    """Stores the truth as ``episode.npz``; the counterpart of :func:`read_truth`."""
    arrays: dict[str, Any] = {**truth.arrays(), "meta": np.array(json.dumps(truth.meta))}
    np.savez_compressed(path, **arrays)
