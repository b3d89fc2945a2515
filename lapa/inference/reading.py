"""What a grid of codes most likely means: a reader that an evaluation has fitted."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from lapa.data.files import DAMAGED_NPZ, atomic_file
from lapa.errors import DataError

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
