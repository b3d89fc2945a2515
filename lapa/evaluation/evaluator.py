"""What each measure of the evaluation provides.

One measure is one file: its metrics, its lines in the summary, its sentences, its pictures, its section of the report,
and its columns in a comparison. :mod:`lapa.evaluation.evaluate`, ``report`` and ``compare`` go through the evaluators
and know none of them by name.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from lapa.report.page import Page
from lapa.report.tables import Row

if TYPE_CHECKING:
    from lapa.evaluation.study import DrawnBatch, Study

GAIN_DB = 1.0
"""A gain over copying, or a loss by wrong codes, below this is next to nothing."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence; ``level`` says whether it speaks for the model."""

    level: Literal["good", "weak", "bad"]
    sentence: str


class Column(NamedTuple):
    """A column of a comparison.

    Attributes:
        label: its name.
        metric: the metric's full name.
        form: the figure as text.
        beside: full name of a metric of the same run without which this one is not shown; none if it always is.
    """

    label: str
    metric: str
    form: Callable[[float], str]
    beside: str = ""

    def is_in(self, metrics: Container[str]) -> bool:
        """Whether a run with these metrics has it."""
        return self.metric in metrics and (not self.beside or self.beside in metrics)


class Evaluator(ABC):
    """One measure of a system.

    :func:`lapa.evaluation.evaluate.evaluate` asks :meth:`skip`, makes an instance, shows it each batch of judged clips
    once, and then asks for :meth:`metrics`. What is not kept of a batch is gone; an evaluator keeps figures, never
    frames, and asks the study to draw again the few that it shows.

    Rows, verdicts and columns are made from metrics alone, so those of an earlier report will do; what is missing in
    the metrics is passed over.

    Args:
        study: what is judged.

    Attributes:
        group: the first part of its metrics' names, which no other evaluator uses.
        rank: rows and verdicts are sorted by it; those of one rank stand in the order of the evaluators.
    """

    group: ClassVar[str]
    rank: ClassVar[int] = 0

    def __init__(self, study: Study) -> None:
        self.study = study

    @classmethod
    def applies(cls, study: Study) -> bool:
        """Whether it is a measure of this kind of system; of one that is not, the report says nothing."""
        return True

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """Why it cannot be done, as ``what: reason``; None if it can. Asked where it :meth:`applies`."""
        return None

    def see(self, batch: DrawnBatch) -> None:  # noqa: B027 # most need none
        """Called with each batch of the judged clips, in order."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Its figures, without the group. Called once, after all batches.

        Raises:
            DataError: the options of the evaluation leave it nothing to judge.
        """

    @classmethod
    def rows(cls, metrics: Mapping[str, float]) -> list[Row]:
        """Its lines in the summary: what was measured, the figure, what to compare it with."""
        return []

    @classmethod
    def verdicts(cls, metrics: Mapping[str, float]) -> Iterator[Verdict]:
        """What its figures come to, in words."""
        yield from ()

    @classmethod
    def columns(cls) -> tuple[Column, ...]:
        """Its columns in a comparison of runs."""
        return ()

    def images(self, metrics: Mapping[str, float]) -> dict[str, bytes]:
        """Its pictures and diagrams by file name; ``metrics`` are those of all evaluators by their full names."""
        return {}

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:  # noqa: B027 # most need none
        """Adds its section to the report; ``page.images`` has the figures of all evaluators."""

    def details(self) -> dict[str, Any]:
        """What it adds to ``metrics.json`` next to its metrics, as plain values."""
        return {}

    def write(self, out: Path) -> None:  # noqa: B027 # most need none
        """Writes what others read into the report's folder."""


def named(group: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics with their group's name before them."""
    return {f"{group}/{name}": value for name, value in metrics.items()}
