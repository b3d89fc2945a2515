"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

DAMAGED_NPZ = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    RuntimeError,  # NotImplementedError too: a damaged byte can ask for an unknown compression
    zipfile.BadZipFile,
    zlib.error,
)
"""All that numpy raises when it reads an ``npz`` that was cut, overwritten, or never was one."""


def damage_in_words(error: Exception) -> str:
    """What is wrong with such a file; numpy takes one that is no ``npz`` for a pickle, and tells how to run it."""
    return "it is no npz file" if "pickle" in str(error) else str(error)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write, which gets its name ``path`` only on leaving without an exception.

    It is written beside its final place, synced to disk and renamed. On an exception nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say where
            error.filename = str(path)
        raise


def remove_unfinished(folder: Path) -> None:
    """Deletes what :func:`atomic_file` had begun in a folder when its process was killed."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
