"""Metrics as they come: one JSON object per line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class JsonlTracker:
    """Appends metrics to a JSONL file; each line has ``step``, ``seconds`` since the start, and the metrics."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "w", buffering=1)  # noqa: SIM115 (closed by __exit__)
        self._started = time.monotonic()

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Writes one line. Names are ``stage/group/name``, such as ``val/recon/psnr_db``."""
        seconds = round(time.monotonic() - self._started, 3)
        self._file.write(json.dumps({"step": step, "seconds": seconds, **metrics}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
