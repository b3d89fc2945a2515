"""A run's training as curves: PSNR where the system draws, else the metric that keeps its best checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lapa.contracts import System
from lapa.report.figures import Curve, plot_runs, plot_training, points_of

History = Sequence[Mapping[str, Any]]
"""A run's lines of ``metrics.jsonl``."""

PSNR, COPY_PSNR, MEAN_PSNR = (f"val/recon/{who}psnr_db" for who in ("", "copy_", "mean_"))

PSNR_CURVES = (
    Curve("train/recon/psnr_db", "training batches"),
    Curve(PSNR, "validation episodes", "o-"),
    Curve(COPY_PSNR, "copying, validation", "--"),
    Curve(MEAN_PSNR, "mean frame, validation", ":"),
)


def training_curves(history: History, system: System) -> bytes:
    """A run's curves as a PNG file."""
    if any(points_of(history, curve.metric) for curve in PSNR_CURVES):
        return plot_training(history, PSNR_CURVES, "PSNR, dB")
    best = system.best
    curves = (Curve(best.replace("val/", "train/", 1), "training batches"), Curve(best, "validation episodes", "o-"))
    return plot_training(history, curves, best)


def curves_of_runs(histories: Mapping[str, History], best: str) -> bytes:
    """One curve for each run as a PNG file: PSNR less that of copying, else PSNR, else the metric ``best``."""
    gains = {
        name: [
            (line["step"], line[PSNR] - line[COPY_PSNR])
            for line in history
            if line.get(PSNR) is not None and line.get(COPY_PSNR) is not None
        ]
        for name, history in histories.items()
    }
    if any(gains.values()):
        return plot_runs(gains, "PSNR gain over copying, dB", zero=True)
    shown = PSNR if any(points_of(history, PSNR) for history in histories.values()) else best
    points = {name: points_of(history, shown) for name, history in histories.items()}
    return plot_runs(points, "PSNR, dB" if shown == PSNR else shown)
