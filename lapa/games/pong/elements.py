"""Whether a model draws ball, paddles and scores where they are, compared with copying the current frame."""

from __future__ import annotations

import numpy as np

from lapa.games.finding import distance_metrics, finite_or_inf
from lapa.games.game import Measure, State
from lapa.games.pong.screen import PongState
from lapa.report.tables import percent, pixels

# What Breakout has too is called the same.
MEASURES = (
    Measure("ball drawn, where it is whole (recall)", "ball/{}drawn", percent),
    Measure("ball within 2 px", "ball/{}within_2px", percent),
    Measure(
        "ball within 4 px",
        "ball/{}within_4px",
        percent,
        summary="ball within 4 px, where it is whole",
        column="ball within 4 px",
    ),
    Measure("ball, median distance", "ball/{}median_px", pixels),
    Measure("ball, 95th percentile", "ball/{}p95_px", pixels),
    Measure("ball drawn where there is none", "ball/{}false", percent),
    Measure("a second ball drawn", "ball/{}extra", percent),
    Measure("paddle within 1 px", "paddle/{}within_1px", percent),
    Measure(
        "paddle within 2 px",
        "paddle/{}within_2px",
        percent,
        summary="paddle within 2 px",
        column="paddle within 2 px",
    ),
    Measure("paddle, median distance", "paddle/{}median_px", pixels),
    Measure("paddle, 95th percentile", "paddle/{}p95_px", pixels),
    Measure("enemy's paddle within 1 px", "enemy/{}within_1px", percent),
    Measure(
        "enemy's paddle within 2 px",
        "enemy/{}within_2px",
        percent,
        summary="enemy's paddle within 2 px",
    ),
    Measure("enemy's paddle, median distance", "enemy/{}median_px", pixels),
    Measure("enemy's paddle, 95th percentile", "enemy/{}p95_px", pixels),
    Measure("score right", "score/{}accuracy", percent),
    Measure(
        "score right, where it changed",
        "score/{}changed_accuracy",
        percent,
        summary="score right, where it has just changed",
    ),
    Measure("enemy's score right", "enemy_score/{}accuracy", percent),
    Measure("enemy's score right, where it changed", "enemy_score/{}changed_accuracy", percent),
)


def element_metrics(predicted: State, copied: State, before: PongState, truth: PongState) -> dict[str, float]:
    """Elements of predicted next frames, compared with those of copying the current frame.

    Args:
        predicted: found in N predicted frames, by :func:`~lapa.games.pong.detectors.find_elements`.
        copied: found in the true current frames.
        before: what the RAM says of these.
        truth: what the RAM says of the next frames.

    Returns:
        Shares in [0, 1] and distances in recorded pixels. ``ball/*`` is over the frames where the whole ball is between
        the walls, but ``ball/false``, the share of frames without a ball in which one is drawn, and ``ball/extra``, the
        share of all frames in which two are drawn. ``enemy/*`` is over the frames where enough of the enemy's paddle is
        seen. A distance is left out where more than half of the frames (of the 95th percentile: more than one in
        twenty) show nothing. ``*changed_accuracy`` is over the scores that differ from the frame before.
    """
    seen, away, enemy_seen = truth.ball_seen, truth.ball_away, truth.enemy_seen
    metrics = {"ball/free_frames": float(seen.sum()), "ball/away_frames": float(away.sum())}
    for name, found in (("", predicted), ("copy_", copied)):
        ball = found["ball"]
        if seen.any():
            distance = finite_or_inf(np.linalg.norm(ball[seen] - truth.ball[seen], axis=1))
            metrics[f"ball/{name}drawn"] = float(np.isfinite(distance).mean())
            metrics |= distance_metrics(f"ball/{name}", distance, (2, 4))
        if away.any():
            metrics[f"ball/{name}false"] = float(np.isfinite(ball[away, 0]).mean())
        metrics[f"ball/{name}extra"] = float(found["ball_extra"].mean())
        metrics |= distance_metrics(f"paddle/{name}", finite_or_inf(np.abs(found["paddle"] - truth.paddle)), (1, 2))
        if enemy_seen.any():
            distance = finite_or_inf(np.abs(found["enemy"] - truth.enemy)[enemy_seen])
            metrics |= distance_metrics(f"enemy/{name}", distance, (1, 2))
        for element in ("score", "enemy_score"):
            right = found[element] == getattr(truth, element)
            changed = getattr(before, element) != getattr(truth, element)
            metrics[f"{element}/{name}accuracy"] = float(right.mean())
            if changed.any():
                metrics[f"{element}/{name}changed_accuracy"] = float(right[changed].mean())
    return metrics
