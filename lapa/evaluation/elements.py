"""Whether what is on the game's screen is drawn where it is; which elements there are, the game says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from lapa.data.splits import evenly_spaced
from lapa.evaluation.evaluator import Column, Evaluator, Verdict
from lapa.evaluation.study import DrawnBatch, Study
from lapa.games.game import Game, Measure, State, joined_states, known_games, unknown_game
from lapa.metrics.equal_bytes import SIMPLE_CODES, coded
from lapa.report.page import Page
from lapa.report.tables import Row

REBUILT = "elements/simple_frames"
"""Of systems that draw the very frame that they see: frames in which simple codes of equal bytes were judged."""

SIMPLE_FRAMES = 512
"""At most this number of frames, at even distances."""


class FoundElements:
    """What is on the screen in drawn and recorded frames of the judged clips; ask for it by :meth:`Study.shared`.

    Args:
        study: what is judged.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._predicted: list[State] = []
        self._copied: list[State] = []
        self._perfect: list[State] = []
        self._simple: dict[str, list[State]] = {}
        self._simple_rows: list[np.ndarray] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing was looked at."""
        return not self._predicted

    def add(self, predicted: State, copied: State, perfect: State) -> None:
        """Takes what was found in the predicted, the current and the true next frames of the next batch."""
        self._predicted.append(predicted)
        self._copied.append(copied)
        self._perfect.append(perfect)

    @property
    def num_simple(self) -> int:
        """In how many frames simple codes were looked at."""
        return sum(map(len, self._simple_rows))

    def add_simple(self, found: Mapping[str, State], rows: np.ndarray) -> None:
        """Takes what was found in some frames of the next batch as simple codes of equal bytes show them.

        Args:
            found: by the name of the code.
            rows: (R,) the numbers of their clips.
        """
        self._simple_rows.append(rows)
        for name, state in found.items():
            self._simple.setdefault(name, []).append(state)

    def compare(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """The game's own figures over some of the clips."""
        for parts in (self._predicted, self._copied, self._perfect):
            parts[:] = [joined_states(parts)]
        (predicted,) = self._predicted
        return self._compare({name: values[rows] for name, values in predicted.items()}, rows)

    def compare_simple(self) -> dict[str, dict[str, float]]:
        """The same of each simple code that could be used, over its sample of the clips."""
        found = {name: parts for name, parts in self._simple.items() if len(parts) == len(self._simple_rows)}
        rows = np.concatenate(self._simple_rows) if found else np.empty(0, int)
        return {name: self._compare(joined_states(parts), rows) for name, parts in found.items()}

    def _compare(self, predicted: State, rows: np.ndarray | slice) -> dict[str, float]:
        game = self._study.game
        assert game is not None
        (copied,), (perfect,) = self._copied, self._perfect
        before, after = self._study.shared(true_states)
        states = (copied, game.shown(before, copied), game.shown(after, perfect))
        return game.compare(predicted, *({name: values[rows] for name, values in state.items()} for state in states))


def true_states(study: Study) -> tuple[State, State]:
    """What the RAM says of the last two frames of each judged clip; ask for it by :meth:`Study.shared`."""
    assert study.game is not None
    before, after = [], []
    for episode in study.episodes:
        ram = episode.tracks.ram
        assert ram is not None
        rows = episode.step_rows(study.pair_starts(episode))
        before.append(ram[rows])
        after.append(ram[rows + 1])
    return study.game.state(np.concatenate(before)), study.game.state(np.concatenate(after))


class ElementsEvaluator(Evaluator):
    """Elements found in the predicted frames, compared with what the RAM says of the true ones."""

    group = "elements"
    rank = 1

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._found = study.shared(FoundElements)
        self._sample = evenly_spaced(len(study.clips), SIMPLE_FRAMES)

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs a system that draws, a known game, its RAM, and frames that are large enough."""
        what = study.game.elements if study.game else "what is on the screen"
        if not study.drawer:
            return f"{what}: {study.kind} draws no frames"
        if study.game is None:
            return f"{what}: {unknown_game()}"
        if any(episode.tracks.ram is None for episode in study.episodes):
            return f"{what}: the recording has no RAM"
        if study.format.is_resized:
            return f"{what}: the frames were resized"
        if study.format.downsample > study.game.max_downsample:
            return f"{what}: too small after {study.format.downsample}-fold downsampling"
        return None

    @property
    def _game(self) -> Game:
        assert self.study.game is not None
        return self.study.game

    def see(self, batch: DrawnBatch) -> None:
        """Keeps what is found in the frames, not the frames."""
        pixels = (255 * batch.drawn).round().to(torch.uint8)  # as a screen would show them
        last = batch.clips.frames[:, -2:]
        starts = self.study.clips.starts[batch.rows] + self.study.spec.frames - 2
        shown, places = np.unique(np.stack([starts, starts + 1]), return_inverse=True)  # most are in two clips
        once = np.empty(len(shown), dtype=np.int64)
        once[places.reshape(2, -1)] = np.arange(2 * len(starts)).reshape(2, -1)
        true = self._find(torch.cat([last[:, 0], last[:, 1]])[once])
        copied, perfect = ({name: values[rows] for name, values in true.items()} for rows in places.reshape(2, -1))
        self._found.add(self._find(pixels), copied, perfect)
        if self.study.rebuilds and self.study.coder:
            chosen = np.flatnonzero(np.isin(batch.rows, self._sample))
            if len(chosen):
                simple = coded(batch.clips.next[chosen], self.study.coder.bits / 8)
                found = {name: self._find((255 * each.pictures).round()) for name, each in simple.items()}
                self._found.add_simple(found, batch.rows[chosen])

    def _find(self, frames: Tensor) -> State:
        """What the game finds in frames with pixels up to 255."""
        return self._game.find(frames.numpy().astype(np.float32) / 255, self.study.format.downsample)

    def metrics(self) -> dict[str, float]:
        """The game's own. Who sees the frame is compared with simple codes of it, not with the frame before."""
        found = self._found.compare()
        if not self.study.rebuilds:
            return found
        metrics = {name: value for name, value in found.items() if not ("copy_" in name or "changed_" in name)}
        metrics["simple_frames"] = float(self._found.num_simple)
        for who, simple in self._found.compare_simple().items():
            for measure in self._game.measures:
                if (name := measure.metric.format("")) in metrics and name in simple:
                    metrics[measure.metric.format(f"{who}_")] = simple[name]
        return metrics

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Those that the games choose for a summary."""
        rows: list[Row] = []
        for measure in known_measures():
            model, copied = names_of(measure)
            if model not in metrics:
                continue
            if REBUILT in metrics:
                if measure.rebuilt:
                    against = [
                        f"{label} {measure.form(metrics[name])}"
                        for who, label in SIMPLE_CODES.items()
                        if (name := full_name(measure, f"{who}_")) in metrics
                    ]
                    rows.append((measure.rebuilt, measure.form(metrics[model]), ", ".join(against)))
            elif measure.summary:
                against_copy = f"copying {measure.form(metrics[copied])}" if copied in metrics else ""
                rows.append((measure.summary, measure.form(metrics[model]), against_copy))
        return rows

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """The games' remarks."""
        prefix = f"{cls.group}/"
        own = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
        for remark in dict.fromkeys(remark for game in known_games() for remark in game.remarks(own)):
            yield Verdict(remark.level, remark.sentence)

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Those that the games choose for a comparison."""
        measures = known_measures()
        return (
            *(Column(each.column, names_of(each)[0], each.form) for each in measures if each.column),
            *(
                Column(each.rebuilt, names_of(each)[0], each.form, beside=REBUILT)
                for each in measures
                if each.rebuilt and not each.column
            ),
        )

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """All measures of the game."""
        title = self._game.elements
        page.heading(title[0].upper() + title[1:], "elements")
        if self.study.rebuilds:
            text = (
                "Found in the reconstructed frames and compared with the RAM. Distances are in pixels of the recorded "
                "frame."
            )
            if metrics[REBUILT]:
                judged = f"{metrics[REBUILT]:,.0f} frames at even distances"
                text += f" The simple codes of equal bytes are judged on {judged}."
            page.text(text)
            known = {who: label for who, label in SIMPLE_CODES.items() if self._has_simple(who, metrics)}
            predictors = {"": "model", **{f"{who}_": label for who, label in known.items()}}
            page.table(("", *predictors.values()), element_rows(self._game.measures, metrics, tuple(predictors)))
            return
        page.text(
            "Found in the predicted frames and compared with the RAM. Distances are in pixels of the recorded frame. "
            "What does not change is right if the current frame is copied; so look at what changed, and at what moves."
        )
        page.table(("", "model", "copying"), element_rows(self._game.measures, metrics))

    def _has_simple(self, who: str, metrics: Mapping[str, float]) -> bool:
        return any(full_name(measure, f"{who}_") in metrics for measure in self._game.measures)


def known_measures() -> list[Measure]:
    """The measures of all games, each metric once."""
    found: dict[str, Measure] = {}
    for game in known_games():
        for measure in game.measures:
            found.setdefault(measure.metric, measure)
    return list(found.values())


def full_name(measure: Measure, who: str) -> str:
    """The full name of its metric: of the model (``who`` is empty), of copying (``copy_``), of a simple code."""
    return f"{ElementsEvaluator.group}/{measure.metric.format(who)}"


def names_of(measure: Measure) -> tuple[str, str]:
    """The full names of its metric, of the model and of copying."""
    return full_name(measure, ""), full_name(measure, "copy_")


def element_rows(
    measures: tuple[Measure, ...], metrics: Mapping[str, float], predictors: tuple[str, ...] = ("", "copy_")
) -> list[Row]:
    """Measure, then its figure for each predictor; by default the model and copying."""
    rows = []
    for measure in measures:
        names = [full_name(measure, who) for who in predictors]
        if any(name in metrics for name in names):
            cells = (measure.form(metrics[name]) if name in metrics else "-" for name in names)
            rows.append((measure.label, *cells))
    return rows
