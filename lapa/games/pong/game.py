"""Pong as the evaluation asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lapa.games.finding import to_luma
from lapa.games.game import Game, Remark, State
from lapa.games.pong.detectors import find_elements, read_screens
from lapa.games.pong.elements import MEASURES, element_metrics
from lapa.games.pong.events import EVENTS, find_events
from lapa.games.pong.screen import (
    ACTION_CLASSES,
    MAX_DOWNSAMPLE,
    PongState,
    action_classes,
    is_pong,
    screen_state,
)
from lapa.games.pong.stages import ASPECTS
from lapa.games.remarks import ball_remarks


class Pong(Game):
    """ALE Pong, recorded at 210 x 160."""

    title = "Pong at full size"
    elements = "ball, both paddles and scores"
    event_names = EVENTS
    action_classes = ACTION_CLASSES
    max_downsample = MAX_DOWNSAMPLE
    measures = MEASURES
    aspects = ASPECTS

    def matches(self, meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
        """By the environment's id and the size of the frames."""
        return is_pong(meta, frame_size)

    def class_of_action(self, actions: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        """Stay, up or down, by ``action_meanings``."""
        return action_classes(actions, meta["action_meanings"])

    def state(self, ram: np.ndarray) -> State:
        """The fields of a :class:`~lapa.games.pong.screen.PongState`."""
        return vars(screen_state(ram))

    def read(self, frames: np.ndarray) -> State:
        """The same fields."""
        return vars(read_screens(frames))

    def find(self, frames: np.ndarray, downsample: int) -> State:
        """See :func:`~lapa.games.pong.detectors.find_elements`."""
        return find_elements(to_luma(frames), downsample)

    def observation(self, state: State) -> np.ndarray:
        """Both paddles, ball, and whether the ball is away."""
        return np.column_stack([state["paddle"], state["enemy"], state["ball"], state["ball_away"]])

    def motion(self, before: State, after: State) -> np.ndarray:
        """Where the player's paddle was, where it is, and the difference."""
        first, second = before["paddle"], after["paddle"]
        return np.stack([first, second, second - first], axis=1)

    def events(self, states: State, numbers: np.ndarray) -> np.ndarray:
        """See :func:`~lapa.games.pong.events.find_events`."""
        return find_events(PongState(**states), numbers)

    def compare(self, predicted: State, copied: State, before: State, truth: State) -> dict[str, float]:
        """See :func:`~lapa.games.pong.elements.element_metrics`."""
        return element_metrics(predicted, copied, PongState(**before), PongState(**truth))

    def remarks(self, metrics: Mapping[str, float]) -> Iterator[Remark]:
        """On the ball, which is what small models lose."""
        return ball_remarks(metrics)
