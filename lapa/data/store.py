"""The packed store: every frame of a recording once, in one file, each its own zstd block.

Layout of the file: 8 bytes of magic; the compressed frames, one after the other; the index, an ``npz``;
8 bytes that say where the index begins; the magic again. A frame is raw RGB before compression. The index is
read whole, the frames through a memory map that processes share.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import mmap
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zstandard

from lapa.data.episodes import TRACKS_FILE, Tracks, list_episodes, read_episode
from lapa.data.files import DAMAGED_NPZ, atomic_file
from lapa.data.frames import read_png
from lapa.errors import DataError
from lapa.progress import notify as print_line
from lapa.progress import progress_bar

MAGIC = b"LAPA\x00\x00\x00\x01"
# On Breakout frames, against level 3: half the bytes (203, not 394) and read twice as fast, for 0.4 ms a frame, once.
ZSTD_LEVEL = 12
STORE_FOLDER = ".lapa"


@dataclasses.dataclass(frozen=True)
class StoredEpisode:
    """Where an episode's frames lie in a store, and what is known of it.

    Attributes:
        name: the folder it was recorded in.
        start: index of its first frame in the store.
        numbers: (N,) int64, the number in each frame's file name.
        tracks: arrays over steps and frames, in recording order from the first number to the last.
    """

    name: str
    start: int
    numbers: np.ndarray
    tracks: Tracks

    @property
    def stop(self) -> int:
        """One past the index of its last frame."""
        return self.start + len(self.numbers)

    def clip_starts(self, frames: int = 2) -> np.ndarray:
        """(P,) int64 store indices of each frame that begins ``frames`` consecutive ones: no clip crosses a gap."""
        count = max(len(self.numbers) - frames + 1, 0)
        whole = self.numbers[frames - 1 :][:count] - self.numbers[:count] == frames - 1
        return self.start + np.flatnonzero(whole)

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
        with np.load(io.BytesIO(self._map[position:-tail]), allow_pickle=False) as index:
            arrays = {name: index[name] for name in index.files}
        self.header: dict[str, Any] = json.loads(str(arrays["header"]))
        height, width = self.header["frame_size"]
        self.frame_size: tuple[int, int] = (height, width)
        self.extra = {name.removeprefix("extra/"): a for name, a in arrays.items() if name.startswith("extra/")}
        # Arrays, not lists: 12 bytes a frame, where a list of Python integers takes ten times that.
        self._offsets = np.cumsum(np.concatenate([[len(MAGIC)], arrays["lengths"]]), dtype=np.int64)
        self._checksums = arrays["checksums"]
        starts = [row["start"] for row in self.header["episodes"]] + [len(self)]
        self.episodes: list[StoredEpisode] = []
        for i, row in enumerate(self.header["episodes"]):
            prefix = f"{i}/"
            known = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
            numbers = arrays["numbers"][starts[i] : starts[i + 1]]
            self.episodes.append(StoredEpisode(row["name"], row["start"], numbers, Tracks(**known, meta=row["meta"])))
        self._decompressor = zstandard.ZstdDecompressor()

    def __len__(self) -> int:
        return len(self._checksums)

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

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}  # a worker process maps the file anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        FrameStore.__init__(self, state["path"])


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
    root: Path, path: Path | None = None, *, strict: bool = False, notify: Callable[[str], None] = print_line
) -> FrameStore:
    """The packed store of the recordings under ``root``, built first if it is missing or the source has changed.

    Args:
        root: the folder of episodes, or a packed store by itself, which is then taken as it is.
        path: the store's file; by default ``<root>/.lapa/frames.lapa``.
        strict: raise on the first bad episode instead of leaving it out.
        notify: told in one line each what was built, reused or left out.

    Raises:
        DataError: no episode is usable, or, when strict, one is not.
        OSError: the store cannot be written.
    """
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
    sizes: Counter[tuple[int, int]] = Counter()
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
