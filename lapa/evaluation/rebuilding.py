"""How well frames are reconstructed from their codes, compared with the mean frame and simple codes of equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from lapa.data.splits import evenly_spaced
from lapa.evaluation.drawing import (
    KeptErrors,
    by_episode,
    by_split,
    extreme_examples,
    joined_errors,
    movie_frames,
    plot_episodes,
    show_splits,
)
from lapa.evaluation.evaluator import GAIN_DB, Column, Evaluator, Verdict
from lapa.evaluation.study import DrawnBatch, Study
from lapa.metrics.equal_bytes import MAX_COLOURS, SIMPLE_CODES, coded
from lapa.metrics.grid_pattern import GridPattern, cell_of, strides_up_to, strongest
from lapa.metrics.pixels import FrameErrors, frame_errors, psnr_db, squared_errors
from lapa.report.page import Page
from lapa.report.pictures import Example, compared, movie, png_bytes
from lapa.report.tables import Row, decibels

GROUP = "rebuilt"

LEARNT_DB, NEAR_DB = 3.0, 1.0
"""Held-out frames that are worse than training frames by the first are a sign of learning by heart; below the second,
there is no gap."""

NUM_EXAMPLES = 6
NUM_TRAINING = 3
"""Training frames that are shown beside as many held-out ones."""

GRID_FRAMES = 256
"""At most this number of judged frames, at even distances, are searched for a grid pattern."""

VISIBLE = 0.5
"""A grid pattern below this, in units of 1/255, disappears when a picture is stored."""


class RebuildingEvaluator(Evaluator):
    """Errors of frames that a system draws from codes of the same frames.

    Attributes:
        splits: figures by split.
        by_episode: figures by judged episode.
    """

    group = GROUP

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self.splits: dict[str, dict[str, float]] = {}
        self.by_episode: dict[str, dict[str, float]] = {}
        self._kept = study.shared(KeptErrors)
        self._simple: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._batches = 0
        self._grid = GridPattern(strides_of(study))
        self._searched = evenly_spaced(len(study.clips), GRID_FRAMES)

    @classmethod
    def applies(cls, study: Study) -> bool:
        """It needs a system that sees the frame which it draws."""
        return study.rebuilds

    def see(self, batch: DrawnBatch) -> None:
        """Keeps the errors of each frame."""
        self._kept.add(rebuilding_errors(batch, self.study))
        self._batches += 1
        if self.study.coder:
            for name, shown in coded(batch.clips.next, self.study.coder.bits / 8).items():
                squared = squared_errors(shown.pictures, batch.next).double().numpy()
                self._simple.setdefault(name, []).append((squared, shown.sizes))
        searched = np.flatnonzero(np.isin(batch.rows, self._searched))
        if len(searched):
            self._grid.add(batch.drawn[searched].numpy(), batch.next[searched].numpy())

    def metrics(self) -> dict[str, float]:
        """Figures of each predictor, of the simple codes, of the grid pattern, and the gap to training frames."""
        study, errors = self.study, self._kept.errors
        judged = rebuilding_metrics(errors)
        self.splits = by_split(study, judged, lambda drawn: sampled(drawn, study))
        self.by_episode = by_episode(study, lambda rows: rebuilding_metrics(errors, rows))
        found = judged | self._simple_metrics() | named_strides(self._grid.metrics())
        if "train" in self.splits and len(study.parts) > 1:
            # Judged on training episodes, the gap is that to the test episodes, else to the validation ones.
            others = [self.splits[name] for name in (study.split, "test", "val") if name in self.splits]
            held_out = next(each for each in others if each is not self.splits["train"])
            found |= {"train_psnr_db": self.splits["train"]["psnr_db"]}
            found |= {"gap_db": found["train_psnr_db"] - held_out["psnr_db"]}
            found |= {"judged_on_train": 1.0} if study.split == "train" else {}
        return found

    def _simple_metrics(self) -> dict[str, float]:
        """Of the simple codes that could be used for all frames: PSNR, and how many pixels in a row became one."""
        found = {}
        if self.study.coder:
            found["bytes"] = self.study.coder.bits / 8
        for name, parts in self._simple.items():
            if len(parts) == self._batches:
                squared, sizes = (np.concatenate(each) for each in zip(*parts, strict=True))
                found |= {f"{name}_psnr_db": psnr_db(squared.mean()), f"{name}_size": float(sizes.mean())}
        return found

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """PSNR, the worst frame's, the gap, SSIM, L1, the grid pattern."""
        if f"{GROUP}/psnr_db" not in metrics:
            return []
        found = own(metrics)
        others = [f"mean frame {decibels(found['mean_psnr_db'])}"]
        others += [f"{label} {decibels(value)}" for label, value in simple_psnr(found).items()]
        rows: list[Row] = [
            ("PSNR", decibels(found["psnr_db"]), ", ".join(others)),
            ("PSNR of the worst frame", decibels(found["worst_psnr_db"]), ""),
            ("SSIM", f"{found['ssim']:.4f}", f"mean frame {found['mean_ssim']:.4f}"),
            ("L1, mean absolute error", f"{found['l1']:.5f}", f"mean frame {found['mean_l1']:.5f}"),
        ]
        if "gap_db" in found:
            against = "training frames less held-out ones"
            rows.insert(2, ("gap in PSNR", f"{found['gap_db']:+.1f} dB", against))
        if pattern := strongest(strides_in(found)):
            stride, figure = pattern
            rows.append(("grid pattern", f"{figure:.2f} of 255", f"every {stride.replace('x', ' x ')} pixels"))
        return rows

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Whether it beats the mean frame and simple codes, holds on new frames, and draws no grid."""
        if f"{GROUP}/psnr_db" not in metrics:
            return
        found = own(metrics)
        psnr, mean = found["psnr_db"], found["mean_psnr_db"]
        if psnr <= mean:
            sentence = f"Frames are reconstructed no better ({psnr:.1f} dB) than by the mean frame ({mean:.1f} dB)."
            yield Verdict("bad", sentence)
        elif psnr - mean < GAIN_DB:
            sentence = f"Frames are reconstructed hardly better ({psnr:.1f} dB) than by the mean frame ({mean:.1f} dB)."
            yield Verdict("weak", sentence)
        else:
            yield Verdict(
                "good", f"Frames are reconstructed at {psnr:.1f} dB, {psnr - mean:.1f} dB better than the mean frame."
            )
        yield from simple_verdicts(found)
        if "judged_on_train" in found:
            yield Verdict("weak", "Judged on training episodes: these figures say nothing about new frames.")
        yield from gap_verdicts(found)
        if pattern := strongest(strides_in(found)):
            stride, figure = pattern
            if figure >= VISIBLE:
                repeats = f"it repeats every {stride.replace('x', ' x ')} pixels, by {figure:.1f} of 255"
                yield Verdict("weak", f"Flat areas show a grid: {repeats}.")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """PSNR, its gains and gap, SSIM, grid pattern."""
        return (
            Column("PSNR, dB", f"{GROUP}/psnr_db", "{:.2f}".format),
            Column("worst frame, dB", f"{GROUP}/worst_psnr_db", "{:.1f}".format),
            Column("training less held-out, dB", f"{GROUP}/gap_db", "{:+.2f}".format),
            *(
                Column(f"{label} of equal bytes, dB", f"{GROUP}/{name}_psnr_db", "{:.1f}".format)
                for name, label in SIMPLE_CODES.items()
            ),
            Column("SSIM of frames", f"{GROUP}/ssim", "{:.4f}".format),
            Column("grid pattern, of 255", f"{GROUP}/grid_pattern", "{:.2f}".format),
        )

    def details(self) -> dict[str, Any]:
        """The figures of each split and of each judged episode."""
        return {"splits": self.splits, "by_episode": self.by_episode}

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """Examples, the best and worst of them, training frames, a moving picture, and PSNR by episode."""
        study = self.study
        rows = evenly_spaced(len(study.clips), NUM_EXAMPLES + 2)[1:-1]
        worst_last = extreme_examples(study, np.arange(len(study.clips)), self._kept.errors[""].squared)
        images = {
            "frames.png": png_bytes(rebuilt_sheet(study.examples(rows))),
            "extremes.png": png_bytes(rebuilt_sheet(worst_last)),
            "movie.webp": movie(list(movie_frames(study, "reconstruction"))),
            "episodes.png": plot_episodes(self.by_episode, {"psnr_db": "model", "mean_psnr_db": "mean frame"}),
        }
        if study.learnt and study.split != "train":
            images["trained.png"] = png_bytes(rebuilt_sheet(self._trained_and_held_out()))
        return images

    def _trained_and_held_out(self) -> Iterator[Example]:
        trained = self.study.dataset(self.study.learnt)
        for name, clips in (("training", trained), ("held out", None)):
            count = len(clips or self.study.clips)
            # Other held-out frames than those of the first sheet: those from the middle between them.
            rows = evenly_spaced(count, 2 * NUM_TRAINING + 1)[1::2]
            for example in self.study.examples(rows, clips):
                where = f"{name}: {example.where}"
                yield Example(example.current, example.next, example.prediction, where)

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """Figures by predictor and by split, and the pictures."""
        found = own(metrics)
        page.heading("How frames are reconstructed", "rebuilding")
        page.text(
            f"Each frame is drawn from {'its own codes' if self.study.coder else 'what the system keeps of it'}. "
            "Pixels are on a scale of 0 to 1. The mean frame is that of the training episodes."
        )
        page.table(("", "model", "mean frame"), predictor_rows(found))
        if "bytes" in found:
            page.text(simple_text(found))
        show_splits(page, self.splits, split_rows(self.splits))
        page.text(
            "Frames at even distances over the judged episodes, not chosen by quality. The difference is white where "
            "the reconstruction is right, red where it is too bright, blue where it is too dark."
        )
        page.sheet("frames.png", "frame, reconstruction, difference")
        page.text("The best, the middle and the worst by their error.")
        page.sheet("extremes.png", "best, median and worst frames")
        if "trained.png" in page.images:
            page.text(
                "Training frames beside held-out ones. Patches of training frames that were learnt by heart are seen "
                "as differences in the held-out frames alone."
            )
            page.sheet("trained.png", "training frames and held-out frames, reconstructions, differences")
        page.text("An episode frame by frame; each is reconstructed by itself.")
        page.sheet("movie.webp", "moving picture: frame, reconstruction, difference")
        page.heading("Grid pattern", "grid")
        page.text(
            "Decoders that enlarge step by step, or patch by patch, may leave a pattern that repeats with their "
            "strides. It is looked for where the true frame is constant in a window of two strides. The mean error "
            "of the pixels of each phase (row and column within the stride) is found; the figure is the root of the "
            f"variance of these means. Below {VISIBLE} it disappears when a picture is stored at 8 bits."
        )
        rows = [(stride.replace("x", " x "), f"{figure:.3f}") for stride, figure in strides_in(found).items()]
        page.table(("stride, rows x columns", "pattern, in units of 1/255"), rows)


def strides_of(study: Study) -> list[tuple[int, int]]:
    """The strides at which a grid may be drawn."""
    grid = getattr(study.system, "grid", study.format.size)
    return strides_up_to(cell_of(study.format.size, grid))


def rebuilding_errors(batch: DrawnBatch, study: Study) -> dict[str, FrameErrors]:
    """Errors of the predictors on a batch, by prefix: ``""`` the model, ``mean_`` the mean frame."""
    mean = study.mean_frame.expand_as(batch.next)
    return {"": frame_errors(batch.drawn, batch.next), "mean_": frame_errors(mean, batch.next)}


def rebuilding_metrics(errors: Mapping[str, FrameErrors], rows: Any = slice(None)) -> dict[str, float]:
    """Figures of each predictor over some of the frames."""
    metrics = {prefix + name: value for prefix, each in errors.items() for name, value in each.metrics(rows).items()}
    metrics["worst_psnr_db"] = psnr_db(errors[""].squared[rows].max())
    metrics["gain_over_mean_db"] = metrics["psnr_db"] - metrics["mean_psnr_db"]
    return metrics


def sampled(drawn: Iterable[DrawnBatch], study: Study) -> dict[str, float]:
    """Figures of a sample of another split."""
    return rebuilding_metrics(joined_errors([rebuilding_errors(each, study) for each in drawn]))


def named_strides(found: dict[str, float]) -> dict[str, float]:
    """The grid pattern of each stride, and the largest."""
    metrics = {f"grid_pattern/{stride}": figure for stride, figure in found.items()}
    return metrics | ({"grid_pattern": max(found.values())} if found else {})


def strides_in(found: Mapping[str, float]) -> dict[str, float]:
    """The grid pattern by stride, out of this evaluator's metrics."""
    prefix = "grid_pattern/"
    return {name.removeprefix(prefix): figure for name, figure in found.items() if name.startswith(prefix)}


def own(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of this evaluator, without their group."""
    prefix = f"{GROUP}/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def simple_psnr(found: Mapping[str, float]) -> dict[str, float]:
    """PSNR of the simple codes that could be used, by their names in words."""
    return {label: found[f"{name}_psnr_db"] for name, label in SIMPLE_CODES.items() if f"{name}_psnr_db" in found}


def simple_verdicts(found: Mapping[str, float]) -> Iterator[Verdict]:
    """Whether the model beats the better one of the simple codes."""
    if simple := simple_psnr(found):
        label, best = max(simple.items(), key=lambda item: item[1])
        gain, at = found["psnr_db"] - best, f"At equal bytes ({found['bytes']:.0f} a frame)"
        if gain <= 0:
            yield Verdict("bad", f"{at} {label}, which need no model, are as good or better ({best:.1f} dB).")
        elif gain < GAIN_DB:
            yield Verdict("weak", f"{at} it is hardly better than {label}, which need no model ({gain:+.1f} dB).")
        else:
            each = ", ".join(f"{found['psnr_db'] - value:.1f} dB better than {name}" for name, value in simple.items())
            yield Verdict("good", f"{at} it is {each}.")


def gap_verdicts(found: Mapping[str, float]) -> Iterator[Verdict]:
    """Whether training frames are reconstructed better than others."""
    if "gap_db" in found:
        gap = found["gap_db"]
        worse = f"Held-out frames are reconstructed {gap:.1f} dB worse than training frames"
        if gap >= LEARNT_DB:
            yield Verdict("bad", f"{worse}: it has learnt training frames by heart.")
        elif gap >= NEAR_DB:
            yield Verdict("weak", f"{worse}.")
        else:
            yield Verdict("good", f"Held-out frames are reconstructed as well as training frames ({-gap:+.1f} dB).")


def predictor_rows(found: Mapping[str, float]) -> list[Row]:
    """Measure, model, mean frame."""
    rows = [
        (label, *(form.format(found[who + name]) for who in ("", "mean_")))
        for name, label, form in (
            ("psnr_db", "PSNR, dB", "{:.2f}"),
            ("ssim", "SSIM", "{:.4f}"),
            ("l1", "L1, mean absolute error", "{:.5f}"),
            ("l2", "L2, root of the mean squared error", "{:.5f}"),
        )
    ]
    return [*rows, ("PSNR of the worst frame, dB", f"{found['worst_psnr_db']:.2f}", "")]


def split_rows(splits: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Measure, then one column for each split."""
    return [
        (label, *(form.format(found[name]) for found in splits.values()))
        for label, name, form in (
            ("PSNR, dB", "psnr_db", "{:.2f}"),
            ("mean frame, dB", "mean_psnr_db", "{:.2f}"),
            ("worst frame, dB", "worst_psnr_db", "{:.2f}"),
            ("SSIM", "ssim", "{:.4f}"),
            ("L1", "l1", "{:.5f}"),
        )
    ]


def simple_text(found: Mapping[str, float]) -> str:
    """What the simple codes of equal bytes reach, or why one does not apply."""
    text = f"A frame's codes take {found['bytes']:.0f} bytes. What simple codes show of a frame in as many bytes:"
    if "blocks_psnr_db" in found:
        text += (
            f" block means ({found['blocks_size']:.0f} x {found['blocks_size']:.0f} pixels are one, at 8 bits a "
            f"channel) {decibels(found['blocks_psnr_db'])};"
        )
    else:
        text += " block means do not apply, since a single one takes more;"
    if "runs_psnr_db" in found:
        text += (
            f" runs of palette colours (one of {found['runs_size']:.1f} x {found['runs_size']:.1f} pixels is kept, on "
            f"average; the palette is not counted) {decibels(found['runs_psnr_db'])}."
        )
    else:
        text += f" runs of palette colours do not apply, since some frames have more than {MAX_COLOURS} colours."
    return text


def rebuilt_sheet(examples: Iterable[Example]) -> np.ndarray:
    """Examples side by side, each a column of frame, reconstruction and difference: (H', W', 3) uint8."""
    shown = list(examples)
    rows = {
        "frame": [example.next for example in shown],
        "reconstruction": [example.prediction for example in shown],
    }
    return compared(rows, [example.where for example in shown])
