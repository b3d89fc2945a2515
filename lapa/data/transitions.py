"""Transitions as other world models keep them: ``transitions_*.npz``, in and out.

Row t of a file is a frame, the action that was taken at it, and the reward of that action:

    obs             (N, H, W, 3), (N, 3, H, W) or, in grey, (N, H, W) uint8
    actions         (N,) whole numbers, or (N, A) one-hot
    rewards         (N,)
    episode_starts  (N,) bool, whether an episode begins with this frame

Files are read in the order of their numbers; an episode goes on from one to the next. What came of an episode's last
action was not recorded: the action and its reward are left out, and the step before it counts as the end. Any other
array of N numbers becomes a column of the track ``fields``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.episodes import Tracks
from lapa.data.files import DAMAGED_NPZ, atomic_file, damage_in_words
from lapa.data.sources import Source, SourceEpisode
from lapa.data.store import FrameStore, StoredEpisode
from lapa.data.store_set import STORE_FOLDER
from lapa.errors import DataError

PATTERN = "transitions_*.npz"
NEEDED = ("obs", "actions", "rewards", "episode_starts")
ROWS = 800
"""Transitions in a file that is written."""


class Transitions(Source):
    """The episodes in a folder of ``transitions_*.npz``.

    Raises:
        DataError: a file is damaged, or lacks an array.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.ignored = root, []
        self.header: dict[str, Any] = {}
        self.files = sorted(root.glob(PATTERN), key=lambda path: (len(path.name), path.name))
        begins = [check_arrays(path) for path in self.files]
        self._firsts = np.cumsum([0, *map(len, begins)])
        starts = np.flatnonzero(np.concatenate(begins))
        self._bounds = np.unique(np.concatenate([[0], starts, [self._firsts[-1]]]))
        self._ends = {int(start) for start in starts}
        self.names = [str(number) for number in range(len(self._bounds) - 1)]
        self._last: tuple[Path, dict[str, np.ndarray]] | None = None

    @property
    def store_path(self) -> Path:
        return self.root / STORE_FOLDER / "frames.lapa"

    def fingerprint(self) -> str:
        rows = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def frame_size(self) -> tuple[int, int]:
        height, width, _ = as_frames(self._arrays(self.files[0])["obs"][:1], self.files[0])[0].shape
        return height, width

    def read(self, name: str, frame_size: tuple[int, int], strict: bool) -> SourceEpisode:
        first, stop = self._bounds[int(name)], self._bounds[int(name) + 1]
        if stop - first < 2:
            raise DataError(f"{self.root}: episode {name} has {stop - first} frame, but a step needs two")
        parts = list(self._parts(first, stop))
        steps = stop - first - 1
        ended = np.zeros(steps, dtype=bool)
        ended[-1] = int(stop) in self._ends
        cut = np.zeros(steps, dtype=bool)
        cut[-1] = not ended[-1]
        columns = {key: np.concatenate([part[key] for _, part in parts]) for key in fields_of(parts[0][1])}
        tracks = Tracks(
            actions=np.concatenate([as_actions(part["actions"], path) for path, part in parts])[:-1],
            rewards=np.concatenate([part["rewards"] for _, part in parts])[:-1].astype(np.float32),
            terminated=ended,
            truncated=cut,
            fields=np.stack([*columns.values()], axis=1).astype(np.float64) if columns else None,
            meta={"fields": [*columns]} if columns else {},
        )
        frames = (frame for path, part in parts for frame in sized(as_frames(part["obs"], path), frame_size, path))
        return SourceEpisode(None, tracks, frames)

    def _parts(self, first: int, stop: int) -> Iterator[tuple[Path, dict[str, np.ndarray]]]:
        """The rows from ``first`` to ``stop``, file by file."""
        for path, begin, end in zip(self.files, self._firsts[:-1], self._firsts[1:], strict=True):
            if begin < stop and first < end:
                rows = slice(max(first - begin, 0), min(stop, end) - begin)
                yield path, {key: array[rows] for key, array in self._arrays(path).items()}

    def _arrays(self, path: Path) -> dict[str, np.ndarray]:
        """All arrays of a file; those of the last one are kept, for several episodes are in it."""
        if self._last is None or self._last[0] != path:
            arrays = read_arrays(path)
            check_lengths(arrays, path)
            self._last = (path, arrays)
        return self._last[1]


def holds_transitions(root: Path) -> bool:
    """Whether a folder has files of transitions."""
    return root.is_dir() and any(root.glob(PATTERN))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file.

    Raises:
        DataError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DAMAGED_NPZ as error:
        raise DataError(f"{path}: cannot be read ({damage_in_words(error)}); replace or delete it") from None


def check_arrays(path: Path) -> np.ndarray:
    """``episode_starts`` of a file, (N,) bool; the frames, which take long to unpack, are not read.

    Raises:
        DataError: it is damaged, empty, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in NEEDED if name not in stored.files]
            small = {} if missing else {name: stored[name] for name in NEEDED if name != "obs"}
    except DAMAGED_NPZ as error:
        raise DataError(f"{path}: cannot be read ({damage_in_words(error)}); replace or delete it") from None
    if missing:
        raise DataError(f"{path}: has no array '{missing[0]}'; transitions need {', '.join(NEEDED)}")
    check_lengths(small, path)
    return small["episode_starts"].astype(bool).ravel()


def check_lengths(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Checks that arrays have one row for each transition.

    Raises:
        DataError: they have not, or there is none.
    """
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items() if name in NEEDED}
    if len(set(lengths.values())) > 1 or not min(lengths.values()):
        raise DataError(f"{path}: arrays must have one row for each transition, not {lengths}")


def as_frames(obs: np.ndarray, path: Path) -> np.ndarray:
    """(N, H, W, 3) uint8 from any of the shapes that are known.

    Raises:
        DataError: it has another shape or type.
    """
    if obs.dtype == np.uint8:
        if obs.ndim == 3:
            obs = obs[..., None]
        if obs.ndim == 4 and obs.shape[-1] not in (1, 3) and obs.shape[1] in (1, 3):
            obs = np.moveaxis(obs, 1, -1)
        if obs.ndim == 4 and obs.shape[-1] in (1, 3):
            return np.broadcast_to(obs, (*obs.shape[:3], 3))
    raise DataError(f"{path}: obs must be frames (N, H, W, 3) of uint8, not {obs.shape} of {obs.dtype}")


def sized(frames: np.ndarray, frame_size: tuple[int, int], path: Path) -> np.ndarray:
    """The frames, which must have a size.

    Raises:
        DataError: they have another.
    """
    if frames.shape[1:3] != frame_size:
        height, width = frames.shape[1:3]
        raise DataError(f"{path}: frames of {height} x {width}, the others are {frame_size[0]} x {frame_size[1]}")
    return frames


def as_actions(actions: np.ndarray, path: Path) -> np.ndarray:
    """(N,) int64 from whole numbers or one-hot vectors.

    Raises:
        DataError: they are neither.
    """
    if actions.ndim == 2 and actions.shape[1] > 1:
        if not ((actions == 0) | (actions == 1)).all() or not (actions.sum(1) == 1).all():
            raise DataError(f"{path}: actions of shape {actions.shape} must be one-hot")
        return actions.argmax(1)
    actions = actions.reshape(len(actions), -1)[:, 0]
    if not np.array_equal(actions, actions.astype(np.int64)) or (actions < 0).any():
        raise DataError(f"{path}: actions must be whole numbers from 0, or one-hot vectors")
    return actions.astype(np.int64)


def fields_of(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are one number for each row, beside those that all files have."""
    count = len(arrays["obs"])
    return sorted(
        name
        for name, array in arrays.items()
        if name not in NEEDED and array.shape == (count,) and array.dtype.kind in "biuf"
    )


def write_transitions(store: FrameStore, out: Path, rows: int = ROWS) -> list[Path]:
    """Writes a recording as ``transitions_<n>.npz``; the counterpart of :class:`Transitions`.

    Args:
        store: the packed frames; episodes without gaps, with actions.
        out: folder to write, which has no such files yet.
        rows: transitions in a file.

    Returns:
        The files.

    Raises:
        DataError: there are such files already, an episode has no actions, or it has a gap.
    """
    if holds_transitions(out):
        raise DataError(f"{out}: has {PATTERN} already; delete them or name another folder")
    for episode in store.episodes:
        if episode.tracks.actions is None:
            raise DataError(f"{store.path}: episode '{episode.name}' has no actions, which transitions need")
        if len(episode.segments()) > 1:
            raise DataError(f"{store.path}: episode '{episode.name}' misses frames; record it again or leave it out")
    written: list[Path] = []
    waiting: list[dict[str, np.ndarray]] = []
    for episode in store.episodes:
        waiting.append(_rows_of(store, episode))
        while sum(len(part["obs"]) for part in waiting) >= rows:
            whole = {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}
            written.append(_write(out, len(written), {name: array[:rows] for name, array in whole.items()}))
            waiting = [{name: array[rows:] for name, array in whole.items()}]
    if sum(len(part["obs"]) for part in waiting):
        rest = {name: np.concatenate([part[name] for part in waiting]) for name in waiting[0]}
        written.append(_write(out, len(written), rest))
    return written


def _rows_of(store: FrameStore, episode: StoredEpisode) -> dict[str, np.ndarray]:
    """An episode's rows; the last frame has no action, and gets a 0."""
    tracks, count = episode.tracks, episode.count
    assert tracks.actions is not None
    rewards = np.zeros(count - 1, np.float32) if tracks.rewards is None else tracks.rewards
    return {
        "obs": store.frames(range(episode.start, episode.stop)),
        "actions": np.append(tracks.actions, 0).astype(np.int64),
        "rewards": np.append(rewards, 0).astype(np.float32),
        "episode_starts": np.arange(count) == 0,
    }


def _write(out: Path, number: int, arrays: dict[str, np.ndarray]) -> Path:
    path = out / f"transitions_{number}.npz"
    with atomic_file(path) as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path
