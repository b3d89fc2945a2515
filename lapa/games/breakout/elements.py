"""Whether a model draws ball, paddle, bricks and digits where they are, beside copying the current frame."""

from __future__ import annotations

import numpy as np

from lapa.games.breakout.detectors import find_ball, find_bricks, find_digits, find_paddle
from lapa.games.breakout.screen import ScreenState


def element_metrics(
    prediction: np.ndarray, current: np.ndarray, before: ScreenState, truth: ScreenState, downsample: int
) -> dict[str, float]:
    """Elements in predicted next frames, beside those of copying the current frame.

    Args:
        prediction: (N, H', W') luma in [0, 1].
        current: the true current frames.
        before: what the memory says of these.
        truth: what the memory says of the next frames.
        downsample: k x k recorded pixels are one of these frames.

    Returns:
        Shares in [0, 1] and distances in recorded pixels. ``ball/*`` is over the frames where the ball flies free,
        but ``ball/false``, the share of frames without a ball there in which one is drawn. A distance is left out
        where more than half of the frames (of the 95th percentile: more than one in twenty) show nothing.
        ``*changed_accuracy`` is over the bricks, scores and lives that differ from the frame before.
    """
    free, away = truth.ball_free, truth.ball_away
    metrics = {"ball/free_frames": float(free.sum()), "ball/away_frames": float(away.sum())}
    for name, frames in (("", prediction), ("copy_", current)):
        ball = find_ball(frames, downsample)
        if free.any():
            distance = finite_or_inf(np.linalg.norm(ball[free] - truth.ball[free], axis=1))
            metrics[f"ball/{name}drawn"] = float(np.isfinite(distance).mean())
            metrics |= distance_metrics(f"ball/{name}", distance, (2, 4))
        if away.any():
            metrics[f"ball/{name}false"] = float(np.isfinite(ball[away, 0]).mean())
        centre, _ = find_paddle(frames, downsample)
        metrics |= distance_metrics(f"paddle/{name}", finite_or_inf(np.abs(centre - truth.paddle)), (1, 2))
        score, lives = find_digits(frames, downsample)
        found = {"bricks": find_bricks(frames, downsample), "score": score, "lives": lives}
        for element, values in found.items():
            right = values == getattr(truth, element)
            changed = getattr(before, element) != getattr(truth, element)
            metrics[f"{element}/{name}accuracy"] = float(right.mean())
            if changed.any():
                metrics[f"{element}/{name}changed_accuracy"] = float(right[changed].mean())
    return metrics


def distance_metrics(prefix: str, distance: np.ndarray, within: tuple[int, ...]) -> dict[str, float]:
    """Median, 95th percentile, and shares within so many pixels, of distances that are infinite where nothing is."""
    metrics = {f"{prefix}within_{pixels}px": float((distance <= pixels).mean()) for pixels in within}
    for name, share in (("median_px", 0.5), ("p95_px", 0.95)):
        # JSON cannot hold what is infinite.
        value = float(np.quantile(distance, share, method="higher"))
        if np.isfinite(value):
            metrics[prefix + name] = value
    return metrics


def finite_or_inf(distance: np.ndarray) -> np.ndarray:
    """Infinite where nothing was found."""
    return np.where(np.isnan(distance), np.inf, distance)
