"""Whether a model draws ball, paddles and scores where they are, compared with copying the current frame."""

from __future__ import annotations

from lapa.games.game import State
from lapa.games.judging import (
    BALL_MEASURES,
    ball_metrics,
    place_measures,
    place_metrics,
    value_measures,
    value_metrics,
)
from lapa.games.pong.screen import PongState

# What Breakout has too is called the same.
MEASURES = (
    *BALL_MEASURES,
    *place_measures("paddle", "paddle", column=True),
    *place_measures("enemy", "enemy's paddle"),
    *value_measures(
        "score", "score right", "score right, where it changed", summary="score right, where it has just changed"
    ),
    *value_measures("enemy_score", "enemy's score right", "enemy's score right, where it changed"),
)


def element_metrics(predicted: State, copied: State, before: PongState, truth: PongState) -> dict[str, float]:
    """Elements of predicted next frames, compared with those of copying the current frame.

    Args:
        predicted: found in N predicted frames, by :func:`~lapa.games.pong.detectors.find_elements`.
        copied: found in the true current frames.
        before: what the RAM says of these.
        truth: what the RAM says of the next frames.

    Returns:
        Shares in [0, 1] and distances in recorded pixels; see :mod:`lapa.games.judging`. The ball flies free where it
        lies wholly between the walls. ``enemy/*`` is over the frames where enough of the enemy's paddle is seen.
    """
    return {
        **ball_metrics(predicted, copied, truth.ball, truth.ball_seen, truth.ball_away),
        **place_metrics("paddle", predicted, copied, truth.paddle),
        **place_metrics("enemy", predicted, copied, truth.enemy, truth.enemy_seen),
        **value_metrics("score", predicted, copied, vars(before), vars(truth)),
        **value_metrics("enemy_score", predicted, copied, vars(before), vars(truth)),
    }
