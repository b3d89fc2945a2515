"""How far a game of Pong has come: what a recording should cover."""

from __future__ import annotations

import numpy as np

from lapa.games.game import Aspect, State
from lapa.games.pong.screen import FRAME_SIZE

PLAYED_BOUNDS = (0, 7, 20)
SCORE_BOUNDS = (0, 5, 10)


def _played(state: State) -> np.ndarray:
    known = (state["score"] >= 0) & (state["enemy_score"] >= 0)
    return np.where(known, np.searchsorted(PLAYED_BOUNDS, state["score"] + state["enemy_score"]), -1)


def _parts_of_score(score: np.ndarray) -> np.ndarray:
    return np.where(score < 0, -1, np.searchsorted(SCORE_BOUNDS, score))


def _ball(state: State) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        half = 1 + (state["ball"][:, 0] >= FRAME_SIZE[1] / 2)
    return np.where(state["ball_away"], 0, half)


_SCORES = ("0", "1 to 5", "6 to 10", "11 to 21")

ASPECTS = (
    Aspect("points played", ("0", "1 to 7", "8 to 20", "21 to 41"), _played),
    Aspect("points won", _SCORES, lambda state: _parts_of_score(state["score"])),
    Aspect("points lost", _SCORES, lambda state: _parts_of_score(state["enemy_score"])),
    Aspect("ball", ("away", "left half", "right half"), _ball),
)
