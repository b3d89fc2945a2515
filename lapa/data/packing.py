"""From recorded episodes, pictures and videos to packed stores: opening what is there, packing what is not."""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.episodes import TRACKS_FILE, list_episodes, read_episode
from lapa.data.frames import Fitting
from lapa.data.pictures import Media, holds_media, is_video, load_opencv
from lapa.data.png import read_png
from lapa.data.sources import Source, SourceEpisode
from lapa.data.store import FrameStore, store_writer
from lapa.data.store_set import STORE_FOLDER as STORE_FOLDER
from lapa.data.store_set import StoreSet
from lapa.data.transitions import Transitions, holds_transitions
from lapa.errors import DataError
from lapa.progress import notify as print_line
from lapa.progress import progress_bar


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


class Recording(Source):
    """Episodes as ``lapa record`` writes them: ``<root>/<episode>/<n>.png``, and perhaps ``episode.npz``.

    Raises:
        DataError: there is no such folder, or no folder in it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.names, self.ignored = root, list_episodes(root), []
        self.header: dict[str, Any] = {}

    @property
    def store_path(self) -> Path:
        """Where its packed store lies if no other file is named."""
        return self.root / STORE_FOLDER / "frames.lapa"

    def fingerprint(self) -> str:
        return fingerprint(self.root, self.names)

    def frame_size(self) -> tuple[int, int]:
        return usual_frame_size(self.root, self.names)

    def read(self, name: str, frame_size: tuple[int, int], strict: bool) -> SourceEpisode:
        episode = read_episode(self.root, name)
        frames = (read_frame(frame, frame_size) for frame in episode.paths)
        return SourceEpisode(episode.numbers, episode.tracks, frames)


def open_store(
    root: str | Path | Sequence[str | Path],
    path: Path | None = None,
    *,
    reading: Fitting | None = None,
    strict: bool = False,
    notify: Callable[[str], None] = print_line,
) -> FrameStore:
    """The packed store of recordings, built first if it is missing or the source has changed.

    Args:
        root: a folder of episodes, of pictures or of videos; a video; a packed store, or a folder of packed stores,
            which are taken as they are; or several of these, which are read as one.
        path: the store's file, of one folder of episodes; by default ``<root>/.lapa/frames.lapa``.
        reading: the size that pictures and videos are brought to when they are packed: that of the model they are for.
            None takes the latest packed store of any size, and packs at the size they have where there is none.
        strict: raise on the first bad episode instead of leaving it out.
        notify: told in one line each what was built, reused or left out.

    Raises:
        DataError: no episode is usable, or, when strict, one is not.
        OSError: the store cannot be written.
    """
    roots = [Path(root)] if isinstance(root, (str, Path)) else [Path(each) for each in root]
    if len(roots) == 1:
        (only,) = roots
        return StoreSet(stores_in(only)) if stores_in(only) else _open_one(only, path, reading, strict, notify)
    if path is not None:
        raise DataError("data.store: names the packed store of one folder, and data.root names several; leave it out")
    files = []
    for each in roots:
        files += stores_in(each) or [_open_one(each, None, reading, strict, notify).path]
    return StoreSet(files)


def stores_in(folder: Path) -> list[Path]:
    """The packed stores in a folder, by name; empty if it has none, or holds a recording."""
    if not folder.is_dir() or any(folder.glob("*/*.png")):
        return []
    return sorted(path for path in folder.glob("*.lapa") if not path.name.startswith("."))


def holds_recording(root: Path) -> bool:
    """Whether one of the folders in a folder is a recorded episode: it has ``<n>.png`` or ``episode.npz``."""
    folders = (path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return any(
        path.name == TRACKS_FILE or (path.suffix == ".png" and path.stem.isdecimal())
        for folder in folders
        for path in folder.iterdir()
    )


def is_media_source(root: Path) -> bool:
    """Whether :func:`open_store` reads pictures or videos there, and not a recording or packed stores."""
    if not root.is_dir():
        return root.is_file() and is_video(root)
    return not stores_in(root) and not holds_recording(root) and holds_media(root)


def find_source(root: Path, path: Path | None = None, reading: Fitting | None = None) -> Source:
    """The episodes at a place; see :func:`open_store`.

    Raises:
        DataError: there are none, or reading them needs a package that is not installed.
    """
    if holds_transitions(root):
        return Transitions(root)
    if not is_media_source(root):
        return Recording(root)
    media = Media(root, reading or Fitting())
    if videos := [paths[0] for paths in media.files.values() if is_video(paths[0])]:
        load_opencv(videos[0])
    for before in (media.packed_before() if path is None else [path]) if reading is None else ():
        try:
            header = FrameStore(before).header
        except DataError:
            continue
        if isinstance(header.get("reading"), dict):
            resize, fit = header["reading"]["resize"], header["reading"]["fit"]
            packed = media.fitted(Fitting(tuple(resize) if resize else None, fit))
            if header.get("fingerprint") == packed.fingerprint():
                return packed
    return media


def _open_one(
    root: Path, path: Path | None, reading: Fitting | None, strict: bool, notify: Callable[[str], None]
) -> FrameStore:
    if root.is_file() and not is_video(root):
        return FrameStore(root)
    source = find_source(root, path, reading)
    path = path or source.store_path
    current = source.fingerprint()
    if path.exists():
        try:
            store = FrameStore(path)
            store.check()
        except DataError as error:
            notify(f"{error}; packing again")
        else:
            if store.header.get("fingerprint") == current and not (strict and store.header["skipped"]):
                notify(f"reusing {path} ({len(store.episodes)} episodes, {len(store)} frames)")
                for reason in store.header["skipped"]:
                    notify(f"left out: {reason}")
                return store
    pack(source, path, fingerprint=current, strict=strict, notify=notify)
    return FrameStore(path)


def pack(source: Source, path: Path, *, fingerprint: str, strict: bool, notify: Callable[[str], None]) -> None:
    """Builds the store at ``path`` from the episodes of a source; see :func:`open_store`."""
    frame_size, names = source.frame_size(), source.names
    skipped: list[str] = []

    def leave_out(reasons: Iterable[str]) -> None:
        for reason in reasons:
            if strict:
                raise DataError(reason)
            skipped.append(reason)
            notify(f"left out: {reason}")

    leave_out(source.ignored)
    with store_writer(path, frame_size) as writer, progress_bar(iterable=names, desc="pack", unit="episode") as bar:
        for name in bar:
            try:
                episode = source.read(name, frame_size, strict)
                writer.add(name, episode.numbers, episode.tracks, episode.frames)
            except DataError as error:
                leave_out([str(error)])
            else:
                leave_out(episode.problems)
        packed = len(writer.episodes)
        if not packed:
            reason = f"; the first problem: {skipped[0]}" if skipped else ""
            raise DataError(f"{source.root}: no usable episode among {len(names)}{reason}")
        writer.header = {"fingerprint": fingerprint, "skipped": skipped, **source.header}
    notify(f"packed {packed} episodes into {path}, left out {len(names) - packed}")


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
