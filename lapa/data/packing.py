"""From recorded episodes to packed stores: opening what is there, packing what is not."""

from __future__ import annotations

import collections
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from lapa.data.episodes import TRACKS_FILE, list_episodes, read_episode
from lapa.data.png import read_png
from lapa.data.store import FrameStore, store_writer
from lapa.data.store_set import STORE_FOLDER as STORE_FOLDER
from lapa.data.store_set import StoreSet
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
    """The packed stores in a folder, by name; empty if it has none, or holds a recording."""
    if not folder.is_dir() or any(folder.glob("*/*.png")):
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
            store.check()
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
