"""The toy as a game that a third party brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from lapa.games.game import Aspect, Game, Measure, Remark, Start, State
from lapa.report.tables import percent


class Square(Game):
    """The toy: a bright square that is pushed about. Its RAM has the square's corner."""

    title = "the toy"
    elements = "the square"
    event_names = ("it moves down", "it moves up")
    action_classes = ("stay", "move")
    aspects = (
        Aspect("of the field", ("upper half", "lower half"), lambda state: (state["corner"][:, 0] > 15) * 1),
        Aspect("side", ("near", "far"), lambda state: (state["corner"][:, 1] > 99) * 1, ("serve", "")),
    )
    starts = MappingProxyType({"serve": Start("anywhere", lambda state: state["corner"][:, 0] >= 0)})
    measures = (
        Measure("square within 2 px", "square/{}within_2px", percent, "square in its place", "square", "square found"),
    )

    def matches(self, meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
        return meta.get("env_id") == "Toy-v0" and frame_size == (40, 32)

    def class_of_action(self, actions: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        return (actions > 0).astype(np.int64)

    def state(self, ram: np.ndarray) -> State:
        return {"corner": ram.astype(float)}

    def read(self, frames: np.ndarray) -> State:
        return {"corner": corners(frames[..., 0] > 100)}

    def find(self, frames: np.ndarray, downsample: int) -> State:
        return {"corner": corners(frames[:, 0] > 0.4)}

    def observation(self, state: State) -> np.ndarray:
        return state["corner"]

    def motion(self, before: State, after: State) -> np.ndarray:
        return after["corner"] - before["corner"]

    def events(self, states: State, numbers: np.ndarray) -> np.ndarray:
        down = np.diff(states["corner"][:, 0])
        return np.stack([down > 0, down < 0], axis=1)

    def compare(self, predicted: State, copied: State, before: State, truth: State) -> dict[str, float]:
        def within(found: State) -> float:
            return float((np.abs(found["corner"] - truth["corner"]).max(1) <= 2).mean())

        return {"square/within_2px": within(predicted), "square/copy_within_2px": within(copied)}

    def remarks(self, metrics: Mapping[str, float]) -> Iterator[Remark]:
        if "square/within_2px" in metrics:
            yield Remark("weak", f"The square is in its place in {percent(metrics['square/within_2px'])}.")


def corners(lit: np.ndarray) -> np.ndarray:
    """(N, H, W) bool -> (N, 2), row and column of the first lit pixel, 0 where there is none."""
    return np.stack([lit.any(2).argmax(1), lit.any(1).argmax(1)], axis=1)
