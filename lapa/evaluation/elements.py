"""Whether what is on the game's screen is drawn where it is; which elements there are, the game says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from lapa.evaluation.evaluator import Column, Evaluator, Verdict
from lapa.evaluation.study import DrawnBatch, Study
from lapa.games.game import Game, Measure, State, joined_states, known_games, unknown_game
from lapa.report.page import Page
from lapa.report.tables import Row


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

    @property
    def is_empty(self) -> bool:
        """Whether nothing was looked at."""
        return not self._predicted

    def add(self, predicted: State, copied: State, perfect: State) -> None:
        """Takes what was found in the predicted, the current and the true next frames of the next batch."""
        self._predicted.append(predicted)
        self._copied.append(copied)
        self._perfect.append(perfect)

    def compare(self, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        """The game's own figures over some of the clips."""
        game = self._study.game
        assert game is not None
        for parts in (self._predicted, self._copied, self._perfect):
            parts[:] = [joined_states(parts)]
        (predicted,), (copied,), (perfect,) = self._predicted, self._copied, self._perfect
        before, after = self._study.shared(true_states)
        states = (predicted, copied, game.shown(before, copied), game.shown(after, perfect))
        return game.compare(*({name: values[rows] for name, values in state.items()} for state in states))


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
        downsample = self.study.format.downsample
        pixels = (255 * batch.drawn).round().to(torch.uint8)  # as a screen would show them
        predicted, copied, perfect = (
            self._game.find(frames.numpy().astype(np.float32) / 255, downsample)
            for frames in (pixels, batch.clips.current, batch.clips.next)
        )
        self._found.add(predicted, copied, perfect)

    def metrics(self) -> dict[str, float]:
        """The game's own."""
        return self._found.compare()

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Those that the games choose for a summary."""
        rows: list[Row] = []
        for measure in known_measures():
            model, copied = names_of(measure)
            if measure.summary and model in metrics:
                against = f"copying {measure.form(metrics[copied])}" if copied in metrics else ""
                rows.append((measure.summary, measure.form(metrics[model]), against))
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
        return tuple(
            Column(measure.column, names_of(measure)[0], measure.form) for measure in known_measures() if measure.column
        )

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """All measures of the game."""
        title = self._game.elements
        page.heading(title[0].upper() + title[1:], "elements")
        page.text(
            "Found in the predicted frames and compared with the RAM. Distances are in pixels of the recorded frame. "
            "What does not change is right if the current frame is copied; so look at what changed, and at what moves."
        )
        page.table(("", "model", "copying"), element_rows(self._game.measures, metrics))


def known_measures() -> list[Measure]:
    """The measures of all games, each metric once."""
    found: dict[str, Measure] = {}
    for game in known_games():
        for measure in game.measures:
            found.setdefault(measure.metric, measure)
    return list(found.values())


def names_of(measure: Measure) -> tuple[str, str]:
    """The full names of its metric, of the model and of copying."""
    model, copied = (f"{ElementsEvaluator.group}/{measure.metric.format(who)}" for who in ("", "copy_"))
    return model, copied


def element_rows(measures: tuple[Measure, ...], metrics: Mapping[str, float]) -> list[Row]:
    """Measure, model, copying."""
    rows = []
    for measure in measures:
        names = names_of(measure)
        if any(name in metrics for name in names):
            cells = (measure.form(metrics[name]) if name in metrics else "-" for name in names)
            rows.append((measure.label, *cells))
    return rows
