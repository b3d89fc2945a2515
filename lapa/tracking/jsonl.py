"""The run's own record: one JSON object per line."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lapa.data.files import write_text
from lapa.tracking.tracker import Tracker


class JsonlTracker(Tracker):
    """One JSON object per line: ``step``, ``seconds`` since the start, and the metrics; NaN and infinity are null.

    Args:
        path: the file; images are named relative to its folder.
        resume_from: step from which the run goes on, after the lines up to it; None begins a new file.
    """

    def __init__(self, path: Path, *, resume_from: int | None = None) -> None:
        self._path = path
        before = 0.0
        if resume_from is None:
            write_text(path, "")
        elif path.exists():
            kept = [line for line in read_lines(path) if line["step"] <= resume_from]
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            before = kept[-1]["seconds"] if kept else 0.0
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 (closed by close)
        self._started = time.monotonic() - before

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._write(step, {name: value if math.isfinite(value) else None for name, value in metrics.items()})

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        self._write(step, {name: counts.tolist()})

    def image(self, step: int, name: str, path: Path) -> None:
        self._write(step, {name: path.relative_to(self._path.parent).as_posix()})

    def close(self) -> None:
        with self._named():
            self._file.close()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        with self._named():
            self._file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)  # a full disk does not say where
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without a last one that was cut when its process was killed."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; empty where there is no such file."""
    return read_lines(path) if path.exists() else []
