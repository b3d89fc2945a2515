"""Whether a model draws ball, paddle, bricks and digits where they are, compared with copying the current frame."""

from __future__ import annotations

import numpy as np

from lapa.games.breakout.detectors import find_balls, find_bricks, find_digits, find_paddle
from lapa.games.breakout.screen import ScreenState
from lapa.games.game import State
from lapa.games.judging import (
    BALL_MEASURES,
    ball_metrics,
    place_measures,
    place_metrics,
    value_measures,
    value_metrics,
)
from lapa.report.tables import per_myriad

MEASURES = (
    *BALL_MEASURES,
    *place_measures("paddle", "paddle", column=True),
    *value_measures(
        "bricks",
        "bricks right",
        "bricks right, of those that changed",
        form=per_myriad,
        summary="bricks right, where they have just changed",
        column="changed bricks",
    ),
    *value_measures(
        "score", "score right", "score right, where it changed", summary="score right, where it has just changed"
    ),
    *value_measures("lives", "lives right", "lives right, where they changed"),
)


def find_elements(luma: np.ndarray, downsample: int) -> State:
    """Ball, a second ball, paddle, bricks, score and lives in predicted frames.

    Args:
        luma: (N, H', W') in [0, 1].
        downsample: k x k recorded pixels are one of these.
    """
    centre, _ = find_paddle(luma, downsample)
    score, lives = find_digits(luma, downsample)
    ball, is_extra = find_balls(luma, downsample)
    return {
        "ball": ball,
        "ball_extra": is_extra,
        "paddle": centre,
        "bricks": find_bricks(luma, downsample),
        "score": score,
        "lives": lives,
    }


def element_metrics(predicted: State, copied: State, before: ScreenState, truth: ScreenState) -> dict[str, float]:
    """Elements of predicted next frames, compared with those of copying the current frame.

    Args:
        predicted: found in N predicted frames, by :func:`find_elements`.
        copied: found in the true current frames.
        before: what the RAM says of these.
        truth: what the RAM says of the next frames.

    Returns:
        Shares in [0, 1] and distances in recorded pixels; see :mod:`lapa.games.judging`. The ball flies free between
        bricks, walls and paddle.
    """
    metrics = ball_metrics(predicted, copied, truth.ball, truth.ball_free, truth.ball_away)
    metrics |= place_metrics("paddle", predicted, copied, truth.paddle)
    for element in ("bricks", "score", "lives"):
        metrics |= value_metrics(element, predicted, copied, vars(before), vars(truth))
    return metrics
