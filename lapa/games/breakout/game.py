"""Breakout as the evaluation asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lapa.games.breakout.detectors import read_screens
from lapa.games.breakout.elements import MEASURES, element_metrics, find_elements
from lapa.games.breakout.events import EVENTS, find_events
from lapa.games.breakout.screen import (
    ACTION_CLASSES,
    MAX_DOWNSAMPLE,
    RAM_LIVES,
    ScreenState,
    action_classes,
    is_breakout,
    screen_state,
)
from lapa.games.breakout.stages import ASPECTS, MIX, STARTS
from lapa.games.finding import to_luma
from lapa.games.game import Game, Remark, State
from lapa.games.remarks import ball_remarks


class Breakout(Game):
    """ALE Breakout, recorded at 210 x 160."""

    title = "Breakout at full size"
    elements = "ball, paddle, bricks and digits"
    event_names = EVENTS
    action_classes = ACTION_CLASSES
    max_downsample = MAX_DOWNSAMPLE
    measures = MEASURES
    aspects = ASPECTS
    starts = STARTS
    mix = MIX
    lives = (RAM_LIVES, 5)

    def matches(self, meta: Mapping[str, Any], frame_size: tuple[int, int]) -> bool:
        """By the environment's id and the size of the frames."""
        return is_breakout(meta, frame_size)

    def class_of_action(self, actions: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        """Stay, right or left, by ``action_meanings``."""
        return action_classes(actions, meta["action_meanings"])

    def state(self, ram: np.ndarray) -> State:
        """The fields of a :class:`~lapa.games.breakout.screen.ScreenState`."""
        return vars(screen_state(ram))

    def read(self, frames: np.ndarray) -> State:
        """The same fields."""
        return vars(read_screens(frames))

    def find(self, frames: np.ndarray, downsample: int) -> State:
        """Ball, a second ball, paddle, bricks, score and lives."""
        return find_elements(to_luma(frames), downsample)

    def shown(self, state: State, found: State) -> State:
        """Bricks, score and lives as the frames show them: the screen follows the RAM up to a frame later."""
        return {**state, **{name: found[name] for name in ("bricks", "score", "lives")}}

    def observation(self, state: State) -> np.ndarray:
        """Paddle, ball, and whether the ball is away."""
        return np.column_stack([state["paddle"], state["ball"], state["ball_away"]])

    def motion(self, before: State, after: State) -> np.ndarray:
        """Where the paddle was, where it is, and the difference."""
        first, second = before["paddle"], after["paddle"]
        return np.stack([first, second, second - first], axis=1)

    def events(self, states: State, numbers: np.ndarray) -> np.ndarray:
        """See :func:`~lapa.games.breakout.events.find_events`."""
        return find_events(ScreenState(**states), numbers)

    def compare(self, predicted: State, copied: State, before: State, truth: State) -> dict[str, float]:
        """See :func:`~lapa.games.breakout.elements.element_metrics`."""
        return element_metrics(predicted, copied, ScreenState(**before), ScreenState(**truth))

    def remarks(self, metrics: Mapping[str, float]) -> Iterator[Remark]:
        """On the ball, which is what small models lose."""
        return ball_remarks(metrics)
