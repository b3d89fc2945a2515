"""The packed store: every frame of a recording once, in one file, each its own zstd block.

Layout of the file: 8 bytes of magic; the compressed frames, one after the other; the index, an ``npz``;
8 bytes that say where the index begins; the magic again. A frame is raw RGB before compression. All is read through
a memory map that processes share: of the index at once what is needed for every frame, and tracks when they are asked
for.
"""

from __future__ import annotations

import bisect
import collections
import functools
import hashlib
import io
import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from lapa.data.episodes import MADE, TRACKS_FILE, Tracks, list_episodes, read_episode
from lapa.data.files import DAMAGED_NPZ, atomic_file
from lapa.data.frames import read_png
from lapa.data.index import Index
from lapa.errors import DataError
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

MAGIC = b"LAPA\x00\x00\x00\x01"
# On Breakout frames, against level 3: half the bytes (203, not 394) and read twice as fast, for 0.4 ms a frame, once.
ZSTD_LEVEL = 12
STORE_FOLDER = ".lapa"
OPEN = 8
"""Stores of a :class:`StoreSet` that are open at a time."""


class StoredEpisode:
    """Where an episode's frames lie in a store, and what is known of it.

    Args:
        name: the folder it was recorded in.
        start: index of its first frame in the store.
        numbers: (N,) int64, the number in each frame's file name.
        tracks: arrays over steps and frames, in recording order from the first number to the last.
    """

    __slots__ = ("_first", "_numbers", "count", "name", "start", "tracks")

    def __init__(self, name: str, start: int, numbers: np.ndarray, tracks: Tracks) -> None:
        self.name, self.start, self.tracks = name, start, tracks
        self.count = len(numbers)
        self._first = int(numbers[0]) if self.count else 0
        # Without a gap, which is the rule, the first number says it all.
        has_gaps = self.count and int(numbers[-1]) - self._first + 1 != self.count
        self._numbers = np.array(numbers) if has_gaps else None

    def moved(self, name: str, start: int, tracks: Tracks) -> StoredEpisode:
        """The same frames under another name, at another index, with other tracks."""
        return StoredEpisode(name, start, self.numbers, tracks)

    @property
    def numbers(self) -> np.ndarray:
        """(N,) int64, the number in each frame's file name, ascending."""
        if self._numbers is None:
            return np.arange(self._first, self._first + self.count)
        return self._numbers

    @property
    def stop(self) -> int:
        """One past the index of its last frame."""
        return self.start + self.count

    def runs(self, frames: int) -> list[tuple[int, int]]:
        """Where clips of so many consecutive frames begin: store index of the first and how many, run by run.

        No clip crosses a gap.
        """
        numbers = self.numbers
        parts = np.split(np.arange(self.count), np.flatnonzero(np.diff(numbers) != 1) + 1)
        return [(self.start + int(part[0]), len(part) - frames + 1) for part in parts if len(part) >= frames]

    def clip_starts(self, frames: int = 2) -> np.ndarray:
        """(P,) int64 store indices of each frame that begins ``frames`` consecutive ones: no clip crosses a gap."""
        parts = [np.arange(first, first + count) for first, count in self.runs(frames)]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)

    def step_rows(self, pair_starts: np.ndarray) -> np.ndarray:
        """Row in the per-step tracks of each pair; ``row`` and ``row + 1`` are its rows in the per-frame tracks."""
        return self.numbers[pair_starts - self.start] - self.numbers[0]

    def actions(self, pair_starts: np.ndarray) -> np.ndarray:
        """(P,) int64, the true action of each pair, -1 where the recording does not tell."""
        if self.tracks.actions is None:
            return np.full(len(pair_starts), -1, dtype=np.int64)
        return self.tracks.actions[self.step_rows(pair_starts)].astype(np.int64)


class StoreWriter:
    """Appends episodes to a store that :func:`store_writer` opened.

    Attributes:
        header: JSON-able facts to keep in the index.
        extra: arrays to keep in the index.
    """

    def __init__(self, file: BinaryIO, frame_size: tuple[int, int]) -> None:
        self.frame_size = frame_size
        self.header: dict[str, Any] = {}
        self.extra: dict[str, np.ndarray] = {}
        self.episodes: list[StoredEpisode] = []
        self._file = file
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        file.write(MAGIC)

    def add(self, name: str, numbers: np.ndarray, tracks: Tracks, frames: Iterable[np.ndarray | bytes]) -> None:
        """Appends one episode; ``frames`` are (H, W, 3) uint8 arrays, or blocks compressed already.

        An episode whose frames cannot be read is cut off again before the error goes on.
        """
        before, start = self._file.tell(), len(self._lengths)
        try:
            for frame in frames:
                block = frame if isinstance(frame, bytes) else self._compressor.compress(frame.tobytes())
                self._file.write(block)
                self._lengths.append(len(block))
                self._checksums.append(zlib.crc32(block))
        except DataError:
            self._file.seek(before)
            self._file.truncate()
            del self._lengths[start:], self._checksums[start:]
            raise
        self.episodes.append(StoredEpisode(name, start, numbers, tracks))

    def finish(self) -> None:
        """Writes the index."""
        arrays = {f"{i}/{k}": v for i, e in enumerate(self.episodes) for k, v in e.tracks.recorded().items()}
        header = {
            "frame_size": self.frame_size,
            "episodes": [{"name": e.name, "start": e.start, "meta": e.tracks.meta} for e in self.episodes],
            **self.header,
        }
        index = io.BytesIO()
        arrays |= {f"extra/{name}": array for name, array in self.extra.items()}
        arrays["header"] = np.array(json.dumps(header))
        arrays["lengths"] = np.array(self._lengths, dtype=np.uint32)
        arrays["checksums"] = np.array(self._checksums, dtype=np.uint32)
        arrays["numbers"] = np.concatenate([e.numbers for e in self.episodes])
        np.savez_compressed(index, **arrays)  # type: ignore[arg-type]
        position = self._file.tell()
        self._file.write(index.getbuffer())
        self._file.write(struct.pack("<Q", position) + MAGIC)


@contextmanager
def store_writer(path: Path, frame_size: tuple[int, int]) -> Iterator[StoreWriter]:
    """A :class:`StoreWriter` whose file gets its name only when all of it is on disk; on an error nothing is left."""
    with atomic_file(path) as file:
        writer = StoreWriter(file, frame_size)
        yield writer
        writer.finish()


class FrameStore:
    """Random access to the frames of a packed store.

    Args:
        path: a file written by :class:`StoreWriter`.

    Raises:
        DataError: the file is missing, cut, or no store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_index()
        except FileNotFoundError:
            raise DataError(
                f"{path}: no such packed store; `lapa extract` makes one with codes, `lapa train` one of a recording"
            ) from None
        except (*DAMAGED_NPZ, struct.error) as error:
            raise DataError(f"{path}: not a packed store, or a cut one ({error}); delete it and pack again") from None

    def _read_index(self) -> None:
        tail = len(MAGIC) + 8
        if self._map[: len(MAGIC)] != MAGIC or self._map[-len(MAGIC) :] != MAGIC:
            raise ValueError("no magic number")
        (position,) = struct.unpack("<Q", self._map[-tail : -len(MAGIC)])
        index = Index(self._map, position, len(self._map) - tail, self.path)
        self.header: dict[str, Any] = json.loads(str(index["header"]))
        height, width = self.header["frame_size"]
        self.frame_size: tuple[int, int] = (height, width)
        self.extra: Mapping[str, np.ndarray] = index.within("extra/")
        self._index = index
        self._cache: dict[str, np.ndarray] = {}
        rows = self.header["episodes"]
        numbers = index["numbers"]
        self._length = len(numbers)
        starts = [*(row["start"] for row in rows), self._length]
        known: dict[int, list[str]] = {}
        for name in index:
            number, slash, track = name.partition("/")
            if slash and number.isdecimal():
                known.setdefault(int(number), []).append(track)
        made = [track for track in MADE if track in self.extra]
        self.episodes: list[StoredEpisode] = []
        for i, row in enumerate(rows):
            tracks = Tracks(meta=row["meta"], lazy=[*known.get(i, ()), *made], load=functools.partial(self._track, i))
            episode_numbers = numbers[starts[i] : starts[i + 1]]
            self.episodes.append(StoredEpisode(row["name"], row["start"], episode_numbers, tracks))
        self._decompressor = zstandard.ZstdDecompressor()

    @property
    def parts(self) -> list[int]:
        """Index of the first frame of each file that the frames come from."""
        return [0]

    def __len__(self) -> int:
        return self._length

    # Of a store whose episodes alone are asked for, nothing is kept of each frame; otherwise 12 bytes, in arrays: a
    # list of Python integers takes ten times that.

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        """(N + 1,) int64, where each frame's block begins, and where the last one ends."""
        return np.cumsum(np.concatenate([[len(MAGIC)], self._index["lengths"]]), dtype=np.int64)

    @functools.cached_property
    def _checksums(self) -> np.ndarray:
        """(N,) uint32, of each frame's block."""
        return self._index["checksums"]

    def _track(self, number: int, name: str) -> np.ndarray:
        """A track of an episode, kept from then on: batches ask for it again and again."""
        key = f"{number}/{name}"
        if key not in self._cache:
            self._cache[key] = self._made(number, name) if name in MADE else self._index[key]
        return self._cache[key]

    def _made(self, number: int, name: str) -> np.ndarray:
        """A track that a model made, over all steps or frames of an episode; of steps without a pair it holds zeros."""
        if name not in self._cache:
            self._cache[name] = self.extra[name]
        whole, episode = self._cache[name], self.episodes[number]
        if name == "tokens":
            return whole[episode.start : episode.stop]
        if "pair_starts" not in self._cache:
            self._cache["pair_starts"] = self.extra["pair_starts"]
        starts = self._cache["pair_starts"]
        first, last = np.searchsorted(starts, [episode.start, episode.stop])
        if last - first == episode.count - 1:  # no gap: a view of them
            return whole[first:last]
        steps = int(episode.numbers[-1] - episode.numbers[0])
        filled = np.zeros((steps, *whole.shape[1:]), dtype=whole.dtype)
        filled[episode.step_rows(starts[first:last])] = whole[first:last]
        return filled

    def block(self, index: int) -> bytes:
        """The compressed bytes of a frame."""
        return self._map[self._offsets[index] : self._offsets[index + 1]]

    def frame(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, read-only.

        Raises:
            DataError: the frame's block is damaged.
        """
        block = self.block(index)
        try:
            # Of the block, not of the frame: that is 200 bytes to check, not 100,000.
            if zlib.crc32(block) != self._checksums[index]:
                raise ValueError("wrong checksum")
            raw = self._decompressor.decompress(block)
            return np.frombuffer(raw, dtype=np.uint8).reshape(*self.frame_size, 3)
        except (zstandard.ZstdError, ValueError) as error:
            raise DataError(
                f"{self.path}: frame {index} is damaged ({error}); delete the file and pack again"
            ) from None

    def frames(self, indices: Iterable[int]) -> np.ndarray:
        """(N, H, W, 3) uint8 RGB."""
        return np.stack([self.frame(index) for index in indices])

    def close(self) -> None:
        """Lets go of the file and of all that was read; its episodes' tracks cannot be read any more."""
        self.episodes.clear()  # they point back here, and would keep it all until the garbage is collected
        self._cache.clear()
        self._index.close()
        self._map.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # a worker process maps the file anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        FrameStore.__init__(self, state["path"])


class StoreSet(FrameStore):
    """Several packed stores as one; at most :data:`OPEN` of them are open at a time.

    Of each episode a few hundred bytes stay in memory, of each frame nothing. Episodes are called
    ``<store>/<episode>``, with the store's file name without its ending.

    Args:
        paths: the files, in the order in which their frames are counted.

    Raises:
        DataError: a file is missing, cut, or no store; two have one name; or their frames differ in size.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self.path = self.paths[0].parent
        names = [path.stem for path in self.paths]
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
                self.episodes.append(episode.moved(f"{path.stem}/{episode.name}", start, tracks))
            self._length += len(store)
            marks.append([path.stem, len(store), store.header.get("fingerprint") or store.header.get("checkpoint")])
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


def fingerprint(root: Path, names: Iterable[str]) -> str:
    """Changes whenever a frame or tracks file under the named episodes is added, removed or rewritten."""
    digest = hashlib.sha256()
    for name in names:
        with os.scandir(root / name) as entries:
            rows = sorted(
                (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.endswith(".png") or entry.name == TRACKS_FILE
            )
        digest.update(json.dumps([name, rows]).encode())
    return digest.hexdigest()[:16]


def open_store(
    root: str | Path | Sequence[str | Path],
    path: Path | None = None,
    *,
    strict: bool = False,
    notify: Callable[[str], None] = print_line,
) -> FrameStore:
    """The packed store of recordings, built first if it is missing or the source has changed.

    Args:
        root: a folder of episodes; a packed store, or a folder of packed stores, which are taken as they are; or
            several of these, which are read as one.
        path: the store's file, of one folder of episodes; by default ``<root>/.lapa/frames.lapa``.
        strict: raise on the first bad episode instead of leaving it out.
        notify: told in one line each what was built, reused or left out.

    Raises:
        DataError: no episode is usable, or, when strict, one is not.
        OSError: the store cannot be written.
    """
    roots = [Path(root)] if isinstance(root, (str, Path)) else [Path(each) for each in root]
    if len(roots) == 1:
        (only,) = roots
        return StoreSet(stores_in(only)) if stores_in(only) else _open_one(only, path, strict, notify)
    if path is not None:
        raise DataError("data.store: names the packed store of one folder, and data.root names several; leave it out")
    files = []
    for each in roots:
        files += stores_in(each) or [_open_one(each, None, strict, notify).path]
    return StoreSet(files)


def stores_in(folder: Path) -> list[Path]:
    """The packed stores in a folder, by name; empty if it has none, or has folders, as a recording does."""
    if not folder.is_dir() or any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
        return []
    return sorted(path for path in folder.glob("*.lapa") if not path.name.startswith("."))


def _open_one(root: Path, path: Path | None, strict: bool, notify: Callable[[str], None]) -> FrameStore:
    if root.is_file():
        return FrameStore(root)
    names = list_episodes(root)
    path = path or root / STORE_FOLDER / "frames.lapa"
    current = fingerprint(root, names)
    if path.exists():
        try:
            store = FrameStore(path)
        except DataError as error:
            notify(f"{error}; packing again")
        else:
            if store.header.get("fingerprint") == current and not (strict and store.header["skipped"]):
                notify(f"reusing {path} ({len(store.episodes)} episodes, {len(store)} frames)")
                for reason in store.header["skipped"]:
                    notify(f"left out: {reason}")
                return store
    pack(root, names, path, fingerprint=current, strict=strict, notify=notify)
    return FrameStore(path)


def pack(
    root: Path, names: list[str], path: Path, *, fingerprint: str, strict: bool, notify: Callable[[str], None]
) -> None:
    """Builds the store at ``path`` from the named episodes; see :func:`open_store`."""
    frame_size = usual_frame_size(root, names)
    skipped: list[str] = []
    with store_writer(path, frame_size) as writer, progress_bar(iterable=names, desc="pack", unit="episode") as bar:
        for name in bar:
            try:
                episode = read_episode(root, name)
                frames = (read_frame(frame, frame_size) for frame in episode.paths)
                writer.add(name, episode.numbers, episode.tracks, frames)
            except DataError as error:
                if strict:
                    raise
                skipped.append(str(error))
                notify(f"left out: {error}")
        if not writer.episodes:
            raise DataError(f"{root}: no usable episode among {len(names)}; the first problem: {skipped[0]}")
        writer.header = {"fingerprint": fingerprint, "skipped": skipped}
    notify(f"packed {len(names) - len(skipped)} episodes into {path}, left out {len(skipped)}")


def usual_frame_size(root: Path, names: Iterable[str], look_at: int = 25) -> tuple[int, int]:
    """The commonest ``(H, W)`` among the first frames of the first readable episodes; (0, 0) if none is readable."""
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for name in names:
        try:
            height, width, _ = read_png(read_episode(root, name).paths[0]).shape
        except DataError:
            continue
        sizes[height, width] += 1
        if sizes.total() == look_at:
            break
    return sizes.most_common(1)[0][0] if sizes else (0, 0)


def read_frame(path: Path, frame_size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of the expected size.

    Raises:
        DataError: the picture is unreadable or of another size.
    """
    frame = read_png(path)
    if frame.shape[:2] != frame_size:
        raise DataError(
            f"{path}: is {frame.shape[0]} x {frame.shape[1]}, the other frames are {frame_size[0]} x {frame_size[1]}; "
            "keep recordings of different sizes in different folders"
        )
    return frame
