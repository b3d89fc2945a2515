"""How fast a system labels, draws and was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa.evaluation.evaluator import Column, Evaluator, named
from lapa.evaluation.study import DrawnBatch, Study
from lapa.report.tables import Row

UNITS = ("pair", "frame")
"""What a clip can be to a system."""


class SpeedEvaluator(Evaluator):
    """Clips that are labelled and drawn in a second."""

    group = "speed"
    rank = 2

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._count, self._seconds = 0, 0.0

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs a system that gives codes or draws."""
        return None if study.coder or study.drawer else f"speed: {study.kind} gives no codes and draws no frames"

    def see(self, batch: DrawnBatch) -> None:
        """Adds up clips and seconds."""
        self._count += len(batch.rows)
        self._seconds += batch.seconds

    def metrics(self) -> dict[str, float]:
        """Clips by seconds."""
        return {f"{self.study.unit}s_per_second": self._count / self._seconds}

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Clips by seconds."""
        return [
            ("speed", f"{metrics[name]:.0f} {unit}s/s", "labelled and redrawn")
            for unit in UNITS
            if (name := f"speed/{unit}s_per_second") in metrics
        ]

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Labelling and drawing, and training."""
        return tuple(
            Column(f"{what}, {unit}s/s", f"speed/{name}{unit}s_per_second", "{:.0f}".format)
            for unit in UNITS
            for what, name in (("labelled and redrawn", ""), ("trained", "trained_"))
        )


def speed_of_training(history: Sequence[Mapping[str, Any]], unit: str = "pair") -> dict[str, float]:
    """The median speed of a run by its history, as a metric with its full name; none if the history has none.

    ``unit`` is what a clip is to the system, see :func:`lapa.evaluation.study.unit_of`.
    """
    speeds = [line["train/speed/pairs_per_s"] for line in history if "train/speed/pairs_per_s" in line]
    found = {f"trained_{unit}s_per_second": float(np.median(speeds))} if speeds else {}
    return named(SpeedEvaluator.group, found)
