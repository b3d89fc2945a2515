"""Whether a model draws ball, paddle, bricks and digits where they are, compared with copying the current frame."""

from __future__ import annotations

import numpy as np

from lapa.games.breakout.detectors import find_balls, find_bricks, find_digits, find_paddle
from lapa.games.breakout.screen import ScreenState
from lapa.games.finding import distance_metrics, finite_or_inf
from lapa.games.game import Measure, State
from lapa.report.tables import per_myriad, percent, pixels

MEASURES = (
    Measure("ball drawn, where it flies free (recall)", "ball/{}drawn", percent),
    Measure(
        "ball within 2 px",
        "ball/{}within_2px",
        percent,
        summary="ball within 2 px, where it flies free",
    ),
    Measure(
        "ball within 4 px",
        "ball/{}within_4px",
        percent,
        summary="ball within 4 px, where it flies free",
        column="ball within 4 px",
    ),
    Measure("ball, median distance", "ball/{}median_px", pixels),
    Measure("ball, 95th percentile", "ball/{}p95_px", pixels),
    Measure(
        "ball drawn where there is none",
        "ball/{}false",
        percent,
        summary="ball drawn where there is none",
    ),
    Measure(
        "a second ball drawn",
        "ball/{}extra",
        percent,
        summary="a second ball drawn",
    ),
    Measure(
        "paddle within 1 px",
        "paddle/{}within_1px",
        percent,
        summary="paddle within 1 px",
    ),
    Measure(
        "paddle within 2 px",
        "paddle/{}within_2px",
        percent,
        summary="paddle within 2 px",
        column="paddle within 2 px",
    ),
    Measure("paddle, median distance", "paddle/{}median_px", pixels),
    Measure("paddle, 95th percentile", "paddle/{}p95_px", pixels),
    Measure("bricks right", "bricks/{}accuracy", per_myriad),
    Measure(
        "bricks right, of those that changed",
        "bricks/{}changed_accuracy",
        percent,
        summary="bricks right, of those just broken",
        column="changed bricks",
    ),
    Measure("score right", "score/{}accuracy", percent),
    Measure(
        "score right, where it changed",
        "score/{}changed_accuracy",
        percent,
        summary="score right, where it has just changed",
    ),
    Measure("lives right", "lives/{}accuracy", percent),
    Measure("lives right, where they changed", "lives/{}changed_accuracy", percent),
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
        Shares in [0, 1] and distances in recorded pixels. ``ball/*`` is over the frames where the ball flies free,
        but ``ball/false``, the share of frames without a ball there in which one is drawn. ``ball/extra`` is the share
        in which something apart from the ball is drawn that would count as one. A distance is left out where more than
        half of the frames (of the 95th percentile: more than one in twenty) show nothing.
        ``*changed_accuracy`` is over the bricks, scores and lives that differ from the frame before.
    """
    free, away = truth.ball_free, truth.ball_away
    metrics = {"ball/free_frames": float(free.sum()), "ball/away_frames": float(away.sum())}
    for name, found in (("", predicted), ("copy_", copied)):
        ball = found["ball"]
        if free.any():
            distance = finite_or_inf(np.linalg.norm(ball[free] - truth.ball[free], axis=1))
            metrics[f"ball/{name}drawn"] = float(np.isfinite(distance).mean())
            metrics[f"ball/{name}extra"] = float(found["ball_extra"][free].mean())
            metrics |= distance_metrics(f"ball/{name}", distance, (2, 4))
        if away.any():
            metrics[f"ball/{name}false"] = float(np.isfinite(ball[away, 0]).mean())
        metrics |= distance_metrics(f"paddle/{name}", finite_or_inf(np.abs(found["paddle"] - truth.paddle)), (1, 2))
        for element in ("bricks", "score", "lives"):
            right = found[element] == getattr(truth, element)
            changed = getattr(before, element) != getattr(truth, element)
            metrics[f"{element}/{name}accuracy"] = float(right.mean())
            if changed.any():
                metrics[f"{element}/{name}changed_accuracy"] = float(right[changed].mean())
    return metrics
