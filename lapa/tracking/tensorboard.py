"""TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lapa.tracking.tracker import Tracker, imported


class TensorBoardTracker(Tracker):
    """TensorBoard event files, in ``tensorboard`` in the run's folder.

    Args:
        out: the run's folder.
        config: what to show as the run's configuration.
        resume_from: step from which the run goes on; what was told after it is hidden. None hides an earlier run.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, out: Path, config: Mapping[str, Any], *, resume_from: int | None = None) -> None:
        imported("tensorboard", "tensorboard", "tracking.tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        purge = 0 if resume_from is None else resume_from + 1
        self._writer: Any = SummaryWriter(str(out / "tensorboard"), purge_step=purge)
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```", resume_from or 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def histogram(self, step: int, name: str, counts: np.ndarray) -> None:
        numbers = np.arange(len(counts), dtype=np.float64)
        self._writer.add_histogram_raw(
            name,
            min=0,
            max=len(counts),
            num=int(counts.sum()),
            sum=float(numbers @ counts),
            sum_squares=float(numbers**2 @ counts),
            bucket_limits=(numbers + 1).tolist(),
            bucket_counts=counts.tolist(),
            global_step=step,
        )

    def image(self, step: int, name: str, path: Path) -> None:
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()
