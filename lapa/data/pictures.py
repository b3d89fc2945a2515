"""Pictures and videos as recordings: folders of PNG and JPEG files of any names, and video files.

Each folder that directly holds pictures is one episode, and so is each video. They have no tracks.
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from lapa.data.episodes import Tracks
from lapa.data.frames import Fitting, fit_frames
from lapa.data.sources import Source, SourceEpisode
from lapa.data.splits import evenly_spaced
from lapa.data.store_set import STORE_FOLDER
from lapa.errors import DataError

PICTURES = (".png", ".jpg", ".jpeg")
VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".gif")
LISTED_EXACTLY = (".mp4", ".mov", ".avi")
"""Videos that say how many frames they have; others give an estimate."""
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ZeroDivisionError,
    struct.error,
    Image.DecompressionBombError,
)
"""All that Pillow raises for a picture that is cut, damaged or absurdly large."""
ORIENTATION = 0x0112  # EXIF
LOOK_AT = 25


class Media(Source):
    """The pictures and videos under a folder, or one video, brought to one size.

    Args:
        root: a folder, searched with all folders in it, or a video.
        fitting: the size of the stored frames; without a ``resize`` it is the commonest one found.
    """

    def __init__(self, root: Path, fitting: Fitting) -> None:
        self.root, self.fitting = root, fitting
        self.header: dict[str, Any] = {"reading": fitting._asdict()}
        if root.is_dir():
            self.files, self.ignored = find_media(root)
        else:
            self.files, self.ignored = {root.name: [root]}, []
        self.names = list(self.files)

    def fitted(self, fitting: Fitting) -> Media:
        """The same at another size."""
        other = object.__new__(Media)
        other.__dict__ |= self.__dict__ | {"fitting": fitting, "header": {"reading": fitting._asdict()}}
        return other

    @property
    def store_path(self) -> Path:
        """Where its packed store lies if no other file is named; each size has a file of its own."""
        folder, stem = self._store_folder
        if self.fitting.resize is None:
            return folder / f"{stem}.lapa"
        rows, columns = self.fitting.resize
        return folder / f"{stem}-{rows}x{columns}-{self.fitting.fit}.lapa"

    def packed_before(self) -> list[Path]:
        """The packed stores of any size, the latest first."""
        folder, stem = self._store_folder
        pattern = re.compile(rf"{re.escape(stem)}(-\d+x\d+-[a-z]+)?\.lapa")
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted((path for path in found if pattern.fullmatch(path.name)), key=_modified, reverse=True)

    @property
    def _store_folder(self) -> tuple[Path, str]:
        if self.root.is_dir():
            return self.root / STORE_FOLDER, "frames"
        return self.root.parent / STORE_FOLDER, self.root.name

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps(self.fitting if self.fitting.resize else None).encode())
        for name, paths in self.files.items():
            rows = [(path.name, path.stat().st_size, _modified(path)) for path in paths]
            digest.update(json.dumps([name, rows]).encode())
        return digest.hexdigest()[:16]

    def frame_size(self) -> tuple[int, int]:
        if self.fitting.resize is not None:
            return self.fitting.resize
        paths = [path for paths in self.files.values() for path in paths]
        sizes: collections.Counter[tuple[int, int]] = collections.Counter()
        for place in evenly_spaced(len(paths), LOOK_AT):
            try:
                sizes[video_size(paths[place]) if is_video(paths[place]) else picture_size(paths[place])] += 1
            except DataError:
                continue
        return sizes.most_common(1)[0][0] if sizes else (0, 0)

    def read(self, name: str, frame_size: tuple[int, int], strict: bool) -> SourceEpisode:
        """One folder of pictures or one video; a picture that cannot be used is a gap, a damaged video an error."""
        paths = self.files[name]
        if is_video(paths[0]):
            frames: Iterator[np.ndarray | None] = (
                self._fit(frame, frame_size, paths[0]) for frame in read_video(paths[0])
            )
            return SourceEpisode(None, Tracks(meta={"source": "video"}), frames)
        problems: list[str] = []
        frames = self._pictures(paths, frame_size, strict, problems)
        return SourceEpisode(None, Tracks(meta={"source": "pictures"}), frames, problems)

    def _pictures(
        self, paths: Sequence[Path], frame_size: tuple[int, int], strict: bool, problems: list[str]
    ) -> Iterator[np.ndarray | None]:
        bad: list[str] = []
        for path in paths:
            try:
                frame = self._fit(read_picture(path), frame_size, path)
            except DataError as error:
                if strict:
                    raise
                bad.append(str(error))
                yield None
            else:
                yield frame
        if len(bad) == len(paths):
            raise DataError(bad[0])
        if bad:
            problems.append(f"{len(bad)} of {len(paths)} pictures in {paths[0].parent}; the first: {bad[0]}")

    def _fit(self, frame: np.ndarray, frame_size: tuple[int, int], path: Path) -> np.ndarray:
        """The frame at the size of the store.

        Raises:
            DataError: it has another size, and none is set.
        """
        if self.fitting.resize is not None:
            return fit_frames(torch.from_numpy(frame)[None], self.fitting).numpy()[0]
        if frame.shape[:2] != frame_size:
            raise DataError(
                f"{path}: is {frame.shape[0]} x {frame.shape[1]}, most others are {frame_size[0]} x {frame_size[1]}; "
                "bring all to one size with data.resize=[rows,columns]"
            )
        return frame


def find_media(root: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The pictures and videos under a folder by episode, all in natural order, and what is not read, with the reason.

    Hidden files and folders are passed over, and links that lead out of the folder are not read. A link to a folder
    inside is not followed either: its files are found there.
    """
    episodes: dict[str, list[Path]] = {}
    ignored: list[str] = []
    inside = root.resolve()

    def pass_over(error: OSError) -> None:
        ignored.append(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, subfolders, names in os.walk(root, onerror=pass_over):
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), key=natural_order)
        here = Path(folder)
        linked = [name for name in subfolders if (here / name).is_symlink()]
        files = [name for name in names if not name.startswith(".") and is_media(Path(name))]
        outside = [
            here / name
            for name in [*linked, *sorted(files, key=natural_order)]
            if (here / name).is_symlink() and not Path(os.path.realpath(here / name)).is_relative_to(inside)
        ]
        ignored += [f"{path}: is a link that leads out of {root}; copy what is there into it" for path in outside]
        paths = [here / name for name in files if here / name not in outside and (here / name).is_file()]
        relative = here.relative_to(root)
        pictures = [path for path in paths if not is_video(path)]
        if pictures:
            episodes[relative.as_posix()] = sorted(pictures, key=lambda path: natural_order(path.name))
        episodes |= {(relative / path.name).as_posix(): [path] for path in paths if is_video(path)}
    if "." in episodes and inside.name and inside.name not in episodes:
        episodes[inside.name] = episodes.pop(".")
    names = sorted(episodes, key=lambda name: [natural_order(part) for part in name.split("/")])
    return {name: episodes[name] for name in names}, ignored


def holds_media(root: Path) -> bool:
    """Whether there is a picture or video anywhere under a folder, as :func:`find_media` would look for them."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if any(is_media(Path(folder) / name) and not name.startswith(".") for name in names):
            return True
    return False


def is_media(path: Path) -> bool:
    """Whether a file's name is that of a picture or a video."""
    return path.suffix.lower() in PICTURES + VIDEOS


def is_video(path: Path) -> bool:
    """Whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEOS


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Sorts names as people do: ``img2`` before ``img10``."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def read_picture(path: Path) -> np.ndarray:
    """The PNG or JPEG at ``path`` as (H, W, 3) uint8 RGB, upright by its EXIF orientation.

    Raises:
        DataError: the file is missing, cut, or no such picture.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=("PNG", "JPEG")) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{path}: is neither PNG nor JPEG; convert or delete it") from None
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); replace or delete it") from None


def picture_size(path: Path) -> tuple[int, int]:
    """``(H, W)`` that :func:`read_picture` would give; pixels stay unread.

    Raises:
        DataError: the file is missing or no PNG or JPEG.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            turned = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
            return (image.width, image.height) if turned else (image.height, image.width)
    except UNREADABLE as error:
        raise DataError(f"{path}: cannot be read ({error}); replace or delete it") from None


def read_video(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video in order, (H, W, 3) uint8 RGB each.

    A video that breaks off is noticed where its format counts the frames (:data:`LISTED_EXACTLY`); of others, such as
    a cut ``.mkv``, the frames up to the break are given.

    Raises:
        DataError: OpenCV is missing, no frame can be decoded, or the video breaks off.
    """
    opencv = load_opencv(path)
    video = _opened(path, opencv)
    count = 0
    try:
        announced = int(video.get(opencv.CAP_PROP_FRAME_COUNT))
        while True:
            there, frame = video.read()
            if not there:
                break
            count += 1
            yield np.ascontiguousarray(frame[:, :, ::-1])
    except opencv.error as error:
        raise DataError(f"{path}: frame {count} cannot be decoded ({error.err}); replace or delete it") from None
    finally:
        video.release()
    if not count:
        raise DataError(f"{path}: no frame can be decoded; replace or delete it")
    # Two frames and 2 %: some files count frames that are never shown.
    if path.suffix.lower() in LISTED_EXACTLY and count < 0.98 * announced - 2:
        raise DataError(f"{path}: breaks off after {count} of {announced} frames; replace or delete it")


def video_size(path: Path) -> tuple[int, int]:
    """``(H, W)`` of a video's first frame.

    Raises:
        DataError: as :func:`read_video`.
    """
    frames = read_video(path)
    height, width, _ = next(frames).shape
    frames.close()  # type: ignore[attr-defined] # it is a generator
    return height, width


def load_opencv(path: Path) -> Any:
    """OpenCV, of the extra ``video``.

    Raises:
        DataError: it is not installed.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # a damaged file is told of in one line, by us
    try:
        import cv2
    except ImportError:
        raise DataError(f"{path}: videos need OpenCV; install it by: pip install 'lapa[video]'") from None
    return cv2


def _opened(path: Path, opencv: Any) -> Any:
    """The video, open.

    Raises:
        DataError: it is none. Its first bytes are looked at first, for FFmpeg also opens lists of other files.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(12)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); replace or delete it") from None
    starts = (first[:4] == b"RIFF" and first[8:] == b"AVI ", first[:4] in (b"\x1aE\xdf\xa3", b"GIF8"))
    if not (any(starts) or first[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")):
        raise DataError(f"{path}: is no video that can be read (one of {', '.join(VIDEOS)}); replace or delete it")
    level = opencv.utils.logging.setLogLevel(opencv.utils.logging.LOG_LEVEL_SILENT)
    try:
        video = opencv.VideoCapture(str(path), opencv.CAP_FFMPEG)
    finally:
        opencv.utils.logging.setLogLevel(level)
    if not video.isOpened():
        raise DataError(f"{path}: cannot be decoded; replace or delete it")
    return video


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns
