"""Several packed stores, read as one."""

from __future__ import annotations

import bisect
import collections
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.episodes import Tracks
from lapa.data.store import FrameStore
from lapa.errors import DataError

STORE_FOLDER = ".lapa"
"""Where the store of a recording lies, inside of its folder."""
OPEN = 8
"""Stores of a :class:`StoreSet` that are open at a time."""


class StoreSet(FrameStore):
    """Several packed stores as one; at most :data:`OPEN` of them are open at a time.

    Of each episode a few hundred bytes stay in memory, of each frame nothing. Episodes are called
    ``<store>/<episode>``, by the store's file name without its ending, or the folder of the recording.

    Args:
        paths: the files, in the order in which their frames are counted.

    Raises:
        DataError: a file is missing, cut, or no store; two have one name; or their frames differ in size.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self.path = self.paths[0].parent
        names = [store_name(path) for path in self.paths]
        if twice := {name for name in names if names.count(name) > 1}:
            raise DataError(f"{self.path}: two stores are called '{min(twice)}'; rename one")
        self._opened: collections.OrderedDict[int, FrameStore] = collections.OrderedDict()
        self.episodes = []
        self.header = {}
        self.extra = {}
        self._firsts: list[int] = []  # index of each store's first frame
        self._length = 0
        marks = []
        for number, path in enumerate(self.paths):
            store = self._store(number)
            if not number:
                self.frame_size = store.frame_size
                self.header = {key: store.header[key] for key in ("num_codes", "grid") if key in store.header}
            check_alike(self.paths[0], path, self, store)
            self._firsts.append(self._length)
            for place, episode in enumerate(store.episodes):
                tracks = Tracks(lazy=tuple(episode.tracks), load=functools.partial(self._track_of, number, place))
                start = self._length + episode.start
                self.episodes.append(episode.moved(f"{names[number]}/{episode.name}", start, tracks))
            self._length += len(store)
            marks.append([names[number], len(store), store.header.get("fingerprint") or store.header.get("checkpoint")])
        self.header["fingerprint"] = hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]

    def _store(self, number: int) -> FrameStore:
        """One of the stores; the one that was asked for longest ago is closed if too many are open."""
        if number not in self._opened:
            self._opened[number] = FrameStore(self.paths[number])
            if len(self._opened) > OPEN:
                self._opened.popitem(last=False)[1].close()
        self._opened.move_to_end(number)
        return self._opened[number]

    def _track_of(self, number: int, place: int, name: str) -> Any:
        tracks = self._store(number).episodes[place].tracks
        return tracks.meta if name == "meta" else tracks[name]

    def _place(self, index: int) -> tuple[int, int]:
        """Which store a frame lies in, and its index there."""
        number = bisect.bisect_right(self._firsts, index) - 1
        return number, index - self._firsts[number]

    @property
    def parts(self) -> list[int]:
        """Index of the first frame of each store."""
        return list(self._firsts)

    def __len__(self) -> int:
        return self._length

    def block(self, index: int) -> bytes:
        number, index = self._place(index)
        return self._store(number).block(index)

    def frame(self, index: int) -> np.ndarray:
        number, index = self._place(index)
        return self._store(number).frame(index)

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        StoreSet.__init__(self, state["paths"])


def store_name(path: Path) -> str:
    """What a store is called among others: its file's name, or its recording's where it was packed from one."""
    source = packed_from(path)
    return path.stem if source is None else source.resolve().name


def packed_from(path: Path) -> Path | None:
    """The folder or the video that a store was packed from, by where it lies; None for one that stands by itself."""
    if path.parent.name != STORE_FOLDER:
        return None
    video = path.parent.parent / re.sub(r"-\d+x\d+-[a-z]+$", "", path.stem)
    return video if video.is_file() else path.parent.parent


def check_alike(first: Path, path: Path, whole: FrameStore, store: FrameStore) -> None:
    """Checks that a store can be read as one with others.

    Raises:
        DataError: it cannot.
    """
    sizes = whole.frame_size, store.frame_size
    if sizes[0] != sizes[1]:
        raise DataError(
            f"{path}: has frames of {sizes[1][0]} x {sizes[1][1]}, {first} of {sizes[0][0]} x {sizes[0][1]}; "
            "keep recordings of different sizes apart"
        )
    for key in ("num_codes", "grid"):
        if whole.header.get(key) != store.header.get(key):
            raise DataError(
                f"{path}: has {key} {store.header.get(key)}, {first} has {whole.header.get(key)}; label all "
                "of them with one checkpoint"
            )
