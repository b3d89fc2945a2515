"""What a grid of codes most likely means: linear classifiers of action and events, to be kept and asked later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lapa.data.files import DAMAGED_NPZ, atomic_file
from lapa.errors import DataError
from lapa.evaluation.probe import linear, one_hot

READER_FILE = "code_reader.npz"


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one grid of codes means.

    Attributes:
        action: the likeliest action and its probability; None where actions were not known.
        events: those more likely than not, likeliest first, with their probabilities.
    """

    action: tuple[str, float] | None
    events: list[tuple[str, float]]

    def __str__(self) -> str:
        named = [self.action] if self.action else []
        return ", ".join(f"{name} {probability:.0%}" for name, probability in [*named, *self.events])


@dataclasses.dataclass(frozen=True)
class CodeReader:
    """Logistic regressions on one-hot codes: one of the action, one of each event.

    Attributes:
        num_codes: K.
        actions: names of the A action classes; none where actions were not known.
        events: names of the E events; none where the game is not known.
        weights: (h * w * n * K, A + E) float32.
        bias: (A + E,) float32.
    """

    num_codes: int
    actions: tuple[str, ...]
    events: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray

    def probabilities(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each action (P, A), summing to 1, and of each event (P, E), from codes (P, h, w * n)."""
        flat = codes.reshape(len(codes), -1).astype(np.int64)
        rows = flat + self.num_codes * np.arange(flat.shape[1])
        scores = self.weights[rows].sum(1) + self.bias  # (P, A + E)
        of_actions, of_events = scores[:, : len(self.actions)], scores[:, len(self.actions) :]
        raised = np.exp(of_actions - of_actions.max(1, keepdims=True, initial=-np.inf))
        return raised / np.maximum(raised.sum(1, keepdims=True), 1e-30), 1 / (1 + np.exp(-of_events))

    def read(self, codes: np.ndarray) -> Reading:
        """What the codes (h, w * n) of one transition mean."""
        of_actions, of_events = (rows[0] for rows in self.probabilities(codes[None]))
        best = int(of_actions.argmax()) if len(of_actions) else -1
        likely = [int(event) for event in np.argsort(-of_events, kind="stable") if of_events[event] > 0.5]
        return Reading(
            action=(self.actions[best], float(of_actions[best])) if best >= 0 else None,
            events=[(self.events[event], float(of_events[event])) for event in likely],
        )

    def save(self, path: Path, checkpoint: str) -> None:
        """Writes it as an ``npz`` file, with the digest of the checkpoint whose codes it reads."""
        facts = {"checkpoint": checkpoint, "num_codes": self.num_codes, "actions": self.actions, "events": self.events}
        with atomic_file(path) as file:
            np.savez_compressed(
                file, facts=np.array(json.dumps(facts)), weights=self.weights.astype(np.float16), bias=self.bias
            )


def load_reader(path: Path, checkpoint: str) -> CodeReader:
    """What :meth:`CodeReader.save` wrote.

    Args:
        path: the file.
        checkpoint: digest of the checkpoint whose codes are to be read.

    Raises:
        DataError: the file is missing, damaged, or reads another checkpoint's codes.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            facts = json.loads(str(stored["facts"]))
            weights, bias = stored["weights"].astype(np.float32), stored["bias"]
        reader = CodeReader(facts["num_codes"], tuple(facts["actions"]), tuple(facts["events"]), weights, bias)
        kept_for = str(facts["checkpoint"])
        if weights.shape[1:] != bias.shape or len(bias) != len(reader.actions) + len(reader.events):
            raise ValueError(f"{weights.shape} weights for {len(bias)} scores")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `lapa evaluate` writes it") from None
    except DAMAGED_NPZ as error:
        raise DataError(f"{path}: cannot be used ({error}); run `lapa evaluate` again") from None
    if kept_for != checkpoint:
        raise DataError(
            f"{path}: reads the codes of checkpoint {kept_for}, not of {checkpoint}; run `lapa evaluate` on this one"
        )
    return reader


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
