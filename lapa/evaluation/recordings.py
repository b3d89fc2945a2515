"""How well frames of each recording are reconstructed, where one model is judged on several, such as several games."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from lapa.data.store_set import StoreSet
from lapa.evaluation.drawing import KeptErrors
from lapa.evaluation.evaluator import Evaluator, Verdict
from lapa.evaluation.study import DrawnBatch, Study
from lapa.metrics.pixels import psnr_db, squared_errors
from lapa.report.page import Page
from lapa.report.tables import Row, decibels

GROUP = "recordings"


class RecordingsEvaluator(Evaluator):
    """PSNR over the frames of each recording, beside the mean frame of that recording's training episodes."""

    group = GROUP
    rank = 1

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._kept = study.shared(KeptErrors)
        names = [recording_of(episode.name) for episode in study.episodes]
        self._names = np.repeat(names, [len(study.pair_starts(episode)) for episode in study.episodes])
        self._means: dict[str, Tensor] = {}
        self._squared: list[np.ndarray] = []

    @classmethod
    def applies(cls, study: Study) -> bool:
        """It needs a system that sees the frame which it draws, and several recordings."""
        several = len({recording_of(episode.name) for episode in study.episodes}) > 1
        return study.rebuilds and isinstance(study.store, StoreSet) and several

    def see(self, batch: DrawnBatch) -> None:
        """Keeps the error of the mean frame of each frame's recording."""
        squared = np.empty(len(batch.rows))
        for name in np.unique(self._names[batch.rows]).tolist():
            mine = self._names[batch.rows] == name
            frames = batch.next[mine]
            squared[mine] = squared_errors(self._mean_of(name).expand_as(frames), frames).numpy()
        self._squared.append(squared)

    def _mean_of(self, name: str) -> Tensor:
        """(C, H, W), the mean frame of a recording's training episodes; of its judged ones, if there are none."""
        if name not in self._means:
            study = self.study
            learnt = [episode for episode in study.learnt if recording_of(episode.name) == name]
            judged = [episode for episode in study.episodes if recording_of(episode.name) == name]
            self._means[name] = study.dataset(learnt or judged).mean_frame()
        return self._means[name]

    def metrics(self) -> dict[str, float]:
        """Of each recording the number of frames, PSNR, and that of its mean frame."""
        model, mean = self._kept.errors[""].squared, np.concatenate(self._squared)
        found: dict[str, float] = {}
        for name in np.unique(self._names).tolist():
            mine = self._names == name
            found |= {
                f"{name}/frames": float(mine.sum()),
                f"{name}/psnr_db": psnr_db(model[mine].mean()),
                f"{name}/mean_psnr_db": psnr_db(mean[mine].mean()),
            }
        return found

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """A line for each recording."""
        return [
            (f"PSNR, {name}", decibels(psnr), f"its mean frame {decibels(mean)}")
            for name, _, psnr, mean in by_recording(metrics)
        ]

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Names the recording that is hardest."""
        if found := by_recording(metrics):
            name, _, psnr, mean = min(found, key=lambda each: each[2] - each[3])
            gain = "better" if psnr > mean else "no better"
            sentence = f"Worst recording: {name}, {psnr:.1f} dB, {gain} than its mean frame ({mean:.1f} dB)."
            yield Verdict("good" if psnr > mean else "bad", sentence)

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """One table."""
        page.heading("Recordings", "recordings")
        page.text("Over the judged frames of each recording; the mean frame is that of its own training episodes.")
        rows = [
            (name, f"{frames:,.0f}", f"{psnr:.2f}", f"{mean:.2f}") for name, frames, psnr, mean in by_recording(metrics)
        ]
        page.table(("recording", "frames", "PSNR, dB", "mean frame, dB"), rows)


def recording_of(episode: str) -> str:
    """The recording of an episode of a :class:`StoreSet`, by its name."""
    return episode.partition("/")[0]


def by_recording(metrics: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Name, frames, PSNR and the mean frame's PSNR of each recording that there are figures of."""
    found = []
    for metric, psnr in metrics.items():
        group, *middle, figure = metric.split("/")
        if group == GROUP and figure == "psnr_db":
            (name,) = middle
            frames, mean = (metrics[f"{GROUP}/{name}/{other}"] for other in ("frames", "mean_psnr_db"))
            found.append((name, frames, psnr, mean))
    return found
