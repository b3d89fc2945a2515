"""The index of a packed store: arrays by name, read when they are asked for."""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from lapa.data.files import DAMAGED_NPZ
from lapa.errors import DataError


class MapView(io.RawIOBase):
    """A part of a memory map as a file to read.

    Args:
        mapped: the map.
        start: first byte of the part.
        stop: one past its last byte.
    """

    def __init__(self, mapped: mmap.mmap, start: int, stop: int) -> None:
        self._mapped, self._start, self._size = mapped, start, stop - start
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place, counted from the part's beginning, the present place, or its end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"no place before the beginning: {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        """Fills a buffer from the present place on; returns how many bytes there were."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type] # a buffer has no type of its own
        first = self._start + self._position
        count = max(0, min(len(view), self._size - self._position))
        view[:count] = self._mapped[first : first + count]
        self._position += count
        return count


class Index(Mapping[str, np.ndarray]):
    """The arrays of an ``npz`` within a memory map, each read anew when it is asked for.

    Args:
        mapped: the map.
        start: first byte of the ``npz``.
        stop: one past its last byte.
        path: the file that is mapped, for errors.
        prefix: only the arrays whose names begin so are seen, without it.
    """

    def __init__(self, mapped: mmap.mmap, start: int, stop: int, path: Path, prefix: str = "") -> None:
        self._where = mapped, start, stop, path
        self._file = np.load(io.BufferedReader(MapView(mapped, start, stop)), allow_pickle=False)
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise ValueError("the index is no npz")
        self._prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self:
            raise KeyError(name)
        try:
            return self._file[self._prefix + name]
        except DAMAGED_NPZ as error:
            raise DataError(
                f"{self._where[-1]}: its array '{self._prefix}{name}' is damaged ({error}); delete the file and make "
                "it again"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._file.files if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return f"{self._prefix}{name}" in self._file.files  # the mixin's would read the array

    def check(self) -> None:
        """Looks at the checksums of all arrays.

        Raises:
            DataError: one is damaged.
        """
        try:
            damaged = self._file.zip.testzip()
        except DAMAGED_NPZ as error:
            damaged = str(error)
        if damaged is not None:
            raise DataError(f"{self._where[-1]}: its index is damaged ({damaged}); delete the file and make it again")

    def close(self) -> None:
        """Closes the file; arrays that were read stay."""
        self._file.close()

    def within(self, prefix: str) -> Index:
        """The arrays whose names begin so."""
        return Index(*self._where, prefix=self._prefix + prefix)
