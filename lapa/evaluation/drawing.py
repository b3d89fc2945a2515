"""How well the next frame is drawn, compared with copying the current one and with the mean frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from lapa.data.splits import ALL, SPLITS, evenly_spaced
from lapa.evaluation.evaluator import GAIN_DB, Column, Evaluator, Verdict
from lapa.evaluation.study import DrawnBatch, Study
from lapa.metrics.pixels import FrameErrors, PairErrors, joined, pair_errors
from lapa.report import figures
from lapa.report.page import Page
from lapa.report.pictures import Example, difference_image, example_sheet, movie, png_bytes, sheet, to_rgb, width_of
from lapa.report.tables import Row, decibels

Errors = dict[str, PairErrors]
"""Of each predictor by its prefix: ``""`` the model, ``copy_`` the current frame, ``mean_`` the mean frame."""

OTHER_CLIPS = 256
"""At most this number of clips, at even distances, are drawn of each split that is not judged."""

NUM_EXAMPLES = 6
EXTREMES = {"best": 2, "median": 2, "worst": 2}
"""How many clips are shown of each, by their error on changed pixels."""

MOVIE_STEPS = 200


class KeptErrors:
    """The errors of the judged clips, added batch by batch; ask for it by :meth:`Study.shared`.

    Args:
        study: what is judged.
    """

    def __init__(self, study: Study) -> None:
        self._parts: list[dict[str, Any]] = []

    def add(self, errors: Mapping[str, FrameErrors]) -> None:
        """Takes those of the next batch, of each predictor by its prefix."""
        self._parts.append(dict(errors))

    @property
    def errors(self) -> dict[str, Any]:
        """Of all clips so far."""
        self._parts = [joined_errors(self._parts)]
        return self._parts[0]


class DrawingEvaluator(Evaluator):
    """Errors of predicted frames.

    Attributes:
        errors: of the judged clips, once :meth:`metrics` was asked for.
        splits: figures by split.
        by_episode: figures by judged episode.
    """

    group = "recon"

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self.errors: Errors = {}
        self.splits: dict[str, dict[str, float]] = {}
        self.by_episode: dict[str, dict[str, float]] = {}
        self._kept = study.shared(KeptErrors)

    @classmethod
    def applies(cls, study: Study) -> bool:
        """Who sees the frame need not predict it."""
        return not study.rebuilds

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs a system that draws."""
        return None if study.drawer else f"drawing: {study.kind} draws no frames"

    def see(self, batch: DrawnBatch) -> None:
        """Keeps the errors of each clip."""
        self._kept.add(drawing_errors(batch, self.study.mean_frame))

    def metrics(self) -> dict[str, float]:
        """Figures of each predictor, the gains over copying, and the least and greatest gain of an episode."""
        study = self.study
        self.errors = self._kept.errors
        judged = drawing_metrics(self.errors)
        self.splits = by_split(
            study,
            judged,
            lambda drawn: drawing_metrics(joined_errors([drawing_errors(each, study.mean_frame) for each in drawn])),
        )
        self.by_episode = by_episode(study, lambda rows: drawing_metrics(self.errors, rows))
        gains = [each["gain_over_copy_db"] for each in self.by_episode.values()]
        extremes = {"episode_gain_over_copy_db_min": min(gains), "episode_gain_over_copy_db_max": max(gains)}
        return judged | extremes

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """PSNR, the gain over copying, PSNR on changed pixels, SSIM."""
        if "recon/psnr_db" not in metrics:
            return []
        psnr, copied, mean, changed, copied_changed = (
            decibels(metrics[f"recon/{name}psnr_db"]) for name in ("", "copy_", "mean_", "changed_", "copy_changed_")
        )
        lowest, highest = (metrics[f"recon/episode_gain_over_copy_db_{end}"] for end in ("min", "max"))
        return [
            ("PSNR", psnr, f"copying {copied}, mean frame {mean}"),
            (
                "PSNR gain over copying",
                f"{metrics['recon/gain_over_copy_db']:+.1f} dB",
                f"episodes from {lowest:+.1f} to {highest:+.1f} dB",
            ),
            ("PSNR on changed pixels", changed, f"copying {copied_changed}"),
            ("SSIM", f"{metrics['recon/ssim']:.4f}", f"copying {metrics['recon/copy_ssim']:.4f}"),
        ]

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether it draws better than copying, and than a still picture."""
        if "recon/psnr_db" not in metrics:
            return
        gain, psnr, mean = (metrics[f"recon/{name}"] for name in ("gain_over_copy_db", "psnr_db", "mean_psnr_db"))
        if gain <= 0:
            yield Verdict("bad", f"It draws the next frame no better than copying the current one ({gain:+.1f} dB).")
        elif gain < GAIN_DB:
            sentence = f"It draws the next frame hardly better than copying the current one ({gain:+.1f} dB)."
            yield Verdict("weak", sentence)
        else:
            sentence = f"It draws the next frame at {psnr:.1f} dB, {gain:.1f} dB better than copying the current one."
            yield Verdict("good", sentence)
        if psnr <= mean:
            yield Verdict("bad", f"A still picture, the mean of the training frames, scores as much ({mean:.1f} dB).")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Gain over copying, changed pixels, SSIM."""
        return (
            Column("gain over copying, dB", "recon/gain_over_copy_db", "{:+.2f}".format),
            Column("changed pixels, dB", "recon/changed_psnr_db", "{:.1f}".format),
            Column("SSIM", "recon/ssim", "{:.4f}".format),
        )

    def details(self) -> dict[str, Any]:
        """The figures of each split and of each judged episode."""
        return {"splits": self.splits, "by_episode": self.by_episode}

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """Examples, the best and worst of them, a moving picture, and PSNR by episode."""
        rows = evenly_spaced(len(self.study.clips), NUM_EXAMPLES + 2)[1:-1]
        return {
            "pairs.png": png_bytes(example_sheet(list(self.study.examples(rows)))),
            "extremes.png": png_bytes(self._extremes()),
            "movie.webp": movie(list(movie_frames(self.study, "predicted"))),
            "episodes.png": plot_episodes(self.by_episode, {"psnr_db": "model", "copy_psnr_db": "copying"}),
        }

    def _extremes(self) -> np.ndarray:
        """The best, median and worst clips by the error on changed pixels, of those that changed."""
        errors = self.errors[""]
        changed = np.flatnonzero(errors.changed)
        return example_sheet(extreme_examples(self.study, changed, errors.changed_mse()))

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Figures by predictor and by split, and the pictures."""
        page.heading("What it draws", "drawing")
        page.text(
            "Pixels are on a scale of 0 to 1. Changed pixels are those that differ between the two frames; all others "
            "are right if the current frame is copied. The mean frame is that of the training episodes."
        )
        page.table(("", "model", "copying", "mean frame"), predictor_rows(self.splits[self.study.split]))
        show_splits(page, self.splits, split_rows(self.splits))
        page.text(
            "Pairs of frames at even distances over the judged episodes, not chosen by quality. The difference is "
            "white where the prediction is right, red where it is too bright, blue where it is too dark."
        )
        page.sheet("pairs.png", "current frame, true next frame, predicted next frame, difference")
        page.text("The best, the middle and the worst by their error on changed pixels.")
        page.sheet("extremes.png", "best, median and worst pairs")
        page.text("An episode step by step; each prediction starts from the true frame before it.")
        page.sheet("movie.webp", "moving picture: true next frame, predicted, difference")


def by_split(
    study: Study, judged: dict[str, float], figures_of: Callable[[Iterator[DrawnBatch]], dict[str, float]]
) -> dict[str, dict[str, float]]:
    """Figures by split: those of the judged one, and of each other one from a sample that is drawn."""
    found = {study.split: judged}
    for name in study.parts.keys() - {study.split}:
        clips = study.dataset(study.parts[name])
        found[name] = figures_of(study.draw(clips, evenly_spaced(len(clips), OTHER_CLIPS)))
    return {name: found[name] for name in (*SPLITS, ALL) if name in found}


def by_episode(study: Study, figures_of: Callable[[np.ndarray], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Figures of each judged episode that has a clip, from the numbers of its clips."""
    counts = [len(study.pair_starts(episode)) for episode in study.episodes]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    return {episode.name: figures_of(mine) for episode, mine in zip(study.episodes, rows, strict=True) if len(mine)}


def extreme_examples(study: Study, rows: np.ndarray, errors: np.ndarray) -> list[Example]:
    """The best, median and worst of some judged clips, drawn again.

    Args:
        study: what is judged.
        rows: (R,) which clips.
        errors: (P,) of all clips.
    """
    order = rows[np.argsort(errors[rows], kind="stable")]
    middle = max((len(order) - EXTREMES["median"]) // 2, 0)
    chosen = {
        "best": order[: EXTREMES["best"]],
        "median": order[middle : middle + EXTREMES["median"]],
        "worst": np.flip(order)[: EXTREMES["worst"]].copy(),
    }
    return [
        Example(example.current, example.next, example.prediction, f"{kind}: {example.where}")
        for kind, some in chosen.items()
        for example in study.examples(some)
    ]


def movie_frames(study: Study, drawn: str) -> Iterator[np.ndarray]:
    """True, drawn (under this name) and difference, step by step, from the first judged episode."""
    count = min(MOVIE_STEPS, len(study.pair_starts(study.episodes[0])) or len(study.clips))
    examples = list(study.examples(np.arange(count)))
    names_width = width_of(example.where for example in examples)  # numbers get longer, pictures must not move
    for example in examples:
        cells = [
            to_rgb(example.next),
            to_rgb(example.prediction),
            difference_image(example.prediction, example.next),
        ]
        yield sheet([cells], [example.where], ["true", drawn, "difference"], names_width=names_width)


def drawing_errors(batch: DrawnBatch, mean_frame: Tensor) -> Errors:
    """Errors of the predictors on a batch."""
    current, following = batch.current, batch.next
    predictors = {"": batch.drawn, "copy_": current, "mean_": mean_frame.expand_as(current)}
    return {name: pair_errors(picture, current, following) for name, picture in predictors.items()}


def joined_errors(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The errors of several batches as one."""
    return {name: joined([part[name] for part in parts]) for name in parts[0]}


def drawing_metrics(errors: Errors, rows: Any = slice(None)) -> dict[str, float]:
    """Figures of each predictor over some of the clips, and the model's gains over copying."""
    metrics = {prefix + name: value for prefix, e in errors.items() for name, value in e.metrics(rows).items()}
    metrics["gain_over_copy_db"] = metrics["psnr_db"] - metrics["copy_psnr_db"]
    metrics["changed_gain_over_copy_db"] = metrics["changed_psnr_db"] - metrics["copy_changed_psnr_db"]
    return metrics


def predictor_rows(found: Mapping[str, float]) -> list[Row]:
    """Measure, model, copying, mean frame: over all pixels, then over changed ones."""
    rows = []
    for prefix, where in (("", ""), ("changed_", ", changed pixels")):
        for name, label, form in (
            ("psnr_db", "PSNR, dB", "{:.2f}"),
            ("ssim", "SSIM", "{:.4f}"),
            ("l1", "L1, mean absolute error", "{:.5f}"),
            ("l2", "L2, root of the mean squared error", "{:.5f}"),
        ):
            values = [form.format(found[who + prefix + name]) for who in ("", "copy_", "mean_")]
            rows.append((label + where, *values))
    return rows


def split_rows(splits: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Measure, then one column for each split."""
    return [
        (label, *(form.format(found[name]) for found in splits.values()))
        for label, name, form in (
            ("PSNR, dB", "psnr_db", "{:.2f}"),
            ("copying, dB", "copy_psnr_db", "{:.2f}"),
            ("gain over copying, dB", "gain_over_copy_db", "{:+.2f}"),
            ("PSNR on changed pixels, dB", "changed_psnr_db", "{:.2f}"),
            ("SSIM", "ssim", "{:.4f}"),
        )
    ]


def show_splits(page: Page, splits: Mapping[str, Any], rows: list[Row]) -> None:
    """A table with a column for each split, and ``episodes.png``."""
    page.text(
        "The same figures on each split; of the splits that are not judged, a sample was drawn. A gap between "
        "training and test is what was learnt by heart."
    )
    page.table(("", *splits), rows)
    page.picture("episodes.png", "PSNR of each judged episode, worst first")


def plot_episodes(by_episode: Mapping[str, Mapping[str, float]], series: Mapping[str, str]) -> bytes:
    """PSNR of each judged episode; ``series`` are the model's figure and another one, and their labels."""
    figure, axes = figures.new_axes()
    names = sorted(by_episode, key=lambda name: by_episode[name][next(iter(series))])
    places = np.arange(len(names))
    for (key, label), colour in zip(series.items(), (figures.BLUE, figures.GREY), strict=True):
        axes.plot(places, [by_episode[name][key] for name in names], "o", color=colour, label=label)
    axes.set_xticks(places if len(names) <= 30 else [])
    if len(names) <= 30:
        axes.set_xticklabels(names)
    axes.set_xlabel("episode")
    axes.set_ylabel("PSNR, dB")
    axes.margins(x=0.1)
    axes.legend()
    return figures.png(figure)
