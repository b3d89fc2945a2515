"""What a grid of codes most likely means: linear classifiers of action and events, kept to be asked later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lapa.evaluation.actions import Probed, probed
from lapa.evaluation.evaluator import Evaluator
from lapa.evaluation.events import code_events, fitting_events
from lapa.evaluation.grid import coder_of, number_of_codes
from lapa.evaluation.probe import fit_linear, one_hot
from lapa.evaluation.study import Study
from lapa.inference.reading import READER_FILE, CodeReader
from lapa.report.page import Page
from lapa.report.tables import Row, percent


class ReadingEvaluator(Evaluator):
    """How well events are read from all codes of a grid together.

    It writes the classifiers next to the report. Where neither actions nor events are known, they read nothing.
    """

    group = "reading"

    @classmethod
    def skip(cls, study: Study) -> str | None:
        """It needs codes of transitions."""
        reason = study.without_transition_codes()
        return f"reading: {reason}" if reason else None

    def metrics(self) -> dict[str, float]:
        """Those of :func:`event_reading_metrics`, where events of training episodes are known."""
        events, codes = self.study.shared(code_events), self.study.codes
        if events is None or codes is None or self.study.shared(fitting_events) is None:
            return {}
        return event_reading_metrics(self.study.shared(reader_of), codes, events.happens, events.names)

    def section(self, page: Page, metrics: Mapping[str, float]) -> None:
        """A table that ends the section on events."""
        events = self.study.shared(code_events)
        if events and (rows := reading_rows(metrics, events.names)):
            page.text(
                "What a linear classifier, fitted on training episodes, reads from all codes of a grid together. The "
                "average precision of guessing is the share of the transitions in which the event happens."
            )
            page.table(("event", "of transitions", "average precision", "precision", "recall"), rows)

    def write(self, out: Path) -> None:
        """Writes the classifiers, for the live view."""
        self.study.shared(reader_of).save(out / READER_FILE, self.study.checkpoint.digest)


def reader_of(study: Study) -> CodeReader:
    """The reader of a study's codes; ask for it by :meth:`Study.shared`."""
    coder, seen = coder_of(study), study.shared(fitting_events)
    # With a lag, the action is not that of the transition whose codes are read.
    actions: Probed | None = study.shared(probed) if study.lag == 0 else None
    codes = study.fitting_codes if seen is not None or actions else study.codes
    assert codes is not None
    return fit_reader(
        codes,
        number_of_codes(coder),
        np.searchsorted(actions.classes, actions.fitted.actions) if actions else None,
        actions.names if actions else [],
        seen,
        study.game.event_names if study.game else (),
    )


def reading_rows(metrics: Mapping[str, float], events: Sequence[str]) -> list[Row]:
    """Event, its share, and how well it is read from the codes."""
    rows: list[Row] = []
    for name in events:
        group = f"reading/{name.replace(' ', '_')}"
        if f"{group}/share" in metrics:
            share, precision, recall = (percent(metrics[f"{group}/{f}"]) for f in ("share", "precision", "recall"))
            rows.append((name, share, f"{metrics[f'{group}/average_precision']:.3f}", precision, recall))
    return rows


def fit_reader(
    codes: np.ndarray,
    num_codes: int,
    actions: np.ndarray | None,
    action_names: Sequence[str],
    happens: np.ndarray | None,
    event_names: Sequence[str],
) -> CodeReader:
    """Fits a reader on P transitions.

    Args:
        codes: (P, h, w * n).
        num_codes: K.
        actions: (P,) classes, each an index of ``action_names``; None where they are not known.
        action_names: of the classes.
        happens: (P, E) bool, which events happen; None where they are not known.
        event_names: of the events.
    """
    seen = one_hot(codes, num_codes)
    told = [] if happens is None else [e for e in range(len(event_names)) if 0 < happens[:, e].sum() < len(happens)]
    labels = [] if happens is None else [happens[:, event] for event in told]
    if actions is not None and len(np.unique(actions)) > 1:
        labels.insert(0, actions)
    probes = fit_linear((seen, each) for each in labels)
    columns, bias, names = [], [], []
    if len(probes) > len(told):  # the first one reads the action
        fitted = probes.pop(0)
        two = len(fitted.classes_) == 2
        # Of two classes there is one score, that of the second against the first.
        columns += [np.zeros_like(fitted.coef_[0]), *fitted.coef_] if two else list(fitted.coef_)
        bias += [0.0, *fitted.intercept_] if two else list(fitted.intercept_)
        names = [action_names[label] for label in fitted.classes_]
    columns += [probe.coef_[0] for probe in probes]
    bias += [float(probe.intercept_[0]) for probe in probes]
    events = [event_names[event] for event in told]
    weights = np.stack(columns, axis=1) if columns else np.zeros((seen.shape[1], 0))
    return CodeReader(
        num_codes, tuple(names), tuple(events), weights.astype(np.float32), np.array(bias, dtype=np.float32)
    )


def event_reading_metrics(
    reader: CodeReader, codes: np.ndarray, happens: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """How well a reader tells the events of judged transitions (P, E), from all their codes together.

    For each event that happens: ``<event>/share``, of the transitions, which is the average precision of guessing;
    ``<event>/average_precision``, and ``<event>/precision`` and ``<event>/recall`` of saying what is more likely than
    not.
    """
    from sklearn.metrics import average_precision_score

    metrics = {}
    _, probabilities = reader.probabilities(codes)
    for column, name in enumerate(reader.events):
        truth, said = happens[:, names.index(name)], probabilities[:, column]
        if not truth.any():
            continue
        slug, found = name.replace(" ", "_"), truth & (said > 0.5)
        metrics[f"{slug}/share"] = float(truth.mean())
        metrics[f"{slug}/average_precision"] = float(average_precision_score(truth, said))
        metrics[f"{slug}/precision"] = float(found.sum() / max(1, (said > 0.5).sum()))
        metrics[f"{slug}/recall"] = float(found.sum() / truth.sum())
    return metrics
