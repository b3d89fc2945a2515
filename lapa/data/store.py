"""The packed store: every frame of a recording once, in one file, each its own zstd block.

Layout of the file: 8 bytes of magic; the compressed frames, one after the other; the index, an ``npz``;
8 bytes that say where the index begins; the magic again. A frame is raw RGB before compression. All is read through
a memory map that processes share: of the index at once what is needed for every frame, and tracks when they are asked
for.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from lapa.data.episodes import MADE, Tracks
from lapa.data.files import DAMAGED_NPZ, atomic_file
from lapa.data.index import Index
from lapa.errors import DataError

MAGIC = b"LAPA\x00\x00\x00\x01"
# On Breakout frames, against level 3: half the bytes (203, not 394) and read twice as fast, for 0.4 ms a frame, once.
ZSTD_LEVEL = 12


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

    def segments(self) -> list[tuple[int, int]]:
        """Its frames without gaps: store index of the first and how many, one after the other."""
        bounds = [0, *(np.flatnonzero(np.diff(self.numbers) != 1) + 1).tolist(), self.count]
        return [(self.start + first, stop - first) for first, stop in itertools.pairwise(bounds)]

    def runs(self, frames: int, *, padded: bool = False) -> list[tuple[int, int]]:
        """Where clips of so many consecutive frames begin: store index of the first and how many, run by run.

        No clip crosses a gap.

        Args:
            frames: of a clip.
            padded: two or more frames, but fewer than a clip has, are the beginning of one.
        """
        least = min(frames, 2) if padded else frames
        return [(first, max(count - frames, 0) + 1) for first, count in self.segments() if count >= least]

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

    def add(
        self, name: str, numbers: np.ndarray | None, tracks: Tracks, frames: Iterable[np.ndarray | bytes | None]
    ) -> None:
        """Appends one episode.

        An episode whose frames cannot be read is cut off again before the error goes on.

        Args:
            name: of the episode.
            numbers: (N,) int64, the number of each frame; None counts them from 0.
            tracks: what is known beside the frames.
            frames: (H, W, 3) uint8 arrays, or blocks compressed already; None for one that is missing, whose number
                is passed over.
        """
        before, start = self._file.tell(), len(self._lengths)
        counted = []
        try:
            for number, frame in enumerate(frames):
                if frame is None:
                    continue
                counted.append(number)
                block = frame if isinstance(frame, bytes) else self._compressor.compress(frame.tobytes())
                self._file.write(block)
                self._lengths.append(len(block))
                self._checksums.append(zlib.crc32(block))
        except DataError:
            self._file.seek(before)
            self._file.truncate()
            del self._lengths[start:], self._checksums[start:]
            raise
        numbers = np.array(counted, dtype=np.int64) if numbers is None else numbers
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

    def check(self) -> None:
        """Looks at the checksums of the index, which are otherwise seen when an array is read.

        Raises:
            DataError: it is damaged.
        """
        self._index.check()

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
