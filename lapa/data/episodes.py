"""Recorded episodes: ``<root>/<episode>/<n>.png`` and, where it is known, ``<root>/<episode>/episode.npz``.

``<n>`` counts frames; order is numeric, and a missing number is a gap that no clip crosses. ``episode.npz`` holds the
tracks: what the controller and the console knew, all of it optional. Of T+1 frames from the first number to the last
it has

    actions     (T,) int64      the action taken between frame t and t+1
    rewards     (T,) float32
    terminated  (T,) bool
    truncated   (T,) bool
    lives       (T+1,) int64
    ram         (T+1, bytes) uint8
    fields      (T+1, F) float64  numbers that another recorder kept; ``meta`` has their names
    meta        () str          JSON: environment id, frameskip, action meanings, policy, seed

Two more tracks are made by models and kept in datasets: ``codes``, a grid for each step, and ``tokens``, a grid for
each frame.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.files import DAMAGED_NPZ, damage_in_words
from lapa.errors import DataError

PER_STEP = ("actions", "rewards", "terminated", "truncated", "codes")
PER_FRAME = ("lives", "ram", "fields", "tokens")
TRACKS: dict[str, type[np.generic]] = {
    "actions": np.int64,
    "rewards": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "codes": np.int64,
    "lives": np.int64,
    "ram": np.uint8,
    "fields": np.float32,
    "tokens": np.int64,
}
"""Each track's type in a batch."""
MADE = ("codes", "tokens")
"""Tracks that a model makes; all others are recorded."""
TRACKS_FILE = "episode.npz"


class Tracks(Mapping[str, np.ndarray]):
    """What is known of an episode beside its frames: arrays by name, over T steps or T+1 frames.

    Args:
        meta: JSON-able facts of the episode; None has ``load`` read them under the name ``meta``, if there is one.
        lazy: names of arrays that ``load`` reads each time they are asked for.
        load: from a name of ``lazy`` to the array.
        arrays: by the names of :data:`TRACKS`. None is left out.

    Attributes:
        num_frames: T+1 by the arrays that are there already; None where there is none.

    Raises:
        ValueError: the arrays do not agree on T.
        TypeError: an unknown name.
    """

    __slots__ = ("_arrays", "_load", "_meta", "num_frames")

    def __init__(
        self,
        *,
        meta: dict[str, Any] | None = None,
        lazy: Iterable[str] = (),
        load: Callable[[str], Any] | None = None,
        **arrays: np.ndarray | None,
    ) -> None:
        lazy = tuple(lazy)
        if unknown := {*arrays, *lazy} - TRACKS.keys():
            raise TypeError(f"unknown track '{min(unknown)}'; known: {', '.join(TRACKS)}")
        self._meta, self._load = meta, load
        given = {name: array for name, array in arrays.items() if array is not None}
        self._arrays = _empty(lazy)
        if given:
            self._arrays = {name: given.get(name) for name in TRACKS if name in lazy or name in given}
        there = {name: array for name, array in self._arrays.items() if array is not None}
        lengths = {name: len(array) + (name in PER_STEP) for name, array in there.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays disagree on the number of frames: {lengths}")
        self.num_frames = next(iter(lengths.values()), None)

    @property
    def meta(self) -> dict[str, Any]:
        """JSON-able facts of the episode, such as ``env_id``; empty where nothing is known."""
        if self._meta is None and self._load is not None:
            meta: dict[str, Any] = self._load("meta")
            return meta
        return self._meta or {}

    def __getitem__(self, name: str) -> np.ndarray:
        if (array := self._arrays[name]) is not None:
            return array
        assert self._load is not None
        return self._load(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays  # the mixin's would read the array

    @property
    def actions(self) -> np.ndarray | None:
        """(T,) int64."""
        return self.get("actions")

    @property
    def rewards(self) -> np.ndarray | None:
        """(T,) float32."""
        return self.get("rewards")

    @property
    def terminated(self) -> np.ndarray | None:
        """(T,) bool."""
        return self.get("terminated")

    @property
    def truncated(self) -> np.ndarray | None:
        """(T,) bool."""
        return self.get("truncated")

    @property
    def lives(self) -> np.ndarray | None:
        """(T+1,) int64."""
        return self.get("lives")

    @property
    def ram(self) -> np.ndarray | None:
        """(T+1, bytes) uint8."""
        return self.get("ram")

    def recorded(self) -> dict[str, np.ndarray]:
        """All arrays by name but those that a model made."""
        return {name: self[name] for name in self if name not in MADE}


@functools.cache
def _empty(names: tuple[str, ...]) -> dict[str, np.ndarray | None]:
    """The names without arrays; the same dict for all episodes that have the same tracks."""
    return {name: None for name in TRACKS if name in names}


@dataclasses.dataclass(frozen=True)
class Episode:
    """One recorded episode: its frame files in numeric order, and the tracks beside them."""

    name: str
    folder: Path
    numbers: np.ndarray  # (N,) int64, increasing
    paths: tuple[Path, ...]
    tracks: Tracks


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
    """Lists one episode's frames and reads its tracks; pictures stay unread.

    Raises:
        DataError: fewer than two frames, two files of one number, or tracks that are damaged or do not fit.
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
    tracks = read_tracks(folder / TRACKS_FILE)
    span = int(numbers[-1] - numbers[0]) + 1
    if tracks.num_frames is not None and tracks.num_frames != span:
        raise DataError(
            f"{folder / TRACKS_FILE}: speaks of {tracks.num_frames} frames, but {numbers[0]}.png to {numbers[-1]}.png "
            f"are {span}; record the episode again or delete this file"
        )
    return Episode(name, folder, numbers, tuple(files[number] for number in numbers.tolist()), tracks)


def read_tracks(path: Path) -> Tracks:
    """The tracks stored at ``path``; empty where there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return Tracks()
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in TRACKS if name in stored and name not in MADE}
            meta = json.loads(str(stored["meta"])) if "meta" in stored else {}
        if not isinstance(meta, dict):
            raise ValueError("meta is no JSON object")
        return Tracks(**arrays, meta=meta)
    except DAMAGED_NPZ as error:
        raise DataError(
            f"{path}: cannot be used ({damage_in_words(error)}); delete it or record the episode again"
        ) from None


def write_tracks(path: Path, tracks: Tracks) -> None:
    """Stores the tracks as ``episode.npz``; the counterpart of :func:`read_tracks`."""
    arrays: dict[str, Any] = {**tracks.recorded(), "meta": np.array(json.dumps(tracks.meta))}
    np.savez_compressed(path, **arrays)
