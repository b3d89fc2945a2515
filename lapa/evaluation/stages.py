"""How well it draws in each stage of the game, and in the episodes of each start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np

from lapa.evaluation.drawing import KeptErrors, drawing_metrics
from lapa.evaluation.elements import FoundElements, known_measures, true_states
from lapa.evaluation.evaluator import GAIN_DB, Column, Evaluator, Verdict, named
from lapa.evaluation.study import Study
from lapa.games.game import Measure, unknown_game
from lapa.report.page import Page
from lapa.report.tables import Row

ENOUGH = 30
"""Of a stage with fewer pairs than this, figures are unsure: they are shown, but nothing is concluded."""

GAIN, SSIM, PAIRS = "gain_over_copy_db", "ssim_over_copy", "pairs"
WORST = f"stages/worst/{GAIN}"

PSNR, OWN_SSIM = "psnr_db", "ssim"
"""Those of a system that sees the frame which it draws, for which copying is no measure."""
WORST_PSNR, BELOW = f"stages/worst/{PSNR}", "stages/worst/below_all_db"

Form = Callable[[float], str]
GAIN_FORMS: Mapping[str, Form] = {GAIN: "{:+.2f}".format, SSIM: "{:+.4f}".format}
FORMS: Mapping[str, Form] = {PSNR: "{:.2f}".format, OWN_SSIM: "{:.4f}".format}

FAR_DB = 3.0
"""A stage that is reconstructed worse than all frames together by this is named as a weakness."""


class StagesEvaluator(Evaluator):
    """Figures of the other evaluators over the pairs of each stage of the game, and of each start.

    A stage is a part of the first aspect of the game. That of a pair is the stage of its current frame, by the RAM;
    that of a single frame is its own.
    """

    group = "stages"
    rank = 1

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs a system that draws; and a known game that has stages and its RAM, or episodes with named starts."""
        if not study.drawer:
            return f"stages: {study.kind} draws no frames"
        if any("start" in episode.tracks.meta for episode in study.episodes):
            return None
        if study.game is None:
            return f"stages: {unknown_game()}"
        if not study.game.aspects:
            return f"stages: none are known of {study.game.title}"
        return None if has_ram(study) else "stages: the recording has no RAM"

    def metrics(self) -> dict[str, float]:
        """Those of each stage and start, and the gain, or the PSNR, in the worst stage."""
        metrics: dict[str, float] = {}
        for name, rows in [*self._stages(), *self._starts()]:
            metrics |= {f"{name}/{figure}": value for figure, value in self._figures(rows).items()}
        all_of = named(self.group, metrics)
        if worst := worst_of(all_of, "part"):
            metrics[WORST.removeprefix(f"{self.group}/")] = worst[1]
        if worst := worst_of(all_of, "part", PSNR):
            whole = self._figures(np.arange(len(self.study.clips)))[PSNR]
            metrics[WORST_PSNR.removeprefix(f"{self.group}/")] = worst[1]
            metrics[BELOW.removeprefix(f"{self.group}/")] = whole - worst[1]
        return metrics

    def _stages(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and clips (R,) of each stage."""
        game = self.study.game
        if game is None or not game.aspects or not has_ram(self.study):
            return
        before, after = self.study.shared(true_states)
        stage = game.aspects[0].find(after if self.study.rebuilds else before)
        for part in range(len(game.aspects[0].parts)):
            yield f"part/{game.aspects[0].phrase(part).replace(' ', '_')}", np.flatnonzero(stage == part)

    def _starts(self) -> Iterator[tuple[str, np.ndarray]]:
        """Name and clips (R,) of each start that an episode names, in the order of the game."""
        episodes = self.study.episodes
        starts = [str(episode.tracks.meta.get("start", "")) for episode in episodes]
        of_clip = np.repeat(starts, [len(self.study.pair_starts(episode)) for episode in episodes])
        known = [*self.study.game.starts] if self.study.game else []
        others = sorted({*starts} - {*known, ""})
        for start in [*(name for name in known if name in starts), *others]:
            yield f"start/{start}", np.flatnonzero(of_clip == start)

    def _figures(self, rows: np.ndarray) -> dict[str, float]:
        """The number of pairs; of the pictures the gain in PSNR and in SSIM; what the game has in its summary.

        Of a system that sees the frame which it draws, PSNR and SSIM themselves.
        """
        found = {PAIRS: float(len(rows))}
        if not len(rows):
            return found
        errors = self.study.shared(KeptErrors).errors
        if self.study.rebuilds:
            found |= {name: value for name, value in errors[""].metrics(rows).items() if name in (PSNR, OWN_SSIM)}
        else:
            drawn = drawing_metrics(errors, rows)
            found |= {GAIN: drawn[GAIN], SSIM: drawn["ssim"] - drawn["copy_ssim"]}
        elements = self.study.shared(FoundElements)
        if self.study.game and not elements.is_empty:
            predictors = ("",) if self.study.rebuilds else ("", "copy_")
            chosen = {measure.metric.format(who) for measure in self._measures() for who in predictors}
            found |= {name: value for name, value in elements.compare(rows).items() if name in chosen}
        return found

    def _measures(self) -> list[Measure]:
        """Those of the game that stand in the summary of such a system."""
        measures = self.study.game.measures if self.study.game else ()
        return [each for each in measures if (each.rebuilt if self.study.rebuilds else each.summary)]

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """The worst stage, the worst start, and the game's first measure where it is lowest."""
        rows: list[Row] = []
        for kind, label in (("part", "worst stage"), ("start", "worst start")):
            if worst := worst_of(metrics, kind):
                rows.append((f"PSNR gain over copying, {label}", f"{worst[1]:+.1f} dB", in_words(worst[0])))
            if worst := worst_of(metrics, kind, PSNR):
                rows.append((f"PSNR, {label}", f"{worst[1]:.1f} dB", in_words(worst[0])))
        for measure in known_measures():
            name = measure.metric.format("")
            if measure.summary and (worst := worst_of(metrics, "part", name)):
                rows.append((f"{measure.label}, worst stage", measure.form(worst[1]), in_words(worst[0])))
                break
        return rows

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """Names the worst stage."""
        if worst := worst_of(metrics, "part"):
            stage, gain = worst
            level: Literal["good", "weak", "bad"] = "good" if gain >= GAIN_DB else "weak" if gain > 0 else "bad"
            yield Verdict(level, f"Worst stage: {in_words(stage)}, {gain:+.1f} dB over copying.")
        if BELOW in metrics and (worst := worst_of(metrics, "part", PSNR)):
            stage, psnr = worst
            below = metrics[BELOW]
            level = "good" if below < FAR_DB else "weak"
            yield Verdict(level, f"Worst stage: {in_words(stage)}, {psnr:.1f} dB, {below:.1f} dB below all frames.")

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """The gain, or the PSNR, in the worst stage."""
        return (
            Column("gain in the worst stage, dB", WORST, "{:+.2f}".format),
            Column("PSNR in the worst stage, dB", WORST_PSNR, "{:.2f}".format),
        )

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """One table."""
        page.heading("Stages of the game", "stages")
        measures = self._measures()
        if self.study.rebuilds:
            labels = [measure.rebuilt for measure in measures]
            page.text(
                "Over the frames that are in a stage, and over those of the episodes that begin at a named start. From "
                f"fewer than {ENOUGH} frames nothing is concluded."
            )
            page.table(("", "frames", "PSNR, dB", "SSIM", *labels), stage_rows(metrics, measures, FORMS))
            return
        page.text(
            "Over the pairs whose current frame is in a stage, and over those of the episodes that begin at a named "
            f"start. From fewer than {ENOUGH} pairs nothing is concluded."
        )
        labels = [measure.label for measure in measures]
        page.table(("", "pairs", "PSNR gain, dB", "SSIM gain", *labels), stage_rows(metrics, measures))


def has_ram(study: Study) -> bool:
    """Whether all judged episodes have their RAM."""
    return all("ram" in episode.tracks for episode in study.episodes)


def places_of(metrics: Mapping[str, float], kind: str = "") -> list[str]:
    """What metrics are of, as ``stages/kind/name``: stages (``kind`` is ``part``), starts (``start``), or both."""
    names = (name for name in metrics if name.startswith(f"stages/{kind}") and name.endswith(f"/{PAIRS}"))
    return [name.removesuffix(f"/{PAIRS}") for name in names]


def worst_of(metrics: Mapping[str, float], kind: str, figure: str = GAIN) -> tuple[str, float] | None:
    """The stage or start, of those with enough pairs, where a figure is lowest, and that figure."""
    known = {
        place: metrics[f"{place}/{figure}"]
        for place in places_of(metrics, kind)
        if metrics[f"{place}/{PAIRS}"] >= ENOUGH and f"{place}/{figure}" in metrics
    }
    return min(known.items(), key=lambda item: item[1]) if known else None


def in_words(place: str) -> str:
    """Such as ``"1 to 18 bricks standing"``, or ``"start last_bricks"``."""
    _, kind, name = place.split("/", 2)
    return name.replace("_", " ") if kind == "part" else f"start {name}"


def stage_rows(
    metrics: Mapping[str, float], measures: list[Measure], pictures: Mapping[str, Form] = GAIN_FORMS
) -> list[Row]:
    """Stage or start, pairs, figures of the pictures (by default gains), and the measures of the game."""
    forms = {**pictures, **{m.metric.format(""): m.form for m in measures}}
    rows: list[Row] = []
    for place in places_of(metrics):
        found = {figure: metrics.get(f"{place}/{figure}") for figure in forms}
        cells = ("" if value is None else forms[figure](value) for figure, value in found.items())
        rows.append((in_words(place), f"{metrics[f'{place}/{PAIRS}']:,.0f}", *cells))
    return rows
