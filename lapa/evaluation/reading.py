"""What a grid of codes most likely means: linear classifiers of action and events, to be kept and asked later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lapa.evaluation.probe import linear, one_hot
from lapa.inference.reading import CodeReader


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
    columns, bias, names, events = [], [], [], []
    if actions is not None and len(np.unique(actions)) > 1:
        fitted = linear().fit(seen, actions)
        two = len(fitted.classes_) == 2
        # Of two classes there is one score, that of the second against the first.
        columns += [np.zeros_like(fitted.coef_[0]), *fitted.coef_] if two else list(fitted.coef_)
        bias += [0.0, *fitted.intercept_] if two else list(fitted.intercept_)
        names = [action_names[label] for label in fitted.classes_]
    if happens is not None:
        for event, name in enumerate(event_names):
            if 0 < happens[:, event].sum() < len(happens):
                fitted = linear().fit(seen, happens[:, event])
                columns.append(fitted.coef_[0])
                bias.append(float(fitted.intercept_[0]))
                events.append(name)
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
