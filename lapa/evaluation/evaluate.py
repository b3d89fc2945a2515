"""A trained system judged on held-out episodes, by each measure that it and the recording allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar

from lapa.data.store import FrameStore
from lapa.engine.checkpoint import Checkpoint
from lapa.evaluation.actions import ActionsEvaluator
from lapa.evaluation.codebook import CodebookEvaluator
from lapa.evaluation.control import ControlEvaluator
from lapa.evaluation.drawing import DrawingEvaluator
from lapa.evaluation.dream import DreamEvaluator
from lapa.evaluation.elements import ElementsEvaluator
from lapa.evaluation.evaluator import Column, Evaluator, Verdict, named
from lapa.evaluation.events import EventsEvaluator
from lapa.evaluation.reading import ReadingEvaluator
from lapa.evaluation.rebuilding import RebuildingEvaluator
from lapa.evaluation.recordings import RecordingsEvaluator
from lapa.evaluation.speed import SpeedEvaluator
from lapa.evaluation.stages import StagesEvaluator
from lapa.evaluation.study import Study
from lapa.progress import notify as print_line
from lapa.report.tables import Row

EVALUATORS: tuple[type[Evaluator], ...] = (
    DrawingEvaluator,
    RebuildingEvaluator,
    RecordingsEvaluator,
    ElementsEvaluator,
    StagesEvaluator,
    CodebookEvaluator,
    EventsEvaluator,
    ReadingEvaluator,
    ControlEvaluator,
    DreamEvaluator,
    ActionsEvaluator,
    SpeedEvaluator,
)
"""All measures, in the order of the report's sections."""

Kind = TypeVar("Kind", bound=Evaluator)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes:
        study: what was judged.
        evaluators: those that could be used, in the order of the report's sections.
        metrics: ``group/name`` -> figure.
        verdicts: what they come to.
        left_out: one sentence for each measure that the recording or the system does not allow.
    """

    study: Study
    evaluators: list[Evaluator]
    metrics: dict[str, float]
    verdicts: list[Verdict]
    left_out: list[str]

    @property
    def split(self) -> str:
        """Name of the judged split."""
        return self.study.split

    @property
    def episodes(self) -> list[str]:
        """Names of the judged episodes."""
        return [episode.name for episode in self.study.episodes]

    def find(self, kind: type[Kind]) -> Kind | None:
        """The evaluator of a kind, if it could be used."""
        return next((each for each in self.evaluators if isinstance(each, kind)), None)

    def details(self) -> dict[str, Any]:
        """What all evaluators add to ``metrics.json``."""
        return {name: value for each in self.evaluators for name, value in each.details().items()}


def evaluate(
    checkpoint: Checkpoint,
    store: FrameStore,
    split: str = "test",
    *,
    lag: int = 0,
    batch_size: int = 64,
    notify: Callable[[str], None] = print_line,
) -> Evaluation:
    """Judges a checkpoint on one split of the episodes it was trained on, or on another recording.

    Episodes are known by their names. Where the checkpoint knows none of the recording's, all are judged; where it has
    others of the same names, ``all`` says that these are not they.

    Args:
        checkpoint: the trained system.
        store: the recording.
        split: ``train``, ``val``, ``test``, or ``all``.
        lag: the probe reads the action taken this number of steps before the transition.
        batch_size: clips in a forward pass.
        notify: told in one line each what takes long.

    Raises:
        CheckpointError: the checkpoint does not fit the frames.
        DataError: the split holds no episodes of this store, or the lag leaves none.
    """
    study = Study(checkpoint, store, split, lag=lag, batch_size=batch_size, notify=notify)
    evaluators: list[Evaluator] = []
    left_out: list[str] = []
    for kind in EVALUATORS:
        if not kind.applies(study):
            continue
        if reason := kind.skip(study):
            left_out.append(reason)
        else:
            evaluators.append(kind(study))
    show_clips(study, evaluators)
    metrics: dict[str, float] = {}
    for evaluator in evaluators:
        metrics |= named(evaluator.group, evaluator.metrics())
    return Evaluation(study, evaluators, metrics, verdicts(metrics), left_out)


def joined_reasons(left_out: Sequence[str]) -> list[str]:
    """The same sentences, those of one reason as one: ``events, reading: reason``."""
    by_reason: dict[str, list[str]] = {}
    for sentence in left_out:
        what, _, reason = sentence.partition(": ")
        by_reason.setdefault(reason, []).append(what)
    return [f"{', '.join(what)}: {reason}" for reason, what in by_reason.items()]


def show_clips(study: Study, evaluators: Sequence[Evaluator]) -> None:
    """Labels and draws the judged clips, once, and shows each batch to all evaluators."""
    if not (study.coder or study.drawer):
        return
    for batch in study.judged_batches():
        for evaluator in evaluators:
            evaluator.see(batch)


def by_rank() -> list[type[Evaluator]]:
    """All measures in the order of the summary."""
    return sorted(EVALUATORS, key=lambda kind: kind.rank)


def verdicts(metrics: Mapping[str, float]) -> list[Verdict]:
    """What metrics come to; those that are missing are passed over."""
    return [verdict for kind in by_rank() for verdict in kind.verdicts(metrics)]


def summary_rows(metrics: Mapping[str, float]) -> list[Row]:
    """The table of a run: what was measured, the figure, and what to compare it with; only what was measured."""
    return [row for kind in by_rank() for row in kind.rows(metrics)]


def comparison_columns(found: Sequence[Container[str]] | None = None) -> list[Column]:
    """The columns of a comparison of runs: those that any of these metrics has, or all."""
    columns = [column for kind in EVALUATORS for column in kind.columns()]
    return [column for column in columns if found is None or any(column.is_in(each) for each in found)]
