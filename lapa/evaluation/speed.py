"""How fast a system labels, draws and was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa.evaluation.evaluator import Column, Evaluator, named
from lapa.evaluation.study import DrawnBatch, Study
from lapa.report.tables import Row


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
        return {"pairs_per_second": self._count / self._seconds}

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Clips by seconds."""
        if "speed/pairs_per_second" not in metrics:
            return []
        return [("speed", f"{metrics['speed/pairs_per_second']:.0f} pairs/s", "labelled and redrawn")]

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Labelling and drawing, and training."""
        return (
            Column("labelled and redrawn, pairs/s", "speed/pairs_per_second", "{:.0f}".format),
            Column("trained, pairs/s", "speed/trained_pairs_per_second", "{:.0f}".format),
        )


def speed_of_training(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median speed of a run by its history, as a metric with its full name; none if the history has none."""
    speeds = [line["train/speed/pairs_per_s"] for line in history if "train/speed/pairs_per_s" in line]
    return named(SpeedEvaluator.group, {"trained_pairs_per_second": float(np.median(speeds))} if speeds else {})
